"""`cluster=slurm` on a real Slurm: the ordinary course of a sweep."""

import pytest

from tests.slurm_study import Study

pytest_plugins = ["tests.slurm_fixture"]
pytestmark = pytest.mark.slow

SIX = ["seed=0,1", "num_edits=1,3,6"]


@pytest.fixture
def study(tmp_path, slurm):
    return Study(tmp_path, slurm)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Results of the six cells, run here and undisturbed."""
    return Study(tmp_path_factory.mktemp("calm")).undisturbed(tmp_path_factory, *SIX)


def test_six_cells_are_two_tasks_of_one_array_and_give_what_a_local_run_gives(study, calm):
    shown = study.submit(*SIX)
    assert "Submitted 6 cells as 2 jobs" in shown
    assert "left alone" not in shown
    assert "edit-sweeps status main --watch" in shown
    (array,) = study.submissions()[0]["arrays"]
    assert f"{array['job']}: cells, 2 tasks" in shown
    assert [len(task["cells"]) for task in array["tasks"]] == [3, 3]
    study.wait()
    assert set(study.slurm.states(array["job"]).values()) == {"COMPLETED"}, study.log()
    assert study.results() == calm
    assert set(study.starts().values()) == {1}
    assert {r["provenance"]["job"] for r in study.records().values()} == {
        f"{array['job']}_0",
        f"{array['job']}_1",
    }
    assert "Nothing to submit: 6 of 6 cells are done." in study.submit(*SIX)
