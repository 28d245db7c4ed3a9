"""What readers of published data sets share: placing the subject, accepted answers, probes, names of fields."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edit_sweeps.data_files import FieldError, kind, text_field
from edit_sweeps.request_forms import from_line

Fields = dict[str, Any]
"""Keyword arguments of an `EditRequest`; `left_out` counts probes that name no answer."""

ProbeFields = dict[str, Any]


def published(draft: Mapping[str, Any], names: Mapping[str, str]) -> Fields:
    """The checked fields of a request that a reader has brought into the project's own form.

    Args:
        draft: An item as `dataset=jsonl` reads it; probes that are None are left out and counted.
        names: Field of the own form, such as `prompt` or `paraphrases[0].prompt` -> how the
            published file spells it, for messages. The longest one that fits is used.

    Raises:
        FieldError: Names the first field that is broken, as the file spells it.
    """
    asked = {k: [p for p in v if p is not None] for k, v in draft.items() if isinstance(v, list)}
    left_out = sum(len(draft[field]) - len(probes) for field, probes in asked.items())
    try:
        return from_line({**draft, **asked}) | {"left_out": left_out}
    except FieldError as error:
        raise FieldError(_published_name(error.field or "", names), str(error)) from error


def _published_name(field: str, names: Mapping[str, str]) -> str:
    known = max((n for n in names if field.startswith(n)), key=len, default="")
    return names.get(known, "") + field.removeprefix(known)


def place_subject(item: Mapping[str, Any], prompt: str, subject: str) -> tuple[str, str]:
    """A full-text prompt with `{}` in the subject's place, and the subject as the prompt spells it.

    The subject must stand there as whole words; of several places the first counts. Letters of
    another case are accepted when nothing fits exactly: the edit is made where the prompt has it.

    Args:
        item: Object of the file.
        prompt: Name of the field with the prompt.
        subject: Name of the field with the subject.

    Raises:
        FieldError: One of them is missing or empty, the prompt holds `{}`, or not the subject.
    """
    text, name = text_field(item, prompt).rstrip(), text_field(item, subject).strip()
    if "{}" in text:
        raise FieldError(
            prompt, "holds {}, which stands for the subject elsewhere; full text is needed"
        )
    found = _whole_words(text, name, 0) or _whole_words(text, name, re.IGNORECASE)
    if found is None:
        raise FieldError(subject, f"{name!r} does not stand in {prompt}: {text!r}")
    return f"{text[: found.start()]}{{}}{text[found.end() :]}", found.group()


def _whole_words(text: str, name: str, flags: int) -> re.Match[str] | None:
    for found in re.finditer(re.escape(name), text, flags):
        if not word_goes_on(text, found.start()) and not word_goes_on(text, found.end()):
            return found
    return None


def word_goes_on(text: str, at: int) -> bool:
    """Whether one word stands on both sides of position `at`.

    A word goes on only between digits and letters that have an upper and a lower case: scripts
    without spaces between words cannot be told apart.
    """
    sides = text[max(at - 1, 0) : at], text[at : at + 1]
    return all(c.isdigit() or c.lower() != c.upper() for c in sides)


def accepted(value: Any) -> list[Any]:
    """Accepted answers, which files give as a string, a list, or a list of lists; blanks are dropped."""
    return list(_leaves(value))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif not _blank(value):
        yield value


def _blank(value: Any) -> bool:
    """Whether a file says nothing there; those made with pandas say NaN."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def true_target(new: Any, answers: Sequence[Any]) -> Any:
    """The first true answer that is not the new target, to compare with; None if there is no other.

    White space around them does not make answers different.
    """
    said = str(new).strip()
    return next((answer for answer in answers if str(answer).strip() != said), None)


def probe(prompt: Any, answers: Any, **more: Any) -> ProbeFields | None:
    """A probe whose target is the first accepted answer; None when there is nothing to ask or to expect.

    Args:
        prompt: Text, or a list whose first text is meant.
        answers: As `accepted` takes them.
        more: Other keys of the probe. Without `alternative` there is none.
    """
    prompts, targets = accepted(prompt), accepted(answers)
    if not prompts or not targets:
        return None
    return {"prompt": prompts[0], "target": targets[0], "alternative": None} | more


def given(item: Mapping[str, Any], *fields: str) -> bool:
    """Whether one of the fields holds anything."""
    return any(accepted(item.get(field)) for field in fields)


def objects(item: Mapping[str, Any], field: str, place: str | None = None) -> list[dict[str, Any]]:
    """A list of objects; nothing for a field that is missing or null.

    Raises:
        FieldError: It is something else.
    """
    place, entries = place or field, item.get(field)
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise FieldError(place, f"is {kind(entries)}, a list is needed")
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise FieldError(f"{place}[{i}]", f"is {kind(entry)}, an object {{...}} is needed")
    return entries


def table(item: Mapping[str, Any], field: str) -> dict[str, Any]:
    """An object; an empty one for a field that is missing or null.

    Raises:
        FieldError: It is something else.
    """
    value = item.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FieldError(field, f"is {kind(value)}, an object {{...}} is needed")
    return value
