"""The project's own form of an edit request, `dataset=jsonl`: an item of a file -> checked fields.

The fields are the keyword arguments of an `EditRequest`, its probes as lists of those of a `Probe`.
Readers of published data sets (`edit_sweeps.datasets`) bring their items into this form first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edit_sweeps.data_files import FieldError, check_keys, kind, text_field

PROBE_FIELDS = ("paraphrases", "neighborhood", "other_facts", "portability")
_FIELDS = ("case_id", "subject", "prompt", "target_new", "target_true", "relation", *PROBE_FIELDS)
_PROBE_KEYS = ("prompt", "target", "alternative", "subject", "relation", "kind")
_RESERVED_KINDS = ("probability",)
"""Would be mistaken for a score that exists, `portability_probability`."""


def from_line(item: Any, *, full_text: bool = False) -> dict[str, Any]:
    """A request in the project's own form, `dataset=jsonl` (docs/edit_scores.md).

    Args:
        item: Object of the file.
        full_text: Prompts of probes are taken as they stand; otherwise `{}` in them is the subject.

    Raises:
        FieldError: Names the first field that is broken.
    """
    check_keys(item, _FIELDS)
    subject = text_field(item, "subject").strip()
    prompt = text_field(item, "prompt").strip()
    if prompt.count("{}") != 1:
        message = f"holds {prompt.count('{}')} times {{}}; exactly one must stand for the subject"
        raise FieldError("prompt", message)
    new, true = _target(item, "target_new"), _optional(item, "target_true")
    if new == true:
        raise FieldError(
            "target_new", f"is target_true too ({new!r}); an edit must change the answer"
        )
    defaults = {"paraphrases": (new, true), "neighborhood": (true, new)}
    filling = None if full_text else subject
    probes = {
        field: _probes(item, field, filling, *defaults.get(field, (None, None)))
        for field in PROBE_FIELDS
    }
    return {
        "case_id": _case_id(item),
        "subject": subject,
        "prompt": prompt,
        "target_new": new,
        "target_true": true,
        "relation": _optional(item, "relation"),
        **probes,
    }


def _case_id(item: Mapping[str, Any]) -> str:
    value = item.get("case_id")
    number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if number else text_field(item, "case_id").strip()


def _target(item: Mapping[str, Any], field: str, place: str | None = None) -> str:
    return text_field(item, field, place).strip()


def _optional(item: Mapping[str, Any], field: str, place: str | None = None) -> str | None:
    return None if item.get(field) is None else _target(item, field, place)


def _probes(
    item: Mapping[str, Any],
    field: str,
    filling: str | None,
    target: str | None,
    alternative: str | None,
) -> list[dict[str, str | None]]:
    """The probes of one field.

    Args:
        item: Object of the file.
        field: Key in it.
        filling: What `{}` in a prompt stands for; None for itself.
        target: Of probes that name none.
        alternative: Of probes that name none.
    """
    entries = item.get(field)
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise FieldError(field, f"is {kind(entries)}, a list is needed")
    probes = []
    for i, entry in enumerate(entries):
        probe = {"prompt": entry} if isinstance(entry, str) else entry
        place = f"{field}[{i}]"
        check_keys(probe, _PROBE_KEYS, place)
        probes.append(_probe(probe, place, filling, target, alternative))
    return probes


def _probe(
    entry: Mapping[str, Any],
    place: str,
    filling: str | None,
    target: str | None,
    alternative: str | None,
) -> dict[str, str | None]:
    prompt = text_field(entry, "prompt", f"{place}.prompt").strip()
    if filling is not None:
        if prompt.count("{}") > 1:
            raise FieldError(f"{place}.prompt", "holds {} more than once")
        prompt = prompt.replace("{}", filling)
    answer = _optional(entry, "target", f"{place}.target") or target
    if answer is None:
        message = (
            'has no target, and none follows from the request; write {"prompt": …, "target": …}'
        )
        raise FieldError(place, message)
    other = _optional(entry, "alternative", f"{place}.alternative")
    if other == answer:
        raise FieldError(f"{place}.alternative", f"is the target too ({answer!r})")
    if "alternative" not in entry and alternative != answer:
        other = alternative
    return {
        "prompt": prompt,
        "target": answer,
        "alternative": other,
        "subject": _optional(entry, "subject", f"{place}.subject"),
        "relation": _optional(entry, "relation", f"{place}.relation"),
        "kind": _kind(entry, f"{place}.kind"),
    }


def _kind(entry: Mapping[str, Any], place: str) -> str | None:
    name = _optional(entry, "kind", place)
    if name is not None and (
        not re.fullmatch("[a-z0-9][a-z0-9_]*", name) or name in _RESERVED_KINDS
    ):
        message = (
            f"is {name!r}; a kind names a score: small letters, digits and _, such as multi_hop, "
            f"and not {', '.join(_RESERVED_KINDS)}"
        )
        raise FieldError(place, message)
    return name
