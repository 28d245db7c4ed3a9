"""A made-up study for tests of table, report, tracking and command line. SYNTHETIC: no model was ever run.

Two editors x five edit counts x eight tasks, a baseline; one cell failed, one collapsed, one is missing.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from edit_sweeps.cell import digest
from edit_sweeps.record import Comparison, Record, Score

TASKS = {  # name -> (headline metric, baseline, chance)
    "miniature_reasoning": ("exact_match", 0.81, 0.05),
    "miniature_nli": ("acc", 0.92, 0.5),
    "miniature_open_qa": ("exact_match", 0.95, 0.02),
    "miniature_closed_qa": ("acc", 0.93, 0.5),
    "miniature_dialogue": ("acc", 0.88, 0.25),
    "miniature_summarization": ("rouge1", 0.78, 0.2),
    "miniature_ner": ("f1", 0.90, 0.1),
    "miniature_sentiment": ("acc", 0.94, 0.5),
}
COUNTS = (1, 10, 30, 100, 300)
FAILED, COLLAPSED, MISSING = ("memit", 30), ("rome", 300), ("memit", 300)
N = 300
TRACEBACK = 'Traceback (most recent call last):\n  File "run.py", line 1, in run_cell\nValueError: layer 9: the model has 4 <blocks>'


def config(editor: str, num_edits: int, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A resolved configuration with the keys that tables and runs read."""
    return {
        "model": {"name": "miniature", "pretrained": "miniature://gpt2", "dtype": "float32"},
        "editor": {
            "name": editor,
            "_target_": f"edit_sweeps.editors.{editor}.X",
            "layer": 2,
            "value": {"lr": 0.5},
        },
        "edits": {"name": "sequential", "batch_size": 1},
        "regularizer": {"name": "none"},
        "dataset": {"name": "miniature", "format": "miniature", "path": None},
        "task": {task: {"name": task} for task in TASKS},
        "num_edits": num_edits,
        "seed": seed,
        "study": "synthetic",
    } | changes


def interval(value: float, n: int = N) -> tuple[float, float]:
    """A rough 95 % interval of a share."""
    half = 1.96 * math.sqrt(max(value * (1 - value), 0.001) / n)
    return max(0.0, value - half), min(1.0, value + half)


def normal_p(difference: float, half: float) -> float:
    """The p value that a normal 95 % interval of that half width goes with."""
    return math.erfc(abs(difference) / half * 1.96 / math.sqrt(2))


def provenance(attempts: int = 1) -> dict[str, Any]:
    """As run.py writes it."""
    return {
        "host": "synthetic-host",
        "device": "cpu",
        "started": "2026-01-02T03:04:05+00:00",
        "finished": "2026-01-02T03:05:05+00:00",
        "attempts": attempts,
        "seconds": {"load": 1.5, "edit": 12.25, "task/miniature_nli": 3.5, "total": 60.0},
        "peak_memory_gib": 0.75,
        "git": "abc1234",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "edit-sweeps": "0.1.0"},
    }


def make_record(
    editor: str, num_edits: int, seed: int = 0, *, overrides: dict | None = None, **changes: Any
) -> Record:
    """A record of a cell that went as one would expect of its editor."""
    rng = random.Random(f"{editor}{num_edits}{seed}{overrides}")
    cfg = config(editor, num_edits, seed, **changes)
    baseline = editor == "none"
    key = digest([cfg, overrides])
    name = f"{cfg['model']['name']}-{editor}-n{0 if baseline else num_edits}-s{0 if baseline else seed}-{key}"
    record = Record(key, name, "done", cfg, overrides=overrides or {}, provenance=provenance())
    kept = (
        1.0
        if baseline
        else math.exp(-((num_edits / {"rome": 90, "memit": 700}.get(editor, 300)) ** 1.1))
    )
    for task, (metric, base, chance) in TASKS.items():
        pull = 1.0 if baseline else kept * rng.uniform(0.93, 1.03)
        value = min(1.0, chance + (base - chance) * pull)
        low, high = interval(value)
        record.scores[task] = {
            metric: Score(value, N, low, high, chance, 0.0, headline=True),
            "nll": Score(2 - value, N, None, None),
        }
        if not baseline:
            half = 0.02 + 0.03 * abs(value - base)
            diff = value - base
            retention = (value - chance) / (base - chance)
            record.comparisons[task] = {
                metric: Comparison(
                    base, diff, diff - half, diff + half, normal_p(diff, half), retention, N
                )
            }
    if not baseline:
        add_edits(record, kept, num_edits)
    return record


def add_edits(record: Record, kept: float, num_edits: int) -> None:
    """Scores of the edits, norms and traces."""
    good = 0.6 + 0.4 * kept
    scores = {
        "efficacy": 0.99,
        "paraphrase": 0.94,
        "neighborhood": 0.96,
        "other_facts": 0.85,
        "score": 0.95,
    }
    for metric, best in scores.items():
        value = best * good
        low, high = interval(value, max(num_edits, 2))
        record.scores.setdefault("edit", {})[metric] = Score(value, num_edits, low, high)
        before = 0.05 if metric in {"efficacy", "paraphrase", "score"} else 0.97
        compared = Comparison(
            before,
            value - before,
            value - before - 0.1,
            value - before + 0.1,
            None,
            None,
            num_edits,
        )
        record.comparisons.setdefault("edit", {})[metric] = compared
    norms = {
        "update_norm": 0.1 * num_edits,
        "original_norm": 40.0,
        "relative": num_edits / 400,
        "cast_loss": 0.0,
    }
    record.weights = {"transformer.h.2.mlp.c_proj.weight": norms}
    record.traces = [{"case_id": "1", "loss": 0.1, "steps": 20, "clamp_hit": False}]
    record.counts = {"requests": num_edits, "probes_dropped": 1}
    record.health = {"finite_weights": True, "finite_logits": True, "nll": 3.5, "collapsed": False}


def plan_entry(record: Record) -> dict[str, Any]:
    """As the launcher writes it to plan.json."""
    cfg = record.config
    short = {g: cfg[g]["name"] for g in ("model", "editor", "regularizer", "dataset", "edits")}
    short |= {"batch_size": 1, "num_edits": cfg["num_edits"], "seed": cfg["seed"]}
    return {
        "name": record.name,
        "key": record.key,
        "overrides": record.overrides,
        "config_short": short,
    }


def write_study(folder: Path) -> Path:
    """Write the study to `folder` and return it."""
    records = [make_record("none", 0)]
    records += [make_record(editor, n) for editor in ("rome", "memit") for n in COUNTS]
    for record in records:
        cell = (record.config["editor"]["name"], record.config["num_edits"])
        if cell == MISSING:
            continue
        if cell == FAILED:
            record = Record(
                record.key,
                record.name,
                "failed",
                record.config,
                errors={"cell": TRACEBACK},
                provenance=provenance(2),
            )
        elif cell == COLLAPSED:
            record.state = "collapsed"
            record.health |= {"nll": 25.0, "collapsed": True}
        record.save(folder / "cells" / record.name)
    (folder / "plan.json").write_text(
        json.dumps([plan_entry(r) for r in records]), encoding="utf-8"
    )
    return folder
