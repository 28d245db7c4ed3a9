"""Starts and ends of a cell, a line each in its `attempts.jsonl`: a start without an end was lost to the machine."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

FILE = "attempts.jsonl"
LOST = "infrastructure"
"""How an attempt ended that the cell is not to blame for: disk full, file system gone ..."""


def append(folder: Path, line: dict[str, Any]) -> int:
    """Add a line; a start gets its number here. What cannot be written is told and costs nothing else.

    Returns:
        The number of the attempt.
    """
    number = line.get("number") or 1 + sum("started" in known for known in read(folder))
    file = folder / FILE
    try:
        whole = not file.exists() or file.read_bytes()[-1:] in {b"", b"\n"}
        text = json.dumps({"number": number, **line}) + "\n"
        with file.open("a", encoding="utf-8") as out:
            out.write(text if whole else f"\n{text}")
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        log.warning("cannot note the attempt in %s: %s", file, error)
    return int(number)


def read(folder: Path) -> list[dict[str, Any]]:
    """All lines; one that a killed writer left half is passed over."""
    try:
        text = (folder / FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]


def losses(lines: list[dict[str, Any]]) -> int:
    """Attempts in a row, up to the last, that ended by no fault of the cell, or without a word.

    A run under way counts; an end `interrupted` (stopped or preempted with a warning) is passed over.
    """
    ends = {line["number"]: line.get("how") for line in lines if "ended" in line}
    count = 0
    for line in reversed([line for line in lines if "started" in line]):
        how = ends.get(line["number"], LOST)
        if how == "interrupted":
            continue
        if how != LOST:
            break
        count += 1
    return count
