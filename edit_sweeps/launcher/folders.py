"""What a cell's folder says of it: its record or failure, and when it was started and ended."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edit_sweeps import attempts
from edit_sweeps.cell import FAILURE_FILE, RECORD_FILE
from edit_sweeps.claims import Owner

HEAD, TAIL = 2048, 32768
"""Bytes at the ends of a record in which its state, errors and provenance usually lie; courses of edits are between."""
STATE = re.compile(rb'\n "state": "(\w+)"')
ERRORS, PROVENANCE = '\n  "errors": ', '\n "provenance": '


@dataclass
class Disk:
    """What a cell's folder says.

    Attributes:
        state: done | collapsed | failed, or empty.
        why: Of a failure.
        finished: When that was written.
        submission: By whom.
        lines: Of attempts.jsonl.
    """

    state: str = ""
    why: str = ""
    finished: str = ""
    submission: str = ""
    seconds: float | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Attempts that were begun."""
        return [line for line in self.lines if "started" in line]

    @property
    def how(self) -> str | None:
        """How the last attempt ended; empty when it has not, None when there is none."""
        if not self.starts:
            return None
        ends = {line["number"]: str(line.get("how", "")) for line in self.lines if "ended" in line}
        return ends.get(self.starts[-1]["number"], "")

    @property
    def is_open(self) -> bool:
        """Whether the last attempt has no end."""
        return self.how == ""

    def is_open_in(self, job: str) -> bool:
        """Whether the last attempt has no end and is that job's."""
        return self.is_open and self.starts[-1].get("job") == job

    def is_open_by(self, holder: Owner) -> bool:
        """Whether the last attempt has no end and is that process's; one of a former self is not."""
        last = self.starts[-1] if self.is_open else {}
        return (last.get("host"), last.get("pid")) == (holder.host, holder.pid)


def read_disk(folder: Path) -> Disk:
    """What a cell's folder says; files that are being replaced are never half there."""
    disk = Disk(lines=attempts.read(folder))
    try:
        record = read_ends(folder / RECORD_FILE)
        failure = read(folder / FAILURE_FILE) if record is None else None
    except ValueError as error:
        disk.state, disk.why = "failed", f"what is written in {folder} cannot be read: {error}"
        return disk
    if record is not None:
        lost = [task for task in record["result"].get("errors", {}) if not task.startswith("save=")]
        disk.state = "failed" if lost else str(record["state"])
        disk.why = f"task {', '.join(lost)} failed" if lost else ""
    elif failure is not None:
        text = str(failure["result"].get("errors", {}).get("cell", "")).strip()
        disk.state, disk.why = "failed", text.splitlines()[-1] if text else ""
    newest = record or failure
    if newest is not None:
        told: Mapping[str, Any] = newest.get("provenance", {})
        disk.finished, disk.submission = (
            str(told.get(name, "")) for name in ("finished", "submission")
        )
        disk.seconds = told.get("seconds", {}).get("total")
    return disk


def read_ends(file: Path) -> dict[str, Any] | None:
    """State, errors and provenance of a record, without reading its middle; None where there is none.

    A record that is not laid out as usual is read whole.

    Raises:
        ValueError: It is no JSON.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD)
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - TAIL))
            tail = opened.read().decode(errors="replace")
    except FileNotFoundError:
        return None
    state, last = STATE.search(head), tail.rfind(PROVENANCE)
    errors = tail.rfind(ERRORS, 0, last) if last >= 0 else -1
    if state is None or errors < 0:
        return read(file)
    decode = json.JSONDecoder().raw_decode
    return {
        "state": state[1].decode(),
        "result": {"errors": decode(tail, errors + len(ERRORS))[0]},
        "provenance": decode(tail, last + len(PROVENANCE))[0],
    }


def read(file: Path) -> dict[str, Any] | None:
    """A JSON file; None where there is none.

    Raises:
        ValueError: It is no JSON.
    """
    try:
        body: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return body
