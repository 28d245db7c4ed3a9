"""What a Slurm job runs: frozen units, one after the other; FAILED at the end if a cell failed."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import UncompletedJobError
from submitit.helpers import DelayedSubmission

from edit_sweeps import attempts, claims, provenance, this_job
from edit_sweeps.causes import INFRASTRUCTURE, cause_of
from edit_sweeps.cell import Cell, Tree
from edit_sweeps.launcher import drift
from edit_sweeps.launcher.submissions import Submission
from edit_sweeps.launcher.units import Unit
from edit_sweeps.launcher.work import Work
from edit_sweeps.offline import go_offline

log = logging.getLogger(__name__)

LEAVE_AFTER_S = 60.0
"""A thread that some library left behind keeps a job, and its GPU, no longer than this."""
LOOK_S = 2.0
"""Between two looks whether the job's other processes still run."""
MOST_RESTARTS = 50
"""Slurm queues a job of a dead node again without end; one that kills its nodes is stopped here."""


class UnfinishedError(RuntimeError):
    """The job did what it could, and cells are not done: Slurm is to say FAILED."""


@dataclass(frozen=True)
class UnitRunner:
    """Picklable; all it holds is where the frozen units lie.

    Attributes:
        folder: Of the submission.
        units: Names of its units; the process with rank r of k runs every k-th from r on.
    """

    folder: str
    units: tuple[str, ...]

    def __call__(self) -> str:
        """Run the units of this process.

        Raises:
            UnfinishedError: Cells failed, or another process had them and did not end.
        """
        begin_logging()
        try:
            told = run_units(Path(self.folder), self.units)
        except BaseException:
            leave_soon(1)
            raise
        leave_soon(0)
        return told

    def checkpoint(self) -> DelayedSubmission:
        """At the end of the time, or preempted: the same again; it goes on from the last stored prefix."""
        return DelayedSubmission(self)


def run_units(folder: Path, names: tuple[str, ...]) -> str:
    """Run those of a submission's units that fall to this process; returns a line on them."""
    submission = Submission.load(folder)
    os.chdir(submission.cwd)
    rank, ranks = this_job.rank()
    if rank:
        signal.signal(JobEnvironment._usr_sig(), stop_when_warned)  # noqa: SLF001
    units = {name: load_unit(submission, name) for name in names}
    mine = [units[name] for name in names[rank::ranks]]
    cells = [cell for unit in mine for cell in unit.cells()]
    if not mine:
        return "nothing for this process"
    config = (cells or mine[0].prepare)[0].config
    check_restarts()
    check_drift(submission, config)
    go_offline(config["data_root"])
    work = Work(
        config["device"],
        force=submission.force,
        submission=submission.id,
        patience_s=claims.STALE_S + 2 * claims.BEAT_S,
        total=len(cells),
    )
    machine_failed, error = run_all(mine, work)
    if not rank:
        wait_for_others(ranks)
        every = [cell for unit in units.values() for cell in unit.cells()]
        unfinished = [cell for cell in every if not work.is_finished(cell)]
        if machine_failed or unfinished:
            try_again(unfinished, config, machine_failed=machine_failed)
    if error is not None:
        raise error
    unfinished = [cell for cell in cells if not work.is_finished(cell)]
    if unfinished:
        raise UnfinishedError(explain(unfinished, len(cells), set(work.elsewhere)))
    return f"{len(cells)} cells done"


def run_all(units: list[Unit], work: Work) -> tuple[bool, Exception | None]:
    """Run units; returns whether the machine failed them, and what was raised outside of a cell."""
    try:
        for unit in units:
            run_unit(unit, work)
    except UncompletedJobError:  # the time is up, for the last time
        raise
    except Exception as error:  # what a disk or a device did before or between cells
        return cause_of(error) == INFRASTRUCTURE, error
    return work.machine_failed, None


def stop_when_warned(*_: object) -> None:
    """Leave, as the job's first process does; that one queues the job again."""
    log.warning("the job is stopped; its first process queues it again")
    sys.exit(-1)


def wait_for_others(ranks: int) -> None:
    """Stay as long as other processes of this job run: only the first is told to queue the job again."""
    while ranks > 1 and this_job.others_run():
        time.sleep(LOOK_S)


def run_unit(unit: Unit, work: Work) -> None:
    """What its cells share, then the cells, one after the other."""
    for cell in unit.prepare:
        work.prepare(cell)
    for chain in unit.chains:
        for _ in work.run_chain(chain):
            pass


def load_unit(submission: Submission, name: str) -> Unit:
    """A unit as it was frozen at submission."""
    tree: Tree = json.loads(submission.unit_file(name).read_text(encoding="utf-8"))
    return Unit.load(tree)


def check_restarts() -> None:
    """Stop a job that was started again and again.

    Raises:
        UnfinishedError: It was.
    """
    if this_job.restarts() > MOST_RESTARTS:
        msg = f"this job was started {this_job.restarts()} times; given up. edit-sweeps retry submits its cells anew"
        raise UnfinishedError(msg)


def check_drift(submission: Submission, config: Tree) -> None:
    """Compare the code with that of the submission.

    Raises:
        UnfinishedError: It is another, and cluster.on_drift=refuse.
    """
    told = drift.differences(submission.code, provenance.code_identity())
    if not told:
        return
    text = (
        f"{'; '.join(told)}. Results may differ from those of the other cells; cluster.snapshot=true keeps a copy "
        "of the package for the jobs"
    )
    if config["cluster"]["on_drift"] == "refuse":
        msg = f"{text}; not run, because of cluster.on_drift=refuse"
        raise UnfinishedError(msg)
    log.warning("%s", text)


def try_again(unfinished: list[Cell], config: Tree, *, machine_failed: bool) -> None:
    """Queue this job again when the machine is to blame, as often in a row as cluster.max_losses allows.

    Args:
        unfinished: Cells of this job; their attempts tell how often the machine took them.
        config: Of one cell.
        machine_failed: The machine is known to be to blame, whether or not that could be noted. Then the
            restarts of the job count, too.
    """
    lines = [attempts.read(cell.folder) for cell in unfinished]
    blamed = [each for each in lines if each and each[-1].get("how") == attempts.LOST]
    in_a_row = [attempts.losses(each) for each in blamed]
    if not blamed and machine_failed:
        in_a_row = [1 + this_job.restarts()]
    if not in_a_row or max(in_a_row) >= config["cluster"]["max_losses"]:
        return
    job = os.environ.get("SLURM_JOB_ID", "")
    log.warning("the machine is to blame; job %s is queued again", job)
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], check=False, capture_output=True, text=True
        )
        told = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        told = str(error)
    if told:
        log.error("scontrol requeue %s: %s", job, told)
        return
    time.sleep(LEAVE_AFTER_S)  # Slurm ends this process before that


def explain(unfinished: list[Cell], total: int, elsewhere: set[str]) -> str:
    """Which cells are not done, and where to look."""
    lines = [
        f"  {cell.name}: "
        + ("another process has it" if cell.name in elsewhere else f"see {cell.folder}/cell.log")
        for cell in unfinished
    ]
    return "\n".join([f"{len(unfinished)} of {total} cells are not done:", *lines])


def begin_logging() -> None:
    """To the job's log, as launch.py does it on a terminal."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    logging.getLogger("absl").setLevel(logging.ERROR)


def leave_soon(code: int) -> None:
    """End this process in a while even if threads are left that would not; submitit has written its note by then."""

    def leave() -> None:
        time.sleep(LEAVE_AFTER_S)
        os._exit(code)

    threading.Thread(target=leave, daemon=True, name="leave").start()
