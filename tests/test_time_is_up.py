"""The end of a job's time comes as an exception from a signal handler, in any line: no phase may take it for its own."""

import signal

import pytest
from submitit.core.utils import UncompletedJobError

from edit_sweeps import attempts, edit_scores, run, stock_data, task_data, task_scores
from edit_sweeps.building import pick
from edit_sweeps.launcher import make_plan
from edit_sweeps.record import Record
from edit_sweeps.run import Session, run_unit
from edit_sweeps.task_scores import Bench, EvalSettings, TaskSpec
from edit_sweeps.trajectory import Trajectory
from tests.test_plan import grid

QUICK = (
    "editor=ft", "editor.steps=1", "task=mini_sentiment", "eval.limit=2", "edit_scores.limit=1", "wandb=disabled",
)  # fmt: skip
PHASES = {
    "loading the model": (run, "load_model"),
    "building the tasks": (task_scores, "build_task"),
    "reading the requests": (run, "load_requests"),
    "scoring before the edit": (run, "score_edits"),
    "scoring a prompt of the edit": (edit_scores, "_ask"),
    "editing": (Trajectory, "advance"),
    "looking at the weights": (run, "health"),
    "scoring the tasks": (Bench, "_score_task"),
    "comparing": (run, "compare_tasks"),
    "writing the record": (Record, "save"),
}


@pytest.fixture
def alarm():
    """As submitit does it: a handler that raises wherever the program is."""

    def stop(number, frame):
        raise UncompletedJobError("timed-out too many times")

    before = signal.signal(signal.SIGUSR1, stop)
    yield lambda *_, **__: signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDIT_SWEEPS_CACHE", raising=False)
    (found,) = [c for c in make_plan(grid(QUICK)).todo() if not c.is_baseline]
    return found


@pytest.mark.parametrize("phase", PHASES)
def test_it_passes_through_every_phase_and_leaves_neither_record_nor_failure(
    cell, alarm, monkeypatch, phase
):
    place, name = PHASES[phase]
    assert hasattr(place, name), f"{name} has another name by now"
    monkeypatch.setattr(place, name, alarm)
    with pytest.raises(UncompletedJobError):
        list(run_unit([cell], Session("cpu")))
    assert not (cell.folder / "record.json").exists()
    assert not (cell.folder / "failure.json").exists()
    assert attempts.read(cell.folder)[-1]["how"] == "interrupted"


def test_reading_documents_does_not_take_it_for_a_fault_of_the_data(alarm, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", alarm)
    assert stock_data.UncompletedJobError is UncompletedJobError
    assert task_data.UncompletedJobError is UncompletedJobError
    spec = pick(TaskSpec, {"name": "paper_sentiment", "folder": "paper"})
    with pytest.raises(UncompletedJobError):
        Bench({"sentiment": spec}, EvalSettings())
