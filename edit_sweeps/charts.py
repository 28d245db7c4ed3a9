"""Charts of a study as Vega-Lite specifications (Altair); colours are CSS variables of the page.

A panel shows one score against the number of edits, a line for each series: the editor and how it
was used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from statistics import fmean
from typing import Any

import altair as alt

from edit_sweeps.across_seeds import DOCUMENTS, Estimate
from edit_sweeps.record import Comparison, Score
from edit_sweeps.repeats import by_seed, joined, latest, series_key
from edit_sweeps.table import EDIT, CellView, headlines, loss_is_sure, mean_retention

N_COLORS = 7
"""The page defines `--series-0` to `--series-6`."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "triangle-right", "cross")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
MAX_TICKS = 8
DODGE = 0.05
"""Points of neighbouring series are moved apart by this share of their number of edits."""
FEW = {"tickCount": 5}
SHOWN = "indexof(hidden, datum.series) < 0"
"""The page hides a series by putting its label into the parameter `hidden`."""

INK = "currentColor"
CONFIG = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK, "titleColor": INK, "gridColor": INK, "domainColor": INK,
        "tickColor": INK, "gridOpacity": 0.12, "domainOpacity": 0.4, "tickOpacity": 0.4,
        "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal",
        "labelOpacity": 0.8, "titleOpacity": 0.8,
    },
    "text": {"color": INK},
}  # fmt: skip

Spec = dict[str, Any]
Point = dict[str, Any]


@dataclass(frozen=True)
class Series:
    """One line of the charts.

    Attributes:
        label: What sets it apart from the others.
        color: Number of its colour.
        shape: Vega's name of its marks.
        dash: Lengths of stroke and gap.
        cells: Its cells, by number of edits and seed.
    """

    label: str
    color: int
    shape: str
    dash: Sequence[int]
    cells: tuple[CellView, ...]

    @property
    def ink(self) -> str:
        """Its colour in CSS."""
        return f"var(--series-{self.color})"


def series_of(cells: Iterable[CellView]) -> list[Series]:
    """The cells of one model, baselines left out, grouped by what was edited and how.

    A label holds only what differs between them and is not empty. The editor decides the colour,
    the rest the dash; with one editor the rest decides the colour.
    """
    groups: dict[tuple[str, ...], list[CellView]] = {}
    for cell in cells:
        if not cell.is_baseline:
            groups.setdefault(series_key(cell), []).append(cell)
    differing = [len(set(values)) > 1 for values in zip(*groups, strict=True)]
    editors = list(dict.fromkeys(key[0] for key in groups))
    found = []
    for key, members in groups.items():
        told = zip(key[1:], differing[1:], strict=True)
        named = [part for part, differs in told if differs and part not in {"", "none"}]
        editor = editors.index(key[0])
        manner = [other for other in groups if other[0] == key[0]].index(key)
        color, dash = (editor, manner) if len(editors) > 1 else (manner, 0)
        found.append(
            Series(
                label=" · ".join([key[0], *named]),
                color=color % N_COLORS,
                shape=SHAPES[color % len(SHAPES)],
                dash=DASHES[(dash + color // N_COLORS) % len(DASHES)],
                cells=tuple(sorted(members, key=lambda cell: (cell.num_edits, cell.seed))),
            )
        )
    return found


Measured = tuple[Score, Comparison | None]
"""A score, and its comparison with the unedited model where there is one."""
Measure = Callable[[CellView], Measured | None]
Estimates = Mapping[tuple[str, int], Estimate]
"""Label of the series and number of edits -> mean over the seeds with its interval."""


def points(series: Sequence[Series], measure: Measure, estimates: Estimates) -> list[Point]:
    """One point for each series and number of edits, over the seeds.

    Args:
        series: In the order of the page.
        measure: From a cell to its score and comparison, or None.
        estimates: Of what is measured, where there are several seeds.
    """
    found = []
    for number, one in enumerate(series):
        shift = 1 + DODGE * (number - (len(series) - 1) / 2)
        by_count: dict[int, list[tuple[CellView, Measured]]] = {}
        for cell in latest(one.cells, lambda cell: measure(cell) is not None):
            measured = measure(cell)
            if measured is not None and measured[0].value is not None:
                by_count.setdefault(cell.num_edits, []).append((cell, measured))
        for count, seeds in by_count.items():
            place = {"series": one.label, "edits": count, "x": round(count * shift, 4)}
            found.append(place | merge(seeds, estimates.get((one.label, count))))
    return found


def of_task(task: str) -> Measure:
    """The headline score of `task`."""

    def measure(cell: CellView) -> Measured | None:
        found = headlines(cell.record).get(task) if cell.record and cell.scored else None
        return (found[1], found[2]) if found else None

    return measure


def of_edits(metric: str) -> Measure:
    """A score of the edits themselves."""

    def measure(cell: CellView) -> Measured | None:
        if cell.record is None or not cell.scored:
            return None
        score = cell.record.scores.get(EDIT, {}).get(metric)
        compared = cell.record.comparisons.get(EDIT, {}).get(metric)
        return (score, compared) if score else None

    return measure


def merge(found: Sequence[tuple[CellView, Measured]], estimate: Estimate | None) -> Point:
    """Cells that differ in their seed only, as one point.

    One seed: its score and 95 % interval. Several: their mean and the interval of `estimate`;
    without one, their lowest and highest.
    """
    scores = [score for _, (score, _) in found]
    values = [score.value for score in scores if score.value is not None]
    low: float | None = min(values)
    high: float | None = max(values)
    over = "lowest to highest seed"
    if len(scores) == 1:
        low, high, over = scores[0].low, scores[0].high, DOCUMENTS
    elif estimate is not None and estimate.low is not None and estimate.high is not None:
        low, high, over = estimate.low, estimate.high, estimate.covers
    value = fmean(values)
    before = [c.baseline for _, (_, c) in found if c is not None and c.baseline is not None]
    return {
        "value": round(value, 5),
        "low": round(value if low is None else low, 5),
        "high": round(value if high is None else high, 5),
        "before": round(fmean(before), 5) if before else None,
        "sure": all(c is not None and loss_is_sure(score, c) for _, (score, c) in found),
        "state": states_of(cell for cell, _ in found),
        "seeds": len(found),
        "over": over,
    }


def panel(
    found: Sequence[Point],
    series: Sequence[Series],
    *,
    chance: float | None = None,
    hollow: bool = False,
) -> Spec:
    """Scores against the number of edits.

    Dotted: what the points say the score was before, a level where that is the same for all. Faint:
    chance.

    Args:
        found: From `points`.
        series: All series of the page, so that colours agree between panels.
        chance: What guessing scores.
        hollow: Draw points hollow whose loss is not sure.
    """
    counts = sorted({cell.num_edits for one in series for cell in one.cells})
    x, y = edits_axis(counts), alt.Y("value:Q", title=None, scale=height(found), axis=FEW)
    base = chart("points").transform_filter(SHOWN).encode(x=x, color=color_of(series))
    lines = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash_of(series))
    whiskers = base.mark_rule(strokeWidth=1.5, opacity=0.55).encode(y="low:Q", y2="high:Q")
    dots = marks(base.encode(y=y), series)
    if hollow:
        paper = alt.value("var(--card)")
        dots = dots.encode(fill=alt.condition("datum.sure", color_of(series, alt.Fill), paper))
    before = {p["edits"]: p["before"] for p in found if p["before"] is not None}
    same = len(set(before.values())) == 1
    dotted = {"strokeDash": [2, 3], "strokeWidth": 1.6, "color": INK, "opacity": 0.75}
    level = chart("before").encode(y="at:Q")
    unedited = level.mark_rule(**dotted) if same else level.mark_line(**dotted).encode(x=x)
    guessed = chart("chance").mark_rule(strokeWidth=6, color=INK, opacity=0.1).encode(y="at:Q")
    rows = [{"x": count, "at": value} for count, value in sorted(before.items())]
    return finish(
        alt.layer(guessed, unedited, whiskers, lines, dots).properties(height=190),
        points=found,
        before=rows[:1] if same else rows,
        chance=[] if chance is None else [{"at": chance}],
    )


def marks(base: Any, series: Sequence[Series]) -> Any:
    """Points with tooltips; larger where the model collapsed."""
    figures = {"value": "score", "low": "from", "high": "to", "before": "unedited"}
    return base.mark_point(strokeWidth=1.8, opacity=1).encode(
        shape=shape_of(series),
        fill=color_of(series, alt.Fill),
        size=alt.condition("datum.state == 'collapsed'", alt.value(130), alt.value(55)),
        tooltip=[
            alt.Tooltip("series:N", title="edited by"),
            alt.Tooltip("edits:Q"),
            *(alt.Tooltip(f"{k}:Q", title=v, format=".3f") for k, v in figures.items()),
            alt.Tooltip("over:N", title="interval over"),
            alt.Tooltip("seeds:Q"),
            alt.Tooltip("state:N"),
        ],
    )


def trade_off(series: Sequence[Series]) -> Spec:
    """Efficacy against mean retention, one point a seed and count; a path for each seed follows its edits."""
    found = [point for one in series for point in trade_off_points(one)]
    across, upwards = (around([point[name] for point in found]) for name in ("retention", "value"))
    base = (
        chart("points")
        .transform_filter(SHOWN)
        .encode(
            x=alt.X("retention:Q", scale=across, axis=FEW)
            .title("mean retention of the tasks (1 = as before the edits)"),
            y=alt.Y("value:Q", scale=upwards, axis=FEW)
            .title("efficacy"),
            color=color_of(series),
            order="edits:Q",
        )
    )  # fmt: skip
    path = base.mark_line(strokeWidth=1.5, opacity=0.5).encode(
        strokeDash=dash_of(series), detail="seed:N"
    )
    dots = base.mark_point(size=70, filled=True, opacity=1).encode(
        shape=shape_of(series),
        tooltip=["series:N", "edits:Q", "value:Q", "retention:Q", "seed:Q", "state:N"],
    )
    words = base.mark_text(dy=-11, fontSize=11).encode(text="edits:Q")
    return finish(alt.layer(path, dots, words).properties(height=320), points=found)


def around(values: Sequence[float]) -> Any:
    """An axis that holds `values` and 1, from a full tenth of at most 0.8 on."""
    low = min([0.8, *(floor(10 * value) / 10 for value in values)])
    return alt.Scale(domain=[low, max([1.0, *values]) + 0.04], nice=False)


def trade_off_points(series: Series) -> list[Point]:
    """Seeds with both an efficacy and a retention."""
    made = []
    for (count, seed), cells in by_seed(series.cells).items():
        record = joined(cells)
        efficacy = record.scores.get(EDIT, {}).get("efficacy")
        kept = mean_retention(record)
        if efficacy and efficacy.value is not None and kept is not None:
            about = {"series": series.label, "edits": count, "seed": seed}
            found = {"value": round(efficacy.value, 4), "retention": round(kept, 4)}
            made.append(about | found | {"state": states_of(cells)})
    return made


def states_of(cells: Iterable[CellView]) -> str:
    """The different states, joined."""
    return ", ".join(sorted({cell.state for cell in cells}))


def edits_axis(counts: Sequence[int]) -> Any:
    """A logarithmic axis with ticks at the numbers of edits that were run."""
    low, high = min(counts, default=1), max(counts, default=1)
    ticks = list(counts) if len(counts) <= MAX_TICKS else alt.Undefined
    axis = alt.Axis(values=ticks, format="d", grid=False, labelOverlap=True, title="edits")
    room = 2.0 if low == high else (high / low) ** 0.06
    scale = alt.Scale(type="log", domain=[low / room, high * room], nice=False)
    return alt.X("x:Q", axis=axis, scale=scale)


def height(found: Sequence[Point]) -> Any:
    """The y axis: 0 to 1 for shares that pass one half, else from 0 to above the highest."""
    top = max((v for p in found for v in (p["high"], p["before"]) if v is not None), default=1.0)
    bottom = min([0.0, *(p["low"] for p in found)])
    return alt.Scale(domain=[bottom, 1.04 if 0.5 < top <= 1.0 else 1.15 * top or 1.0], nice=False)


def color_of(series: Sequence[Series], channel: Any = alt.Color) -> Any:
    """The colour of a series."""
    return by_series(channel, series, [one.ink for one in series])


def dash_of(series: Sequence[Series]) -> Any:
    """The dash of a series."""
    return by_series(alt.StrokeDash, series, [list(one.dash) for one in series])


def shape_of(series: Sequence[Series]) -> Any:
    """The marks of a series."""
    return by_series(alt.Shape, series, [one.shape for one in series])


def by_series(channel: Any, series: Sequence[Series], values: list[Any]) -> Any:
    """An encoding of the series' label by `values`, without legend: the page has one for all."""
    scale = alt.Scale(domain=[one.label for one in series], range=values)
    return channel("series:N", scale=scale, legend=None)


def chart(data: str) -> Any:
    """A chart of the data set of that name, which `finish` adds without checking every point."""
    return alt.Chart(alt.NamedData(name=data))


def finish(layers: Any, **data: Sequence[Point]) -> Spec:
    """The specification with its data, and the parameter by which the page hides series."""
    shown = layers.properties(width="container").add_params(alt.param(name="hidden", value=[]))
    spec: Spec = shown.to_dict(validate=False)
    kept = {key: value for key, value in spec.items() if key not in {"$schema", "config"}}
    return kept | {"datasets": {name: list(rows) for name, rows in data.items()}}
