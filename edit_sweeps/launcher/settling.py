"""What of a plan is really to run after a look at Slurm: live cells are left alone, cells lost too often too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edit_sweeps import claims
from edit_sweeps.launcher.plan import Entry, Plan, decide
from edit_sweeps.launcher.queue import Slurm, SlurmUnavailable, is_live
from edit_sweeps.launcher.states import CLAIMS, FINISHED, LIVE, PLANNING, CellLook, look
from edit_sweeps.launcher.submissions import INTENDED, read_all

LOST_TOO_OFTEN = "lost to the machine too often"


@contextmanager
def planning(study: Path) -> Iterator[claims.Held]:
    """One at a time decides what of a study is submitted, and writes it down."""

    def tell(owner: object) -> None:
        print(f"{owner} is submitting cells of {study.name}; waiting for it.", flush=True)  # noqa: T201

    with claims.hold(study / CLAIMS, PLANNING, note="planning", on_wait=tell) as held:
        yield held


def settle(plan: Plan, slurm: Slurm) -> None:
    """Look at every cell of the plan and correct what is to run; mutates the entries.

    Here, in this process, a cell that another process runs is waited for; on Slurm it is left alone.

    Raises:
        SlurmUnavailable: Cells were submitted, and with `cluster=slurm` nobody can tell where they are.
    """
    todo = [entry for entry in plan.entries if entry.todo]
    names = [entry.cell.name for entry in todo]
    again = {entry.cell.name for entry in todo if entry.state in FINISHED and not plan.force}
    looks = {each.name: each for each in look(plan.study, slurm, names, again=again)}
    on_slurm = plan.cluster["executor"] == "slurm"
    for entry in plan.entries:
        seen = looks.get(entry.cell.name)
        if seen is None:
            continue
        if seen.unasked and on_slurm:
            raise SlurmUnavailable(seen.unasked)
        if seen.live or (on_slurm and seen.state in LIVE):
            entry.state, entry.todo, entry.why = seen.state, False, told_of(seen)
        elif seen.state in FINISHED:  # it became so since the plan was made
            entry.state = seen.state
            entry.todo, entry.why = decide(entry.cell, seen.state)
        elif on_slurm:
            correct(entry, seen, plan.cluster["max_losses"])


def told_of(seen: CellLook) -> str:
    """A word on a cell that is being taken care of."""
    return f"job {seen.job}" + (f": {seen.why}" if seen.why else "") if seen.job else seen.why


def correct(entry: Entry, seen: CellLook, most: int) -> None:
    """Set what is to be done with a cell that nobody has now; one that was lost `most` times in a row is left alone."""
    if seen.state == "lost":
        entry.state, entry.why = "lost", f"{seen.why}; submitted again"
    if seen.losses >= most and entry.cell.config["resume"] != "force":
        entry.todo = False
        entry.why = (
            f"{LOST_TOO_OFTEN} ({seen.losses} times in a row), see {seen.log or entry.cell.folder}; "
            "`edit-sweeps retry` submits it again"
        )


def coming(study: Path, slurm: Slurm) -> dict[str, str]:
    """What queued or running jobs of the study will provide: prerequisite -> condition for `sbatch --dependency`.

    A job that runs other cells too may fail because of them, so its end is waited for and not its success.
    """
    arrays = [array for submission in read_all(study) for array in submission.arrays]
    for array in arrays:
        if array.job is None and array.state == INTENDED and any(t.provides for t in array.tasks):
            array.job = slurm.find(array.name)  # its submitter died before it could note the id
    offers = [
        (array.id_of(index), array.name, need, "afterany" if array.kind == "cells" else "afterok")
        for array in arrays
        if array.job
        for index, task in enumerate(array.tasks)
        for need in task.provides
    ]
    jobs = slurm.ask((), {job for job, _, _, _ in offers})
    return {
        need: f"{condition}:{job}"
        for job, name, need, condition in offers
        if job in jobs and is_live(jobs[job]) and jobs[job].name in {"", name}
    }
