"""When submitting goes wrong in the middle, and what jobs see of the folder they start in."""

import os
import subprocess
import sys

import pytest

from edit_sweeps.launcher import resources, submit
from edit_sweeps.launcher.prerequisites import jobs_of
from edit_sweeps.launcher.queue import Job, SlurmUnavailable
from edit_sweeps.launcher.settling import coming
from edit_sweeps.launcher.submissions import (
    INTENDED,
    REFUSED,
    SUBMITTED,
    Array,
    Submission,
    Task,
    read_all,
)
from edit_sweeps.launcher.submit import SubmissionError, draw_up
from tests.made_up_cells import CLUSTER, made_up_cell
from tests.test_states import Answers

# sbatch fails.


class Held:
    """Stands for the claim of planning, never lost."""

    def is_ours(self):
        return True


@pytest.fixture
def three(tmp_path, monkeypatch):
    """Three arrays of one cell each, of which sbatch fails at the second; gives the submission and its drafts."""
    monkeypatch.chdir(tmp_path)
    cells = [made_up_cell(seed=seed, task=False) for seed in range(3)]
    one = Submission.new(tmp_path / "outputs" / "main", command=[], force=False, code={})
    drafts = draw_up(jobs_of(cells, {}), CLUSTER, one, 1)
    answers = iter(["17", RuntimeError("sbatch: error: Socket timed out"), "19"])

    def submit_array(*_):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(submit, "submit_array", submit_array)
    return one, drafts, cells[0].config


class Cancels(Answers):
    """Answers, and notes what is cancelled."""

    def __init__(self, **more):
        super().__init__(**more)
        self.cancelled = []

    def cancel(self, jobs):
        self.cancelled += jobs


@pytest.mark.parametrize(
    ("took", "silent", "states", "says", "cancelled"),
    [
        (False, False, [SUBMITTED, REFUSED, REFUSED], "was refused and not submitted", []),
        (True, False, [SUBMITTED, REFUSED, REFUSED], "taken as job 18 .* and cancelled", ["18"]),
        (True, True, [SUBMITTED, INTENDED, REFUSED], "was perhaps submitted", []),
    ],
    ids=["Slurm has no such job", "Slurm took it", "Slurm does not answer"],
)
def test_an_array_that_sbatch_denies_is_withdrawn_or_looked_for_by_its_name_later(
    three, monkeypatch, took, silent, states, says, cancelled
):
    one, drafts, config = three
    slurm = Cancels(silent=silent, names={drafts[1].array.name: "18"} if took else {})
    monkeypatch.setattr(submit, "Slurm", lambda: slurm)
    with pytest.raises(SubmissionError, match=says) as caught:
        submit.submit(one, drafts, config, {}, Held())
    assert "Socket timed out" in str(caught.value)
    (saved,) = read_all(one.study)
    assert [array.state for array in saved.arrays] == states
    assert [array.job for array in saved.arrays] == ["17", None, None]
    assert slurm.cancelled == cancelled


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "not taken"])
def test_a_prerequisite_is_waited_for_if_slurm_took_it_without_a_word(tmp_path, taken):
    one = Submission.new(tmp_path / "outputs" / "main", command=[], force=False, code={})
    one.arrays = [
        Array("es-a", "moments", [Task(["0000"], [], ["need"])], 60, 1, job=None, state=INTENDED)
    ]
    one.save()
    slurm = Answers(Job("18", "RUNNING", "es-a"), names={"es-a": "18"} if taken else {})
    assert coming(one.study, slurm) == ({"need": "afterok:18"} if taken else {})


def test_whether_one_is_coming_is_not_guessed_without_slurm(tmp_path):
    one = Submission.new(tmp_path / "outputs" / "main", command=[], force=False, code={})
    one.arrays = [Array("es-a", "moments", [Task(["0000"], [], ["need"])], 60, 1)]
    one.save()
    with pytest.raises(SlurmUnavailable):
        coming(one.study, Answers(silent=True))


@pytest.mark.parametrize(
    "name",
    ["job-name", "job_name", "dependency", "array", "signal", "output", "error", "chdir"],
)
def test_parameters_by_which_jobs_are_found_cannot_be_given(name):
    config = made_up_cell(cluster={"extra": {name: "x"}}).config
    (reason,) = resources.check_cluster(config)
    assert reason.startswith(f"cluster.extra.{name.replace('_', '-')}: set by the program itself")
    assert resources.check_cluster(made_up_cell(cluster={"extra": {"exclude": "n7"}}).config) == []


# What a job imports.

TELL = "import edit_sweeps, sys; print(edit_sweeps.__doc__.strip())"


def package(folder, says):
    (folder / "edit_sweeps").mkdir(parents=True)
    (folder / "edit_sweeps" / "__init__.py").write_text(f'"""{says}"""\n')
    return folder


def imported(lines, cwd):
    """What a job with these lines of setup imports, started in `cwd` as submitit starts it."""
    script = "\n".join([*lines, f"{sys.executable} -m tell"])
    (cwd / "tell.py").write_text(TELL)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        ["bash", "-c", script], cwd=cwd, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_snapshot_is_imported_and_not_the_clone_that_the_job_starts_in(tmp_path, monkeypatch):
    clone, copy = package(tmp_path / "clone", "the clone"), package(tmp_path / "copy", "the copy")
    monkeypatch.chdir(clone)
    lines = submit.exports({"data_root": None}, copy)
    assert imported(lines, clone) == "the copy"


def test_what_lies_in_the_launch_folder_can_still_be_imported(tmp_path, monkeypatch):
    folder = tmp_path / "of a user"
    folder.mkdir()
    monkeypatch.chdir(folder)
    lines = submit.exports({"data_root": None}, package(tmp_path / "copy", "the copy"))
    assert imported(lines, folder) == "the copy", "and tell.py, which only the folder has"
