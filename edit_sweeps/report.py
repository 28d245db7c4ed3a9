"""What a study found as one page to read off line: `report.html`, with the table beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edit_sweeps.curves import Point, curves, edit_estimates, estimates_of, write_curves
from edit_sweeps.summary import (
    counted,
    difference_told,
    findings,
    last_line,
    notes,
    print_summary,
    short,
    value_told,
)
from edit_sweeps.survival import SurvivalRow, near_chance, survival_rows
from edit_sweeps.table import (
    CELL_COLUMNS,
    SCORE_COLUMNS,
    CellView,
    headlines,
    loss_is_sure,
    mean_retention,
    p_holm,
    read_cells,
    rows_of,
    task_errors,
    write_table,
)
from edit_sweeps.trends import write_trends

__all__ = ["print_summary", "write_report"]

REPORT_FILE = "report.html"
EDIT_PANELS = {
    "efficacy": "efficacy",
    "paraphrase": "paraphrase",
    "neighborhood": "neighborhood",
    "other_facts": "other facts of the subject",
    "portability": "portability",
    "score": "score (harmonic mean)",
}
"""Edit scores that are drawn, and their titles."""
Planned = Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True)
class HeatCell:
    """What a cell kept of a task.

    Attributes:
        retention: None when it is not defined or not known.
        sure: Whether the loss is.
        told: The figures in words.
        state: `scored`, or why there is nothing: failed, missing ...
    """

    retention: float | None
    sure: bool
    told: str
    state: str = "scored"


@dataclass(frozen=True)
class HeatRow:
    """A cell in the heat table."""

    cell: CellView
    label: str
    mean: float | None
    tasks: tuple[HeatCell, ...]


@dataclass(frozen=True)
class Panel:
    """A chart on the page; `id` names its place and its specification."""

    id: str
    title: str
    name: str


@dataclass
class ModelPage:
    """Everything about one model.

    Attributes:
        series: See `charts.Series`.
        tasks: Full name -> short name, in the order of the records.
        survival: Half-lives, a row for each series that has several counts.
        near_chance: Task -> whether the unedited model is not surely above chance.
        several_seeds: Whether some point of some curve is a mean over seeds.
    """

    name: str
    series: list[Any]
    tasks: dict[str, str]
    found: list[str]
    heat: list[HeatRow]
    survival: list[SurvivalRow]
    near_chance: Mapping[str, bool]
    several_seeds: bool
    task_panels: list[Panel] = field(default_factory=list)
    edit_panels: list[Panel] = field(default_factory=list)
    paper_panels: list[Panel] = field(default_factory=list)
    trade_off: Panel | None = None


def write_report(study: Path, planned: Planned = None) -> Path:
    """Write `report.html`, `table.csv`, `curves.csv` and `trends.csv` of `study`.

    Args:
        study: `outputs/<study>`.
        planned: See `table.read_cells`.

    Returns:
        The report's path.
    """
    from edit_sweeps.charts import series_of

    write_table(study, planned)
    cells = read_cells(study, planned)
    found = {n: curves(study, series_of(own), own) for n, own in by_model(cells).items()}
    write_curves(study, found)
    write_trends(study, found)
    path = study / REPORT_FILE
    aside = path.with_name(f".{REPORT_FILE}.{os.getpid()}")
    aside.write_text(render(study.name, cells, found), encoding="utf-8")
    aside.replace(path)
    return path


def render(study: str, cells: Sequence[CellView], found: Mapping[str, Sequence[Point]]) -> str:
    """The page, with the one copy of the charts' JavaScript in it.

    Args:
        study: Its name.
        cells: All cells.
        found: Model -> points of its curves.
    """
    import jinja2

    from edit_sweeps.charts import CONFIG, N_COLORS

    specs: dict[str, Any] = {}
    pages = [model_page(name, own, found[name], specs) for name, own in by_model(cells).items()]
    loader = jinja2.PackageLoader("edit_sweeps")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    filters: dict[str, Any] = {"score": short, "json": in_script, "last_line": last_line}
    environment.filters |= filters
    return environment.get_template("report.html.j2").render(
        study=study,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        counts=counted(cells),
        notes=notes(cells),
        models=pages,
        unfinished=[cell for cell in cells if not cell.scored],
        task_errors=list(failed_tasks(cells)),
        table=long_table(cells),
        settings=common_settings(cells),
        provenance=provenance_of(cells),
        specs=specs,
        config=CONFIG,
        n_colors=N_COLORS,
        vega=javascript(),
    )


def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed, as text that can stand inside a script element."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script")


def in_script(value: Any) -> str:
    """`value` as JSON that can stand inside a script element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def by_model(cells: Iterable[CellView]) -> dict[str, list[CellView]]:
    """The cells of each model."""
    found: dict[str, list[CellView]] = {}
    for cell in cells:
        found.setdefault(cell.model or "(unknown model)", []).append(cell)
    return found


def model_page(
    name: str, cells: Sequence[CellView], curve: Sequence[Point], specs: dict[str, Any]
) -> ModelPage:
    """Panels, findings and tables of one model; adds the charts to `specs`."""
    from edit_sweeps import charts, overlay

    series = charts.series_of(cells)
    tasks = short_names(task for cell in cells if cell.record for task in headlines(cell.record))
    page = ModelPage(
        name=name,
        series=series,
        tasks=tasks,
        found=[text for one in series for text in findings(one.label, one.cells)],
        heat=heat_rows([(one.label, cell) for one in series for cell in one.cells], list(tasks)),
        survival=survival_rows(curve, list(tasks)),
        near_chance=near_chance(cells, tasks),
        several_seeds=any(len(point.seeds) > 1 for point in curve),
    )

    def add(title: str, full_name: str, spec: Any) -> Panel:
        panel = Panel(f"chart-{len(specs)}", title, full_name)
        specs[panel.id] = spec
        return panel

    for task, title in tasks.items():
        found = charts.points(series, charts.of_task(task), estimates_of(curve, task))
        if found:
            spec = charts.panel(found, series, chance=chance_of(cells, task), hollow=True)
            page.task_panels.append(add(f"{title} · {metric_of(cells, task)}", task, spec))
    for metric, title in EDIT_PANELS.items():
        drawn = {
            (one.label, n): e
            for one in series
            for n, e in edit_estimates(one.cells, metric).items()
        }
        found = charts.points(series, charts.of_edits(metric), drawn)
        if found:
            spec = charts.panel(found, series)
            page.edit_panels.append(add(title, metric, spec))
    for task, spec in overlay.panels(series).items():
        page.paper_panels.append(add(f"{tasks.get(task, task)} · released", task, spec))
    if any(charts.trade_off_points(one) for one in series):
        page.trade_off = add("efficacy against retention", "", charts.trade_off(series))
    return page


def short_names(tasks: Iterable[str]) -> dict[str, str]:
    """Each task's name without the words that all of them begin with; duplicates dropped."""
    words = {name: name.split("_") for name in tasks}
    shared = 0
    for place in zip(*(parts[:-1] for parts in words.values()), strict=False):
        if len(words) == 1 or len(set(place)) > 1:
            break
        shared += 1
    return {name: " ".join(parts[shared:]) for name, parts in words.items()}


def chance_of(cells: Iterable[CellView], task: str) -> float | None:
    """What guessing scores in `task`."""
    found = (headlines(cell.record).get(task) for cell in cells if cell.record)
    return next((score.chance for _, score, _ in filter(None, found)), None)


def metric_of(cells: Iterable[CellView], task: str) -> str:
    """Name of the task's headline metric."""
    found = (headlines(cell.record).get(task) for cell in cells if cell.record)
    return next((metric for metric, _, _ in filter(None, found)), "")


def heat_rows(cells: Iterable[tuple[str, CellView]], tasks: Sequence[str]) -> list[HeatRow]:
    """The heat table: a row for each cell that is not a baseline."""
    return [
        HeatRow(
            cell=cell,
            label=label,
            mean=mean_retention(cell.record) if cell.record and cell.scored else None,
            tasks=tuple(heat_cell(cell, task) for task in tasks),
        )
        for label, cell in cells
    ]


def heat_cell(cell: CellView, task: str) -> HeatCell:
    """What `cell` kept of `task`."""
    if cell.record is None or not cell.scored:
        return HeatCell(None, sure=False, told=cell.state, state=cell.state)
    found = headlines(cell.record).get(task)
    if found is None:
        failed = task in cell.record.errors
        told = last_line(cell.record.errors[task]) if failed else "not scored in this cell"
        return HeatCell(None, sure=False, told=told, state="failed" if failed else "missing")
    metric, score, compared = found
    told = f"{metric} {value_told(score)}, {difference_told(compared)}"
    adjusted = p_holm(cell.record).get(task)
    if compared.p is not None and adjusted is not None:
        told += f", p {compared.p:.2g}, by Holm {adjusted:.2g}"
    return HeatCell(compared.retention, sure=loss_is_sure(score, compared), told=told)


def failed_tasks(cells: Iterable[CellView]) -> Iterator[tuple[str, str, str]]:
    """Cell, task and message of tasks that failed in cells that did not."""
    for cell in cells:
        if cell.record and cell.scored:
            for task, message in task_errors(cell.record).items():
                yield cell.cell, task, last_line(message)


def long_table(cells: Sequence[CellView]) -> dict[str, Any]:
    """The rows of table.csv for the page; columns that say nothing here are left out.

    Returns:
        `columns`: names, the cell's own first, its name last. `cells`: each cell's own values.
        `rows`: number of the cell, then the values of the score.
    """
    rows = [(number, row) for number, cell in enumerate(cells) for row in rows_of(cell)]
    edited = [cell for cell in cells if not cell.is_baseline]
    own = [c for c in CELL_COLUMNS[1:] if len({getattr(cell, c) for cell in edited}) > 1]
    told = [c for c in SCORE_COLUMNS if any(row[c] is not None for _, row in rows)]
    return {
        "columns": [*own, *told, "cell"],
        "cells": [[*(getattr(cell, c) for c in own), cell.cell] for cell in cells],
        "rows": [[number, *(rounded(row[c]) for c in told)] for number, row in rows],
    }


def rounded(value: Any) -> Any:
    """Figures with four decimals."""
    return round(value, 4) if isinstance(value, float) else value


def common_settings(cells: Iterable[CellView]) -> list[tuple[str, str]]:
    """Settings that all edited cells share, dotted key and value."""
    trees = [flat(cell.record.config) for cell in cells if cell.record and not cell.is_baseline]
    first = trees[0] if trees else {}
    same = [key for key in first if all(key in t and t[key] == first[key] for t in trees)]
    return [(key, plain(first[key])) for key in same]


def provenance_of(cells: Iterable[CellView]) -> list[tuple[str, str]]:
    """Where and when the cells ran; a range for figures and times that differ."""
    seen: dict[str, list[Any]] = {}
    for cell in cells:
        for key, value in flat(cell.record.provenance if cell.record else {}).items():
            seen.setdefault(key, []).append(value)
    return [(key, ranged(key, values)) for key, values in seen.items()]


def ranged(key: str, values: Sequence[Any]) -> str:
    """Distinct values in one line."""
    distinct = list(dict.fromkeys(map(plain, values)))
    if len(distinct) == 1:
        return distinct[0]
    if all(isinstance(value, int | float) for value in values):
        return f"{min(values):g} to {max(values):g}"
    if key in {"started", "finished"}:
        return f"{min(distinct)} to {max(distinct)}"
    return ", ".join(distinct[:4]) + (f" and {len(distinct) - 4} more" if len(distinct) > 4 else "")


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A tree as dotted keys; lists stay values."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def plain(value: Any) -> str:
    """A setting as one would type it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
