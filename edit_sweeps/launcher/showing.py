"""The cells of a study on a terminal: counts, a bar, a table."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from edit_sweeps.launcher.states import FINISHED, STATES, CellLook

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

COLOURS = {
    "done": "green", "collapsed": "magenta", "running": "cyan", "pending": "yellow", "failed": "red", "lost": "red",
    "missing": "dim",
}  # fmt: skip
URGENT = ("failed", "lost", "running", "pending", "missing", *FINISHED)
"""The order of lines in a large study: what somebody must look at is not scrolled away."""
MANY = 40
"""With more cells than this the finished ones are only counted, unless all are asked for."""
BAR = 40
MOST_LOGS = 10
LEAST_WHY = 16
"""Columns of a terminal that reasons get before names are folded."""
HEADS = ("state", "cell", "tries", "time", "host", "job", "why")


def counted(looks: Iterable[CellLook]) -> str:
    """`done 3, running 2`: states in their order, those without a cell left out."""
    counts = Counter(each.state for each in looks)
    return ", ".join(f"{state} {counts[state]}" for state in STATES if counts[state])


def shown_of(
    looks: Sequence[CellLook], *, everything: bool, only: Collection[str] = ()
) -> list[CellLook]:
    """Those that get a line.

    Args:
        looks: All cells of the study.
        everything: Also finished cells of a large study.
        only: States; none: every state.
    """
    if only:
        return [each for each in looks if each.state in only]
    if everything or len(looks) <= MANY:
        return list(looks)
    left = [each for each in looks if each.state not in FINISHED]
    return sorted(left, key=lambda each: URGENT.index(each.state))


def row(each: CellLook) -> tuple[str, ...]:
    """State, cell, attempts, time, host, job, why; the why on one line."""
    attempts = str(each.attempts) if each.attempts else ""
    why = " ".join(each.why.split())
    return each.state, each.name, attempts, clock(each.seconds), each.host, each.job, why


def text_view(
    study: Path,
    looks: Sequence[CellLook],
    *,
    everything: bool = False,
    only: Collection[str] = (),
) -> str:
    """Plain lines in fixed columns, for pipes and logs; the counts are of all `looks`."""
    shown = shown_of(looks, everything=everything, only=only)
    rows = [HEADS, *(row(each) for each in shown)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(HEADS) - 1)]
    lines = [
        "  ".join([*(f"{v:<{w}}" for v, w in zip(r[:-1], widths, strict=True)), r[-1]]).rstrip()
        for r in rows
    ]
    logs = told_logs(study, shown)
    return "\n".join(
        [headline(study, looks), *lines, *not_shown(len(looks) - len(shown), only), *logs]
    )


def live_view(
    study: Path,
    looks: Sequence[CellLook],
    *,
    everything: bool = False,
    only: Collection[str] = (),
) -> RenderableType:
    """The same for a terminal, with a bar and colours; long reasons are folded at its width."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = shown_of(looks, everything=everything, only=only)
    rows = [row(each) for each in shown]
    used = [i for i, head in enumerate(HEADS) if head == "state" or any(r[i] for r in rows)]
    widths = [max(len(r[i]) for r in (HEADS, *rows)) + 2 for i in used if HEADS[i] != "why"]
    wide = sum(widths) + LEAST_WHY <= shutil.get_terminal_size().columns
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i in used:
        # The name whole, to be copied; where there is no room for it and a bit of the why, both are folded.
        fold = HEADS[i] == "why" or (HEADS[i] == "cell" and not wide)
        table.add_column(HEADS[i], no_wrap=not fold, overflow="fold" if fold else "ellipsis")
    for each in rows:  # as Text: a string would be read as markup, in which [/INST] is an error
        table.add_row(*(Text(each[i], style=COLOURS[each[0]] if i == 0 else "") for i in used))
    parts: list[RenderableType] = [Text(headline(study, looks)), bar(looks), table]
    parts += [Text(line, style="dim") for line in not_shown(len(looks) - len(shown), only)]
    parts += [Text(line, style="dim", overflow="fold") for line in told_logs(study, shown)]
    return Group(*parts)


def headline(study: Path, looks: Sequence[CellLook]) -> str:
    """`main: 12 cells: done 9, running 3`."""
    if not looks:
        return f"{study.name}: no cells yet"
    return f"{study.name}: {len(looks)} cell{'s' * (len(looks) > 1)}: {counted(looks)}"


def not_shown(count: int, only: Collection[str]) -> list[str]:
    """A line on cells without one, if there are any."""
    if not count:
        return []
    what = "in other states" if only else "finished"
    return [f"({count} {what}, not shown; --all shows every cell)"]


def log_of(study: Path, each: CellLook) -> Path | None:
    """Where to read of a cell: what its job prints, or without a job the cell's own log. None: nothing is written."""
    places = (each.log, study / "cells" / each.name / "cell.log")
    return next((place for place in places if place is not None and place.exists()), None)


def is_news(study: Path, each: CellLook) -> bool:
    """Whether its log is worth a line."""
    return each.state in {"failed", "lost", "running"} and log_of(study, each) is not None


def told_logs(study: Path, shown: Iterable[CellLook]) -> list[str]:
    """A line for each log worth reading, with the cell or the number of cells that it is of; at most `MOST_LOGS`."""
    by_log: dict[Path | None, list[str]] = {}
    for each in shown:
        if is_news(study, each):
            by_log.setdefault(log_of(study, each), []).append(each.name)
    lines = [
        f"log of {names[0] if len(names) == 1 else f'{len(names)} cells'}: {near(log)}"
        for log, names in by_log.items()
    ]
    more = [f"and {len(lines) - MOST_LOGS} more; edit-sweeps logs CELL shows one"]
    return lines[:MOST_LOGS] + more * (len(lines) > MOST_LOGS)


def bar(looks: Sequence[CellLook]) -> Text:
    """One bar of all cells, a colour a state."""
    from rich.text import Text

    counts, text = Counter(each.state for each in looks), Text()
    for state in STATES:
        if counts[state]:
            text.append("█" * max(1, round(BAR * counts[state] / len(looks))), COLOURS[state])
    return text


def clock(seconds: float | None) -> str:
    """`0:01:09`; empty for None."""
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def near(path: Path | None) -> str:
    """The shorter of the path and the path from here."""
    if path is None:
        return ""
    here = os.path.relpath(path)
    return here if len(here) < len(str(path)) else str(path)
