"""Where a cell is, for everything that disk, claims and Slurm can say together."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from edit_sweeps import attempts, claims
from edit_sweeps.launcher.queue import Job, SlurmUnavailable
from edit_sweeps.launcher.states import look
from edit_sweeps.launcher.submissions import INTENDED, REFUSED, SUBMITTED, Array, Submission, Task
from tests.synthetic_study import TRACEBACK, make_record

CELL = make_record("rome", 1)
NAME = CELL.name


class Answers:
    """Stands for Slurm: answers what it is told to, and counts the questions."""

    def __init__(self, *jobs, silent=False, names=None):
        self.jobs, self.silent, self.names, self.asked = jobs, silent, names or {}, []

    def ask(self, ids):
        self.asked.append(set(ids))
        if self.silent:
            raise SlurmUnavailable("squeue failed")
        return {job.id: job for job in self.jobs}

    def find(self, name):
        if self.silent:
            raise SlurmUnavailable("squeue failed")
        return self.names.get(name)


@pytest.fixture
def folder(tmp_path):
    """A study that was asked for one cell and one other."""
    study = tmp_path / "outputs" / "main"
    study.mkdir(parents=True)
    rows = [{"name": NAME, "key": CELL.key}, {"name": "other-abc", "key": "abc"}]
    (study / "plan.json").write_text(json.dumps(rows))
    return study


def ago(seconds):
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds")


def submitted(study, *, job="17", seconds=300, state=SUBMITTED, tasks=2, force=False):
    """The cell as task 0 of an array of two."""
    one = Submission.new(study, command=["launch.py"], force=force, code={})
    one.time = ago(seconds)
    one.id = f"2026-{len(list(study.glob('submissions/*')))}"
    names = [[NAME], ["other-abc"]][:tasks]
    array = Array(
        "es-main", "cells", [Task(["0000"], cells) for cells in names], 60, 1, job=job, state=state
    )
    one.arrays = [array]
    one.save()
    return one


def job(state, task="17_0", name="es-main", **more):
    return Job(task, state, name, **more)


def begun(study, job_id="17_0", how=None):
    place = study / "cells" / NAME
    place.mkdir(parents=True, exist_ok=True)
    number = attempts.append(
        place, {"started": ago(30), "host": "n1", "pid": 1, "job": job_id, "restart": 0}
    )
    if how:
        attempts.append(place, {"number": number, "ended": ago(20), "how": how})


def written(study, state="done", finished=None, errors=None):
    record = make_record("rome", 1)
    record.state, record.errors = state, errors or {}
    record.provenance["finished"] = finished or ago(5)
    record.save(study / "cells" / NAME)


def state_of(study, slurm=None):
    (seen,) = [each for each in look(study, slurm or Answers()) if each.name == NAME]
    return seen


# Without Slurm.


def test_a_cell_that_was_only_asked_for_is_missing(folder):
    assert state_of(folder).state == "missing"


@pytest.mark.parametrize("state", ["done", "collapsed"])
def test_a_record_is_the_end_and_nobody_is_asked(folder, state):
    submitted(folder, tasks=1)
    written(folder, state)
    slurm = Answers()
    assert state_of(folder, slurm).state == state
    assert not any(slurm.asked)


def test_a_failure_is_told_by_its_last_line(folder):
    written(folder, "failed", errors={"cell": TRACEBACK})
    seen = state_of(folder)
    assert (seen.state, seen.why) == ("failed", "ValueError: layer 9: the model has 4 <blocks>")


def test_a_record_that_lacks_a_task_is_a_failure(folder):
    written(folder, errors={"nli": "no documents", "save=adapter": "cannot"})
    seen = state_of(folder)
    assert (seen.state, seen.why) == ("failed", "task nli failed")


def test_a_claim_of_a_living_process_is_running_once_the_cell_has_begun(folder):
    with claims.try_hold(folder / "claims", CELL.key):
        assert state_of(folder).state == "pending"
        begun(folder, job_id=None)
        seen = state_of(folder)
        assert (seen.state, seen.live) == ("running", False)
        assert seen.seconds == pytest.approx(30, abs=5)


def test_begun_and_never_ended_with_nobody_at_it_is_lost(folder):
    begun(folder, job_id=None)
    seen = state_of(folder)
    assert (seen.state, seen.losses) == ("lost", 1)


def test_an_interrupted_one_is_missing(folder):
    begun(folder, how="interrupted")
    assert (state_of(folder).state, state_of(folder).why) == ("missing", "interrupted")


# On Slurm.


@pytest.mark.parametrize(
    ("answer", "open_", "state", "live"),
    [
        (job("PENDING", reason="Resources"), False, "pending", True),
        (job("RUNNING"), False, "pending", True),
        (job("RUNNING"), True, "running", True),
        (job("COMPLETING"), True, "running", True),
        (job("PENDING", reason="BeginTime"), True, "pending", True),
        (job("PENDING", reason="DependencyNeverSatisfied"), False, "lost", False),
        (job("FAILED"), True, "lost", False),
        (job("OUT_OF_MEMORY"), True, "lost", False),
        (job("CANCELLED"), False, "lost", False),
        (job("NODE_FAIL"), True, "lost", False),
        (job("COMPLETED"), False, "lost", False),
        (job("PENDING", task="17"), False, "pending", True),
        (job("RUNNING", name="somebody-elses"), False, "lost", False),
    ],
)
def test_what_slurm_says_of_a_submitted_cell(folder, answer, open_, state, live):
    submitted(folder)
    if open_:
        begun(folder)
    seen = state_of(folder, Answers(answer))
    assert (seen.state, seen.live) == (state, live), seen
    if state == "lost" and answer.name == "es-main":
        told = "DependencyNeverSatisfied" if answer.state == "PENDING" else answer.state
        assert told in seen.why


@pytest.mark.parametrize(("seconds", "state"), [(5, "pending"), (300, "lost")])
def test_a_job_that_nobody_knows_is_lost_only_after_a_while(folder, seconds, state):
    submitted(folder, seconds=seconds)
    assert state_of(folder, Answers()).state == state


def test_when_slurm_does_not_answer_nothing_is_concluded(folder):
    submitted(folder)
    begun(folder)
    seen = state_of(folder, Answers(silent=True))
    assert seen.state == "pending"
    assert "squeue failed" in seen.unasked


def test_a_failure_from_before_the_submission_does_not_count(folder):
    submitted(folder, seconds=60)
    written(folder, "failed", finished=ago(100), errors={"cell": TRACEBACK})
    assert state_of(folder, Answers(job("PENDING"))).state == "pending"
    written(folder, "failed", finished=ago(10), errors={"cell": TRACEBACK})
    begun(folder, how="failed")
    seen = state_of(folder, Answers(job("RUNNING")))
    assert (seen.state, seen.live) == ("failed", True), "its unit runs on with other cells"
    assert state_of(folder, Answers(job("FAILED"))).state == "failed"


def test_what_ends_between_two_looks_is_done_and_not_lost(folder, monkeypatch):
    submitted(folder)

    class Late(Answers):
        def ask(self, ids):
            written(folder)
            return super().ask(ids)

    assert state_of(folder, Late(job("COMPLETED"))).state == "done"


def test_the_newest_submission_counts_and_refused_arrays_do_not(folder):
    submitted(folder)
    submitted(folder, job="20", seconds=200)
    submitted(folder, job=None, state=REFUSED, seconds=100)
    seen = state_of(folder, Answers(job("FAILED"), job("RUNNING", task="20_0")))
    assert (seen.state, seen.job) == ("pending", "20_0")


def test_a_submitter_that_died_before_it_noted_the_id_is_found_by_the_name(folder):
    submitted(folder, job=None, state=INTENDED)
    assert state_of(folder, Answers()).state == "lost"
    seen = state_of(folder, Answers(job("RUNNING", task="33_0"), names={"es-main": "33"}))
    assert (seen.state, seen.live) == ("pending", True)


def test_the_claim_of_a_job_that_has_ended_does_not_hold_a_cell_up(folder, monkeypatch):
    submitted(folder)
    begun(folder)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    with claims.try_hold(folder / "claims", CELL.key):
        assert state_of(folder, Answers(job("FAILED"))).state == "lost"
        assert state_of(folder, Answers(job("RUNNING"))).state == "running"


def test_a_forced_submission_opens_a_done_cell_again(folder):
    written(folder, finished=ago(500))
    submitted(folder, force=True)
    assert state_of(folder, Answers(job("PENDING"))).state == "pending"
    assert state_of(folder, Answers(job("FAILED"))).state == "done", "the old record is still there"


def test_a_thousand_cells_are_looked_at_quickly(tmp_path):
    import time

    study = tmp_path / "outputs" / "many"
    rows = []
    for seed in range(1000):
        record = make_record("rome", 1, seed)
        record.save(study / "cells" / record.name) if seed % 2 else None
        rows.append({"name": record.name, "key": record.key})
    (study / "plan.json").write_text(json.dumps(rows))
    begin = time.process_time()
    states = [each.state for each in look(study, Answers())]
    assert (states.count("done"), states.count("missing")) == (500, 500)
    assert time.process_time() - begin < 5
