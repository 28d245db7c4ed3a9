"""Documents and scores of the tasks that lm-eval lacks (SAMSum, CoNLL-2003) or scores wrongly (MuTual)."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer

from edit_sweeps import task_data

NO_ENTITY = "none"
ENTITY = re.compile(r"[;,\s]*(.+?) \((PER|ORG|LOC|MISC)\)\.?")
"""One item of a list: a type ends it, so commas within a name are part of the name."""
SPACED = (
    (" '", "'"), (" \n", "\n"), ("\n ", "\n"), (" n't", "n't"), ("`` ", '"'), ("''", '"'),
    (" :", ":"), (" ;", ";"), (" !", "!"), (" ?", "?"), (" ,", ","), (" .", "."),
)  # fmt: skip
"""How tokenised English is written, as lm-eval's mutual has it, in its order."""

Counts = tuple[int, int, int]
"""True positives, false positives and false negatives of one document."""


def load(source: str, splits: list[str], **_metadata: Any) -> dict[str, Dataset]:
    """The documents of a source; lm-eval hands over the task's metadata as well."""
    return task_data.load(source, splits)


def dialogues(documents: Dataset) -> Dataset:
    """MuTual's text as it is written, and the number of the right reply."""

    def written(doc: dict[str, Any]) -> dict[str, Any]:
        return {
            "article": _written(doc["article"]),
            "options": [_written(option) for option in doc["options"]],
            "label": "ABCD".index(doc["answers"]),
        }

    return documents.map(written)


def reply(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """Rank of the right reply by log-likelihood; of equal ones the first in order goes first.

    lm-eval's mutual takes `np.argmax` over pairs (log-likelihood, is_greedy), which is a number of
    eight flat values: 1, the first False, as long as no reply is greedy; so it always answers B.
    """
    scores = [score for score, _ in results]
    if any(map(math.isnan, scores)):
        return {"acc": 0.0, "r@2": 0.0, "mrr": 0.0}
    order = sorted(range(len(scores)), key=lambda choice: -scores[choice])
    rank = order.index(doc["label"])
    return {"acc": float(rank == 0), "r@2": float(rank < 2), "mrr": 1 / (rank + 1)}


def chat(doc: dict[str, Any]) -> str:
    """The prompt of a SAMSum dialogue."""
    lines = doc["dialogue"].replace("\r", "").strip()
    return f"Dialogue:\n{lines}\nSummary:"


def summary(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """F of ROUGE-1, ROUGE-2 and ROUGE-L with stemming, and their mean."""
    answer = results[0].strip()
    found = {name: score.fmeasure for name, score in _rouge().score(doc["summary"], answer).items()}
    mean = sum(found.values()) / len(found)
    return {**found, "rouge": mean, "invalid": float(not answer)}


def sentences(documents: Dataset) -> Dataset:
    """CoNLL's sentences as text, with the answer that is expected; without its document marks."""

    def written(doc: dict[str, Any]) -> dict[str, Any]:
        found = tagged(doc["tokens"], doc["tags"])
        listed = "; ".join(f"{name} ({kind})" for kind, name in found)
        return {"text": " ".join(doc["tokens"]), "answer": listed or NO_ENTITY}

    marks = [n for n, doc in enumerate(documents) if doc["tokens"] == ["-DOCSTART-"]]
    kept = set(range(len(documents))) - set(marks)
    return documents.select(sorted(kept)).map(written)


def tagged(tokens: Sequence[str], tags: Sequence[str]) -> list[tuple[str, str]]:
    """Type and text of the entities, as conlleval and seqeval read IOB2: a lone I- begins one."""
    found: list[tuple[str, list[str]]] = []
    before = "O"
    for token, tag in zip(tokens, tags, strict=True):
        prefix, _, kind = tag.partition("-")
        if prefix == "I" and before == kind:
            found[-1][1].append(token)
        elif prefix != "O":
            found.append((kind, [token]))
        before = kind
    return [(kind, " ".join(words)) for kind, words in found]


def entities(doc: dict[str, Any], results: list[str]) -> dict[str, float | Counts]:
    """Entities whose text and type are both right; invalid when the answer is no list of entities."""
    gold = Counter(tagged(doc["tokens"], doc["tags"]))
    answer = results[0].strip().split("\n")[0]
    found = Counter((kind, name.strip()) for name, kind in ENTITY.findall(answer))
    hits = (found & gold).total()
    counts = (hits, found.total() - hits, gold.total() - hits)
    says_none = answer.casefold().strip(" .") == NO_ENTITY
    return {"f1": counts, "invalid": float(not found and not says_none)}


def micro_f1(counts: list[Counts]) -> float:
    """F1 over the entities of all documents."""
    hits, spurious, missed = (sum(column) for column in zip(*counts, strict=True))
    return 2 * hits / (2 * hits + spurious + missed or 1)


def _written(text: str) -> str:
    for spaced, written in SPACED:
        text = text.replace(spaced, written)
    return text


@functools.cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
