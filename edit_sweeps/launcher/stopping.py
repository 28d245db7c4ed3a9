"""`edit-sweeps cancel`: which jobs of a study may still do something."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from edit_sweeps import attempts
from edit_sweeps.launcher.queue import Slurm, is_live
from edit_sweeps.launcher.submissions import INTENDED, Task, read_all


def jobs_of(study: Path, names: Collection[str] | None, slurm: Slurm) -> dict[str, Task]:
    """Queued and running tasks by Slurm's id: all of the study, its prerequisites too, or those that have some cells.

    Raises:
        SlurmUnavailable: Slurm does not answer.
    """
    tasks: dict[str, tuple[str, Task]] = {}
    for submission in read_all(study):
        for array in submission.arrays:
            if array.job is None and array.state == INTENDED:
                # The submitter died before it could note the id; never saved, so this stays a look.
                array.job = slurm.find(array.name)
            for index, task in enumerate(array.tasks):
                if array.job and (names is None or set(names) & set(task.cells)):
                    tasks[array.id_of(index)] = array.name, task
    known = slurm.ask(list(tasks))
    return {
        job: task
        for job, (name, task) in tasks.items()
        if (found := known.get(job) or known.get(job.partition("_")[0]))
        and is_live(found)
        and found.name in {"", name}
    }


def told_of(jobs: Mapping[str, Task], names: Collection[str] | None = None) -> str:
    """A line a job, with its cells; with `names`, those asked for first and what goes with them."""
    lines = []
    for job, task in jobs.items():
        asked = [cell for cell in task.cells if names is None or cell in names]
        others = [cell for cell in task.cells if cell not in asked]
        told = some_of(asked) or "prepares what other jobs need"
        lines.append(f"  {job}: {told}" + (f"; it also has {some_of(others)}" if others else ""))
    head = "1 job is" if len(jobs) == 1 else f"{len(jobs)} jobs are"
    return "\n".join([f"{head} queued or running:", *lines])


def some_of(cells: Sequence[str]) -> str:
    """The first three, and how many more."""
    more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
    return ", ".join(cells[:3]) + more


def note_stop(study: Path, jobs: Collection[str]) -> None:
    """Note at the open attempts of these jobs that somebody stopped them: that is no loss."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for folder in (study / "cells").glob("[!.]*/"):
        lines = attempts.read(folder)
        if lines and "started" in lines[-1] and lines[-1].get("job") in jobs:
            end = {"number": lines[-1]["number"], "ended": now, "how": "interrupted"}
            attempts.append(folder, end)
