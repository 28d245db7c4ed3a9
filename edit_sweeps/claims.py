"""Who works on something now, told by files on a shared file system; no claim outlives its holder by more than minutes.

A claim on `name` is a row of files `<name>.<number>`; each is made by O_CREAT|O_EXCL, which is atomic on NFS too. Who
made the highest holds the claim, until the file says `released` or is stale. The next one takes the next number, so
that of several who see a stale claim one alone can take it over. The highest number is never removed: numbers are not
used twice. A holder touches its files every BEAT_S.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from edit_sweeps.this_job import job_id, rank

BEAT_S = 15.0
STALE_S = 180.0
"""A claim whose file was not touched for so long, by the file system's clock, is anybody's."""
POLL_S = 0.5
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
        host: Its machine.
        pid: Its number there.
        started: When the kernel started it, in ticks; 0 where /proc does not tell.
        space: What process numbers are comparable within: a boot of a machine and a name space of processes.
        job: Slurm's id of the job it is part of; empty outside Slurm.
        rank: Its number in that job.
        since: When it made the claim, ISO text in UTC.
        note: What for.
    """

    host: str
    pid: int
    started: int
    space: str
    job: str = ""
    rank: int = 0
    since: str = ""
    note: str = ""

    def __str__(self) -> str:
        """As told to a user."""
        where = (
            f"job {self.job} on {self.host}" if self.job else f"process {self.pid} on {self.host}"
        )
        return f"{where} (since {self.since})"

    def was_us(self) -> bool:
        """Whether this is a former self of the present job: a requeued job goes on where it was."""
        now = owner()
        return bool(self.job) and (self.job, self.rank) == (now.job, now.rank) and not self.is_us()

    def is_us(self) -> bool:
        """Whether this is the present process."""
        now = owner()
        return (self.space, self.pid, self.started) == (now.space, now.pid, now.started)

    def is_gone(self) -> bool:
        """Whether it ran where this process can see it, and does not any more."""
        return self.space == process_space() and start_ticks(self.pid) != self.started


def owner(note: str = "") -> Owner:
    """The present process."""
    pid = os.getpid()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Owner(
        platform.node(),
        pid,
        start_ticks(pid) or 0,
        process_space(),
        job_id(),
        rank()[0],
        since=now,
        note=note,
    )


class Held:
    """A claim of this process; release it, or leave the `with` block."""

    def __init__(self, folder: Path, name: str, number: int, mine: Owner) -> None:
        self.folder, self.name, self.number, self.owner = folder, name, number, mine

    @property
    def file(self) -> Path:
        """The file that is the claim."""
        return self.folder / f"{self.name}.{self.number}"

    def is_ours(self) -> bool:
        """Whether nobody has taken over, as happens to a process that was stopped for minutes."""
        return max(numbers(self.folder, self.name), default=0) == self.number

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        if not _HEART.forget(self) or self.owner.pid != os.getpid():
            return
        with contextlib.suppress(OSError):
            _write(self.file, {"released": datetime.now(UTC).isoformat(timespec="seconds")})

    def __enter__(self) -> Self:
        """Nothing more: it is held already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release."""
        self.release()


def try_hold(folder: Path, name: str, note: str = "") -> Held | None:
    """Make the claim if nobody holds it.

    Raises:
        ValueError: A name that is no plain file name.
        OSError: The folder cannot be written.
    """
    if not NAME.fullmatch(name):
        msg = f"claim {name!r}: allowed are letters, digits and _ . + -"
        raise ValueError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    mine = owner(note)
    last = max(numbers(folder, name), default=0)
    if last and _holder(folder, name, last, _Clock(folder)) is not None:
        return None
    held = Held(folder, name, last + 1, mine)
    try:
        # Whole at once: the content is linked in, so no reader sees a claim without an owner.
        _create(held.file, asdict(mine))
    except FileExistsError:
        return None
    if not held.is_ours():  # ours is an old number that somebody had removed meanwhile
        held.file.unlink(missing_ok=True)
        return None
    _HEART.remember(held)
    for number in numbers(folder, name):
        if number < held.number:
            with contextlib.suppress(OSError):  # another user's; it will not be in the way
                (folder / f"{name}.{number}").unlink(missing_ok=True)
    return held


@contextmanager
def hold(
    folder: Path,
    name: str,
    note: str = "",
    wait_s: float | None = None,
    on_wait: Callable[[Owner], None] | None = None,
) -> Iterator[Held]:
    """Hold a claim for a block; waits while somebody else does.

    Args:
        folder: Where claims lie; is made.
        name: What is claimed.
        note: What for, for those who wait.
        wait_s: How long to wait at most; None: until it is free.
        on_wait: Called once with the present holder, if one must be waited for.

    Raises:
        TimeoutError: It was not free in time; says who holds it.
    """
    end = None if wait_s is None else time.monotonic() + wait_s
    held = try_hold(folder, name, note)
    while held is None:
        holder = who(folder, name)
        if holder is not None and on_wait is not None:
            on_wait(holder)
            on_wait = None
        if end is not None and time.monotonic() >= end:
            msg = f"{holder or 'another process'} has it ({folder / name})"
            raise TimeoutError(msg)
        time.sleep(POLL_S)
        held = try_hold(folder, name, note)
    with held:
        yield held


def who(folder: Path, name: str) -> Owner | None:
    """Who holds a claim now; for readers, also where they cannot write."""
    last = max(numbers(folder, name), default=0)
    return _holder(folder, name, last, _Clock(folder)) if last else None


def held_names(folder: Path, among: Collection[str] | None = None) -> dict[str, Owner]:
    """Claims of a folder that are held now; of all names, or of some."""
    last: dict[str, int] = {}
    for file in _files(folder):
        name, _, number = file.rpartition(".")
        if among is None or name in among:
            last[name] = max(last.get(name, 0), int(number))
    clock = _Clock(folder)
    found = {name: _holder(folder, name, number, clock) for name, number in last.items()}
    return {name: holder for name, holder in found.items() if holder is not None}


def numbers(folder: Path, name: str) -> list[int]:
    """The numbers of a claim's files, ascending."""
    return sorted(
        int(file.rpartition(".")[2]) for file in _files(folder) if file.rpartition(".")[0] == name
    )


def start_ticks(pid: int) -> int | None:
    """When the kernel started a process; None where it has ended. Without /proc (macOS): 0 while it runs."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self").exists() else _runs(pid)
    return None if words[0] == "Z" else int(words[19])


def process_space() -> str:
    """Names the machine's present run and this process's name space, within which a pid means one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _runs(pid: int) -> int | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:  # it runs, and is another user's
        return 0
    return 0


def _files(folder: Path) -> list[str]:
    """Names of claim files; those being written begin with a dot."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  # one call for names alone: folders with thousands
    except FileNotFoundError:
        return []
    return [n for n in names if not n.startswith(".") and n.rpartition(".")[2].isdigit()]


def _holder(folder: Path, name: str, number: int, clock: _Clock) -> Owner | None:
    """Who holds the claim by the file of the highest number; None when it is released or stale."""
    file = folder / f"{name}.{number}"
    try:
        touched = file.stat().st_mtime
        body = json.loads(file.read_text(encoding="utf-8"))
        found = None if "released" in body else Owner(**body)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):  # cannot be read: somebody's until it is old
        found = Owner("another machine", 0, 0, "unknown")
    if found is None or clock.now() - touched > STALE_S:
        return None
    return None if found.is_gone() or found.was_us() else found


class _Clock:
    """The file system's own time, by a file touched there: hosts' clocks differ. Asked once, when first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offset: float | None = None

    def now(self) -> float:
        if self._offset is None:
            probe = self._folder / f".clock-{platform.node()}-{os.getpid()}-{threading.get_ident()}"
            try:
                probe.touch()
                self._offset = probe.stat().st_mtime - time.time()
                probe.unlink()
            except OSError:  # may not write here: a reader, who trusts its own clock
                self._offset = 0.0
        return time.time() + self._offset


def _create(file: Path, body: dict[str, object]) -> None:
    """Make a file with its content, if it does not exist.

    Raises:
        FileExistsError: It does.
    """
    aside = file.with_name(f".{file.name}-{platform.node()}-{os.getpid()}-{threading.get_ident()}")
    aside.write_text(json.dumps(body), encoding="utf-8")
    try:
        os.link(aside, file)  # as exclusive as O_EXCL, and never half written
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with file.open("x", encoding="utf-8") as out:
            json.dump(body, out)
    finally:
        aside.unlink(missing_ok=True)


def _write(file: Path, body: dict[str, object]) -> None:
    aside = file.with_name(f".{file.name}-{platform.node()}-{os.getpid()}-{threading.get_ident()}")
    aside.write_text(json.dumps(body), encoding="utf-8")
    aside.replace(file)


class _Heart:
    """Touches what this process holds, from a thread of its own."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Hold nothing; in the child of a fork, too, which has neither the claims nor the thread."""
        self._held: dict[Path, Held] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def remember(self, held: Held) -> None:
        with self._lock:
            self._held[held.file] = held
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._beat, daemon=True, name="claims")
                self._thread.start()

    def forget(self, held: Held) -> bool:
        with self._lock:
            return self._held.pop(held.file, None) is not None

    def release_all(self) -> None:
        for held in list(self._held.values()):
            held.release()

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_S)
            with self._lock:
                files = list(self._held)
            for file in files:
                with contextlib.suppress(OSError):
                    os.utime(file)


_HEART = _Heart()
atexit.register(_HEART.release_all)
os.register_at_fork(after_in_child=_HEART.begin)
