"""Data files that users write: their items with line numbers, checks of fields, digests."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

_SPACE = re.compile(r"\s*")
_TYPES = {
    str: "a string",
    bool: "true/false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


class RequestError(ValueError):
    """The data set cannot give the requests that were asked for."""


class FieldError(ValueError):
    """One item of a data file is broken.

    Attributes:
        field: The field at fault, as the file spells it; None when the item as a whole is.
    """

    def __init__(self, field: str | None, message: str) -> None:
        super().__init__(message)
        self.field = field


def json_items(path: Path) -> Iterator[tuple[int, Any]]:
    """The items of a JSON list, or of a file with one JSON object a line, with the lines they begin on.

    Which of the two it is shows in the first character: `[` begins a list.

    Raises:
        RequestError: It begins like a list and is not one JSON list in UTF-8.
    """
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return json_list(path) if start.startswith(b"[") else json_lines(path)


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The items of a JSON-lines file with their lines, counted from 1; blank lines are passed over.

    A line that cannot be read gives a `FieldError` in the item's place.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if line.strip():
                yield number, _json_line(line, number)


def _json_line(raw: bytes, number: int) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return FieldError(None, f"is not UTF-8 text (byte {error.start + 1} of the line)")
    except json.JSONDecodeError as error:
        hint = ""
        if number == 1:
            hint = ". A file is either one list [...], or one object {...} on each line"
        return FieldError(None, f"is not valid JSON: {error.msg} at column {error.colno}{hint}")


def json_list(path: Path) -> Iterator[tuple[int, Any]]:
    """The items of a JSON list with the lines they begin on, counted from 1.

    Raises:
        RequestError: The file is not one JSON list in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{path} is not UTF-8 text (byte {error.start + 1})"
        raise RequestError(msg) from error
    if not text.strip():
        return
    try:
        yield from _list_items(text)
    except json.JSONDecodeError as error:
        msg = f"{path}, line {error.lineno}: is not valid JSON: {error.msg}, column {error.colno}"
        raise RequestError(msg) from error


def _list_items(text: str) -> Iterator[tuple[int, Any]]:
    decode = json.JSONDecoder().raw_decode
    line, counted = 1, 0
    at = _skip_space(text, text.index("[") + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        item, at = decode(text, at)
        yield line, item
        at = _skip_space(text, at)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
        elif text[at : at + 1] != "]":
            message = "',' or ']' is missing"
            raise json.JSONDecodeError(message, text, at)
    if text[at + 1 :].strip():
        message = "text after the list's end"
        raise json.JSONDecodeError(message, text, at + 1)


def _skip_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]  # matches the empty string too


def file_digest(path: Path) -> str:
    """The sha256 of the file's bytes; read again only when its size or time of change differs."""
    stat = path.stat()
    return _file_digest(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001  # they key the cache
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_field(item: Mapping[str, Any], field: str, place: str | None = None) -> str:
    """A field that holds text.

    Args:
        item: Object of the file.
        field: Key in it.
        place: Name of the field in messages, when the object is inside another.

    Raises:
        FieldError: It is missing, not a string, blank, or not text that UTF-8 can hold.
    """
    place = place or field
    if field not in item:
        raise FieldError(place, "is missing")
    value = item[field]
    if not isinstance(value, str):
        raise FieldError(place, f"is {kind(value)}, a string is needed")
    if not value.strip():
        raise FieldError(place, "is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FieldError(place, "holds half of a surrogate pair, which is no character") from error
    return value


def check_keys(item: Any, known: Collection[str], place: str | None = None) -> None:
    """Refuse what is no object, and keys that are nearly a known one.

    Raises:
        FieldError: Names the key that was probably meant.
    """
    if not isinstance(item, dict):
        raise FieldError(place, f"is {kind(item)}, an object {{...}} is needed")
    for key in (k for k in item if k not in known):
        meant = difflib.get_close_matches(key, known, n=1, cutoff=0.88)
        if meant:
            raise FieldError(f"{place}.{key}" if place else key, f"did you mean {meant[0]!r}?")


def kind(value: Any) -> str:
    """What JSON calls the value, with an article."""
    return _TYPES.get(type(value), type(value).__name__)
