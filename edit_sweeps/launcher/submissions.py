"""What was handed to Slurm: one folder a submission, written before the first sbatch and after each.

Layout of `outputs/<study>/submissions/<id>/`:
    submission.json   arrays, their tasks, the cells of each
    units/0000.json   what a unit runs, frozen
    slurm/            submitit's scripts, logs and pickles
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import secrets
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

from edit_sweeps.record import write_json

SCHEMA = 1
FOLDER = "submissions"
FILE = "submission.json"
INTENDED, SUBMITTED, REFUSED = "intended", "submitted", "refused"


@dataclass
class Task:
    """One task of an array, hence one Slurm job.

    Attributes:
        units: Names of files in `units/`, without the ending; several are packed on one GPU.
        cells: Names of the cells they run.
        provides: Digests of the prerequisites that they compute; keys of baselines.
        counts: How many of the cells each unit has, in order.
    """

    units: list[str]
    cells: list[str]
    provides: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def rank_of(self, cell: str) -> int:
        """Number of the process that runs the cell: that of its unit."""
        ends = list(accumulate(self.counts))
        return bisect_right(ends, self.cells.index(cell)) if ends else 0


@dataclass
class Array:
    """Tasks that ask for the same resources, submitted at once.

    Attributes:
        name: Slurm's job name; nothing else has it, so a job of another name is not ours.
        kind: cells | baselines | moments | hypernets.
        tasks: In the order of Slurm's array indices.
        minutes: Time limit of a task.
        gpus: GPUs of a task.
        after: What must have ended first, as sbatch takes it: `afterok:15_0`.
        job: Slurm's id of the array; None before sbatch has answered.
        state: intended | submitted | refused (sbatch said no).
    """

    name: str
    kind: str
    tasks: list[Task]
    minutes: int
    gpus: float
    after: list[str] = field(default_factory=list)
    job: str | None = None
    state: str = INTENDED

    def id_of(self, task: int) -> str:
        """Slurm's id of a task: `17_3`, or `17` where the array has one task only; empty when not submitted."""
        if self.job is None:
            return ""
        return f"{self.job}_{task}" if len(self.tasks) > 1 else self.job


@dataclass
class Submission:
    """One command that handed cells to Slurm.

    Attributes:
        study: The study's folder.
        id: UTC time and four random digits: `20261126-142512-3f9a`.
        time: When, as ISO text in UTC.
        cwd: Where launch.py was called; jobs run there, relative paths of the configuration are from there.
        command: What was typed.
        force: Done cells are run again.
        code: `git`, `versions` and `digest` of the package at submission.
        arrays: In the order of submission.
    """

    study: Path
    id: str
    time: str
    host: str
    user: str
    pid: int
    cwd: str
    command: list[str]
    force: bool
    code: dict[str, Any]
    arrays: list[Array] = field(default_factory=list)

    @classmethod
    def new(
        cls, study: Path, *, command: list[str], force: bool, code: dict[str, Any]
    ) -> Submission:
        """One that begins now, of this process; nothing is written yet."""
        now = datetime.now(UTC)
        return cls(
            study=study,
            id=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
            time=now.isoformat(timespec="seconds"),
            host=platform.node(),
            user=user_name(),
            pid=os.getpid(),
            cwd=str(Path.cwd()),
            command=command,
            force=force,
            code=code,
        )

    @property
    def folder(self) -> Path:
        """Where everything of it lies."""
        return self.study / FOLDER / self.id

    def unit_file(self, unit: str) -> Path:
        """The file of a unit."""
        return self.folder / "units" / f"{unit}.json"

    def log(self, array: Array, task: int, rank: int = 0) -> Path | None:
        """What a task prints; a packed task has one file for each unit that runs at once. None before sbatch."""
        job = array.id_of(task)
        return self.folder / "slurm" / f"{job}_{rank}_log.out" if job else None

    def save(self) -> None:
        """Write submission.json, aside and renamed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        body = {"schema": SCHEMA, **asdict(self)}
        body.pop("study")
        write_json(self.folder / FILE, body)

    @classmethod
    def load(cls, folder: Path) -> Submission:
        """Read one.

        Raises:
            ValueError: The file is of another schema, or not such a file.
        """
        body = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if body.pop("schema", None) != SCHEMA:
            msg = f"{folder / FILE} was written by another version of this program; this one reads schema {SCHEMA}"
            raise ValueError(msg)
        arrays = [
            Array(**a | {"tasks": [Task(**t) for t in a["tasks"]]}) for a in body.pop("arrays")
        ]
        return cls(study=folder.parent.parent, arrays=arrays, **body)


def read_all(study: Path) -> Iterator[Submission]:
    """The submissions of a study, the oldest first; folders without a whole submission.json are passed over."""
    for folder in sorted((study / FOLDER).glob("*/")):
        if (folder / FILE).exists():
            yield Submission.load(folder)


def user_name() -> str:
    """Who runs this; a number where the machine does not know the name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
