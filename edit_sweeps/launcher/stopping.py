"""`edit-sweeps cancel`: which jobs of a study may still do something."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from edit_sweeps.launcher.queue import Slurm, is_live
from edit_sweeps.launcher.submissions import Task, read_all


def jobs_of(study: Path, names: Collection[str] | None, slurm: Slurm) -> dict[str, Task]:
    """Queued and running tasks by Slurm's id: all of the study, its prerequisites too, or those that have some cells.

    Raises:
        SlurmUnavailable: Slurm does not answer.
    """
    tasks: dict[str, tuple[str, Task]] = {}
    for submission in read_all(study):
        for array in submission.arrays:
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


def told_of(jobs: Mapping[str, Task]) -> str:
    """A line a job, with its cells."""
    lines = []
    for job, task in jobs.items():
        some = ", ".join(task.cells[:3]) or "prepares what other jobs need"
        more = f" and {len(task.cells) - 3} more" if len(task.cells) > 3 else ""
        lines.append(f"  {job}: {some}{more}")
    return "\n".join([f"{len(jobs)} jobs are queued or running:", *lines])
