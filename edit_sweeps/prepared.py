"""What several cells need worked out once: second moments, MEND's networks. A note on disk says that it is there.

The store itself is keyed by the weights of the loaded model; a planner without torch goes by these notes. A
note is never needed for a right result: without it the work is looked for, or done, by whoever needs it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from edit_sweeps.cell import Cell, digest
from edit_sweeps.record import write_json

FOLDERS = {"moments": "moments", "hypernets": "hypernets"}


def needs(cell: Cell) -> dict[str, str]:
    """Digest -> kind (`moments` | `hypernets`) of what the cell's editor prepares."""
    if cell.is_baseline:
        return {}
    editor, identity = cell.config["editor"], cell.identity
    found = {}
    if editor.get("second_moment"):
        layers = editor.get("layers") or [editor.get("layer")]
        wanted = ["moments", identity["model"], identity["moments"], sorted(map(str, layers))]
        found[digest(wanted)] = "moments"
    if editor.get("training"):
        found[digest(["hypernets", identity["model"], identity["editor"]])] = "hypernets"
    return found


def mark(cell: Cell) -> None:
    """Note that everything the cell's editor prepares is on disk."""
    for need, kind in needs(cell).items():
        note = _note(cell, need)
        if not note.exists():
            note.parent.mkdir(parents=True, exist_ok=True)
            write_json(
                note, {"kind": kind, "time": datetime.now(UTC).isoformat(timespec="seconds")}
            )


def missing(cell: Cell) -> dict[str, str]:
    """What of `needs` no note vouches for, or whose folder was emptied since."""
    cache = Path(cell.config["cache_dir"])
    return {
        need: kind
        for need, kind in needs(cell).items()
        if not _note(cell, need).exists() or not any((cache / FOLDERS[kind]).glob("*.safetensors"))
    }


def _note(cell: Cell, need: str) -> Path:
    return Path(cell.config["cache_dir"]) / "prepared" / f"{need}.json"
