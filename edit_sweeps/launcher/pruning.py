"""`edit-sweeps prune`: what can be computed again and nobody needs now."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edit_sweeps import claims
from edit_sweeps.launcher.queue import Slurm
from edit_sweeps.launcher.retrying import frozen_cells
from edit_sweeps.launcher.settling import planning
from edit_sweeps.launcher.showing import near
from edit_sweeps.launcher.states import CLAIMS, PLANNING, CellLook, look
from edit_sweeps.launcher.stopping import jobs_of
from edit_sweeps.launcher.submissions import Submission, read_all

FINISHED = frozenset({"done", "collapsed"})
ENDED = FINISHED | {"failed", "lost"}
UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
DOOMED = ".removed"
"""A folder is renamed to end so before it is emptied: a prefix half gone must never be taken for a whole one."""


@dataclass(frozen=True)
class Found:
    """Something that can go.

    Attributes:
        study: The study's folder.
        path: A folder, or a file.
        what: prefixes | code | logs | claims.
        size: Bytes.
    """

    study: Path
    path: Path
    what: str
    size: int


def age(text: str) -> float:
    """Seconds of `30d`, `12h`.

    Raises:
        ValueError: It is not written so.
    """
    match = re.fullmatch(r"([0-9]+)([mhdw])", text)
    if match is None:
        msg = f"--older-than {text}: a number with m, h, d or w, such as 12h or 30d"
        raise ValueError(msg)
    return int(match.group(1)) * UNITS[match.group(2)]


def find(study: Path, limit_s: float, *, logs: bool, unfinished: bool = False) -> list[Found]:
    """What can be removed of a study: nothing that a queued, running or missing cell could still use.

    Args:
        study: Its folder.
        limit_s: Only what was not touched for so long.
        logs: Also Slurm's scripts, logs and pickles of submissions whose cells are all done.
        unfinished: Also prefixes of cells that are failed or lost.

    Raises:
        SlurmUnavailable: This machine has Slurm, jobs were submitted, and it does not say whether they live.
    """
    looks = {each.name: each for each in look(study)}
    busy = set(claims.held_names(study / CLAIMS)) - {PLANNING}
    calm = {each.name for each in looks.values() if each.key not in busy}
    done = {name for name in calm if looks[name].state in FINISHED}
    ended = {name for name in calm if looks[name].state in (ENDED if unfinished else FINISHED)}
    places = [("prefixes", p) for p in prefixes(study, looks, ended)]
    submissions = list(read_all(study))
    live = arrays_alive(study) if submissions else set()
    open_ = [each for each in submissions if not finished(each, done, live)]
    needed = {str(each.code.get("digest")) for each in open_}
    places += [("code", p) for p in folders(study / "code") if p.name not in needed]
    if logs:
        ended_ = [each.folder / "slurm" for each in submissions if each not in open_]
        places += [("logs", p) for p in ended_ if p.is_dir()]
    places += [("claims", p) for p in idle_claims(study, {looks[name].key for name in done})]
    before = time.time() - limit_s
    return [Found(study, p, what, size_of(p)) for what, p in places if touched(p) <= before]


def prefixes(study: Path, looks: dict[str, CellLook], ended: Collection[str]) -> list[Path]:
    """Folders of trajectories all of whose cells, as far as anything tells, have ended."""
    needed = set()
    frozen = frozen_cells(study)
    for name in looks.keys() - set(ended):
        if name not in frozen:  # planned here and never submitted: its trajectory is not known
            return []
        needed.add(frozen[name].trajectory)
    return [p for p in folders(study / "trajectories") if p.name not in needed]


def finished(submission: Submission, done: Collection[str], live: Collection[str]) -> bool:
    """Whether all cells of a submission are done and none of its arrays has a task that lives."""
    names = {name for array in submission.arrays for task in array.tasks for name in task.cells}
    return names <= set(done) and not any(array.job in live for array in submission.arrays)


def arrays_alive(study: Path) -> set[str]:
    """Ids of the study's arrays with a queued or running task; none where there is no Slurm: a copy, elsewhere."""
    if shutil.which("squeue") is None:
        return set()
    return {job.partition("_")[0] for job in jobs_of(study, None, Slurm())}


def idle_claims(study: Path, keys: Collection[str]) -> Iterator[Path]:
    """Files of claims on cells that are done and that nobody holds."""
    for file in sorted((study / CLAIMS).glob("[!.]*")):
        name, _, number = file.name.rpartition(".")
        if name in keys and number.isdigit():
            yield file


def folders(place: Path) -> list[Path]:
    """The folders in `place`, and what an earlier removal left; links are another's, other hidden ones being made."""
    return [
        p
        for p in sorted(place.glob("*/"))
        if not p.is_symlink() and (p.name[0] != "." or p.name.endswith(DOOMED))
    ]


def remove(found: Iterable[Found], again: Callable[[Path], Iterable[Found]]) -> str:
    """Remove what still can go; nobody can submit or start cells of a study meanwhile.

    Args:
        found: What was shown to the user, perhaps long ago.
        again: `find` once more, for a study.

    Returns:
        What to tell the user.

    Raises:
        OSError: Something cannot be removed; the rest of that study stays, too.
    """
    shown: dict[Path, set[Path]] = {}
    for each in found:
        shown.setdefault(each.study, set()).add(each.path)
    total = kept = 0
    for study, paths in shown.items():
        with planning(study):
            still = [each for each in again(study) if each.path in paths]
            kept += len(paths) - len(still)
            for each in still:
                remove_one(each.path)
                total += each.size
    more = f"; {kept} left alone, for they are needed or gone meanwhile" if kept else ""
    return f"Removed {readable(total)}{more}."


def remove_one(path: Path) -> None:
    """Remove a file or a folder; whoever is killed meanwhile leaves nothing that looks whole."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    doomed = path if path.name.endswith(DOOMED) else path.with_name(f".{path.name}{DOOMED}")
    if doomed != path:
        if doomed.exists():
            shutil.rmtree(doomed)
        path.rename(doomed)
    shutil.rmtree(doomed)


def told_of(found: Sequence[Found]) -> str:
    """A table: study, what, how many, size, where; and a sum."""
    if not found:
        return "Nothing to remove."
    counts, sizes = Counter[tuple[Path, str]](), Counter[tuple[Path, str]]()
    where: dict[tuple[Path, str], Path] = {}
    for each in found:
        kind = each.study, each.what
        counts[kind] += 1
        sizes[kind] += each.size
        where[kind] = each.path.parents[1 if each.what == "logs" else 0]
    width = max(len("study"), *(len(study.name) for study, _ in counts))
    lines = [f"{'study':<{width}}  what      count        size  where"]
    lines += [
        f"{study.name:<{width}}  {what:<8}  {count:>5}  {readable(sizes[study, what]):>10}  {near(where[study, what])}"
        for (study, what), count in counts.items()
    ]
    total = readable(sum(each.size for each in found))
    return "\n".join([*lines, f"{len(found)} files and folders, {total} in all."])


def size_of(path: Path) -> int:
    """Bytes of all files in a folder, or of a file; what goes meanwhile counts nothing."""
    return int(sum(stat.st_size for p, stat in stats(path) if not p.is_dir()))


def touched(path: Path) -> float:
    """When it, or anything in it, was last written."""
    return float(max((stat.st_mtime for _, stat in stats(path)), default=0.0))


def stats(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The path and all below with what the file system says; links are not followed."""
    for each in (path, *path.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            yield each, each.lstat()


def readable(size: float) -> str:
    """`3.2 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
