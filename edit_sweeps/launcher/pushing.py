"""`edit-sweeps push`: the records of a study to W&B, later and from elsewhere."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from edit_sweeps.cell import FAILURE_FILE, RECORD_FILE
from edit_sweeps.tracking import WandbSettings, already_mirrored, push, read_note, resolve_mode

log = logging.getLogger(__name__)

PATIENCE = 3
"""So many failures in a row are no longer this record's: no key, no network, a server that refuses."""


@dataclass(frozen=True)
class Outcome:
    """What came of pushing.

    Attributes:
        text: For the user.
        failed: Records that could not be mirrored.
    """

    text: str
    failed: int


def push_study(study: Path, *, mode: str, project: str | None, entity: str | None) -> Outcome:
    """Mirror every record of a study that is not on the server yet; records are read and never changed.

    Args:
        study: Its folder.
        mode: Of `WandbSettings`.
        project: None: the one that the cell's job wrote its run for, else the usual one.
        entity: None: that of the cell's job, else the key's own.

    Raises:
        ValueError: An unknown mode.
    """
    asked = {name: v for name, v in (("project", project), ("entity", entity)) if v is not None}
    WandbSettings(mode=mode)  # refused before the first record, not at it
    folders = [
        folder
        for folder in sorted((study / "cells").glob("[!.]*/"))
        if (folder / RECORD_FILE).exists() or (folder / FAILURE_FILE).exists()
    ]
    counts: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    in_a_row = 0
    for folder in tqdm(folders, desc="W&B", unit="run", disable=None):
        if already_mirrored(folder, resolve_mode(mode)):
            counts["there already"] += 1
            continue
        settings = read_note(folder).get("where", {}) | asked
        found = push(folder, study.name, WandbSettings(mode=mode, **settings))
        kind, _, reason = found.partition(": ")
        if kind == "offline" and resolve_mode(mode) == "online":  # it is safe here, but not there
            kind, reason = "failed", str(read_note(folder).get("reason") or "only written off line")
        counts[kind] += 1
        in_a_row = in_a_row + 1 if kind == "failed" else 0
        if kind == "failed":
            reasons[folder.name] = reason
        if in_a_row == PATIENCE:
            left = len(folders) - counts.total()
            counts |= {"not tried": left} if left else {}
            break
    lines = [f"{study.name}: " + (", ".join(f"{n} {k}" for k, n in counts.items()) or "no records")]
    lines += [f"  {name}: {reason}" for name, reason in list(reasons.items())[:5]]
    return Outcome("\n".join(lines), counts["failed"])
