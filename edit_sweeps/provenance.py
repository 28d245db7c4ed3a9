"""Where, when and with what a cell was run. None of it is compared by tests."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import logging
import os
import platform
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edit_sweeps.attempts import append
from edit_sweeps.this_job import job_id, restarts

if TYPE_CHECKING:
    from edit_sweeps.model import EditableModel

GIT_FILE = "GIT_VERSION"
"""Beside a copy of the package that jobs run from: the commit it was copied at."""
PACKAGES = ("torch", "transformers", "lm_eval", "hydra-core", "edit-sweeps")


@dataclass
class Attempt:
    """One try at a cell, from `begin` to `end`.

    Attributes:
        folder: Of the cell.
        number: How often this cell has been started, this time included.
        submission: The submission it belongs to; empty outside Slurm.
        seconds: Phase -> wall-clock seconds.
    """

    folder: Path
    number: int
    started: datetime
    submission: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to `phase`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def finish(self, model: EditableModel | None = None) -> dict[str, Any]:
        """The provenance of the record."""
        now = datetime.now(UTC)
        self.seconds["total"] = (now - self.started).total_seconds()
        told = {
            "host": platform.node(),
            "device": "" if model is None else str(model.device),
            "started": self.started.isoformat(timespec="seconds"),
            "finished": now.isoformat(timespec="seconds"),
            "attempts": self.number,
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        }
        if job_id():
            told |= {"job": job_id(), "restarts": restarts(), "submission": self.submission}
            told |= {"visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
        return told | {"git": git_version(), "versions": versions()}

    def end(self, how: str) -> None:
        """Note how it ended: done | collapsed | failed | infrastructure | interrupted."""
        append(self.folder, {"number": self.number, "ended": _now(), "how": how})


def begin(folder: Path, submission: str = "") -> Attempt:
    """Note a start of the cell in `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    line = {
        "started": _now(),
        "host": platform.node(),
        "pid": os.getpid(),
        "job": job_id() or None,
        "restart": restarts(),
    }
    return Attempt(folder, append(folder, line), datetime.now(UTC), submission)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def log_to(file: Path) -> Iterator[None]:
    """Also write what is logged to `file`."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        with contextlib.suppress(
            OSError
        ):  # a full disk; what is missing of the log is no fault of the cell
            handler.close()


def version(package: str) -> str:
    """Installed version of `package`, or an empty string."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def git_version() -> str:
    """Commit of the checkout this package runs from, `-dirty` when changed; empty without git."""
    noted = Path(__file__).parent.parent / GIT_FILE
    if noted.is_file():  # this is a copy, and the repository around it is at another commit by now
        return noted.read_text(encoding="utf-8").strip()
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of the packages that results may depend on."""
    return {name: version(name) for name in PACKAGES}


def code_identity() -> dict[str, Any]:
    """What tells the code of a submission from that of its jobs: `git`, `versions`, `digest`."""
    return {"git": git_version(), "versions": versions(), "digest": code_digest()}


@functools.cache
def code_digest() -> str:
    """Sixteen hexadecimal digits over the package's source as it is on disk when first asked: *.py, *.yaml."""
    package = Path(__file__).parent
    total = hashlib.sha256()
    for file in sorted([*package.rglob("*.py"), *package.rglob("*.yaml")]):
        total.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes())
    return total.hexdigest()[:16]
