"""The cells of a study on a terminal: counts, a bar, a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from edit_sweeps.launcher.states import STATES, CellLook

if TYPE_CHECKING:
    from rich.console import RenderableType

COLOURS = {
    "done": "green", "collapsed": "magenta", "running": "cyan", "pending": "yellow", "failed": "red", "lost": "red",
    "missing": "dim",
}  # fmt: skip
FINISHED = ("done", "collapsed")
MANY = 40
"""With more cells than this the finished ones are only counted, unless all are asked for."""
BAR = 40


def counted(looks: Iterable[CellLook]) -> str:
    """`done 3, running 2`: states in their order, those without a cell left out."""
    counts = Counter(each.state for each in looks)
    return ", ".join(f"{state} {counts[state]}" for state in STATES if counts[state])


def shown_of(looks: Sequence[CellLook], *, everything: bool) -> list[CellLook]:
    """Those that get a line."""
    if everything or len(looks) <= MANY:
        return list(looks)
    return [each for each in looks if each.state not in FINISHED]


def row(each: CellLook) -> tuple[str, ...]:
    """State, cell, attempts, time, host, job, why."""
    attempts = str(each.attempts) if each.attempts else ""
    return each.state, each.name, attempts, clock(each.seconds), each.host, each.job, each.why


HEADS = ("state", "cell", "tries", "time", "host", "job", "why")


def text_view(study: Path, looks: Sequence[CellLook], *, everything: bool = False) -> str:
    """Plain lines in fixed columns, for pipes and logs."""
    shown = shown_of(looks, everything=everything)
    rows = [HEADS, *(row(each) for each in shown)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(HEADS) - 1)]
    lines = [
        "  ".join([*(f"{v:<{w}}" for v, w in zip(r[:-1], widths, strict=True)), r[-1]]).rstrip()
        for r in rows
    ]
    left = [f"({len(looks) - len(shown)} finished cells not shown; --all)"] * (
        len(shown) < len(looks)
    )
    logs = [f"log of {each.name}: {near(each.log)}" for each in shown if is_news(each)]
    return "\n".join([f"{study.name}: {counted(looks) or 'no cells'}", *lines, *left, *logs])


def is_news(each: CellLook) -> bool:
    """Whether its log is worth a line."""
    return (
        each.log is not None and each.state in {"failed", "lost", "running"} and each.log.exists()
    )


def live_view(
    study: Path, looks: Sequence[CellLook], *, everything: bool = False
) -> RenderableType:
    """The same for a terminal, with a bar and colours; long reasons are cut at its width."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = shown_of(looks, everything=everything)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in HEADS:
        fold = head in {"cell", "why"}
        table.add_column(head, no_wrap=not fold, overflow="fold" if fold else "ellipsis")
    for each in shown:
        state, *rest = row(each)
        table.add_row(Text(state, style=COLOURS.get(state, "")), *rest)
    parts: list[RenderableType] = [
        Text(f"{study.name}: {counted(looks) or 'no cells'}"),
        bar(looks),
        table,
    ]
    if len(shown) < len(looks):
        parts.append(
            Text(f"({len(looks) - len(shown)} finished cells not shown; --all)", style="dim")
        )
    parts += [
        Text(f"log of {each.name}: {near(each.log)}", style="dim", overflow="fold")
        for each in shown
        if is_news(each) and each.state != "running"
    ]
    return Group(*parts)


def bar(looks: Sequence[CellLook]) -> RenderableType:
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
