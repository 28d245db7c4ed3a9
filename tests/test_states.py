"""Where a cell is, for everything that disk, claims and Slurm can say together."""

import json
import os
import platform
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

    def ask(self, ids, older=()):
        self.asked.append({*ids, *older})
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


def begun(study, job_id="17_0", how=None, pid=None):
    """A start, by this process unless another is said, and its end."""
    place = study / "cells" / NAME
    place.mkdir(parents=True, exist_ok=True)
    start = {"started": ago(30), "host": platform.node(), "pid": pid or os.getpid()}
    number = attempts.append(place, start | {"job": job_id, "restart": 0})
    if how:
        attempts.append(place, {"number": number, "ended": ago(20), "how": how})


def written(study, state="done", finished=None, errors=None, submission=""):
    record = make_record("rome", 1)
    record.state, record.errors = state, errors or {}
    record.provenance |= {"finished": finished or ago(5), "submission": submission}
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
        def ask(self, ids, older=()):
            written(folder)
            return super().ask(ids, older)

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


def local(seconds_ago):
    """A moment as Slurm writes it."""
    moment = datetime.now(UTC).astimezone() - timedelta(seconds=seconds_ago)
    return f"{moment:%Y-%m-%dT%H:%M:%S}"


@pytest.mark.parametrize(
    ("state", "how", "seconds_ago", "seen"),
    [
        ("COMPLETED", None, 5, "pending"),
        ("COMPLETED", None, 3600, "lost"),
        ("COMPLETED", None, None, "lost"),
        ("FAILED", "done", 5, "pending"),
        ("FAILED", "done", 3600, "lost"),
        ("FAILED", "infrastructure", 5, "lost"),
        ("CANCELLED", "interrupted", 5, "lost"),
    ],
)
def test_a_record_that_must_be_there_is_waited_for_after_the_end_of_its_job(
    folder, state, how, seconds_ago, seen
):
    submitted(folder)
    if how:
        begun(folder, how=how)
    end = "Unknown" if seconds_ago is None else local(seconds_ago)
    assert state_of(folder, Answers(job(state, end=end))).state == seen


def test_an_end_of_another_job_says_nothing_of_this_one(folder):
    begun(folder, job_id="9_0", how="failed")
    submitted(folder)
    assert state_of(folder, Answers(job("CANCELLED", end=local(5)))).state == "lost"


def test_a_failure_of_this_submission_counts_though_the_nodes_clock_is_late(folder):
    one = submitted(folder, seconds=60)
    begun(folder, how="failed")
    error = {"cell": TRACEBACK}
    written(folder, "failed", finished=ago(600), errors=error, submission=one.id)
    assert state_of(folder, Answers(job("FAILED"))).state == "failed"


def test_a_local_run_of_a_queued_cell_is_seen_by_its_claim(folder):
    submitted(folder)
    begun(folder, job_id=None)
    with claims.try_hold(folder / "claims", CELL.key):
        seen = state_of(folder, Answers(job("PENDING", reason="Priority")))
        assert (seen.state, seen.live) == ("running", True)
        assert platform.node() in seen.why


def test_a_start_of_a_former_self_is_not_the_present_holders(folder):
    begun(folder, job_id=None, pid=1)
    with claims.try_hold(folder / "claims", CELL.key):
        assert state_of(folder).state == "pending", "the holder is at another cell of the chain"


def test_of_two_units_packed_in_a_job_the_one_at_work_is_told_by_its_process(folder, monkeypatch):
    submitted(folder)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    with claims.try_hold(folder / "claims", CELL.key):
        begun(folder, pid=1)
        assert state_of(folder, Answers(job("RUNNING"))).state == "pending"
        begun(folder)
        assert state_of(folder, Answers(job("RUNNING"))).state == "running"
        assert state_of(folder, Answers(job("PENDING", reason="BeginTime"))).state == "pending"


def test_a_start_in_an_earlier_job_is_not_this_jobs(folder):
    begun(folder, job_id="9_0")
    submitted(folder)
    assert state_of(folder, Answers(job("RUNNING"))).state == "pending"


def test_on_a_node_that_slurm_lost_sight_of_a_living_claim_counts(folder, monkeypatch):
    submitted(folder)
    begun(folder)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    with claims.try_hold(folder / "claims", CELL.key):
        assert state_of(folder, Answers(job("NODE_FAIL"))).state == "running"
    assert state_of(folder, Answers(job("NODE_FAIL"))).state == "lost"


def test_a_live_job_of_a_submission_that_looks_older_is_not_overlooked(folder):
    submitted(folder, job="17")
    submitted(folder, job="20")
    answers = Answers(job("RUNNING"), job("FAILED", task="20_0"))
    seen = state_of(folder, answers)
    assert (seen.state, seen.job, seen.live) == ("pending", "17_0", True)
    assert {"17_0", "20_0"} <= answers.asked[0]


def test_an_array_that_is_being_submitted_is_not_lost_however_long_it_takes(folder):
    one = submitted(folder, job=None, state=INTENDED)
    with claims.try_hold(folder / "claims", "planning"):
        assert state_of(folder).state == "pending"
        one.pid += 1
        one.save()
        assert state_of(folder).state == "lost", "another process plans; that one is gone"


def test_an_adopted_job_is_told_with_its_id_and_log(folder):
    one = submitted(folder, job=None, state=INTENDED)
    seen = state_of(folder, Answers(job("RUNNING", task="33_0"), names={"es-main": "33"}))
    assert seen.job == "33_0"
    assert seen.log == one.folder / "slurm" / "33_0_0_log.out"


def test_an_id_that_was_given_again_neither_ends_nor_keeps_a_claim(folder, monkeypatch):
    submitted(folder)
    begun(folder)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    with claims.try_hold(folder / "claims", CELL.key):
        assert state_of(folder, Answers(job("FAILED", name="other"))).state == "running"


def test_who_cancelled_is_told(folder):
    submitted(folder)
    seen = state_of(folder, Answers(job("CANCELLED", reason="CANCELLED by 1000")))
    assert seen.why == "job 17_0 ended as CANCELLED by 1000"


def test_what_the_machine_failed_in_a_local_run_is_lost(folder):
    begun(folder, job_id=None, how=attempts.LOST)
    assert (state_of(folder).state, state_of(folder).losses) == ("lost", 1)


def test_a_record_that_cannot_be_read_fails_its_cell_and_no_other(folder):
    written(folder)
    (folder / "cells" / NAME / "record.json").write_text("{")
    seen = state_of(folder)
    assert (seen.state, "cannot be read" in seen.why) == ("failed", True)
    assert len(look(folder, Answers())) == 2


@pytest.mark.slow
def test_a_thousand_cells_take_one_question_to_slurm(tmp_path):
    study = tmp_path / "outputs" / "many"
    record = make_record("rome", 1)
    numbers = {"loss": 0.123456789, "steps": 20, "nll": 0.123456789, "shift_norm": 1.23456789}
    record.traces = [{"case_id": str(i), "clamp_hit": False} | numbers for i in range(1000)]
    record.save(tmp_path)
    text = (tmp_path / "record.json").read_text()
    rows = [{"name": f"cell-{i:010x}", "key": f"{i:010x}"} for i in range(1000)]
    for row in rows[::2]:
        place = study / "cells" / row["name"]
        place.mkdir(parents=True)
        (place / "record.json").write_text(text)
    (study / "plan.json").write_text(json.dumps(rows))
    one = Submission.new(study, command=[], force=False, code={})
    tasks = [Task([f"{i:04d}"], [row["name"]]) for i, row in enumerate(rows)]
    one.arrays = [Array("es-main", "cells", tasks, 60, 1, job="17", state=SUBMITTED)]
    one.save()
    slurm = Answers(*(job("RUNNING", task=f"17_{i}") for i in range(1000)))
    states = [each.state for each in look(study, slurm)]
    assert (states.count("done"), states.count("pending")) == (500, 500)
    assert len(slurm.asked) == 1
