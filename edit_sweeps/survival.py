"""The page's table of half-lives: a row for each series, a column for each task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edit_sweeps.curves import MEAN, Point
from edit_sweeps.table import SURE, CellView, headlines
from edit_sweeps.trends import TENTH_LOST, Life, Trend, life, lines_of, trends_of

TESTS = {"page": "Page's test", "kendall": "Kendall's test"}


@dataclass(frozen=True)
class Survival:
    """How long a task lasts under a series.

    Attributes:
        half: As in `Crossing.told`; empty where retention is not defined.
        ends: Its interval; empty without one.
        mark: An arrow where the score goes one way with the number of edits, after Holm.
        told: Everything in words.
    """

    half: str = ""
    ends: str = ""
    mark: str = ""
    told: str = "not scored"


@dataclass(frozen=True)
class SurvivalRow:
    """A series in the table; `mean` is that of the mean retention over the tasks."""

    label: str
    seeds: str
    mean: Survival
    tasks: tuple[Survival, ...]


def survival_rows(points: Sequence[Point], tasks: Sequence[str]) -> list[SurvivalRow]:
    """The rows for series with two or more numbers of edits."""
    lines, trends = lines_of(points), trends_of(points)
    rows = []
    for series in dict.fromkeys(point.series for point in points):
        mine = {task: found for (label, task), found in lines.items() if label == series}
        if max(map(len, mine.values())) < 2:
            continue
        seeds = sorted({len(point.seeds) for found in mine.values() for point in found})
        told = {task: survival(mine[task], *trends[series, task]) for task in mine}
        rows.append(
            SurvivalRow(
                series,
                " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1])))),
                told.get(MEAN, Survival()),
                tuple(told.get(task, Survival()) for task in tasks),
            )
        )
    return rows


def survival(points: Sequence[Point], trend: Trend | None, p_holm: float | None) -> Survival:
    """Half-life and trend of one series and task."""
    half, most = life(points), life(points, TENTH_LOST)
    words, mark = [life_told(half, points)], ""
    if most is not None:
        words.append(f"below {TENTH_LOST} after {most.at.told()} edits")
    if trend is not None:
        sure = (trend.p if p_holm is None else p_holm) < SURE
        mark = ("↓" if trend.tau < 0 else "↑") if sure else ""
        adjusted = "" if p_holm is None else f", by Holm {p_holm:.2g}"
        words.append(
            f"{TESTS[trend.test]} ({trend.method}): mean tau {trend.tau:.2f}, p {trend.p:.2g}{adjusted}"
        )
    told = "; ".join(words)
    if half is None:
        return Survival("", "", mark, told)
    return Survival(half.at.told(), ends_told(half), mark, told)


def ends_told(found: Life) -> str:
    """The interval as in a table."""
    if found.low is None or found.high is None:
        return ""
    return f"{found.low.told()} – {found.high.told()}"


def life_told(found: Life | None, points: Sequence[Point]) -> str:
    """The half-life in words."""
    if found is None:
        return "no retention: chance is unknown, or the unedited model is at it"
    ends = ends_told(found)
    over = next((e.covers for p in points if (e := p.estimates.get("retention"))), "")
    told = f"half of the retention is gone after {found.at.told()} edits"
    told += f" (95 % interval {ends}, over {over})" if ends else ""
    if found.seeds > 1:
        told += f"; single seeds {found.lowest.told()} to {found.highest.told()}"
    if found.counts[-1] < points[-1].edits:
        told += f"; only up to {found.counts[-1]} edits are all {found.seeds} seeds scored"
    return told


def near_chance(cells: Iterable[CellView], tasks: Iterable[str]) -> Mapping[str, bool]:
    """Task -> whether the unedited model's 95 % interval reaches down to chance."""
    baselines = [headlines(c.record) for c in cells if c.is_baseline and c.record and c.scored]
    found = dict.fromkeys(tasks, False)
    for measured in baselines:
        for task, (_, score, _) in measured.items():
            if score.low is not None and score.chance is not None and score.low <= score.chance:
                found[task] = True
    return found
