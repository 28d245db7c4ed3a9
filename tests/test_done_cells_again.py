"""A done cell of which something is still wanted (an artefact, a comparison): a job that has it already is told."""

import json

import pytest

from edit_sweeps import claims
from edit_sweeps.launcher.plan import Entry, Plan
from edit_sweeps.launcher.settling import settle
from edit_sweeps.launcher.states import look
from tests.test_states import CELL, NAME, Answers, begun, job, submitted, written

OTHER = "other-abc"


@pytest.fixture
def study(tmp_path):
    """A study in which the cell was done by an earlier submission, as its task 0."""
    folder = tmp_path / "outputs" / "main"
    folder.mkdir(parents=True)
    rows = [{"name": NAME, "key": CELL.key}, {"name": OTHER, "key": "abc"}]
    (folder / "plan.json").write_text(json.dumps(rows))
    first = submitted(folder, job="16")
    written(folder, submission=first.id)
    return folder


def state_of(study, *jobs):
    (seen,) = look(study, Answers(*jobs), [NAME], again=[NAME])
    return seen


class Wanted:
    """Stands for the cell: done, and its adapter was not saved."""

    name, key = NAME, CELL.key

    def __init__(self):
        self.config = {"resume": "auto"}

    def missing_artefacts(self):
        return {"adapter"}

    def failed_tasks(self):
        return []

    def lacks_comparisons(self):
        return False


def entry_of(study, *jobs):
    """The cell's entry, planned to run again, after a look at Slurm."""
    entry = Entry(Wanted(), "done", True, "save: adapter is missing")
    cluster = {"executor": "slurm", "max_losses": 3}
    settle(Plan(study, [entry], "cpu", False, False, cluster), Answers(*jobs))
    return entry


def test_one_that_waits_in_the_queue_is_left_alone(study):
    submitted(study, job="17")
    assert state_of(study, job("PENDING")).state == "pending"
    entry = entry_of(study, job("PENDING"))
    assert (entry.todo, entry.state) == (False, "pending")


def test_one_whose_job_has_not_come_to_it_is_left_alone(study):
    submitted(study, job="17")
    assert not entry_of(study, job("RUNNING")).todo


def test_one_that_nobody_has_is_submitted(study):
    entry = entry_of(study, job("COMPLETED", task="16_0"))
    assert (entry.todo, entry.state, entry.why) == (True, "done", "save: adapter is missing")


def test_one_whose_second_job_was_killed_is_submitted(study):
    submitted(study, job="17")
    begun(study)
    entry = entry_of(study, job("FAILED"))
    assert (entry.todo, entry.state) == (True, "done")


def test_one_that_a_process_has_now_is_left_alone(study):
    with claims.try_hold(study / "claims", CELL.key):
        assert not entry_of(study).todo


def test_its_own_job_that_is_past_it_is_not_waited_for_in_status(study):
    assert state_of(study, job("RUNNING", task="16_0")).state == "done"


def test_without_that_wish_a_done_cell_is_done_and_nobody_is_asked(study):
    submitted(study, job="17")
    slurm = Answers(job("PENDING"))
    (seen,) = look(study, slurm, [NAME])
    assert (seen.state, slurm.asked) == ("done", [])


def test_a_cell_that_was_done_since_the_plan_was_made_is_not_submitted(study):
    entry = Entry(Done(), "failed", True, "tried before")
    settle(
        Plan(study, [entry], "cpu", False, False, {"executor": "slurm", "max_losses": 3}), Answers()
    )
    assert (entry.todo, entry.state) == (False, "done")


class Done(Wanted):
    """Stands for the cell: done, and nothing is lacking."""

    def missing_artefacts(self):
        return set()
