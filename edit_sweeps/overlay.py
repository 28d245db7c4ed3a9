"""The paper's curves beside ours: one panel for each task that both have, scored by the released scorer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from edit_sweeps import charts, published
from edit_sweeps.charts import Measure, Measured, Point, Series, Spec
from edit_sweeps.table import NO_COMPARISON, CellView

RECT_FIGURE = "rect_general"


def panels(series: Sequence[Series]) -> dict[str, Spec]:
    """Task -> chart of our scores and the paper's, for the tasks that both have; empty for other studies."""
    theirs = published_points(series)
    found = {}
    for task in dict.fromkeys(point["task"] for point in theirs):
        ours = charts.points(series, released(task), {})
        if ours:
            own = [point for point in theirs if point["task"] == task]
            found[task] = with_published(charts.panel([*ours, *scale_of(own)], series), ours, own)
    return found


def published_points(series: Sequence[Series]) -> list[Point]:
    """The paper's points that lie on the lines of these series, from the first edit on.

    A cell whose number of edits was capped, or that wrote other facts than the paper's, is on no line. The
    paper drew unregularised ROME twice, with other numbers; a series that stands beside regularised ones is
    held against the second.
    """
    regularised = any(cell.regularizer != "none" for one in series for cell in one.cells)
    found = []
    for one in series:
        config = next(iter(configurations(one.cells)), None)
        if config is None:
            continue
        line = published.line_of(config)
        if regularised and config["regularizer"]["name"] == "none":
            line = published.line_of(config, RECT_FIGURE) or line
        found += [
            {
                "series": one.label,
                "task": p.task,
                "x": p.num_edits,
                "value": p.value,
                "how": told(p),
            }
            for p in line
            if p.num_edits
        ]
    return found


def configurations(cells: Iterable[CellView]) -> list[Mapping[str, Any]]:
    """Of the cells that can be held against the paper."""
    return [cell.record.config for cell in cells if cell.record and comparable(cell)]


def comparable(cell: CellView) -> bool:
    """Whether a cell has scores, as many edits as were asked for, and wrote the paper's facts."""
    if cell.record is None or not cell.scored:
        return False
    config = cell.record.config
    return not config.get("num_edits_asked") and published.on_its_facts(config)


def told(point: published.Published) -> str:
    """Where a number is from."""
    return f"{point.source}, ±{point.error:g}"


def released(task: str) -> Measure:
    """The released scorer's value in `task`."""

    def measure(cell: CellView) -> Measured | None:
        if cell.record is None or not comparable(cell):
            return None
        score = cell.record.scores.get(task, {}).get(published.METRIC)
        compared = cell.record.comparisons.get(task, {}).get(published.METRIC, NO_COMPARISON)
        return (score, compared) if score else None

    return measure


def scale_of(points: Sequence[Point]) -> list[Point]:
    """The points as `charts.panel` wants them to choose the height of its axis."""
    nothing = {"before": None, "edits": 0}
    return [{**point, **nothing, "low": point["value"], "high": point["value"]} for point in points]


def with_published(spec: Spec, ours: Sequence[Point], theirs: Sequence[Point]) -> Spec:
    """`spec` with the paper's line of each series in its colour, thin and dashed, with crosses."""
    colors = next(layer for layer in spec["layer"] if layer.get("data", {}).get("name") == "points")
    base = charts.chart("published").transform_filter(charts.SHOWN).encode(
        x=alt.X("x:Q"), y=alt.Y("value:Q")
    )  # fmt: skip
    line = base.mark_line(strokeWidth=1.2, strokeDash=[2, 3], opacity=0.8, clip=True)
    cross = base.mark_point(shape="cross", size=60, filled=True, opacity=0.9, clip=True)
    cross = cross.encode(tooltip=["series:N", "x:Q", "value:Q", "how:N"])
    added = []
    for mark in (line, cross):
        layer = mark.to_dict(validate=False)
        kept = {key: layer[key] for key in ("data", "mark", "transform", "encoding")}
        kept["encoding"]["color"] = colors["encoding"]["color"]
        added.append(kept)
    spec["layer"] += added
    spec["datasets"] |= {"points": list(ours), "published": list(theirs)}
    return spec
