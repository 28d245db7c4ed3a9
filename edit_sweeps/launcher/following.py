"""`cluster.wait=true`: look on until everything has ended; Ctrl-C leaves the jobs alone."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edit_sweeps.launcher.states import LIVE, STATES, CellLook, look

BAD = ("failed", "lost", "missing")


def follow(study: Path, names: Sequence[str], every_s: float) -> int:
    """Show the states of cells until none is queued or running.

    Returns:
        How many are failed, lost or missing at the end.

    Raises:
        KeyboardInterrupt: The user has seen enough; nothing is cancelled.
    """
    from rich.live import Live

    from edit_sweeps.launcher.showing import live_view

    begin = time.monotonic()
    looks = look(study, names=names)
    if sys.stdout.isatty():
        with Live(live_view(study, looks), refresh_per_second=2) as live:
            while any(each.state in LIVE for each in looks):
                time.sleep(every_s)
                looks = look(study, names=names)
                live.update(live_view(study, looks))
    else:
        told = ""
        while True:
            line = counted(looks)
            if line != told:
                told = line
                print(f"[{time.monotonic() - begin:5.0f} s] {line}", flush=True)  # noqa: T201
            if not any(each.state in LIVE for each in looks):
                break
            time.sleep(every_s)
            looks = look(study, names=names)
    return sum(each.state in BAD for each in looks)


def counted(looks: Sequence[CellLook]) -> str:
    """`done 3, running 2`: states in their order, those without a cell left out."""
    counts = Counter(each.state for each in looks)
    return ", ".join(f"{state} {counts[state]}" for state in STATES if counts[state])
