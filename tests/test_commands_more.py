"""push, cancel and logs where something is not as it should be."""

import json
from types import SimpleNamespace

import pytest

from edit_sweeps import studies, tracking
from edit_sweeps.launcher import pushing, reading_logs
from edit_sweeps.launcher.queue import Job
from edit_sweeps.launcher.reading_logs import follow_log, tail
from edit_sweeps.launcher.states import CellLook
from edit_sweeps.launcher.stopping import jobs_of, told_of
from edit_sweeps.launcher.submissions import Array, Submission, Task
from tests.synthetic_study import write_study


@pytest.fixture
def mirrored(tmp_path, monkeypatch):
    """A study of ten records, and a W&B child that answers what it is told to."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    study = write_study(tmp_path / "outputs" / "rome")
    child = SimpleNamespace(
        calls=0, found={"outcome": "offline", "reason": "no API key"}, settings=[]
    )

    def run_child(arguments, _):
        child.calls += 1
        child.settings.append(json.loads(arguments[arguments.index("--settings") + 1]))
        return child.found

    monkeypatch.setattr(tracking, "run_child", run_child)
    return study, child


def test_what_only_reached_this_disk_is_not_called_mirrored(mirrored):
    study, child = mirrored
    outcome = pushing.push_study(study, mode="online", project="p", entity=None)
    assert outcome.failed == child.calls == 3, (
        "a server that is not there is not asked for every record"
    )
    assert "failed 3" in outcome.text or "3 failed" in outcome.text
    assert "7 not tried" in outcome.text
    assert "no API key" in outcome.text


def test_writing_off_line_is_a_success_when_that_was_asked_for(mirrored):
    study, _ = mirrored
    outcome = pushing.push_study(study, mode="offline", project="p", entity=None)
    assert (outcome.failed, outcome.text) == (0, "rome: 10 offline")


@pytest.mark.parametrize("asked", [None, "other"])
def test_a_later_push_keeps_to_what_the_job_was_told_and_options_come_first(mirrored, asked):
    study, child = mirrored
    first, *_ = sorted((study / "cells").iterdir())
    told = tracking.WandbSettings(mode="offline", project="p", entity="e", group="g", tags=("t",))
    tracking.push(first, study.name, told)
    child.settings.clear()
    child.found = {"outcome": "pushed"}
    assert pushing.push_study(study, mode="online", project=asked, entity=None).failed == 0
    sent, untold, *_ = child.settings
    keys = ("project", "entity", "group", "tags")
    assert [sent[key] for key in keys] == [asked or "p", "e", "g", ["t"]]
    assert [untold[key] for key in keys] == [asked or "edit-sweeps", None, None, []]


def test_a_job_whose_submitter_died_is_cancelled_too_and_its_other_cells_are_named(tmp_path):
    one = Submission.new(tmp_path, command=["launch.py"], force=False, code={})
    one.arrays = [Array("es-x", "cells", [Task(["0000"], ["a", "b", "c", "d", "e"])], 60, 1)]
    one.save()
    job = Job("17", "RUNNING", "es-x")
    slurm = SimpleNamespace(
        find={"es-x": "17"}.get, ask=lambda ids: {"17": job} if "17" in ids else {}
    )
    jobs = jobs_of(tmp_path, {"b"}, slurm)
    assert told_of(jobs, {"b"}).splitlines()[1] == "  17: b; it also has a, c, d and 1 more"
    assert Submission.load(one.folder).arrays[0].job is None


def test_a_cell_that_never_began_is_found_in_its_own_study(tmp_path, monkeypatch):
    (tmp_path / "outputs" / "one").mkdir(parents=True)
    (tmp_path / "outputs" / "one" / "plan.json").write_text(
        json.dumps([{"name": "rome-abc", "key": "abc"}])
    )
    (tmp_path / "outputs" / "two" / "cells" / "rome-abc").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert studies.find_cell("abc", "one") == tmp_path / "outputs" / "one" / "cells" / "rome-abc"
    with pytest.raises(studies.NotFoundError, match="names of 2 cells"):
        studies.find_cell("abc")
    assert studies.complete_cell("rome") == ["rome-abc"]


def test_no_lines_are_no_lines(tmp_path):
    (tmp_path / "log").write_text("a\nb\n")
    assert tail(tmp_path / "log", 0) == ""
    assert tail(tmp_path / "log", 1) == "b"


def test_a_whole_word_of_a_name_comes_before_part_of_one(tmp_path, monkeypatch):
    for name in ("memit-n30-s0-abc", "memit-n300-s0-def"):
        (tmp_path / "outputs" / "one" / "cells" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert studies.find_cell("n30").name == "memit-n30-s0-abc"
    with pytest.raises(studies.NotFoundError, match="names of 2 cells"):
        studies.find_cell("n3")


def test_a_followed_log_is_that_of_the_job_then_the_cells_own_until_the_cell_has_ended(
    tmp_path, monkeypatch
):
    folder = tmp_path / "outputs" / "one" / "cells" / "rome-abc"
    folder.mkdir(parents=True)
    job, own, shown = tmp_path / "job.out", folder / "cell.log", []

    def grow(path, text):
        with path.open("a", encoding="utf-8") as file:
            file.write(text)

    moments = [
        ("pending", lambda: grow(job, "node7\n")),
        ("pending", lambda: grow(job, "half a ")),
        ("pending", lambda: grow(job, "line\n")),
        ("running", lambda: grow(own, "éditer\n")),
        ("running", lambda: own.write_text("anew\n")),
        ("failed", lambda: grow(own, "no newline")),
    ]
    now = iter(moments)
    state = ["pending"]

    def sleep(_):
        state[0], change = next(now)
        change()

    monkeypatch.setattr(reading_logs.time, "sleep", sleep)
    monkeypatch.setattr(
        reading_logs, "look", lambda *_, **__: [CellLook("rome-abc", "abc", state[0], log=job)]
    )
    assert follow_log(folder, shown.append, pause_s=0, look_s=0) == "failed"
    assert [text for text in shown if text] == [
        "node7\n",
        "half a line\n",
        "éditer\n",
        "anew\n",
        "no newline",
    ]


def test_following_a_log_begins_where_it_ends_and_a_cell_that_has_ended_adds_nothing(
    tmp_path, monkeypatch
):
    (tmp_path / "cell.log").write_text("told before\n")
    monkeypatch.setattr(reading_logs, "look", lambda *_, **__: [CellLook("x", "k", "done")])
    shown = []
    assert follow_log(tmp_path, shown.append, pause_s=0, look_s=0) == "done"
    assert "".join(shown) == ""
