"""Where every cell of a study is now: disk, then claims, then Slurm, then the disk again for what ended between."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edit_sweeps import attempts, claims
from edit_sweeps.cell import FAILURE_FILE, RECORD_FILE
from edit_sweeps.claims import Owner
from edit_sweeps.launcher.queue import Job, Slurm, SlurmUnavailable, is_live
from edit_sweeps.launcher.submissions import INTENDED, REFUSED, Array, Submission, read_all

STATES = ("done", "collapsed", "running", "pending", "failed", "lost", "missing")
LIVE = ("running", "pending")
CLAIMS = "claims"
GRACE_S = 60.0
"""A job that neither squeue nor sacct knows is given up only so long after it was submitted."""


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
    """The task of the newest submission that has a cell."""

    submission: Submission
    array: Array
    task: int

    @property
    def job(self) -> str:
        """Slurm's id of the task."""
        return self.array.id_of(self.task)


@dataclass
class Disk:
    """What a cell's folder says.

    Attributes:
        state: done | collapsed | failed, or empty.
        why: Of a failure.
        finished: When that was written.
        submission: By whom.
        lines: Of attempts.jsonl.
    """

    state: str = ""
    why: str = ""
    finished: str = ""
    submission: str = ""
    seconds: float | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Attempts that were begun."""
        return [line for line in self.lines if "started" in line]

    @property
    def is_open(self) -> bool:
        """Whether the last attempt has no end."""
        ended = {line["number"] for line in self.lines if "ended" in line}
        return bool(self.starts) and self.starts[-1]["number"] not in ended


def look(
    study: Path, slurm: Slurm | None = None, names: Collection[str] | None = None
) -> list[CellLook]:
    """Look at the cells of a study; nothing is changed.

    Args:
        study: Its folder.
        slurm: To ask; this machine's by default.
        names: Of the cells; by default all that were ever asked for.

    Returns:
        In the order of plan.json.
    """
    known = known_cells(study)
    if names is not None:
        known = {name: known.get(name, name.rpartition("-")[2]) for name in names}
    disk = {name: read_disk(study / "cells" / name) for name in known}
    places = newest_places(study)
    unfinished = [name for name in known if not is_final(disk[name], places.get(name))]
    if not unfinished:
        return [judge(n, k, disk[n], places.get(n), None, Answer({})) for n, k in known.items()]
    held = claims.held_names(study / CLAIMS, {known[name] for name in unfinished})
    answer = Answer.of({name: places[name] for name in unfinished if name in places}, slurm)
    disk |= {name: read_disk(study / "cells" / name) for name in unfinished}
    return [
        judge(name, key, disk[name], places.get(name), held.get(key), answer)
        for name, key in known.items()
    ]


@dataclass
class Answer:
    """What Slurm said, once, of all jobs in question.

    Attributes:
        jobs: By id.
        silent: Why it could not be asked; empty when it could.
        adopted: Ids of arrays whose submitter ended before it could write them down, by name.
    """

    jobs: dict[str, Job]
    silent: str = ""
    adopted: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, places: Mapping[str, Place], slurm: Slurm | None) -> Answer:
        """Ask for the tasks at `places`."""
        slurm = slurm or Slurm()
        arrays = {id(place.array): place.array for place in places.values()}
        try:
            adopted = {
                array.name: found
                for array in arrays.values()
                if array.job is None and array.state == INTENDED
                if (found := slurm.find(array.name))
            }
            ids = {place.job for place in places.values() if place.job} | set(adopted.values())
            return cls(slurm.ask(ids), adopted=adopted)
        except SlurmUnavailable as error:
            return cls({}, silent=str(error))

    def on(self, place: Place) -> Job | None:
        """What is known of the task; a job of another name under its id is another's."""
        array = place.array.job or self.adopted.get(place.array.name)
        if array is None:
            return None
        one = len(place.array.tasks) == 1
        job = self.jobs.get(array if one else f"{array}_{place.task}") or self.jobs.get(array)
        return None if job is not None and job.name not in {"", place.array.name} else job


def is_final(disk: Disk, place: Place | None) -> bool:
    """Whether nothing is left to happen; a forced submission makes a done cell open again."""
    forced = (
        place is not None
        and place.submission.force
        and disk.submission != place.submission.id
        and place.array.state != REFUSED
    )
    return disk.state in {"done", "collapsed"} and not forced


def judge(
    name: str, key: str, disk: Disk, place: Place | None, holder: Owner | None, answer: Answer
) -> CellLook:
    """Where one cell is."""
    job = answer.on(place) if place else None
    if is_final(disk, place):
        state, why = disk.state, disk.why
    elif job is not None and is_live(job):
        state, why = in_a_live_job(disk, place, job)
    elif holder is not None and not ended(holder, answer):
        state, why = "running" if disk.is_open else "pending", str(holder)
    elif place is None or failed_since(disk, place):
        state, why = without_a_job(disk)
    else:
        state, why = without_an_end(place, job, answer)
        if state == "lost" and disk.state in {"done", "collapsed"}:
            state, why = disk.state, f"not run again: {why}"
    seen = describe(name, key, disk, place, state, why, job=job)
    return replace(seen, unasked=answer.silent) if place and not is_final(disk, place) else seen


def in_a_live_job(disk: Disk, place: Place | None, job: Job) -> tuple[str, str]:
    """State and reason of a cell whose job is queued or runs; it may run the cell, be past it, or not be there yet."""
    if job.state == "PENDING":
        return "pending", job.reason
    if disk.is_open:
        return "running", ""
    if failed_since(disk, place):
        return "failed", disk.why
    return "pending", f"its turn has not come in job {job.id}"


def failed_since(disk: Disk, place: Place | None) -> bool:
    """Whether the cell's failure is younger than its last submission."""
    since = place.submission.time if place else ""
    return disk.state == "failed" and disk.finished >= since


def ended(holder: Owner, answer: Answer) -> bool:
    """Whether the holder of a claim was a job that Slurm says has ended."""
    job = answer.jobs.get(holder.job) if holder.job else None
    return job is not None and not is_live(job)


def without_a_job(disk: Disk) -> tuple[str, str]:
    """State and reason of a cell that nobody has now."""
    if disk.state == "failed":
        return "failed", disk.why
    if disk.is_open:
        return "lost", "its process is gone and left nothing"
    return "missing", "interrupted" if disk.starts else ""


def without_an_end(place: Place, job: Job | None, answer: Answer) -> tuple[str, str]:
    """State and reason of a submitted cell whose job does not live and has left nothing."""
    if answer.silent:
        return "pending", f"Slurm does not answer: {answer.silent}"
    age = (datetime.now(UTC) - datetime.fromisoformat(place.submission.time)).total_seconds()
    if job is not None:
        told = "DependencyNeverSatisfied" if job.state == "PENDING" else job.state
        return "lost", f"job {job.id} ended as {told}" if told != "COMPLETED" else (
            f"job {job.id} is COMPLETED and left no record"
        )
    if age < GRACE_S:
        return "pending", "Slurm does not know it yet"
    if place.array.state == INTENDED and not place.job:
        return "lost", "the submitting process ended before it was submitted"
    return "lost", f"Slurm does not know job {place.job} any more"


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
        begun = datetime.fromisoformat(last["started"])
        seconds = (datetime.now(UTC) - begun).total_seconds()
    return CellLook(
        name=name,
        key=key,
        state=state,
        why=why,
        job=place.job if place else str(last.get("job") or ""),
        live=job is not None and is_live(job),
        submission=place.submission.id if place else "",
        host=str(last.get("host", "")) or (job.node if job else ""),
        log=place.submission.log(place.array, place.task) if place else None,
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


def newest_places(study: Path) -> dict[str, Place]:
    """Cell -> the task of the newest submission that has it; refused arrays never had any."""
    found: dict[str, Place] = {}
    for submission in read_all(study):
        for array in submission.arrays:
            if array.state != REFUSED:
                for index, task in enumerate(array.tasks):
                    found |= {name: Place(submission, array, index) for name in task.cells}
    return found


def read_disk(folder: Path) -> Disk:
    """What a cell's folder says; files that are being replaced are never half there."""
    disk = Disk(lines=attempts.read(folder))
    record, failure = read(folder / RECORD_FILE), read(folder / FAILURE_FILE)
    if record is not None:
        lost = [task for task in record["result"].get("errors", {}) if not task.startswith("save=")]
        disk.state = "failed" if lost else str(record["state"])
        disk.why = f"task {', '.join(lost)} failed" if lost else ""
    elif failure is not None:
        text = str(failure["result"].get("errors", {}).get("cell", "")).strip()
        disk.state, disk.why = "failed", text.splitlines()[-1] if text else ""
    newest = record or failure
    if newest is not None:
        told = newest.get("provenance", {})
        disk.finished, disk.submission = finished(newest), str(told.get("submission", ""))
        disk.seconds = told.get("seconds", {}).get("total")
    return disk


def finished(body: Mapping[str, Any]) -> str:
    """When a record was written."""
    return str(body.get("provenance", {}).get("finished", ""))


def read(file: Path) -> dict[str, Any] | None:
    """A JSON file; None where there is none."""
    try:
        body: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return body
