"""Documents and scores of AlphaEdit's "GLUE evaluation" (Fang et al. 2025, arXiv 2410.02355; its folder glue_eval)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

SIZE = 100
"""Documents of a task, the same number of each class."""
SEED = 37
INVALID = -1
"""Class of an answer that names none."""
LETTER = re.compile(r"\b[A-D]\b")
WORD = re.compile(r"[^\W\d_]+")


def sst(documents: Dataset) -> Dataset:
    """Positive or negative."""
    return balanced(documents, ("positive", "negative"), lambda doc: 1 - int(doc["label"]))


def mrpc(documents: Dataset) -> Dataset:
    """Paraphrases or not."""
    return balanced(documents, ("Yes", "No"), lambda doc: 1 - int(doc["label"]))


def cola(documents: Dataset) -> Dataset:
    """Acceptable or not."""
    return balanced(documents, ("Yes", "No"), lambda doc: 1 - int(doc["label"]))


def rte(documents: Dataset) -> Dataset:
    """GLUE's label 0 is entailment."""
    return balanced(documents, ("False", "True"), lambda doc: 1 - int(doc["label"]))


def nli(documents: Dataset) -> Dataset:
    """GLUE's label 0 is entailment; 1 and 2 are neutral and contradiction."""
    return balanced(documents, ("True", "False"), lambda doc: int(int(doc["label"]) != 0))


def mmlu(documents: Dataset) -> Dataset:
    """Four answers; letters are the classes."""
    lettered = documents.rename_column("answer", "number")
    return balanced(lettered, ("A", "B", "C", "D"), lambda doc: int(doc["number"]))


def balanced(
    documents: Dataset, words: Sequence[str], number: Callable[[dict[str, Any]], int]
) -> Dataset:
    """At most `SIZE` documents, as many of each class, classes in turn; each with its `answer` and the `words`.

    Args:
        documents: Of the whole split.
        words: Answer of each class, in the order in which they are looked for.
        number: Document -> its class, an index of `words`.
    """
    classes = np.array([number(doc) for doc in documents], dtype=int)
    generator = np.random.default_rng(SEED)
    drawn = [generator.permutation(np.flatnonzero(classes == c)) for c in range(len(words))]
    each = min(SIZE // len(words), *map(len, drawn))
    chosen = np.stack([rows[:each] for rows in drawn], axis=1).ravel()

    def answered(doc: dict[str, Any]) -> dict[str, Any]:
        return {"answer": words[number(doc)], "words": list(words)}

    return documents.select(chosen).map(answered)


def word(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """The first whole word of the answer that is one of the task's, in any case.

    `released` is the class as AlphaEdit reads it: the first of the task's words that is a part of
    the answer, so that "no" is found in "not" and "know".
    """
    answer, words = results[0].lower(), [word.lower() for word in doc["words"]]
    found = next((word for word in WORD.findall(answer) if word in words), None)
    parts = (number for number, word in enumerate(words) if word in answer)
    return _scores(doc, INVALID if found is None else words.index(found), next(parts, INVALID))


def letter(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """The first letter of A to D that stands alone.

    `released` is the class as AlphaEdit reads it: the first of A to D, in any case, with which some
    line of the answer ends, be it the end of a longer word; the last line has no end.
    """
    found = LETTER.search(results[0])
    ends = (n for n, word in enumerate(doc["words"]) if f"{word}\n".lower() in results[0].lower())
    number = doc["words"].index(found.group()) if found else INVALID
    return _scores(doc, number, next(ends, INVALID))


def weighted_f1(pairs: Sequence[tuple[int, int]]) -> float:
    """F1 of each class over pairs (gold, predicted), weighted by the class's share (scikit-learn's `weighted`)."""
    gold, predicted = np.array(pairs).T
    total = 0.0
    for number in np.unique(gold):
        hits = ((gold == number) & (predicted == number)).sum()
        named = (gold == number).sum() + (predicted == number).sum()
        total += (gold == number).mean() * 2 * hits / named
    return float(total)


def _scores(doc: dict[str, Any], predicted: int, released: int) -> dict[str, Any]:
    gold = doc["words"].index(doc["answer"])
    return {
        "f1": (gold, predicted),
        "acc": float(gold == predicted),
        "released": (gold, released),
        "invalid": float(predicted == INVALID),
    }
