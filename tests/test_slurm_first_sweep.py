"""The README's own command on a real Slurm: the table is that of a local run."""

import csv

import pytest

from tests.slurm_study import Study

pytest_plugins = ["tests.slurm_fixture"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FIRST = ["editor=rome,memit", "num_edits=1,10,100", "wandb=disabled"]


def table(study):
    """table.csv without what tells where it was made."""
    study.companion("report", "main")
    with (study.path / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_first_sweep_on_slurm_has_the_table_of_a_local_one(tmp_path, slurm):
    here, there = Study(tmp_path / "here"), Study(tmp_path / "there", slurm)
    there.launch("-m", *FIRST, "cluster=slurm")
    here.launch("-m", *FIRST, limit_s=600)
    there.wait(timeout_s=600)
    arrays = there.submissions()[0]["arrays"]
    assert [(array["kind"], len(array["tasks"])) for array in arrays] == [
        ("baselines", 1),
        ("cells", 2),
    ]
    assert len(here.records()) == 7
    assert there.results() == here.results(), there.log()
    assert table(there) == table(here)
    shown = there.launch("-m", *FIRST, "cluster=slurm")
    assert "Nothing to submit: 7 of 7 cells are done." in shown
