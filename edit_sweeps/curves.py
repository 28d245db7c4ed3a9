"""Score, retention and ratio of each series and task against the number of edits, over the seeds."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edit_sweeps import across_seeds
from edit_sweeps.across_seeds import Array, DocumentSpread, Estimate
from edit_sweeps.aggregations import LOWER_IS_BETTER
from edit_sweeps.draws import Bootstrap, Sampled, draw, read_samples, recorded_spread
from edit_sweeps.record import Comparison, Score
from edit_sweeps.repeats import latest
from edit_sweeps.statistics import ratio
from edit_sweeps.table import EDIT, CellView, headlines

if TYPE_CHECKING:
    from edit_sweeps.charts import Series

CURVES_FILE = "curves.csv"
MEAN = "mean"
"""The task under which the mean over the tasks stands."""
QUANTITIES = ("score", "retention", "ratio")
COLUMNS = (
    "model", "series", "task", "metric", "num_edits", "n_seeds", "tasks", "retention_tasks",
    *(f"{name}{end}" for name in QUANTITIES for end in ("", "_low", "_high")),
    "baseline", "chance", "interval_over",
)  # fmt: skip

Measured = tuple[str, Score, Comparison]
"""A headline metric's name, score and comparison."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One series, task and number of edits, over the seeds.

    Attributes:
        metric: The task's headline; empty for the mean over the tasks.
        seeds: No seed twice.
        values: `score`, `retention` and `ratio` -> one value a seed; without those that are not
            defined for every seed.
        spreads: The same keys -> spread over documents.
        estimates: The same keys -> mean over the seeds with its interval.
        tasks: The same keys -> over how many tasks the mean is; 1 for a task.
        baseline: The unedited model's score; None when unknown.
        chance: What guessing scores.
        rising: Whether more is better.
    """

    series: str
    task: str
    metric: str
    edits: int
    seeds: tuple[int, ...]
    values: Mapping[str, Array]
    spreads: Mapping[str, DocumentSpread | None]
    estimates: Mapping[str, Estimate]
    tasks: Mapping[str, int]
    baseline: float | None = None
    chance: float | None = None
    rising: bool = True


def curves(study: Path, series: Sequence[Series], cells: Sequence[CellView]) -> list[Point]:
    """The points of one model's series: those of the tasks, then those of the mean over tasks.

    Args:
        study: `outputs/<study>`; without samples in it, intervals are made from those of the
            records.
        series: As `charts.series_of` groups them.
        cells: All cells of the model, baselines among them.
    """
    found = {cell.cell: headlines(cell.record) for cell in cells if cell.record and cell.scored}
    samples = {name: samples_of(study / "cells" / name, found[name]) for name in found}
    baselines = [samples[cell.cell] for cell in cells if cell.is_baseline and cell.cell in samples]
    points = []
    for task in dict.fromkeys(task for measured in found.values() for task in measured):
        unedited = [one[task] for one in baselines if task in one]
        bootstrap = Bootstrap()
        for line in series:
            measured = {name: tasks[task] for name, tasks in found.items() if task in tasks}
            for count, members in by_count(line.cells, measured).items():
                own = [measured[cell.cell] for cell in members]
                sampled = [samples[cell.cell].get(task) for cell in members]
                place = line.label, task, own[0][0], count, tuple(cell.seed for cell in members)
                points.append(task_point(place, own, sampled, unedited, bootstrap))
    return points + [mean for line in series for mean in means(line.label, points)]


def samples_of(folder: Path, measured: Mapping[str, Measured]) -> dict[str, Sampled]:
    """The samples of a cell's headline metrics."""
    return read_samples(
        folder, {task: (name, score) for task, (name, score, _) in measured.items()}
    )


def by_count(
    cells: Iterable[CellView], measured: Mapping[str, Measured]
) -> dict[int, list[CellView]]:
    """Number of edits -> a cell for each seed that has a value in what was measured of a task."""
    counts: dict[int, list[CellView]] = {}
    for cell in latest(cells, lambda cell: cell.cell in measured):
        if measured[cell.cell][1].value is not None:
            counts.setdefault(cell.num_edits, []).append(cell)
    return counts


def task_point(
    place: tuple[str, str, str, int, tuple[int, ...]],
    measured: Sequence[Measured],
    sampled: Sequence[Sampled | None],
    unedited: Sequence[Sampled],
    bootstrap: Bootstrap,
) -> Point:
    """A point from the cells of its seeds.

    Args:
        place: Series, task, metric, number of edits, seeds.
        measured: Of each cell.
        sampled: Of each cell; None where there are no samples.
        unedited: The samples of the model's baselines.
        bootstrap: Of the task.
    """
    scores, compared = [one[1] for one in measured], [one[2] for one in measured]
    values = values_of(scores, compared)
    drawn = draw(scores, compared, sampled, unedited, bootstrap)
    spreads = {
        name: across_seeds.spread(*drawn[name])
        if name in drawn
        else recorded_spread(name, scores, compared)
        for name in values
    }
    estimates = {name: across_seeds.estimate(values[name], spreads[name]) for name in values}
    estimates["score"] = settle(estimates["score"], scores, sampled)
    before = [one.baseline for one in compared if one.baseline is not None]
    return Point(
        *place, values, spreads, estimates, dict.fromkeys(values, 1),
        baseline=sum(before) / len(before) if before else None,
        chance=scores[0].chance,
        rising=scores[0].aggregation not in LOWER_IS_BETTER,
    )  # fmt: skip


def values_of(scores: Sequence[Score], compared: Sequence[Comparison]) -> dict[str, Array]:
    """Each quantity that is defined for every seed, `[seeds]`."""
    told = {
        "score": [score.value for score in scores],
        "retention": [one.retention for one in compared],
        "ratio": [ratio(one) for one in compared],
    }
    known = {name: [v for v in values if v is not None] for name, values in told.items()}
    return {name: np.array(v) for name, v in known.items() if len(v) == len(scores)}


def settle(found: Estimate, scores: Sequence[Score], sampled: Sequence[Sampled | None]) -> Estimate:
    """The score's own interval: the record's for one seed, and never outside 0 to 1 for shares.

    Where nothing varied at all, as when every document of every seed is wrong, the widest of the
    seeds' own intervals.
    """
    lows = [score.low for score in scores if score.low is not None]
    highs = [score.high for score in scores if score.high is not None]
    if len(lows) == len(scores) and (len(scores) == 1 or found.low == found.high):
        return Estimate(found.value, min(lows), max(highs), across_seeds.DOCUMENTS)
    if scores[0].aggregation in LOWER_IS_BETTER:
        return found.within(0.0, np.inf)
    known = [one for one in sampled if one is not None]
    ends = [score.value for score in scores] + lows + highs
    inside = all(0 <= end <= 1 for end in ends if end is not None)
    counts = scores[0].aggregation != "mean" or all(one.is_share for one in known)
    return found.within(0.0, 1.0) if inside and counts else found


def means(label: str, points: Sequence[Point]) -> Iterator[Point]:
    """The means over tasks of one series: a point for each number of edits.

    Of each quantity the mean is over the tasks in which it is defined at every count of the series,
    so that a curve does not jump where a task failed. Tasks where less is better are left out.
    """
    tasks: dict[str, dict[int, Point]] = {}
    for point in points:
        if point.series == label and point.rising:
            tasks.setdefault(point.task, {})[point.edits] = point
    counts = sorted({count for mine in tasks.values() for count in mine})
    whole = [mine for mine in tasks.values() if len(mine) == len(counts)]
    usable = {
        name: [mine for mine in whole if all(name in point.values for point in mine.values())]
        for name in QUANTITIES
    }
    for count in counts:
        here = {name: [mine[count] for mine in using] for name, using in usable.items() if using}
        seeds = shared_seeds(point for using in here.values() for point in using)
        if seeds:
            yield mean_point((label, MEAN, "", count, seeds), here)


def shared_seeds(points: Iterable[Point]) -> tuple[int, ...]:
    """The seeds that all points have."""
    every = [point.seeds for point in points]
    return tuple(seed for seed in every[0] if all(seed in s for s in every)) if every else ()


def mean_point(
    place: tuple[str, str, str, int, tuple[int, ...]], here: Mapping[str, Sequence[Point]]
) -> Point:
    """The mean over tasks at one number of edits.

    Args:
        place: As in `task_point`.
        here: Quantity -> the points of the tasks in which it is defined.
    """
    values = {
        name: np.mean(
            [[p.values[name][p.seeds.index(s)] for s in place[-1]] for p in points], axis=0
        )
        for name, points in here.items()
    }
    spreads = {
        name: across_seeds.mean_of([point.spreads[name] for point in points])
        for name, points in here.items()
    }
    estimates = {name: across_seeds.estimate(values[name], spreads[name]) for name in values}
    return Point(*place, values, spreads, estimates, {name: len(here[name]) for name in here})


def estimates_of(points: Iterable[Point], task: str) -> dict[tuple[str, int], Estimate]:
    """`(series, number of edits)` -> the score of `task`."""
    mine = (point for point in points if point.task == task)
    return {(point.series, point.edits): point.estimates["score"] for point in mine}


def edit_estimates(cells: Iterable[CellView], metric: str) -> dict[int, Estimate]:
    """A score of the edits themselves by number of edits, where there are several seeds.

    Each seed has requests of its own, so what varies between the seeds holds the documents too.
    """

    def score_of(cell: CellView) -> Score | None:
        return cell.record.scores.get(EDIT, {}).get(metric) if cell.record else None

    found: dict[int, list[Score]] = {}
    for cell in latest(cells, lambda cell: score_of(cell) is not None):
        score = score_of(cell)
        if score is not None and score.value is not None:
            found.setdefault(cell.num_edits, []).append(score)
    return {
        count: settle(
            across_seeds.estimate([score.value or 0.0 for score in scores], None), scores, []
        )
        for count, scores in found.items()
        if len(scores) > 1
    }


def write_curves(study: Path, models: Mapping[str, Sequence[Point]]) -> Path:
    """Write `curves.csv`: one row for each model, series, task and number of edits."""
    found = [{"model": name} | row_of(p) for name, points in models.items() for p in points]
    return write_rows(study / CURVES_FILE, COLUMNS, found)


def row_of(point: Point) -> Row:
    """A point as a row; what is not defined is None."""
    row: Row = {
        "series": point.series,
        "task": point.task,
        "metric": point.metric,
        "num_edits": point.edits,
        "n_seeds": len(point.seeds),
        "tasks": point.tasks.get("score"),
        "retention_tasks": point.tasks.get("retention", 0),
        "baseline": point.baseline,
        "chance": point.chance,
        "interval_over": next((e.covers for e in point.estimates.values()), ""),
    }
    for name, found in point.estimates.items():
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return row


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> Path:
    """Write a table, aside and renamed; nothing known is an empty field."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    aside.replace(path)
    return path
