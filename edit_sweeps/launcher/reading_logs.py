"""What there is to read of one cell: why it failed, its own log, that of its job."""

from __future__ import annotations

from pathlib import Path

from edit_sweeps.cell import FAILURE_FILE
from edit_sweeps.launcher.showing import near
from edit_sweeps.launcher.states import look, read


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


def file_of(folder: Path) -> Path | None:
    """The log to follow: the cell's own, else that of its job."""
    own = folder / "cell.log"
    if own.exists():
        return own
    (seen,) = look(folder.parent.parent, names=[folder.name])
    return seen.log if seen.log is not None and seen.log.exists() else None


def tail(file: Path, lines: int) -> str:
    """The last lines of a file."""
    return "\n".join(
        file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        if lines > 0
        else []
    )
