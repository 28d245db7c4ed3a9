"""The cells of a study as a tidy table: one row for each cell, task and metric."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edit_sweeps.aggregations import LOWER_IS_BETTER
from edit_sweeps.cell import FAILURE_FILE, RECORD_FILE, is_baseline
from edit_sweeps.record import Comparison, Record, Score
from edit_sweeps.statistics import holm, ratio

TABLE_FILE = "table.csv"
PLAN_FILE = "plan.json"
EDIT = "edit"
"""The task under which the scores of the edits themselves stand."""

CELL_COLUMNS = (
    "cell", "state", "model", "editor", "regularizer", "dataset", "edits", "batch_size",
    "num_edits", "seed", "overrides",
)  # fmt: skip
SCORE_COLUMNS = (
    "task", "metric", "n", "value", "low", "high", "baseline", "difference", "difference_low",
    "difference_high", "p", "p_holm", "chance", "retention", "ratio", "invalid",
)  # fmt: skip
COLUMNS = CELL_COLUMNS + SCORE_COLUMNS

SURE = 0.05
"""A task is lost by Holm's count when its adjusted p is below this."""

Z_95 = 1.959964
"""Half the width of a normal distribution's 95 % interval, in standard deviations."""

NO_COMPARISON = Comparison(None, None, None, None, None, None, 0)

Row = dict[str, Any]


@dataclass(frozen=True)
class CellView:
    """A cell as the table shows it, whether it has a record or not.

    Attributes:
        cell: Name of its folder.
        state: done | collapsed | failed | running | pending | lost | missing.
        dataset: Empty for the baseline, like `edits` and `batch_size`: it depends on none of them.
        num_edits: 0 for the baseline.
        overrides: Swept keys without a column of their own, as `key=value` joined by spaces.
        record: None while there is none that can be read.
        error: Why it failed; empty otherwise.
    """

    cell: str
    state: str
    model: str
    editor: str
    regularizer: str
    dataset: str
    edits: str
    batch_size: int | None
    num_edits: int
    seed: int
    overrides: str
    record: Record | None
    error: str = ""

    @property
    def is_baseline(self) -> bool:
        """Whether this is the unedited model."""
        return self.editor == "none"

    @property
    def scored(self) -> bool:
        """Whether there are scores to show."""
        return self.record is not None and self.state in {"done", "collapsed"}

    def order(self) -> tuple[Any, ...]:
        """Sort key: baselines first, then by what was edited and how, then by number of edits."""
        how = (self.editor, self.regularizer, self.edits, self.overrides, self.seed)
        return (
            self.model,
            not self.is_baseline,
            *how,
            self.num_edits,
            self.batch_size or 0,
            self.cell,
        )


def read_cells(study: Path, planned: Sequence[Mapping[str, Any]] | None = None) -> list[CellView]:
    """All cells of a study, sorted: those on disk, and those planned that have no record.

    Args:
        study: `outputs/<study>`.
        planned: Entries `{name, key, overrides, config_short}` and optionally `state`; None reads
            the study's plan.json, if there is one.
    """
    known = {
        str(entry["name"]): entry for entry in (read_plan(study) if planned is None else planned)
    }
    folders = (study / "cells").glob("*/")
    present = {f.name for f in folders if (f / RECORD_FILE).exists() or (f / FAILURE_FILE).exists()}
    views = [
        view_of(study / "cells" / name, known.get(name, {})) for name in known.keys() | present
    ]
    return sorted(views, key=CellView.order)


def read_plan(study: Path) -> list[dict[str, Any]]:
    """The cells ever planned in `study`; empty without a readable plan.json."""
    try:
        plan: list[dict[str, Any]] = json.loads((study / PLAN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return plan


def view_of(folder: Path, entry: Mapping[str, Any]) -> CellView:
    """The cell in `folder`, as its record says or else as it was planned.

    A record that cannot be read shows as failed, with the reason.
    """
    try:
        record = Record.load(folder)
    except FileNotFoundError:
        return planned_view(folder.name, entry, str(entry.get("state") or "missing"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return planned_view(folder.name, entry, "failed", f"{RECORD_FILE} cannot be read: {error}")
    return CellView(
        cell=folder.name,
        state=record.state,
        **columns_of(short_config(record.config)),
        overrides=plain_overrides(record.overrides),
        record=record,
        error=record.errors.get("cell", ""),
    )


def planned_view(name: str, entry: Mapping[str, Any], state: str, error: str = "") -> CellView:
    """A cell without a record; a done cell whose record has gone is missing."""
    return CellView(
        cell=name,
        state="missing" if state in {"done", "collapsed"} else state,
        **columns_of(entry.get("config_short") or {}),
        overrides=plain_overrides(entry.get("overrides") or {}),
        record=None,
        error=error,
    )


def short_config(config: Mapping[str, Any]) -> Row:
    """The columns of a cell from its resolved configuration."""
    groups = ("model", "editor", "regularizer", "dataset", "edits")
    short: Row = {group: (config.get(group) or {}).get("name") for group in groups}
    short["batch_size"] = (config.get("edits") or {}).get("batch_size")
    return short | {"num_edits": config.get("num_edits", 0), "seed": config.get("seed", 0)}


def columns_of(short: Mapping[str, Any]) -> Row:
    """`short` as columns; what a baseline ignores is blank or 0."""
    text = {k: str(short.get(k) or "") for k in ("model", "editor", "dataset", "edits")}
    columns: Row = text | {
        "regularizer": str(short.get("regularizer") or "none"),
        "batch_size": short.get("batch_size"),
        "num_edits": int(short.get("num_edits") or 0),
        "seed": int(short.get("seed") or 0),
    }
    if is_baseline({"editor": {"name": text["editor"]}}):
        ignored = {"dataset": "", "edits": "", "batch_size": None, "num_edits": 0, "seed": 0}
        columns |= ignored | {"regularizer": "none"}
    return columns


def plain_overrides(overrides: Mapping[str, Any]) -> str:
    """`key=value` pairs sorted by key, joined by spaces; values other than text as JSON."""
    return " ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for key, value in sorted(overrides.items())
    )


def rows(study: Path, planned: Sequence[Mapping[str, Any]] | None = None) -> list[Row]:
    """The tidy table of `study`; each row has the keys `COLUMNS`, None for what is unknown."""
    return [row for view in read_cells(study, planned) for row in rows_of(view)]


def rows_of(view: CellView) -> Iterator[Row]:
    """The rows of one cell: one for each task and metric, or a single one without scores.

    A task that failed in a cell that did not has one row without a metric.
    """
    empty: Row = dict.fromkeys(COLUMNS)
    cell = empty | {column: getattr(view, column) for column in CELL_COLUMNS}
    record = view.record
    if record is None or not view.scored:
        yield cell
        return
    adjusted = p_holm(record)
    for task, metrics in record.scores.items():
        chief = headline(metrics)
        for metric, score in metrics.items():
            compared = record.comparisons.get(task, {}).get(metric, NO_COMPARISON)
            p = {"p_holm": adjusted.get(task) if metric == chief else None}
            yield cell | {"task": task, "metric": metric} | score_columns(score, compared) | p
    for task in task_errors(record):
        if task not in record.scores:
            yield cell | {"task": task}


def task_errors(record: Record) -> dict[str, str]:
    """Task -> message; what could not be saved (`save=...`) is no task and will not run again."""
    return {task: m for task, m in record.errors.items() if not task.startswith("save=")}


def score_columns(score: Score, compared: Comparison) -> Row:
    """The columns that say what was measured."""
    return {
        "n": score.n,
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "baseline": compared.baseline,
        "difference": compared.difference,
        "difference_low": compared.low,
        "difference_high": compared.high,
        "p": compared.p,
        "chance": score.chance,
        "retention": compared.retention,
        "ratio": ratio(compared),
        "invalid": score.invalid,
    }


def write_table(study: Path, planned: Sequence[Mapping[str, Any]] | None = None) -> Path:
    """Write `table.csv` of `study`, aside and renamed; nothing known is an empty field."""
    path = study / TABLE_FILE
    aside = path.with_name(f".{TABLE_FILE}.{os.getpid()}")
    with aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows(study, planned))
    aside.replace(path)
    return path


def headline(metrics: Mapping[str, Score]) -> str | None:
    """The metric that stands for a task: the one marked so, else the first."""
    marked = (name for name, score in metrics.items() if score.headline)
    return next(marked, next(iter(metrics), None))


def headlines(record: Record) -> dict[str, tuple[str, Score, Comparison]]:
    """`task -> (metric, score, comparison)` of the headline metrics; the edits are not a task."""
    found = {}
    for task, metrics in record.scores.items():
        metric = headline(metrics)
        if task != EDIT and metric is not None:
            compared = record.comparisons.get(task, {}).get(metric, NO_COMPARISON)
            found[task] = (metric, metrics[metric], compared)
    return found


def mean_retention(record: Record) -> float | None:
    """Mean over the tasks whose headline metric has a retention; None when there is none."""
    kept = [c.retention for _, _, c in headlines(record).values() if c.retention is not None]
    return sum(kept) / len(kept) if kept else None


def mean_retention_interval(record: Record) -> tuple[float, float] | None:
    """95 % interval of `mean_retention`: the tasks' paired intervals, taken as independent and normal.

    The spread is that of the documents, given this baseline and these edits; other requests or
    another seed are not in it. None when there is no retention.
    """
    kept = [c for _, _, c in headlines(record).values() if c.retention is not None]
    variance = 0.0
    for _, score, c in headlines(record).values():
        if c.retention is None:
            continue
        if c.low is None or c.high is None or c.baseline is None:
            return None
        variance += ((c.high - c.low) / (2 * Z_95 * (c.baseline - (score.chance or 0.0)))) ** 2
    if not kept:
        return None
    middle = sum(c.retention or 0.0 for c in kept) / len(kept)
    reach = Z_95 * variance**0.5 / len(kept)
    return middle - reach, middle + reach


def tasks_tested(record: Record) -> list[str]:
    """Tasks that can count as lost: those with an interval of the difference, and those that broke."""
    return [
        task
        for task, (_, score, c) in headlines(record).items()
        if broke(score, c) or (c.low is not None and c.high is not None)
    ]


def tasks_lost(record: Record) -> list[str]:
    """Tasks whose headline metric got worse: the paired 95 % interval excludes zero, or it broke."""
    return [task for task, (_, score, c) in headlines(record).items() if loss_is_sure(score, c)]


def tasks_lost_by_holm(record: Record) -> list[str]:
    """Tasks whose headline metric got worse with an adjusted p below .05, or broke."""
    adjusted = p_holm(record)
    return [
        task
        for task, (_, score, compared) in headlines(record).items()
        if broke(score, compared) or (adjusted.get(task, 1.0) < SURE and is_worse(score, compared))
    ]


def p_holm(record: Record) -> dict[str, float]:
    """Task -> Holm's adjusted p of its headline metric, over the tasks of the cell that have a test."""
    tests = {task: c.p for task, (_, _, c) in headlines(record).items() if c.p is not None}
    return dict(zip(tests, holm(list(tests.values())), strict=True))


def is_worse(score: Score, compared: Comparison) -> bool:
    """Whether the difference is a loss, sure or not."""
    change = compared.difference or 0.0
    return change > 0 if score.aggregation in LOWER_IS_BETTER else change < 0


def broke(score: Score, compared: Comparison) -> bool:
    """Whether a finite score became one that is not, as the perplexity of a dead model does.

    There is no difference then, and no interval or test; but the loss is beyond doubt.
    """
    known = compared.baseline is not None and compared.difference is None
    return score.n > 0 and score.value is None and known


def loss_is_sure(score: Score, compared: Comparison) -> bool:
    """Whether the interval of the difference lies wholly on the worse side of zero, or it broke."""
    if broke(score, compared):
        return True
    if compared.low is None or compared.high is None:
        return False
    return compared.low > 0 if score.aggregation in LOWER_IS_BETTER else compared.high < 0
