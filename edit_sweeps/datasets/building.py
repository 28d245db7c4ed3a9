"""What readers of published data sets share: placing the subject, accepted answers, probes, names of fields."""

from __future__ import annotations

import math
import re
import unicodedata
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
        return from_line({**draft, **asked}, full_text=True) | {"left_out": left_out}
    except FieldError as error:
        raise FieldError(_published_name(error.field or "", names), str(error)) from error


def _published_name(field: str, names: Mapping[str, str]) -> str:
    known = max((n for n in names if field.startswith(n)), key=len, default="")
    return names.get(known, "") + field.removeprefix(known)


def place_subject(item: Mapping[str, Any], prompt: str, subject: str) -> tuple[str, str]:
    """A full-text prompt with `{}` in the subject's place, and the subject as the prompt spells it.

    The subject must stand there as whole words. Of several places the first counts where no hyphen
    joins it to another word; within `Mary-Kate` there is a `Mary` only when it stands nowhere else.
    Letters of another case are accepted when nothing fits exactly: the edit is made where the
    prompt has it.

    Args:
        item: Object of the file.
        prompt: Name of the field with the prompt.
        subject: Name of the field with the subject.

    Raises:
        FieldError: One of them is missing or empty, the prompt holds `{}`, or not the subject.
    """
    text, name = text_field(item, prompt).strip(), text_field(item, subject).strip()
    if "{}" in text:
        raise FieldError(
            prompt, "holds {}, which stands for the subject elsewhere; full text is needed"
        )
    found = _whole_words(text, name, 0) or _whole_words(text, name, re.IGNORECASE)
    if found is None:
        raise FieldError(subject, f"{name!r} does not stand in {prompt}: {text!r}")
    return f"{text[: found.start()]}{{}}{text[found.end() :]}", found.group()


def _whole_words(text: str, name: str, flags: int) -> re.Match[str] | None:
    places = [
        found
        for found in re.finditer(re.escape(name), text, flags)
        if not word_goes_on(text, found.start()) and not word_goes_on(text, found.end())
    ]
    alone = (p for p in places if not _joined(text, p.start() - 1) and not _joined(text, p.end()))
    return next(alone, places[0] if places else None)


def _joined(text: str, at: int) -> bool:
    """Whether there is a hyphen at position `at`, with a letter or digit on both sides."""
    if at < 1 or text[at : at + 1] not in ("-", "\N{HYPHEN}", "\N{NON-BREAKING HYPHEN}"):
        return False
    return _letter(text, at - 1).isalnum() and text[at + 1 : at + 2].isalnum()


def word_goes_on(text: str, at: int) -> bool:
    """Whether one word stands on both sides of position `at`.

    A word goes on only between digits and letters that have an upper and a lower case: scripts
    without spaces between words cannot be told apart. Combining marks belong to the letter before
    them. A hyphen or an apostrophe ends a word.
    """
    if not 0 < at < len(text) or not _in_words(_letter(text, at - 1)):
        return False
    return _is_mark(text[at]) or _in_words(text[at])


def _letter(text: str, at: int) -> str:
    """The character at a position, or the one that the mark there stands on."""
    while at > 0 and _is_mark(text[at]):
        at -= 1
    return text[at]


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def _in_words(character: str) -> bool:
    return character.isdigit() or character.lower() != character.upper()


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
    texts = map(as_text, answers)
    return next((answer for answer in texts if str(answer).strip() != said), None)


def as_text(answer: Any) -> Any:
    """An answer that a file gives as a number, as text; anything else as it is."""
    number = isinstance(answer, int | float) and not isinstance(answer, bool)
    return str(answer) if number else answer


def kind_name(name: str) -> str | None:
    """A published kind of probe as it names a score: small letters and digits joined by _."""
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_") or None


def probe(prompt: Any, answers: Any, *, alternative: Any = None, **more: Any) -> ProbeFields | None:
    """A probe whose target is the first accepted answer; None when there is nothing to ask or to expect.

    Args:
        prompt: Text, or a list whose first text is meant.
        answers: As `accepted` takes them.
        alternative: Likewise; what is the target too, or blank, is none.
        more: Other keys of the probe.
    """
    prompts, targets = accepted(prompt), accepted(answers)
    if not prompts or not targets:
        return None
    target = as_text(targets[0])
    other = true_target(target, accepted(alternative))
    return {"prompt": prompts[0], "target": target, "alternative": other} | more


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
