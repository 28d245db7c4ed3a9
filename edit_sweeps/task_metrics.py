"""From lm-eval's logged documents to scores: metric names, broken documents, chance, headline."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edit_sweeps.aggregations import AGGREGATIONS
from edit_sweeps.record import Score
from edit_sweeps.statistics import VALUE_ONLY, make_score

INVALID = "invalid"
"""Metric by which a task says that a document got no usable answer; goes into `Score.invalid`."""

CHOICES = frozenset({"acc", "acc_norm", "acc_bytes"})
"""Metrics of multiple-choice tasks in which guessing scores 1 / number of choices."""


@dataclass
class Column:
    """One metric under one filter, over the documents.

    Attributes:
        task: The lm-eval task (the first, of a group).
        metric: lm-eval's name of the metric.
        values: Document -> what the task's `process_results` gave.
    """

    task: Any
    metric: str
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def rising(self) -> bool:
        """Whether higher is better."""
        return bool(self.task.higher_is_better().get(self.metric, True))

    @property
    def function(self) -> Any:
        """lm-eval's aggregation function: the class knows it, a built task's own is replaced."""
        from lm_eval.api.metrics import mean

        return type(self.task).aggregation(self.task).get(self.metric, mean)

    @property
    def aggregation(self) -> str | None:
        """The key of `AGGREGATIONS` that does the same as `function`, told by its name.

        A task's own function named `micro_f1` must take (true positives, false positives, false
        negatives).
        """
        name = getattr(self.function, "__name__", "")
        return name if name in AGGREGATIONS else None


def collect(
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    tasks: Mapping[str, Any],
    broken: Collection[str],
    *,
    headline: str | None = None,
    chance: float | None = None,
) -> dict[str, Score]:
    """The scores of one task, or of a group pooled over the documents of its tasks.

    Args:
        rows: Task -> lm-eval's logged samples, one for each document and filter.
        tasks: Task -> lm-eval `Task`.
        broken: Prompts whose generation met logits that are not finite.
        headline: Metric that stands for the task; None: as the task's `metadata` says, else the
            first.
        chance: Of the headline; None: `chance` of the task's `metadata` (a number for the task's own
            headline, whichever is chosen here, or a number for each of several metrics), else as
            `guess` finds.

    Returns:
        Metric -> score. Documents are named by their number in the task's data, in a group by
        `task/number`.

    Raises:
        LookupError: The headline is not among the metrics.
    """
    columns: dict[tuple[str, str], Column] = {}
    dead: set[str] = set()
    choices: dict[str, int] = {}
    for task, documents in rows.items():
        for row in documents:
            document = str(row["doc_id"]) if len(rows) == 1 else f"{task}/{row['doc_id']}"
            choices[document] = len(row["arguments"])
            if _is_dead(row, broken):
                dead.add(document)
            for metric in row["metrics"]:
                key = metric, row["filter"]
                column = columns.setdefault(key, Column(tasks[task], metric))
                column.values[document] = row[metric]
    flags = {key[1]: columns.pop(key).values for key in list(columns) if key[0] == INVALID}
    first = next(iter(tasks.values()))
    named = {_clean(*key): (key, column) for key, column in columns.items()}
    metadata = first.config.metadata or {}
    own = metadata.get("headline") or _first(named, first)
    headline = headline or own
    if headline not in named:
        msg = f"headline {headline!r} is not a metric of this task; it has {', '.join(named)}"
        raise LookupError(msg)
    known = metadata.get("chance")
    chances = dict(known) if isinstance(known, Mapping) else {own: known}
    if chance is not None:
        chances[headline] = chance
    scores = {}
    for name, (key, column) in named.items():
        invalid = _share_invalid(column.values, flags.get(key[1], {}), dead)
        guessed = chances.get(name)
        guessed = guess(column, choices) if guessed is None else guessed
        scores[name] = _score(column, dead, guessed, invalid, is_headline=name == headline)
    return scores


def guess(column: Column, choices: Mapping[str, int]) -> float | None:
    """What guessing scores: 1 / number of choices, 0 for a share of right answers, else None."""
    if column.task.OUTPUT_TYPE == "multiple_choice":
        if column.metric not in CHOICES or not column.values:
            return None
        return sum(1 / choices[d] for d in column.values) / len(column.values)
    counted = column.aggregation in {"mean", "micro_f1", "macro_recall"}
    return 0.0 if column.rising and counted else None


def _score(
    column: Column, dead: set[str], chance: float | None, invalid: float, *, is_headline: bool
) -> Score:
    """A score with samples where the aggregation can be repeated; else the value alone."""
    facts: dict[str, Any] = {"chance": chance, "invalid": invalid, "headline": is_headline}
    if column.aggregation is not None:
        samples = {d: _sample(v, column, d in dead) for d, v in column.values.items()}
        return make_score(samples, column.aggregation, **facts)
    value = _own_value(column.function, column.values.values())
    return Score(value, len(column.values), aggregation=VALUE_ONLY, **facts)


def _sample(value: Any, column: Column, is_dead: bool) -> list[float]:
    """A document's statistic; 0 for a broken one, NaN where lower is better: nothing is won."""
    if isinstance(value, list | tuple):
        return [float(part) for part in value]
    if is_dead:
        return [0.0 if column.rising else math.nan]
    return [float(value)]


def _own_value(function: Any, values: Iterable[Any]) -> float | None:
    """What lm-eval's aggregation makes of the documents; None when it fails or is not finite."""
    try:
        value = float(function(list(values)))
    except (ArithmeticError, ValueError, TypeError):
        return None
    return value if math.isfinite(value) else None


def _share_invalid(values: Mapping[str, Any], flags: Mapping[str, Any], dead: set[str]) -> float:
    shares = [1.0 if d in dead else float(flags.get(d, 0.0)) for d in values]
    return sum(shares) / len(shares) if shares else 0.0


def _first(named: Mapping[str, tuple[Any, Column]], task: Any) -> str:
    """The name of the metric that a task's file lists first."""
    listed = list(type(task).aggregation(task))
    return min(named, key=lambda n: [*listed, named[n][1].metric].index(named[n][1].metric))


def _is_dead(row: Mapping[str, Any], broken: Collection[str]) -> bool:
    """Whether some log-likelihood of a document, or some logits of its answer, were not finite."""
    if any(arguments[0] in broken for arguments in row["arguments"]):
        return True
    answers = (a[0] if isinstance(a, tuple) else a for given in row["resps"] for a in given)
    return any(isinstance(a, float) and not math.isfinite(a) for a in answers)


def _clean(metric: str, filter_name: str) -> str:
    """`exact_match`, `strict-match` to `exact_match_strict_match`; no filter "none" in names."""
    name = metric if filter_name == "none" else f"{metric}_{filter_name}"
    return re.sub(r"[^\w@.]+", "_", name)
