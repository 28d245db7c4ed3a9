"""What other documents would have given: a bootstrap of a study's cells, all on the same draws.

The samples of the cells are read here and nowhere else in the report, one cell at a time; of each
only what its tasks' headline metrics need is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edit_sweeps.across_seeds import Array, DocumentSpread, times_drawn
from edit_sweeps.aggregations import AGGREGATIONS, Aggregation
from edit_sweeps.record import SAMPLES_FILE, Comparison, Score
from edit_sweeps.table import Z_95

KEY = re.compile(r'\s*[{,]\s*("(?:[^"\\]|\\.)*")\s*:\s*')
CLOSED = re.compile(r"\s*\{?\s*\}")
Drawn = dict[str, tuple[Array, int]]
"""Quantity -> its values in each draw of documents, `[draws, seeds]`, and number of documents."""


@dataclass(frozen=True)
class Sampled:
    """What a model scored on each document of a task: ids in order, statistics `[docs, k]`."""

    ids: tuple[str, ...]
    values: Array

    def on(self, ids: tuple[str, ...]) -> Array:
        """The statistics of `ids`, in their order."""
        if ids == self.ids:
            return self.values
        place = {document: number for number, document in enumerate(self.ids)}
        return self.values[[place[document] for document in ids]]

    @property
    def is_share(self) -> bool:
        """Whether no document's statistic lets a mean leave 0 to 1."""
        return bool(self.values.min() >= 0 and self.values.max() <= 1)


@dataclass
class Bootstrap:
    """One task's draws of documents, made once for all cells: they are crossed with the seeds."""

    times: dict[tuple[str, ...], Array] = field(default_factory=dict)

    def __call__(self, sampled: Sampled, ids: tuple[str, ...], how: Aggregation) -> Array:
        """The score in each draw of `ids`, `[draws]`."""
        if ids not in self.times:
            self.times[ids] = times_drawn(len(ids))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return how.of_draws(sampled.on(ids), self.times[ids])


def read_samples(folder: Path, wanted: Mapping[str, tuple[str, Score]]) -> dict[str, Sampled]:
    """Some metrics' samples of one cell; none where there is no readable file.

    Args:
        folder: The cell's folder.
        wanted: Task -> metric and score.
    """
    metrics = {task: metric for task, (metric, _) in wanted.items()}
    try:
        stored = pick((folder / SAMPLES_FILE).read_text(encoding="utf-8"), metrics)
    except (OSError, ValueError):
        return {}
    found = {}
    for task, documents in stored.items():
        if documents and wanted[task][1].aggregation in AGGREGATIONS:
            ids = tuple(sorted(documents))
            table = np.array([documents[i] for i in ids], dtype=np.float64)
            found[task] = Sampled(ids, table.reshape(len(ids), -1))
    return found


def pick(text: str, wanted: Mapping[str, str]) -> dict[str, dict[str, list[float]]]:
    """One metric of each task out of `task -> metric -> document -> numbers`, without reading the rest.

    A file of ten metrics is parsed in a tenth of the time. Documents hold numbers, so that a metric
    that is passed over ends at its first brace; where a document's name has one, all is parsed.

    Raises:
        ValueError: The text is not JSON.
    """
    found: dict[str, dict[str, list[float]]] = {}
    at, decoder = 0, json.JSONDecoder()
    while task := KEY.match(text, at):
        name, at = json.loads(task[1]), task.end()
        while metric := KEY.match(text, at):
            if json.loads(metric[1]) == wanted.get(name):
                found[name], at = decoder.raw_decode(text, metric.end())
            else:
                at = text.find("}", metric.end()) + 1 or len(text)
        closed = CLOSED.match(text, at)
        at = closed.end() if closed else len(text)
    if text[at:].strip() != "}" and text.strip() != "{}":
        stored = json.loads(text)
        return {task: stored[task][m] for task, m in wanted.items() if m in stored.get(task, {})}
    return found


def draw(
    scores: Sequence[Score],
    compared: Sequence[Comparison],
    sampled: Sequence[Sampled | None],
    unedited: Sequence[Sampled],
    bootstrap: Bootstrap,
) -> Drawn:
    """Score, retention and ratio of several seeds in each draw of documents; what can be told.

    Retention and ratio are taken to first order around what was measured, so that a baseline near
    chance, or near 0, makes their intervals wide and not wild.

    Args:
        scores: Of each seed.
        compared: Of each seed, with the baseline.
        sampled: Of each seed; None where there are no samples.
        unedited: The samples of the model's baselines, among which that of the seeds is looked for.
        bootstrap: Of the task.
    """
    present = [one for one in sampled if one is not None]
    ids = common(present)
    if len(present) < len(sampled) or len(ids) < 2:
        return {}
    how = AGGREGATIONS[scores[0].aggregation]
    edited = np.stack([bootstrap(one, ids, how) for one in present], axis=1)
    drawn: Drawn = {"score": (edited, len(ids))}
    baseline = baseline_of(unedited, present[0], compared[0], how)
    both = common([*present, baseline]) if baseline else ()
    if baseline is None or len(both) < 2:
        return drawn
    if both != ids:
        edited = np.stack([bootstrap(one, both, how) for one in present], axis=1)
    before, base = bootstrap(baseline, both, how)[:, None], compared[0].baseline
    for quantity, floor in (("retention", scores[0].chance), ("ratio", 0.0)):
        if floor is not None and base is not None and base != floor:
            kept = (edited.mean(axis=0) - floor) / (base - floor)
            drawn[quantity] = ((edited - kept * before) / (base - floor), len(both))
    return drawn


def common(sampled: Sequence[Sampled]) -> tuple[str, ...]:
    """The documents that all of them hold."""
    if not sampled:
        return ()
    ids = sampled[0].ids
    if all(one.ids == ids for one in sampled):
        return ids
    return tuple(sorted(set(ids).intersection(*(one.ids for one in sampled))))


def baseline_of(
    unedited: Sequence[Sampled], edited: Sampled, compared: Comparison, how: Aggregation
) -> Sampled | None:
    """The baseline that a cell was compared with: the one that scores what its record says."""
    for one in unedited:
        ids = common([one, edited])
        if ids and compared.baseline is not None and one.values.shape[1] == edited.values.shape[1]:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                value = float(how(one.on(ids)))
            if np.isclose(value, compared.baseline, rtol=1e-9, atol=1e-12):
                return one
    return None


def recorded_spread(
    quantity: str, scores: Sequence[Score], compared: Sequence[Comparison]
) -> DocumentSpread | None:
    """Without samples: from the intervals in the records, as if all seeds moved together."""
    variances = []
    for score, c in zip(scores, compared, strict=True):
        low, high = (score.low, score.high) if quantity == "score" else (c.low, c.high)
        floor = score.chance or 0.0 if quantity == "retention" else 0.0
        unit = 1.0 if quantity == "score" else (c.baseline or 0.0) - floor
        if low is None or high is None or not unit:
            return None
        variances.append(((high - low) / (2 * Z_95 * unit)) ** 2)
    variance = sum(variances) / len(variances)
    return DocumentSpread(variance, variance, min(score.n for score in scores))
