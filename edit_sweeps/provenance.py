"""Where, when and with what a cell was run. None of it is compared by tests."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edit_sweeps.model import EditableModel

PACKAGES = ("torch", "transformers", "lm_eval", "hydra-core", "edit-sweeps")


@dataclass
class Attempt:
    """One try at a cell, from `begin` to `finish`.

    Attributes:
        number: How often this cell has been started, this time included.
        seconds: Phase -> wall-clock seconds.
    """

    number: int
    started: datetime
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
        return {
            "host": platform.node(),
            "device": "" if model is None else str(model.device),
            "started": self.started.isoformat(timespec="seconds"),
            "finished": now.isoformat(timespec="seconds"),
            "attempts": self.number,
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
            "git": git_version(),
            "versions": {name: version(name) for name in PACKAGES},
        }


def begin(folder: Path) -> Attempt:
    """Count a start of the cell in `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "attempts"
    number = int(file.read_text(encoding="utf-8")) + 1 if file.exists() else 1
    file.write_text(f"{number}\n", encoding="utf-8")
    return Attempt(number, datetime.now(UTC))


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
        handler.close()


def version(package: str) -> str:
    """Installed version of `package`, or an empty string."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def git_version() -> str:
    """Commit of the checkout this package runs from, `-dirty` when changed; empty without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
