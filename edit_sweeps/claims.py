"""Who works on something now, told by files on a shared file system; no dead machine keeps a claim.

A claim on `name` is a row of files `<name>.<number>`, each made exclusively (by a hard link or by
O_CREAT|O_EXCL, which are atomic on NFS too). Who made the highest one holds the claim, until the
file says `released` or is stale. The next one takes the next number, so that of several who see a
stale claim one alone can take it over. The highest number is never removed (by nobody, while
anybody may want the claim): numbers are not used twice. A holder touches its files every BEAT_S.
A holder that slept longer than STALE_S may have been superseded: it asks `Held.is_ours`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self

from edit_sweeps.owners import UNKNOWN, Owner, now_utc, owner

__all__ = ["BEAT_S", "STALE_S", "Held", "Owner", "held_names", "hold", "owner", "try_hold", "who"]

BEAT_S = 15.0
STALE_S = 180.0
"""A claim whose file was not touched for so long, by the file system's clock, is anybody's."""
POLL_S = 0.25
"""First pause of one who waits; each is half as long again as the one before, up to MOST_POLL_S."""
MOST_POLL_S = 4.0
TRIES = 8
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
FILE = re.compile(r"([^.].*)\.([0-9]+)")


class Held:
    """A claim of this process; release it, or leave the `with` block."""

    def __init__(self, folder: Path, name: str, number: int, mine: Owner) -> None:
        self.folder, self.name, self.number, self.owner = folder, name, number, mine

    @property
    def file(self) -> Path:
        """The file that is the claim."""
        return self.folder / f"{self.name}.{self.number}"

    def is_ours(self) -> bool:
        """Whether it is held still: not released, not a parent's, and nobody has taken over."""
        return _HEART.has(self) and numbers(self.folder, self.name)[-1:] == [self.number]

    def release(self) -> None:
        """Give it back; a second time does nothing, nor does it in the child of a fork."""
        if not _HEART.forget(self):
            return
        try:
            if numbers(self.folder, self.name)[-1:] == [self.number]:
                _replace(self.file, {"released": now_utc()})
        except OSError:  # a full disk; emptied and old, it is as good as released
            with contextlib.suppress(OSError):
                os.truncate(self.file, 0)
                os.utime(self.file, (0, 0))

    def __enter__(self) -> Self:
        """Nothing more: it is held already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release."""
        self.release()


def try_hold(folder: Path, name: str, note: str = "") -> Held | None:
    """Make the claim if nobody holds it.

    Args:
        folder: Where claims lie; is made.
        name: What is claimed.
        note: What for, for those who wait.

    Raises:
        ValueError: A name that is no plain file name.
        OSError: The folder cannot be written.
    """
    found = _attempt(folder, name, note)
    return found if isinstance(found, Held) else None


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
        ValueError: A name that is no plain file name.
        OSError: The folder cannot be written.
    """
    end = None if wait_s is None else time.monotonic() + wait_s
    pause = POLL_S
    while not isinstance(found := _attempt(folder, name, note), Held):
        if on_wait is not None and found is not UNKNOWN:
            on_wait(found)
            on_wait = None
        left = pause if end is None else end - time.monotonic()
        if left <= 0:
            msg = f"{found} has it ({folder / name}) and did not give it back in {wait_s:.0f} s"
            raise TimeoutError(msg)
        # Not all who wait come at the same moment.
        time.sleep(min(left, pause * random.uniform(0.7, 1.3)))
        pause = min(pause * 1.5, MOST_POLL_S)
    with found:
        yield found


def who(folder: Path, name: str) -> Owner | None:
    """Who holds a claim now; for readers, also where they cannot write."""
    last = numbers(folder, name)[-1:]
    return _holder(folder, name, last[0], _Clock(folder)) if last else None


def held_names(folder: Path, among: Collection[str] | None = None) -> dict[str, Owner]:
    """Claims of a folder that are held now; of all names, or of some. One listing for all."""
    last: dict[str, int] = {}
    for name, number in _listed(folder):
        if among is None or name in among:
            last[name] = max(last.get(name, 0), number)
    clock = _Clock(folder)
    found = {name: _holder(folder, name, number, clock) for name, number in last.items()}
    return {name: holder for name, holder in found.items() if holder is not None}


def numbers(folder: Path, name: str) -> list[int]:
    """The numbers of a claim's files, ascending."""
    return sorted(number for found, number in _listed(folder, f"{name}.") if found == name)


def _attempt(folder: Path, name: str, note: str) -> Held | Owner:
    """Make the claim, or say who holds it."""
    if not NAME.fullmatch(name):
        msg = f"claim {name!r}: allowed are up to 200 letters, digits and _ . + - (no . + - first)"
        raise ValueError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(TRIES):  # again only when another one took it or gave it back meanwhile
        last = max(numbers(folder, name), default=0)
        holder = _holder(folder, name, last, _Clock(folder)) if last else None
        if holder is not None:
            return holder
        held = Held(folder, name, last + 1, owner(note))
        if _create(held.file, asdict(held.owner)):
            _HEART.remember(held)
            if _is_highest(held):
                return held
    return UNKNOWN


def _is_highest(held: Held) -> bool:
    """Look again after making a file: backs out of an old number, tidies behind a new one.

    Who listed long ago may have made a number that came and went since. A listing made while the
    claim changes hands may show neither of two numbers; but who removes a higher one has removed
    ours before, for old ones go in ascending order. The one before the highest stays, in case that
    ours is another user's and could not be removed.
    """
    found = numbers(held.folder, held.name)
    if found[-1:] != [held.number] or not _says(held):
        _HEART.forget(held)
        _remove(held.file)
        return False
    for number in found[:-2]:
        _remove(held.folder / f"{held.name}.{number}")
    return True


def _says(held: Held) -> bool:
    """Whether the file is there and names us."""
    try:
        return _read(held.file)[0] == held.owner
    except FileNotFoundError:
        return False


def _listed(folder: Path, start: str = "") -> list[tuple[str, int]]:
    """Name and number of claim files; those being written begin with a dot."""
    matches = (FILE.fullmatch(file) for file in _listing(folder) if file.startswith(start))
    return [(match[1], int(match[2])) for match in matches if match]


def _holder(folder: Path, name: str, number: int, clock: _Clock) -> Owner | None:
    """Who holds the claim by the file of the highest number; None when it is released or stale."""
    file = folder / f"{name}.{number}"
    try:
        found, touched = _read(file)
    except FileNotFoundError:  # a higher one is there by now
        return None
    if found is None or found.is_running():
        return found
    if found.is_gone() or found.was_us():
        return None
    return found if clock.now() - touched <= STALE_S else None


def _read(file: Path) -> tuple[Owner | None, float]:
    """What a claim file says (its owner, or None for released), and when it was touched.

    An empty one, or one that cannot be read, is somebody's until it is old.
    """
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            touched = os.fstat(opened.fileno()).st_mtime  # opened: NFS has asked its server
            text = opened.read()
    except FileNotFoundError:
        raise
    except OSError:  # another user's, or replaced on the server in this moment
        return UNKNOWN, file.stat().st_mtime
    try:
        body: Any = json.loads(text)
        if "released" in body:
            return None, touched
        known = {each.name: body[each.name] for each in fields(Owner) if each.name in body}
        return Owner(**known), touched
    except (ValueError, TypeError):
        return UNKNOWN, touched


class _Clock:
    """The file system's own time, by a file touched there: hosts' clocks differ.

    Asked once, when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offset: float | None = None

    def now(self) -> float:
        if self._offset is None:
            probe = _aside(self._folder, "clock")
            try:
                probe.touch()
                self._offset = probe.stat().st_mtime - time.time()
                probe.unlink()
            except OSError:  # may not write here: a reader, who trusts its own clock
                self._offset = 0.0
        return time.time() + self._offset


# The steps on the file system, which tests run in every order.


def _aside(folder: Path, name: str) -> Path:
    return folder / f".{name}.{secrets.token_hex(6)}"


def _listing(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  # names alone, for folders with thousands
    except FileNotFoundError:
        return []


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):  # another user's; it will not be in the way
        file.unlink()


def _create(file: Path, body: dict[str, Any]) -> bool:
    """Make a file with its content, whole at once; whether it did not exist before."""
    aside = _aside(file.parent, file.name)
    try:
        aside.write_text(json.dumps(body), encoding="utf-8")
        try:
            os.link(aside, file)
        except FileExistsError:
            # NFS may lose the answer to a link that was made, and say this to the second try.
            return aside.stat().st_nlink > 1
        except OSError:  # a file system without hard links
            return _create_in_place(file, body)
    finally:
        _remove(aside)
    return True


def _create_in_place(file: Path, body: dict[str, Any]) -> bool:
    try:
        with file.open("x", encoding="utf-8") as out:
            json.dump(body, out)
    except FileExistsError:
        return False
    return True


def _replace(file: Path, body: dict[str, Any]) -> None:
    aside = _aside(file.parent, file.name)
    try:
        aside.write_text(json.dumps(body), encoding="utf-8")
        aside.replace(file)
    except OSError:
        _remove(aside)
        raise


class _Heart:
    """Touches what this process holds, from a thread of its own."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Hold nothing; in the child of a fork, too, which has neither the claims nor the thread."""
        self._held: dict[Path, Held] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def has(self, held: Held) -> bool:
        return self._held.get(held.file) is held

    def remember(self, held: Held) -> None:
        with self._lock:
            self._held[held.file] = held
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._beat, daemon=True, name="claims")
                self._thread.start()

    def forget(self, held: Held) -> bool:
        with self._lock:
            if not self.has(held):
                return False
            del self._held[held.file]
            return True

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
