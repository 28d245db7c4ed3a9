"""A made-up study with samples: one editor, several seeds that answer the same documents. SYNTHETIC."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from edit_sweeps.record import Record
from edit_sweeps.statistics import compare, make_score
from tests.synthetic_study import make_record

TASKS = {"nli": (0.9, 0.5), "qa": (0.8, 0.0), "guess": (0.5, 0.5)}
"""Name -> what the unedited model knows, chance. It is at chance in `guess`."""


def answers(task: str, kept: float, seed: int, n: int) -> dict[str, list[float]]:
    """Right or wrong for each document; the same documents are hard whatever the seed."""
    base, chance = TASKS[task]
    hard = np.random.default_rng([len(task), n]).random(n)
    luck = np.random.default_rng([seed, int(1e6 * kept)]).random(n)
    known = chance + (base - chance) * kept
    right = 0.5 * hard + 0.5 * luck < np.quantile(0.5 * hard + 0.5 * luck, known)
    return {str(place): [float(one)] for place, one in enumerate(right)}


def seeds_record(editor: str, num_edits: int, seed: int, baseline: Record | None, n: int) -> Record:
    """A record whose ability halves after about forty edits, sooner or later with the seed."""
    record = make_record(editor, num_edits, seed)
    record.scores = {task: found for task, found in record.scores.items() if task == "edit"}
    record.comparisons = {}
    half = 40 * math.exp(0.3 * np.random.default_rng(seed).normal())
    kept = 1.0 if baseline is None else 1 / (1 + (num_edits / half) ** 2)
    for task, (base, chance) in TASKS.items():
        del base
        right = answers(task, kept, seed, n)
        record.scores[task] = {"acc": make_score(right, chance=chance, headline=True)}
        if baseline is not None:
            mine, theirs = record.scores[task]["acc"], baseline.scores[task]["acc"]
            record.comparisons[task] = {"acc": compare(theirs, mine)}
    return record


def write_seeds(
    folder: Path, seeds: int = 3, counts: tuple[int, ...] = (1, 10, 30, 100), n: int = 60
) -> Path:
    """Write the study to `folder` and return it."""
    baseline = seeds_record("none", 0, 99, None, n)
    edited = [seeds_record("rome", k, s, baseline, n) for k in counts for s in range(seeds)]
    for record in (baseline, *edited):
        record.save(folder / "cells" / record.name)
    return folder
