"""The unedited model's record: shared between studies, found in one's own, adopted by two at once."""

import threading

import pytest

from edit_sweeps import run
from edit_sweeps.launcher import plan
from edit_sweeps.record import Record
from tests.made_up_cells import made_up_cell


@pytest.fixture
def pair(tmp_path):
    """A baseline and a cell that is compared with it."""
    where = {"study": tmp_path / "outputs" / "main", "cache": tmp_path / "cache"}
    return made_up_cell("none", **where), made_up_cell("rome", **where)


def write(folder, cell, seconds=1.0):
    record = Record(cell.key, cell.name, "done", cell.config)
    record.provenance = {"seconds": seconds}
    record.save(folder)


def test_the_one_of_the_study_is_used_when_the_cache_has_none(pair):
    baseline, edited = pair
    assert run.load_baseline(edited) is None
    write(baseline.folder, baseline)
    assert run.load_baseline(edited).key == baseline.key


def test_the_cache_comes_first(pair):
    baseline, edited = pair
    write(baseline.folder, baseline, seconds=1.0)
    write(run.baseline_folder(edited), baseline, seconds=2.0)
    assert run.load_baseline(edited).provenance["seconds"] == 2.0


def test_a_baseline_of_another_model_is_none(pair, tmp_path):
    _, edited = pair
    strange = made_up_cell("none", model="other", study=edited.study)
    write(strange.folder, strange)
    assert run.load_baseline(edited) is None


def test_many_that_adopt_it_at_once_leave_one_whole_record(pair):
    baseline, edited = pair
    write(run.baseline_folder(edited), baseline)
    start, errors = threading.Barrier(8), []

    def adopt():
        start.wait()
        try:
            plan.adopt_baseline(baseline)
        except Exception as error:
            errors.append(error)

    for _ in range(20):
        threads = [threading.Thread(target=adopt) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert Record.load(baseline.folder, samples=True).key == baseline.key
        assert sorted(file.name for file in baseline.folder.iterdir()) == sorted(
            file.name for file in run.baseline_folder(edited).iterdir()
        )
        for file in baseline.folder.iterdir():
            file.unlink()


def test_while_it_is_adopted_the_record_comes_last(pair, monkeypatch):
    baseline, edited = pair
    write(run.baseline_folder(edited), baseline)
    order, copy = [], plan.shutil.copy2
    monkeypatch.setattr(
        plan.shutil, "copy2", lambda file, to: (order.append(file.name), copy(file, to))
    )
    plan.adopt_baseline(baseline)
    assert len(order) > 1
    assert order[-1] == "record.json"
