"""Texts whose likelihood is asked for: a file of the user's, or WikiText-2's test pages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from edit_sweeps import task_data
from edit_sweeps.task_data import TaskDataError

PAGES = ("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1")
FIELDS = ("text", "Text", "page", "sentence")
"""Where an object's text is looked for, in this order."""


def load(**_metadata: Any) -> dict[str, datasets.Dataset]:
    """The texts, with their words and bytes; WikiText's are counted before it is detokenised, as lm-eval does.

    Raises:
        TaskDataError: The file cannot be read or holds no text.
    """
    given = task_data.given_path()
    if given is None:
        from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

        pages = datasets.load_dataset(*PAGES)["test"]
        rows = [
            {
                "text": wikitext_detokenizer(page),
                "words": len(re.split(r"\s+", page["page"])),
                "bytes": len(page["page"].encode()),
            }
            for page in pages
        ]
    else:
        texts = [text for text in _texts(Path(given).expanduser()) if text.strip()]
        rows = [
            {"text": text, "words": len(text.split()), "bytes": len(text.encode())}
            for text in texts
        ]
    if not rows:
        msg = f"{given or PAGES[0]} holds no text"
        raise TaskDataError(msg)
    return {"test": datasets.Dataset.from_list(rows)}


def likelihood(doc: dict[str, Any], results: list[Any]) -> dict[str, tuple[float, int]]:
    """Log-likelihood in nats, with the number of bytes or words that it is shared out to."""
    (given,) = results
    score = given[0] if isinstance(given, tuple) else given
    return {
        "bits_per_byte": (score, doc["bytes"]),
        "byte_perplexity": (score, doc["bytes"]),
        "word_perplexity": (score, doc["words"]),
    }


def _texts(path: Path) -> list[str]:
    """The texts of a .txt file, with blank lines between them, or of a .json or .jsonl file."""
    if not path.is_file() or path.suffix not in {".txt", ".json", ".jsonl"}:
        msg = (
            f"task.perplexity.data={path} must be a .txt file (a blank line between texts), or .json "
            f"or .jsonl with strings or objects that have one of {', '.join(FIELDS)}"
        )
        raise TaskDataError(msg)
    try:
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".txt":
            return re.split(r"\n\s*\n", content)
        rows = _list(content, path) if path.suffix == ".json" else _lines(content, path)
        return [_text(row, place) for place, row in rows]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read: {error}"
        raise TaskDataError(msg) from error


def _list(content: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Where each text stands, in words, and what stands there."""
    rows = json.loads(content)
    if not isinstance(rows, list):
        msg = (
            f"{path} holds a JSON {type(rows).__name__}; a list is needed, of strings or of objects "
            f"that have one of {', '.join(FIELDS)}"
        )
        raise TaskDataError(msg)
    for number, row in enumerate(rows, 1):
        yield f"{path}, text {number} of {len(rows)}", row


def _lines(content: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Where each text stands, in words, and what stands there; blank lines are counted and skipped."""
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            msg = f"{path}, line {number}: is not JSON ({error.msg}): {line.strip()[:80]}"
            raise TaskDataError(msg) from error
        yield f"{path}, line {number}", row


def _text(row: Any, place: str) -> str:
    if isinstance(row, str):
        return row
    for field in FIELDS:
        if isinstance(row, dict) and isinstance(row.get(field), str):
            return str(row[field])
    msg = f"{place}: is neither a string nor an object with one of {', '.join(FIELDS)}"
    raise TaskDataError(msg)
