"""`cluster.wait=true`: look on until everything has ended; Ctrl-C leaves the jobs alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from edit_sweeps.launcher.showing import counted, live_view
from edit_sweeps.launcher.states import LIVE, look

BAD = ("failed", "lost", "missing")


def follow(study: Path, names: Sequence[str] | None, every_s: float) -> int:
    """Show the states of cells (None: all of the study) until none is queued or running.

    Returns:
        How many are failed, lost or missing at the end.

    Raises:
        KeyboardInterrupt: The user has seen enough; nothing is cancelled.
    """
    from rich.live import Live

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
                print(f"[{time.monotonic() - begin:5.0f} s] {line}", flush=True)
            if not any(each.state in LIVE for each in looks):
                break
            time.sleep(every_s)
            looks = look(study, names=names)
    return sum(each.state in BAD for each in looks)
