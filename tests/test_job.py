"""What a job does around its cells: whom it blames, when it queues itself again, and when it has had enough."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from edit_sweeps import attempts, claims, run
from edit_sweeps.launcher import job, work
from edit_sweeps.launcher.prerequisites import Job
from edit_sweeps.launcher.submissions import Submission
from edit_sweeps.launcher.submit import draw_up, write_units
from edit_sweeps.launcher.units import Unit
from edit_sweeps.launcher.work import Work
from tests.made_up_cells import CLUSTER, made_up_cell

FULL = OSError(errno.ENOSPC, "No space left on device")
WRONG = ValueError("layer 9: the model has 4 blocks")


@pytest.fixture(autouse=True)
def slurm_job(tmp_path, monkeypatch):
    """This process is job 42, not restarted yet; W&B and the hub are not there."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setattr(job, "LEAVE_AFTER_S", 0)
    monkeypatch.setattr(job, "go_offline", lambda root: None)
    monkeypatch.setattr(work, "push", lambda *_: None)
    monkeypatch.setattr(work, "pick", lambda *_: None)


@pytest.fixture
def requeues(tmp_path, monkeypatch):
    """A scontrol that notes how it was called; gives its notes."""
    calls = tmp_path / "scontrol.log"
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return lambda: calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def cells(tmp_path):
    """Two cells of one trajectory."""
    study = tmp_path / "outputs" / "main"
    made = [made_up_cell(num_edits=n, task=False, study=study, cache=tmp_path) for n in (1, 2)]
    for cell in made:
        cell.config["wandb"] = None
    return made


@pytest.fixture
def ran(monkeypatch):
    """Numbers of edits of the cells that were run; `ran.raising[2] = error` makes one of them fail."""

    class Ran(list):
        """With `raising`: number of edits -> what the cell raises."""

    ran = Ran()
    ran.raising = {}

    def run_cell(cell, session, attempt, *, again=False):
        ran.append(cell.num_edits)
        if cell.num_edits in ran.raising:
            raise ran.raising[cell.num_edits]
        record = run.new_record(cell)
        record.state, record.provenance = "done", attempt.finish()
        record.save(cell.folder)
        return record

    monkeypatch.setattr(run, "run_cell", run_cell)
    return ran


def submitted(cells, **cluster):
    """A submission of these cells as one unit."""
    for cell in cells:
        cell.config["cluster"] = CLUSTER | cluster
    code = job.provenance.code_identity()
    one = Submission.new(cells[0].study, command=[], force=False, code=code)
    (draft,) = draw_up([Job(Unit([list(cells)]))], CLUSTER, one, 1000)
    write_units(one, [draft])
    one.save()
    return one


def run_job(one):
    return job.run_units(one.folder, tuple(one.arrays[0].tasks[0].units))


def test_all_is_well(cells, ran, requeues):
    assert run_job(submitted(cells)) == "2 cells done"
    assert (ran, requeues()) == ([1, 2], [])


def test_what_raised_is_named_and_the_other_cell_is_done(cells, ran, requeues):
    ran.raising[1] = WRONG
    with pytest.raises(job.UnfinishedError, match=r"1 of 2 cells are not done:\n  gpt2-rome-n1-"):
        run_job(submitted(cells))
    assert (ran, requeues()) == ([1, 2], []), "an exception is not tried again by itself"


def test_a_job_queued_again_does_not_repeat_an_exception_but_a_new_submission_does(cells, ran):
    ran.raising[1] = WRONG
    one = submitted(cells)
    for _ in range(2):
        with pytest.raises(job.UnfinishedError, match="1 of 2 cells"):
            run_job(one)
    assert ran == [1, 2]
    with pytest.raises(job.UnfinishedError):
        run_job(submitted(cells))
    assert ran == [1, 2, 1]


def test_what_the_machine_did_is_repeated_by_a_job_queued_again(cells, ran, requeues):
    ran.raising[2] = FULL
    one = submitted(cells, max_losses=3)
    for tried in range(1, 4):
        with pytest.raises(job.UnfinishedError):
            run_job(one)
        assert ran == [1] + [2] * tried
        assert requeues() == ["requeue 42"] * min(tried, 2), "the third loss in a row is the last"


def raise_full(*_):
    raise FULL


def raise_wrong(*_):
    raise WRONG


def test_a_disk_full_before_a_cell_begins_queues_the_job_again_a_few_times(
    cells, ran, requeues, monkeypatch
):
    monkeypatch.setattr(work, "freeze_config", raise_full)
    one = submitted(cells, max_losses=2)
    for restarts, expected in ((0, 1), (1, 1), (2, 1)):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        with pytest.raises(OSError, match="No space left"):
            run_job(one)
        assert requeues() == ["requeue 42"] * expected
    assert ran == []


def test_a_disk_that_fills_up_at_the_configuration_leaves_nothing_half_written(cells, tmp_path):
    (cell, other) = cells
    work.freeze_config(other)
    cell.config["long"] = "x" * 5000
    code = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    script = f"""
import pickle, resource, signal, sys
from edit_sweeps.launcher import work
cell = pickle.load(sys.stdin.buffer)
{code}
try:
    work.freeze_config(cell)
except OSError as error:
    print(error.errno)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(cell), capture_output=True, check=True,
        env=os.environ | {"PYTHONPATH": str(Path(job.__file__).parents[2])},
    )  # fmt: skip
    assert int(done.stdout) == errno.EFBIG
    assert list(cell.folder.iterdir()) == []
    assert [file.name for file in other.folder.iterdir()] == ["config.yaml"]


def test_a_disk_full_while_preparing_queues_the_job_again(cells, ran, requeues, monkeypatch):
    one = submitted(cells)
    monkeypatch.setattr(job, "load_unit", lambda *_: Unit([cells], prepare=[cells[0]]))
    monkeypatch.setattr(Work, "prepare", raise_full)
    with pytest.raises(OSError, match="No space left"):
        run_job(one)
    assert requeues() == ["requeue 42"]


def test_any_other_error_there_does_not(cells, ran, requeues, monkeypatch):
    monkeypatch.setattr(work, "freeze_config", raise_wrong)
    with pytest.raises(ValueError, match="layer 9"):
        run_job(submitted(cells))
    assert requeues() == []


def test_losses_that_no_disk_took_a_note_of_count_by_the_restarts(
    cells, ran, requeues, monkeypatch
):
    ran.raising[2] = FULL
    monkeypatch.setattr(attempts, "append", lambda folder, line: 1)
    monkeypatch.setattr("edit_sweeps.provenance.append", lambda folder, line: 1)
    one = submitted(cells, max_losses=2)
    for restarts, expected in ((0, 1), (1, 1)):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        with pytest.raises(job.UnfinishedError):
            run_job(one)
        assert requeues() == ["requeue 42"] * expected


@pytest.mark.parametrize("absent", [True, False], ids=["not there", "refuses"])
def test_without_scontrol_the_job_ends_and_says_so(
    cells, ran, requeues, tmp_path, monkeypatch, caplog, absent
):
    ran.raising[1] = FULL
    program = tmp_path / "bin" / "scontrol"
    if absent:
        program.unlink()
        monkeypatch.setenv("PATH", str(program.parent))
    else:
        program.write_text("#!/bin/sh\necho Invalid job id >&2\nexit 1\n")
    with pytest.raises(job.UnfinishedError):
        run_job(submitted(cells))
    assert "scontrol requeue 42: " in caplog.text


def test_a_job_started_again_without_end_is_stopped(cells, ran, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(job.MOST_RESTARTS + 1))
    with pytest.raises(job.UnfinishedError, match="edit-sweeps retry submits its cells anew"):
        run_job(submitted(cells))
    assert ran == []


def test_a_cell_that_somebody_else_runs_is_waited_for_and_then_left_alone(cells, ran, monkeypatch):
    monkeypatch.setattr(claims, "STALE_S", 0.2)
    monkeypatch.setattr(claims, "BEAT_S", 0.01)
    with claims.try_hold(cells[0].study / "claims", cells[0].key) as held:
        assert held
        with pytest.raises(job.UnfinishedError, match=r"n1-.*: another process has it"):
            run_job(submitted(cells))
    assert ran == [2]


def test_a_cell_that_somebody_else_did_meanwhile_is_not_run_again(cells, ran, tmp_path):
    busy = Work("cpu", submission="another", patience_s=0.0)
    list(busy.run_chain(cells[:1]))
    assert run_job(submitted(cells)) == "2 cells done"
    assert ran == [1, 2]


def test_in_a_packed_job_each_process_answers_for_its_own_and_the_first_queues_for_all(
    cells, ran, requeues, monkeypatch
):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setattr(job, "wait_for_others", lambda ranks: None)
    one = submitted(cells)
    units = {"0000": Unit([cells[:1]]), "0001": Unit([cells[1:]])}
    monkeypatch.setattr(job, "load_unit", lambda submission, name: units[name])
    ran.raising[2] = FULL
    monkeypatch.setattr(job.signal, "signal", lambda *_: None)
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(job.UnfinishedError, match="1 of 1 cells"):
        job.run_units(one.folder, ("0000", "0001"))
    assert requeues() == []
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert job.run_units(one.folder, ("0000", "0001")) == "1 cells done"
    assert requeues() == ["requeue 42"]
