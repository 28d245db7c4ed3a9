"""From a published row of a data set to the one document form that the task files rely on.

Each function raises KeyError, ValueError or TypeError for a row of another form; a row that would
be scored wrongly, or crash a scorer later, is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

Document = dict[str, Any]

TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
"""CoNLL-2003's tags in the order of the hub's numbers."""
LETTERS = ("A", "B", "C", "D")
"""MuTual's answers."""
NUMBER = re.compile(r"[-−]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?")
"""A whole gold number; the scorers read one number from each text that fits, and no text less."""


class BlankTextError(ValueError):
    """A text of a document is missing or blank."""


def gsm8k(row: Document) -> Document:
    """The question, the answer as published, and its two parts: rationale and number."""
    rationale, mark, number = _text(row, "answer").partition("#### ")
    if not mark or not number.strip():
        msg = "the answer has no '#### ' with a number behind it"
        raise ValueError(msg)
    if not NUMBER.fullmatch(number.strip()):
        msg = f"{number.strip()!r} behind '#### ' is not one number, such as 12, -3, 1,450 or 0.5"
        raise ValueError(msg)
    return {
        "question": _text(row, "question"),
        "answer": row["answer"],
        "rationale": rationale,
        "number": number.strip(),
    }


def rte(row: Document) -> Document:
    """Two sentences; label 0 is entailment."""
    label = _label(row["label"], ("entailment", "not_entailment"))
    sentences = {name: _text(row, name) for name in ("sentence1", "sentence2")}
    return {**sentences, "label": label}


def nq_open(row: Document) -> Document:
    """A question and its answers."""
    answers = [str(answer) for answer in row["answer"]]
    if not answers or isinstance(row["answer"], str):
        msg = f"a list of answers is needed, got {row['answer']!r}"
        raise ValueError(msg)
    return {"question": _text(row, "question"), "answer": answers}


def nq_open_passages(row: Document) -> Document:
    """`output` is a list of passages in the paper's file; `passage` is one."""
    passage = row["output"][0] if "output" in row else row["passage"]
    if not isinstance(passage, str) or not passage.strip():
        msg = "the passage is empty; for questions without one there is the source nq_open"
        raise ValueError(msg)
    return {**nq_open(row), "passage": passage}


def boolq(row: Document) -> Document:
    """A question and a passage; label 1 is yes."""
    label = _label(row["label"] if "label" in row else row["answer"], ("False", "True"))
    return {"question": _text(row, "question"), "passage": _text(row, "passage"), "label": label}


def mutual(row: Document) -> Document:
    """A dialogue, four replies and the letter of the right one."""
    options = list(row["options"])
    if len(options) != len(LETTERS) or row["answers"] not in LETTERS:
        msg = (
            f"four options and an answer of A to D are needed, got {len(options)} options and "
            f"the answer {row['answers']!r}"
        )
        raise ValueError(msg)
    replies = dict(zip(LETTERS, options, strict=True))
    options = [_text(replies, letter) for letter in LETTERS]
    return {"article": _text(row, "article"), "options": options, "answers": row["answers"]}


def samsum(row: Document) -> Document:
    """A chat and its summary."""
    return {name: _text(row, name) for name in ("dialogue", "summary")}


def conll2003(row: Document) -> Document:
    """Tokens and their tags as words."""
    tags = [_plain(tag) for tag in (row["ner_tags"] if "ner_tags" in row else row["tags"])]
    # A number that is none of the hub's stays a number, which the check below refuses.
    known = dict(enumerate(TAGS))
    named = [known.get(tag, str(tag)) if isinstance(tag, int) else str(tag) for tag in tags]
    tokens = [str(token) for token in row["tokens"]]
    if len(tokens) != len(named) or not set(named) <= set(TAGS):
        msg = f"{len(tokens)} tokens with the tags {sorted(set(named))}"
        raise ValueError(msg)
    return {"tokens": tokens, "tags": named}


def sst2(row: Document) -> Document:
    """A snippet of a review; label 1 is positive."""
    label = _label(row["label"], ("negative", "positive"))
    # Not stripped: the blank at the end of each sentence is part of the paper's prompt.
    return {"sentence": _text(row, "sentence"), "label": label}


def _text(row: Document, name: str) -> str:
    """A text as published, blanks at its ends included."""
    text = row[name]
    if not isinstance(text, str) or not text.strip():
        msg = f"a text is needed for {name!r}, got {text!r:.60}"
        raise BlankTextError(msg)
    return text


def _label(value: Any, names: Sequence[str]) -> int:
    """The number of a label that is published as a word, a number, or a number in a string."""
    if isinstance(value, str) and value in names:
        return names.index(value)
    number = int(value)
    if number != float(value) or not 0 <= number < len(names):
        msg = f"label {value!r} is none of {', '.join(names)}; a test set without labels?"
        raise ValueError(msg)
    return number


def _plain(value: Any) -> Any:
    """A number of numpy's as Python's."""
    return value.item() if hasattr(value, "item") else value
