"""Where every cell of a study is now: disk, then claims, then Slurm, then the disk again for what ended between."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from edit_sweeps import attempts, claims
from edit_sweeps.cell import FAILURE_FILE, RECORD_FILE
from edit_sweeps.claims import Owner
from edit_sweeps.launcher.folders import Disk, read, read_disk
from edit_sweeps.launcher.queue import Job, Slurm, SlurmUnavailable, is_live
from edit_sweeps.launcher.submissions import INTENDED, REFUSED, Array, Submission, read_all

__all__ = [
    "CLAIMS",
    "FINISHED",
    "LIVE",
    "PLANNING",
    "STATES",
    "CellLook",
    "known_cells",
    "look",
    "read",
]

STATES = ("done", "collapsed", "running", "pending", "failed", "lost", "missing")
LIVE = ("running", "pending")
FINISHED = ("done", "collapsed")
CLAIMS = "claims"
PLANNING = "planning"
"""Claim of who submits now."""
GRACE_S = 60.0
"""A job that neither squeue nor sacct knows is given up only so long after it was submitted, and a record that must
be there is waited for so long after the end of its job: a shared file system may show it late."""


@dataclass(frozen=True)
class CellLook:
    """Where a cell is.

    Attributes:
        name: Of its folder.
        key: Its own.
        state: done | collapsed | failed | running | pending (queued, or its turn has not come in a running job) |
            lost (its job or process is gone and left nothing) | missing (asked for, never begun).
        why: A few words on that.
        job: Slurm's id of the task that has, or had it.
        live: Whether that task may still do something.
        submission: Id of the submission.
        host: Where it runs or ran.
        log: What the job prints, or the cell's own log.
        started: ISO text; of the last attempt.
        seconds: Of the last attempt, up to now if it runs.
        attempts: How often it was started.
        losses: How often in a row, up to now, the machine took it.
        unasked: Why Slurm could not be asked about a cell that was submitted; empty where it was.
    """

    name: str
    key: str
    state: str
    why: str = ""
    job: str = ""
    live: bool = False
    submission: str = ""
    host: str = ""
    log: Path | None = None
    started: str = ""
    seconds: float | None = None
    attempts: int = 0
    losses: int = 0
    unasked: str = ""


@dataclass(frozen=True)
class Place:
    """A task of a submission that has a cell."""

    submission: Submission
    array: Array
    task: int

    @property
    def job(self) -> str:
        """Slurm's id of the task."""
        return self.array.id_of(self.task)

    def log_of(self, cell: str) -> Path | None:
        """What the process prints that runs the cell; None before sbatch."""
        rank = self.array.tasks[self.task].rank_of(cell)
        return self.submission.log(self.array, self.task, rank)


def look(
    study: Path,
    slurm: Slurm | None = None,
    names: Collection[str] | None = None,
    *,
    again: Collection[str] = (),
) -> list[CellLook]:
    """Look at the cells of a study; nothing is changed.

    Args:
        study: Its folder.
        slurm: To ask; this machine's by default.
        names: Of the cells; by default all that were ever asked for.
        again: Cells that are done and of which something is still wanted: a job that has one is told.

    Returns:
        In the order of plan.json.
    """
    known = known_cells(study)
    if names is not None:
        known = {name: known.get(name, name.rpartition("-")[2]) for name in names}
    disk = {name: read_disk(study / "cells" / name) for name in known}
    places = all_places(study)
    final = {
        name: name not in again and is_final(disk[name], places.get(name, ())[:1]) for name in known
    }
    unfinished = [name for name in known if not final[name]]
    held: dict[str, Owner] = {}
    answer = Answer({})
    if unfinished:
        held = claims.held_names(study / CLAIMS, {PLANNING, *(known[name] for name in unfinished)})
        answer = Answer.of([places[name] for name in unfinished if name in places], slurm)
        answer.planner = held.get(PLANNING)
        disk |= {name: read_disk(study / "cells" / name) for name in unfinished}
    return [
        judge(
            name,
            key,
            disk[name],
            answer.chosen(places.get(name, ())),
            held.get(key),
            answer,
            again=name in again,
        )
        for name, key in known.items()
    ]


@dataclass
class Answer:
    """What Slurm said, once, of all jobs in question.

    Attributes:
        jobs: By id; only jobs of ours, for a controller that lost its state gives ids again.
        silent: Why it could not be asked; empty when it could.
        planner: Who submits cells of the study now.
    """

    jobs: dict[str, Job]
    silent: str = ""
    planner: Owner | None = None

    @classmethod
    def of(cls, places: Sequence[Sequence[Place]], slurm: Slurm | None) -> Answer:
        """Ask for the tasks at `places`, the newest of a cell first.

        Arrays whose submitter ended before it could write their ids down get them here, in memory.
        """
        slurm = slurm or Slurm()
        arrays = {id(place.array): place.array for row in places for place in row}
        try:
            for array in arrays.values():
                if array.job is None and array.state == INTENDED:
                    array.job = slurm.find(array.name)
            newest = {row[0].job for row in places if row[0].job}
            older = {place.job for row in places for place in row[1:] if place.job} - newest
            found = slurm.ask(newest, older)
        except SlurmUnavailable as error:
            return cls({}, silent=str(error))
        names = {array.job: array.name for array in arrays.values()}
        return cls(
            {i: job for i, job in found.items() if job.name in {"", names.get(i.partition("_")[0])}}
        )

    def on(self, place: Place) -> Job | None:
        """What is known of the task, or of the whole array where its tasks are not told apart."""
        return self.jobs.get(place.job) or self.jobs.get(place.array.job or "")

    def chosen(self, places: Sequence[Place]) -> Place | None:
        """The newest place whose job lives, else the newest: clocks of login nodes differ."""
        living = (p for p in places if (job := self.on(p)) is not None and is_live(job))
        return next(living, places[0] if places else None)

    def plans(self, submission: Submission) -> bool:
        """Whether the process that makes the submission is at it still."""
        who = self.planner
        return who is not None and (who.host, who.pid) == (submission.host, submission.pid)


def is_final(disk: Disk, places: Sequence[Place]) -> bool:
    """Whether nothing is left to happen; a forced submission makes a done cell open again."""
    forced = any(p.submission.force and disk.submission != p.submission.id for p in places)
    return disk.state in FINISHED and not forced


def judge(
    name: str,
    key: str,
    disk: Disk,
    place: Place | None,
    holder: Owner | None,
    answer: Answer,
    *,
    again: bool = False,
) -> CellLook:
    """Where one cell is."""
    by_another = place is None or disk.submission != place.submission.id
    wanted = again and (by_another or holder is not None)
    final = not wanted and is_final(disk, [place] if place else [])
    job = answer.on(place) if place else None
    if final:
        state, why = disk.state, disk.why
    elif holder is not None and holder.job not in answer.jobs:
        state, why = claimed(disk, holder)
    elif job is not None and is_live(job):
        state, why = in_a_live_job(disk, place, job, holder)
    elif holder is not None and not ended(answer.jobs[holder.job]):
        state, why = claimed(disk, holder)
    elif place is None or failed_since(disk, place):
        state, why = without_a_job(disk)
    else:
        state, why = without_an_end(disk, place, job, answer)
        if state == "lost" and disk.state in FINISHED:
            state, why = disk.state, f"not run again: {why}"
    seen = describe(name, key, disk, place, state, why, job=job)
    return replace(seen, unasked=answer.silent) if place and not final else seen


def claimed(disk: Disk, holder: Owner) -> tuple[str, str]:
    """State and reason of a cell that a process has; it may be at another one of the same trajectory."""
    return "running" if disk.is_open_by(holder) else "pending", str(holder)


def in_a_live_job(
    disk: Disk, place: Place | None, job: Job, holder: Owner | None
) -> tuple[str, str]:
    """State and reason of a cell whose job is queued or runs; it may run the cell, be past it, or not be there yet."""
    if job.state == "PENDING":
        return "pending", job.reason
    here = place.job if place else job.id
    at_it = disk.is_open_by(holder) if holder and holder.job == here else disk.is_open_in(here)
    if at_it:
        return "running", ""
    if failed_since(disk, place):
        return "failed", disk.why
    return "pending", f"its turn has not come in job {job.id}"


def failed_since(disk: Disk, place: Place | None) -> bool:
    """Whether the cell's failure is of its last submission, or younger; a node's clock may be late."""
    if disk.state != "failed" or place is None:
        return disk.state == "failed"
    return place.submission.id == disk.submission or disk.finished >= place.submission.time


def ended(job: Job) -> bool:
    """Whether a job, and with it its claims, is over by Slurm's word.

    A node that Slurm has only lost sight of may run it still; its claim then says so, or grows stale.
    """
    return not is_live(job) and job.state != "NODE_FAIL"


def without_a_job(disk: Disk) -> tuple[str, str]:
    """State and reason of a cell that nobody has now."""
    if disk.state in FINISHED:
        return disk.state, disk.why
    if disk.state == "failed":
        return "failed", disk.why
    if disk.is_open:
        return "lost", "its process is gone and left nothing"
    if disk.how == attempts.LOST:
        return (
            "lost",
            "the machine failed it: disk full, file system or device gone; see its cell.log",
        )
    return "missing", "interrupted" if disk.starts else ""


def without_an_end(disk: Disk, place: Place, job: Job | None, answer: Answer) -> tuple[str, str]:
    """State and reason of a submitted cell whose job does not live and has left nothing."""
    if answer.silent:
        return "pending", f"Slurm does not answer: {answer.silent}"
    if job is not None:
        return after_the_end(disk, job)
    if since(datetime.fromisoformat(place.submission.time)) < GRACE_S:
        return "pending", "Slurm does not know it yet"
    if place.job:
        return "lost", f"Slurm does not know job {place.job} any more"
    if answer.plans(place.submission):
        return "pending", f"being submitted by {answer.planner}"
    return "lost", "the submitting process ended before it was submitted"


def after_the_end(disk: Disk, job: Job) -> tuple[str, str]:
    """State and reason of a cell without a record whose job has ended; where there must be one, it may yet be seen."""
    if job.state == "PENDING":
        return "lost", f"job {job.id} waits for what has failed: DependencyNeverSatisfied"
    written = disk.how in {"done", "collapsed", "failed"} and disk.starts[-1].get("job") == job.id
    if job.state == "COMPLETED" or written:
        try:
            just_now = abs(since(datetime.fromisoformat(job.end).astimezone())) < GRACE_S
        except ValueError:  # Slurm does not say when
            just_now = False
        if just_now:
            return "pending", f"job {job.id} has just ended; its record is not seen yet"
    if job.state == "COMPLETED":
        return "lost", f"job {job.id} is COMPLETED and left no record"
    told = job.reason if job.reason.startswith(job.state) else job.state
    return "lost", f"job {job.id} ended as {told}"


def since(moment: datetime) -> float:
    """Seconds from then to now."""
    return (datetime.now(UTC) - moment).total_seconds()


def describe(
    name: str,
    key: str,
    disk: Disk,
    place: Place | None,
    state: str,
    why: str = "",
    *,
    job: Job | None = None,
) -> CellLook:
    """The look, with what the folder and Slurm tell besides."""
    last = disk.starts[-1] if disk.starts else {}
    seconds = disk.seconds if state not in LIVE else None
    if state == "running" and last:
        seconds = since(datetime.fromisoformat(last["started"]))
    return CellLook(
        name=name,
        key=key,
        state=state,
        why=why,
        job=place.job if place else str(last.get("job") or ""),
        live=job is not None and is_live(job),
        submission=place.submission.id if place else "",
        host=str(last.get("host", "")) or (job.node if job else ""),
        log=place.log_of(name) if place else None,
        started=str(last.get("started", "")),
        seconds=seconds,
        attempts=len(disk.starts),
        losses=attempts.losses(disk.lines) if state not in {"running", "done", "collapsed"} else 0,
    )


def known_cells(study: Path) -> dict[str, str]:
    """Name -> key of every cell that was ever asked for, and of those that have a record besides."""
    try:
        rows = json.loads((study / "plan.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        rows = []
    known = {row["name"]: row["key"] for row in rows}
    for folder in sorted((study / "cells").glob("[!.]*/")):
        if (folder / RECORD_FILE).exists() or (folder / FAILURE_FILE).exists():
            known.setdefault(folder.name, folder.name.rpartition("-")[2])
    return known


def all_places(study: Path) -> dict[str, list[Place]]:
    """Cell -> the tasks that have it, the newest submission's first; refused arrays never had any."""
    found: dict[str, list[Place]] = {}
    for submission in reversed(list(read_all(study))):
        for array in submission.arrays:
            if array.state != REFUSED:
                for index, task in enumerate(array.tasks):
                    for name in task.cells:
                        found.setdefault(name, []).append(Place(submission, array, index))
    return found
