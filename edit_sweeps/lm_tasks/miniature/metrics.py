"""Reading and scoring of the miniature's tasks; task files name these functions."""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer

DATA = Path(__file__).parents[2] / "miniature" / "data"
TYPES = ("person", "location", "organization")
ENTITY = re.compile(rf"([^;()]+) \(({'|'.join(TYPES)})\)")
NUMBER = re.compile(r"####\s*(-?\d+)")

Counts = tuple[int, int, int]
"""True positives, false positives and false negatives of one document."""


def load(file: str, **_metadata: Any) -> dict[str, Dataset]:
    """Reads a packaged data file; lm-eval hands over the task's metadata as well."""
    return {"test": Dataset.from_json(str(DATA / file))}


def reasoning(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Whether the number after ``####`` is right; invalid when there is none."""
    found, gold = NUMBER.search(results[0]), NUMBER.search(doc["answer"])
    assert gold is not None
    right = found is not None and found.group(1) == gold.group(1)
    return {"exact_match": float(right), "invalid": float(found is None)}


def short_answer(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Whether the whole answer is right; invalid when it is empty."""
    answer = results[0].strip()
    return {"exact_match": float(answer == doc["answer"]), "invalid": float(not answer)}


def summary(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Mean F of ROUGE-1, ROUGE-2 and ROUGE-L, and whether the summary is the expected one."""
    answer = results[0].strip()
    scores = _rouge().score(doc["answer"], answer)
    return {
        "rouge": sum(s.fmeasure for s in scores.values()) / len(scores),
        "exact_match": float(answer == doc["answer"]),
        "invalid": float(not answer),
    }


def entities(doc: dict[str, Any], results: list[str]) -> dict[str, float | Counts]:
    """Entities found, each with its type; invalid when nothing can be read as an entity."""
    found, gold = _entities(results[0]), _entities(doc["answer"])
    hits = (found & gold).total()
    counts = (hits, found.total() - hits, gold.total() - hits)
    return {"f1": counts, "invalid": float(not found)}


def micro_f1(counts: list[Counts]) -> float:
    """F1 over the entities of all documents."""
    hits, spurious, missed = (sum(column) for column in zip(*counts, strict=True))
    return 2 * hits / (2 * hits + spurious + missed)


@functools.cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rouge1", "rouge2", "rougeL"])


def _entities(text: str) -> Counter[tuple[str, str]]:
    return Counter((name.strip(), kind) for name, kind in ENTITY.findall(text))
