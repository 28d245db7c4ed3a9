"""How many edits a task survives, and whether its score falls with their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import exp, inf, log
from pathlib import Path

import numpy as np
from scipy import stats

from edit_sweeps.across_seeds import Array
from edit_sweeps.curves import MEAN, Point, Row, write_rows
from edit_sweeps.statistics import holm

TRENDS_FILE = "trends.csv"
HALF, TENTH_LOST = 0.5, 0.9
COLUMNS = (
    "model", "series", "task", "n_seeds", "counts",
    *(f"{name}{end}" for name in ("half_life", "life_90") for end in ("", "_bound", "_low", "_high")),
    "half_life_lowest_seed", "half_life_highest_seed",
    "trend", "statistic", "tau", "seeds_falling", "p", "p_holm",
)  # fmt: skip
EXACT = 7
"""Up to so many counts Kendall's test with ties goes through all orders."""


@dataclass(frozen=True)
class Crossing:
    """The number of edits at which a curve falls below a threshold.

    Attributes:
        edits: Between two counts: interpolated. Else the count that `bound` speaks of.
        bound: `<`: below at the first count already; `>`: not below at the last one; else empty.
    """

    edits: float
    bound: str = ""

    def told(self) -> str:
        """As in a table: `57`, `>300`, `<1`."""
        return (
            f"{self.bound}{self.edits:.3g}"
            if self.edits < 1000
            else f"{self.bound}{self.edits:.0f}"
        )


@dataclass(frozen=True)
class Life:
    """For how many edits retention stays above a threshold.

    Attributes:
        at: Of the mean curve over the seeds.
        low: Where the lower ends of the curve's intervals fall below; None without intervals.
        high: Where the upper ends do.
        lowest: Of the seed that falls first; of the seeds that have every count.
        highest: Of the seed that falls last.
    """

    at: Crossing
    low: Crossing | None
    high: Crossing | None
    lowest: Crossing | None
    highest: Crossing | None


@dataclass(frozen=True)
class Trend:
    """Whether the score goes one way as the number of edits grows.

    Attributes:
        test: `page` (seeds that have every count, two or more) or `kendall` (the mean over seeds).
        statistic: Page's L with the counts in falling order, or Kendall's tau-b.
        p: Two-sided.
        tau: Kendall's tau-b of score and count, mean over the seeds: -1 is a steady fall.
        falling: Seeds whose tau is negative.
    """

    test: str
    statistic: float
    p: float
    tau: float
    falling: int


def crossing(counts: Sequence[int], kept: Sequence[float], threshold: float = HALF) -> Crossing:
    """Where a curve first falls below `threshold`, on a straight line over the logarithm of edits.

    Args:
        counts: Numbers of edits, ascending, at least one.
        kept: What is left at each.
        threshold: A share.
    """
    below = next((place for place, value in enumerate(kept) if value < threshold), None)
    if below is None:
        return Crossing(float(counts[-1]), ">")
    if below == 0:
        return Crossing(float(counts[0]), "<")
    (x, y), (a, b) = ((log(counts[place]), kept[place]) for place in (below - 1, below))
    return Crossing(exp(x + (a - x) * (y - threshold) / (y - b)))


def life(points: Sequence[Point], threshold: float = HALF) -> Life | None:
    """The life of one series and task; None where retention is not defined.

    The interval inverts that of the curve: it holds the counts at which the mean retention may be
    `threshold`.

    Args:
        points: By number of edits.
        threshold: Of retention.
    """
    known = [point for point in points if "retention" in point.estimates]
    if not known:
        return None
    counts = [point.edits for point in known]
    found = [point.estimates["retention"] for point in known]
    lows = [one.low for one in found if one.low is not None]
    highs = [one.high for one in found if one.high is not None]
    whole = len(lows) == len(found)
    seeds = [
        crossing(counts, curve, threshold)
        for curve in by_seed(known, "retention").tolist()
    ]  # fmt: skip
    seeds.sort(key=lambda one: ({"<": 0, "": 1, ">": 2}[one.bound], one.edits))
    return Life(
        crossing(counts, [one.value for one in found], threshold),
        crossing(counts, lows, threshold) if whole else None,
        crossing(counts, highs, threshold) if whole else None,
        seeds[0] if seeds else None,
        seeds[-1] if seeds else None,
    )


def by_seed(points: Sequence[Point], quantity: str) -> Array:
    """The curves of the seeds that have every count, `[seeds, counts]`."""
    seeds = [s for s in points[0].seeds if all(s in point.seeds for point in points)]
    rows = [[point.values[quantity][point.seeds.index(s)] for point in points] for s in seeds]
    return np.array(rows, dtype=np.float64).reshape(len(seeds), len(points))


def trend(points: Sequence[Point]) -> Trend | None:
    """Page's test over the seeds, or Kendall's on the mean; None for fewer than three counts.

    None too where no score changes at all.

    Args:
        points: Of one series and task, by number of edits.
    """
    known = [point for point in points if "score" in point.values]
    if len(known) < 3:
        return None
    mean = np.array([point.estimates["score"].value for point in known])
    curves = by_seed(known, "score")
    if (curves == curves[:, :1]).all() and np.ptp(mean) == 0:
        return None
    taus = kendall_tau(curves)
    falling = int((taus < 0).sum())
    if len(curves) < 2:
        tau = float(kendall_tau(mean))
        return Trend("kendall", tau, kendall_p(mean), tau, falling)
    down = stats.page_trend_test(curves[:, ::-1])
    up = stats.page_trend_test(curves)
    p = min(1.0, 2 * min(float(down.pvalue), float(up.pvalue)))
    return Trend("page", float(down.statistic), p, float(taus.mean()), falling)


def concordance(values: Array) -> Array:
    """Pairs that rise minus pairs that fall, `[..., n] -> [...]`."""
    first, second = np.triu_indices(values.shape[-1], 1)
    return np.asarray(np.sign(values[..., second] - values[..., first]).sum(axis=-1))


def kendall_tau(values: Array) -> Array:
    """Kendall's tau-b of values against their order, `[..., n] -> [...]`; 0 where all are equal."""
    first, second = np.triu_indices(values.shape[-1], 1)
    untied = (values[..., second] != values[..., first]).sum(axis=-1)
    return concordance(values) / np.sqrt(len(first) * np.maximum(untied, 1))


def kendall_p(values: Array) -> float:
    """Two-sided p of Kendall's test of `values` against their order.

    scipy's exact p holds without ties; with ties and few values all orders are gone through.
    """
    n = len(values)
    if len(np.unique(values)) == n or n > EXACT:
        return float(stats.kendalltau(np.arange(n), values)[1])
    orders = values[np.array(list(permutations(range(n))))]
    scores = np.abs(concordance(orders))
    return float((scores >= scores[0]).mean())


def lines_of(points: Sequence[Point]) -> dict[tuple[str, str], list[Point]]:
    """`(series, task)` -> its points by number of edits."""
    lines: dict[tuple[str, str], list[Point]] = {}
    for point in sorted(points, key=lambda point: point.edits):
        lines.setdefault((point.series, point.task), []).append(point)
    return lines


def trends_of(points: Sequence[Point]) -> dict[tuple[str, str], tuple[Trend | None, float | None]]:
    """`(series, task)` -> trend and Holm's adjusted p over the tasks of the series."""
    found = {line: trend(mine) for line, mine in lines_of(points).items()}
    adjusted: dict[tuple[str, str], float] = {}
    for series in dict.fromkeys(line[0] for line in found):
        tests = {
            line: one.p
            for line, one in found.items()
            if one and line[0] == series and line[1] != MEAN
        }
        adjusted |= dict(zip(tests, holm(list(tests.values())), strict=True))
    return {line: (one, adjusted.get(line)) for line, one in found.items()}


def write_trends(study: Path, models: Mapping[str, Sequence[Point]]) -> Path:
    """Write `trends.csv`: one row for each model, series and task."""
    rows = [{"model": name} | row for name, points in models.items() for row in rows_of(points)]
    return write_rows(study / TRENDS_FILE, COLUMNS, rows)


def rows_of(points: Sequence[Point]) -> list[Row]:
    """The rows of one model."""
    lines, rows = lines_of(points), []
    for (series, task), (one, adjusted) in trends_of(points).items():
        mine = lines[series, task]
        row: Row = {"series": series, "task": task, "n_seeds": max(len(p.seeds) for p in mine)}
        row |= {"counts": len(mine)}
        for name, threshold in (("half_life", HALF), ("life_90", TENTH_LOST)):
            row |= life_columns(name, life(mine, threshold))
        if one is not None:
            row |= {
                "trend": one.test, "statistic": one.statistic, "tau": one.tau,
                "seeds_falling": one.falling, "p": one.p, "p_holm": adjusted,
            }  # fmt: skip
        rows.append(row)
    return rows


def life_columns(name: str, found: Life | None) -> Row:
    """A life as columns; other ends than its own are 0 or infinite outside the counts that were run."""
    if found is None:
        return {}
    row: Row = {name: found.at.edits, f"{name}_bound": found.at.bound}
    ends = {"low": found.low, "high": found.high}
    if name == "half_life":
        ends |= {"lowest_seed": found.lowest, "highest_seed": found.highest}
    outside = {"<": 0.0, ">": inf}
    return row | {
        f"{name}_{end}": outside.get(one.bound, one.edits) for end, one in ends.items() if one
    }
