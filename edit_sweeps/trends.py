"""How many edits a task survives, and whether its score falls with their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations, takewhile
from math import exp, inf, log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from edit_sweeps.across_seeds import Array, Estimate, estimate
from edit_sweeps.curves import MEAN, Point, Row, write_rows
from edit_sweeps.statistics import holm

TRENDS_FILE = "trends.csv"
HALF, TENTH_LOST = 0.5, 0.9
COLUMNS = (
    "model", "series", "task", "n_seeds", "n_seeds_fewest", "counts", "life_seeds", "life_counts",
    *(f"{name}{end}" for name in ("half_life", "life_90") for end in ("", "_bound", "_low", "_high")),
    "half_life_lowest_seed", "half_life_highest_seed",
    "trend", "method", "statistic", "tau", "seeds_falling", "p", "p_holm",
)  # fmt: skip
EXACT = 8
"""Up to so many counts all orders are gone through, with ties or without."""


@dataclass(frozen=True)
class Followed:
    """A curve that is about the same seeds from its first count to its last.

    Attributes:
        counts: Numbers of edits.
        values: One row a seed, `[seeds, counts]`.
        estimates: Mean over these seeds at each count.
    """

    counts: tuple[int, ...]
    values: Array
    estimates: tuple[Estimate, ...]


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
        lowest: Of the seed that falls first.
        highest: Of the seed that falls last.
        seeds: Number of seeds that were followed.
        counts: The counts at which all of them are known.
    """

    at: Crossing
    low: Crossing | None
    high: Crossing | None
    lowest: Crossing
    highest: Crossing
    seeds: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Trend:
    """Whether the score goes one way as the number of edits grows.

    Attributes:
        test: `page` (two seeds or more) or `kendall` (one).
        statistic: Page's L with the counts in falling order, or Kendall's tau-b.
        p: Two-sided.
        tau: Kendall's tau-b of score and count, mean over the seeds: -1 is a steady fall.
        falling: Seeds whose tau is negative.
        method: Of p: `exact`, or `asymptotic` where there are too many orders to go through.
    """

    test: str
    statistic: float
    p: float
    tau: float
    falling: int
    method: str


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


def followed(points: Sequence[Point], quantity: str) -> Followed | None:
    """The seeds of the first count, up to the first count that one of them lacks.

    Seeds that a model does not survive go missing first. A curve of whoever is left would rise where
    the last sound seed stands alone, and be sure of it. A seed that comes in later is left out.

    Args:
        points: Of one series and task, by number of edits.
        quantity: `score`, `retention` or `ratio`; None is returned where the first count has none.
    """
    if not points or quantity not in points[0].values:
        return None
    seeds = points[0].seeds
    whole = list(
        takewhile(lambda p: quantity in p.values and set(seeds) <= set(p.seeds), points)
    )  # fmt: skip
    columns = [[p.values[quantity][p.seeds.index(seed)] for seed in seeds] for p in whole]
    estimates = [
        mean_among(point, quantity, column) for point, column in zip(whole, columns, strict=True)
    ]
    counts = tuple(point.edits for point in whole)
    return Followed(counts, np.array(columns, dtype=np.float64).T, tuple(estimates))


def mean_among(point: Point, quantity: str, values: Sequence[float]) -> Estimate:
    """The mean of some of a point's seeds: the point's own where it has no others."""
    if len(values) == len(point.seeds):
        return point.estimates[quantity]
    documents = point.spreads.get(quantity)
    spread = documents.among(len(point.seeds), len(values)) if documents else None
    return estimate(values, spread)


def life(points: Sequence[Point], threshold: float = HALF) -> Life | None:
    """The life of one series and task; None where retention is not defined.

    The interval inverts that of the curve: it holds the counts at which the mean retention may be
    `threshold`.

    Args:
        points: By number of edits.
        threshold: Of retention.
    """
    curve = followed(points, "retention")
    if curve is None:
        return None
    lows = [one.low for one in curve.estimates if one.low is not None]
    highs = [one.high for one in curve.estimates if one.high is not None]
    whole = len(lows) == len(curve.estimates)
    seeds = [crossing(curve.counts, one, threshold) for one in curve.values.tolist()]
    seeds.sort(key=lambda one: ({"<": 0, "": 1, ">": 2}[one.bound], one.edits))
    return Life(
        crossing(curve.counts, [one.value for one in curve.estimates], threshold),
        crossing(curve.counts, lows, threshold) if whole else None,
        crossing(curve.counts, highs, threshold) if whole else None,
        seeds[0],
        seeds[-1],
        len(seeds),
        curve.counts,
    )


def trend(points: Sequence[Point]) -> Trend | None:
    """Page's test over the seeds, or Kendall's of one; None for fewer than three counts.

    None too where no score changes at all. Seeds and counts are those of `followed`.

    Args:
        points: Of one series and task, by number of edits.
    """
    curve = followed(points, "score")
    if curve is None or len(curve.counts) < 3:
        return None
    values = curve.values
    if (values == values[:, :1]).all():
        return None
    taus = kendall_tau(values)
    tau, falling = float(taus.mean()), int((taus < 0).sum())
    if len(values) < 2:
        p, method = kendall_p(values[0])
        return Trend("kendall", tau, p, tau, falling, method)
    p, method = page_p(values)
    falls = stats.rankdata(values, axis=1) @ np.arange(len(curve.counts), 0, -1)
    return Trend("page", float(falls.sum()), p, tau, falling, method)


@cache
def all_orders(n: int) -> NDArray[np.int64]:
    """Every order of `n` things, the given one first: `[n!, n]`."""
    return np.array(list(permutations(range(n))))


def page_p(values: Array) -> tuple[float, str]:
    """Two-sided p of Page's test of `[seeds, counts]`, and its method.

    With few counts it is exact, ties or not: the sum over the seeds of what all orders of a seed's
    ranks give. scipy's table assumes that there are no ties. With many counts it is scipy's normal
    approximation, which ties make too wide.
    """
    counts = values.shape[1]
    if counts > EXACT:
        sides = [stats.page_trend_test(v, method="asymptotic") for v in (values, values[:, ::-1])]
        return min(1.0, 2 * min(float(side.pvalue) for side in sides)), "asymptotic"
    twice = np.rint(2 * stats.rankdata(values, axis=1)).astype(np.int64)  # ranks may be halves
    orders, place = all_orders(counts), np.arange(1, counts + 1)
    chances = np.ones(1)
    for ranks in twice:
        chances = np.convolve(chances, np.bincount(ranks[orders] @ place) / len(orders))
    seen = int((twice @ place).sum())
    one_sided = min(chances[: seen + 1].sum(), chances[seen:].sum())
    return min(1.0, 2 * float(one_sided)), "exact"


def concordance(values: Array) -> Array:
    """Pairs that rise minus pairs that fall, `[..., n] -> [...]`."""
    first, second = np.triu_indices(values.shape[-1], 1)
    return np.asarray(np.sign(values[..., second] - values[..., first]).sum(axis=-1))


def kendall_tau(values: Array) -> Array:
    """Kendall's tau-b of values against their order, `[..., n] -> [...]`; 0 where all are equal."""
    first, second = np.triu_indices(values.shape[-1], 1)
    untied = (values[..., second] != values[..., first]).sum(axis=-1)
    return concordance(values) / np.sqrt(len(first) * np.maximum(untied, 1))


def kendall_p(values: Array) -> tuple[float, str]:
    """Two-sided p of Kendall's test of `values` against their order, and its method.

    scipy's exact p holds without ties; with ties and few values all orders are gone through. With
    ties and many values it is scipy's normal approximation.
    """
    n = len(values)
    if len(np.unique(values)) == n:
        return float(stats.kendalltau(np.arange(n), values, method="exact")[1]), "exact"
    if n > EXACT:
        return float(stats.kendalltau(np.arange(n), values, method="asymptotic")[1]), "asymptotic"
    orders = values[all_orders(n)]
    scores = np.abs(concordance(orders))
    return float((scores >= scores[0]).mean()), "exact"


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
        seeds = [len(point.seeds) for point in mine]
        row: Row = {"series": series, "task": task, "counts": len(mine)}
        row |= {"n_seeds": max(seeds), "n_seeds_fewest": min(seeds)}
        for name, threshold in (("half_life", HALF), ("life_90", TENTH_LOST)):
            found = life(mine, threshold)
            row |= life_columns(name, found)
            row |= {"life_seeds": found.seeds, "life_counts": len(found.counts)} if found else {}
        if one is not None:
            row |= {
                "trend": one.test, "method": one.method, "statistic": one.statistic, "tau": one.tau,
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
