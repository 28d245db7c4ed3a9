"""retry and cancel without a Slurm: from where, in what groups, and what of the losses is forgotten."""

import json
import os
from pathlib import Path

import pytest

from edit_sweeps import attempts, data_root
from edit_sweeps.launcher import cluster, retrying
from edit_sweeps.launcher.prerequisites import jobs_of
from edit_sweeps.launcher.queue import Job
from edit_sweeps.launcher.retrying import retry
from edit_sweeps.launcher.states import look
from edit_sweeps.launcher.stopping import note_stop
from edit_sweeps.launcher.submissions import SUBMITTED, Submission, read_all
from edit_sweeps.launcher.submit import draw_up, write_units
from edit_sweeps.studies import with_part
from tests.made_up_cells import made_up_cell
from tests.test_states import Answers


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where launch.py was called; the tests stand elsewhere."""
    folder, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(retrying, "Slurm", Answers)
    return folder


def submitted(home, cells, job):
    """Cells handed to Slurm long ago, from `home`, as one array; their jobs are forgotten by now."""
    before = Path.cwd()
    os.chdir(home)
    try:
        one = Submission.new(home.absolute() / "outputs" / "main", command=[], force=False, code={})
        one.id, one.time = f"20260101-00000{job}-0000", "2026-01-01T00:00:00+00:00"
        config = cells[0].config["cluster"]
        for draft in draw_up(jobs_of(cells, {}), config, one, 1000):
            draft.array.job, draft.array.state = job, SUBMITTED
            write_units(one, [draft])
        one.save()
        plan = one.study / "plan.json"
        rows = json.loads(plan.read_text()) if plan.exists() else []
        rows += [{"name": cell.name, "key": cell.key} for cell in cells]
        plan.write_text(json.dumps(rows))
    finally:
        os.chdir(before)
    return one.study


def lose(home, cell, times):
    folder = home / cell.folder
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(times):
        attempts.append(folder, {"started": "2026-01-01T00:00:00+00:00", "job": "1"})


class Submits:
    """Stands for cluster.submit_cells: notes from where it was called, and with which cells."""

    def __init__(self, monkeypatch, error=None):
        self.calls, self.error = [], error
        monkeypatch.setattr(cluster, "submit_cells", self)

    def __call__(self, study, cells, slurm, held, *, force):
        self.calls.append((Path.cwd(), [cell.name for cell in cells], force, data_root.root()))
        if self.error:
            raise self.error
        drafts = Submission.new(study, command=[], force=force, code={})
        found = draw_up(jobs_of(cells, {}), cells[0].config["cluster"], drafts, 1000)
        for number, draft in enumerate(found):
            draft.array.job = f"9{len(self.calls)}{number}"
        return drafts


def cell(seed=0, **more):
    return made_up_cell(seed=seed, task=False, **more)


def test_losses_are_forgotten_in_the_folder_of_the_study_wherever_one_stands(home, monkeypatch):
    one = cell()
    study = submitted(home, [one], "1")
    lose(home, one, 3)
    submits = Submits(monkeypatch)
    told = retry(study)
    assert "Submitted 1 cell again" in told
    assert submits.calls == [(home, [one.name], False, None)]
    (seen,) = look(study, Answers(), [one.name])
    assert (seen.attempts, seen.losses) == (3, 0)
    assert Path.cwd() != home
    assert not list(Path.cwd().iterdir()), "nothing is written where one stands"


def test_cells_of_two_partitions_are_two_submissions_and_both_are_told(home, monkeypatch):
    cells = [cell(seed, cluster={"partition": p}) for seed, p in enumerate(["gpu", "long", "gpu"])]
    submitted(home, [cells[0], cells[2]], "1")
    study = submitted(home, [cells[1]], "2")
    submits = Submits(monkeypatch)
    told = retry(study)
    grouped = {frozenset(names) for _, names, _, _ in submits.calls}
    assert grouped == {frozenset({cells[0].name, cells[2].name}), frozenset({cells[1].name})}
    assert [line for line in told.splitlines() if ": cells, " in line] == [
        "  910: cells, 2 tasks, 1 GPU, 480 min",
        "  920: cells, 1 task, 1 GPU, 480 min",
    ]


def test_cells_of_two_data_folders_are_submitted_each_with_its_own(home, tmp_path, monkeypatch):
    cells = [cell(0), cell(1)]
    for one, name in zip(cells, ("a", "b"), strict=True):
        (tmp_path / name).mkdir()
        one.config["data_root"] = str(tmp_path / name)
    study = submitted(home, cells, "1")
    submits = Submits(monkeypatch)
    retry(study)
    assert [(names, root) for _, names, _, root in submits.calls] == [
        ([cells[0].name], tmp_path / "a"),
        ([cells[1].name], tmp_path / "b"),
    ]


def test_cells_go_back_to_the_folder_they_were_submitted_from(home, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    first, second = cell(0), cell(1)
    study = submitted(home, [first], "1")
    (other / "outputs").symlink_to(home / "outputs")
    submitted(other, [second], "2")
    submits = Submits(monkeypatch)
    retry(study)
    assert {(cwd, *names) for cwd, names, _, _ in submits.calls} == {
        (home, first.name),
        (other, second.name),
    }


def test_one_is_back_where_one_stood_even_if_sbatch_refuses(home, monkeypatch):
    here = Path.cwd()
    study = submitted(home, [cell()], "1")
    Submits(monkeypatch, error=RuntimeError("sbatch: error"))
    with pytest.raises(RuntimeError, match="sbatch"):
        retry(study)
    assert Path.cwd() == here


def test_a_look_submits_nothing_and_a_live_cell_is_left_alone(home, monkeypatch):
    one, two = cell(0), cell(1)
    study = submitted(home, [one, two], "1")
    name = next(read_all(study)).arrays[0].name
    monkeypatch.setattr(
        retrying, "Slurm", lambda: Answers(Job("1_0", "RUNNING", name), Job("1_1", "FAILED", name))
    )
    submits = Submits(monkeypatch)
    told = retry(study, dry_run=True)
    assert "1 cell would be submitted again" in told
    assert (two.name in told, one.name in told, submits.calls) == (True, False, [])
    assert "Nothing to retry" in retry(study, [one.name])
    assert submits.calls == []


# Cancelled by hand.


def test_whoever_cancels_a_running_cell_is_not_counted_as_a_loss(tmp_path):
    one, other, done = cell(0), cell(1), cell(2)
    for number in range(1, 4):
        for each in (one, other, done):
            folder = tmp_path / each.folder
            folder.mkdir(parents=True, exist_ok=True)
            attempts.append(folder, {"started": "now", "job": "17_0" if each is one else "17_1"})
        attempts.append(tmp_path / done.folder, {"number": number, "ended": "now", "how": "done"})
        note_stop(tmp_path / "outputs" / "main", {"17_0"})
    losses = [attempts.losses(attempts.read(tmp_path / each.folder)) for each in (one, other, done)]
    assert losses == [0, 3, 0]


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ("n1", ["m-rome-n1-s0-ab"]),
        ("rome", ["m-rome-n1-s0-ab", "m-rome-n10-s0-cd"]),
        ("n1-s0", ["m-rome-n1-s0-ab"]),
        ("om", ["m-rome-n1-s0-ab", "m-rome-n10-s0-cd"]),
        ("n2", []),
    ],
)
def test_whole_words_of_a_name_come_first(part, found):
    names = ["m-rome-n1-s0-ab", "m-rome-n10-s0-cd"]
    assert with_part(names, part) == found
