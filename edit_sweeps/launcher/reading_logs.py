"""What there is to read of one cell: why it failed, its own log, that of its job."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from edit_sweeps.cell import FAILURE_FILE
from edit_sweeps.launcher.showing import near
from edit_sweeps.launcher.states import LIVE, look, read


def story_of(folder: Path, lines: int) -> str:
    """State, traceback and the end of the logs of the cell in `folder`."""
    study = folder.parent.parent
    (seen,) = look(study, names=[folder.name])
    parts = [f"{seen.name}: {seen.state}" + (f" ({seen.why})" if seen.why else "")]
    failure = read(folder / FAILURE_FILE)
    if failure is not None and seen.state == "failed":
        parts.append(str(failure["result"].get("errors", {}).get("cell", "")).rstrip())
    own = folder / "cell.log"
    if own.exists():
        parts += [f"--- {near(own)}", tail(own, lines)]
    if seen.log is not None and seen.log.exists():
        parts.append(f"--- {near(seen.log)}")
        if not own.exists() or seen.state in {"lost", "failed"}:
            parts.append(tail(seen.log, lines))
    elif not own.exists():
        parts.append("Nothing is written yet.")
    return "\n".join(parts)


def follow_log(folder: Path, show: Callable[[str], object], pause_s: float, look_s: float) -> str:
    """Show what is added to the log of the cell in `folder` until the cell is neither queued nor running.

    The log is the cell's own; until there is one, that of its job.

    Args:
        folder: Of the cell.
        show: Gets every new piece of text.
        pause_s: Seconds between two readings of the log.
        look_s: Seconds between two looks at the cell's state, for which Slurm is asked.

    Returns:
        The state that it ended with.
    """
    own = folder / "cell.log"
    (seen,) = look(folder.parent.parent, names=[folder.name])
    shown = {log: log.stat().st_size for log in (own, seen.log) if log is not None and log.exists()}
    looked = time.monotonic()
    while True:
        log = own if own.exists() else seen.log
        if log is not None and log.exists():
            live = seen.state in LIVE
            text, shown[log] = read_from(log, shown.get(log, 0), whole_lines=live)
            show(text)
        if seen.state not in LIVE:
            return seen.state
        time.sleep(pause_s)
        if time.monotonic() - looked >= look_s:
            (seen,) = look(folder.parent.parent, names=[folder.name])
            looked = time.monotonic()


def read_from(log: Path, position: int, *, whole_lines: bool) -> tuple[str, int]:
    """What stands in a log behind a byte, up to its last whole line or all of it, and the byte to go on from."""
    with log.open("rb") as file:
        if position > file.seek(0, os.SEEK_END):  # it was begun anew
            position = 0
        file.seek(position)
        found = file.read()
    if whole_lines:
        found = found[: found.rfind(b"\n") + 1]
    return found.decode(errors="replace"), position + len(found)


def tail(file: Path, lines: int) -> str:
    """The last lines of a file."""
    return "\n".join(
        file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        if lines > 0
        else []
    )
