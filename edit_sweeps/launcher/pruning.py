"""`edit-sweeps prune`: what can be computed again and nobody needs now."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edit_sweeps.launcher.retrying import frozen_cells
from edit_sweeps.launcher.showing import near
from edit_sweeps.launcher.states import CellLook, look
from edit_sweeps.launcher.submissions import Submission, read_all

FINISHED = {"done", "collapsed"}
UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True)
class Found:
    """Something that can go.

    Attributes:
        path: A folder.
        what: prefixes | code | logs.
        size: Bytes.
    """

    path: Path
    what: str
    size: int


def age(text: str) -> float:
    """Seconds of `30d`, `12h`.

    Raises:
        ValueError: It is not written so.
    """
    match = re.fullmatch(r"(\d+)([mhdw])", text)
    if match is None:
        msg = f"--older-than {text}: a number with m, h, d or w, such as 12h or 30d"
        raise ValueError(msg)
    return int(match.group(1)) * UNITS[match.group(2)]


def find(study: Path, limit_s: float, *, logs: bool) -> list[Found]:
    """What can be removed of a study: nothing that a cell which is not done could still use.

    Args:
        study: Its folder.
        limit_s: Only what was not touched for so long.
        logs: Also Slurm's scripts, logs and pickles of submissions whose cells are all done.
    """
    looks = {each.name: each for each in look(study)}
    before = time.time() - limit_s
    found = [Found(p, "prefixes", size_of(p)) for p in prefixes(study, looks)]
    submissions = list(read_all(study))
    open_ = [each for each in submissions if not finished(each, looks)]
    if not open_:
        found += [Found(p, "code", size_of(p)) for p in sorted((study / "code").glob("*/"))]
    if logs:
        ended = [each.folder / "slurm" for each in submissions if each not in open_]
        found += [Found(p, "logs", size_of(p)) for p in ended if p.is_dir()]
    return [each for each in found if touched(each.path) <= before]


def prefixes(study: Path, looks: dict[str, CellLook]) -> list[Path]:
    """Folders of trajectories all of whose cells, as far as anything tells, are done."""
    needed = set()
    frozen = frozen_cells(study)
    for name, each in looks.items():
        if each.state in FINISHED:
            continue
        if name not in frozen:  # planned here and never submitted: its trajectory is not known
            return []
        needed.add(frozen[name].trajectory)
    return [p for p in sorted((study / "trajectories").glob("*/")) if p.name not in needed]


def finished(submission: Submission, looks: dict[str, CellLook]) -> bool:
    """Whether all cells of a submission are done."""
    names = [name for array in submission.arrays for task in array.tasks for name in task.cells]
    return all(name in looks and looks[name].state in FINISHED for name in names)


def remove(found: Iterable[Found]) -> str:
    """Remove it; returns how much it was."""
    total = 0
    for each in found:
        shutil.rmtree(each.path)
        total += each.size
    return readable(total)


def told_of(found: Sequence[Found]) -> str:
    """A line for each folder and a sum."""
    if not found:
        return "Nothing to remove."
    lines = [f"  {each.what:<9} {readable(each.size):>10}  {near(each.path)}" for each in found]
    total = readable(sum(each.size for each in found))
    return "\n".join([*lines, f"{len(found)} folders, {total} in all"])


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def touched(folder: Path) -> float:
    """When anything in the folder was last written."""
    return max((p.stat().st_mtime for p in (folder, *folder.rglob("*"))), default=0.0)


def readable(size: float) -> str:
    """`3.2 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
