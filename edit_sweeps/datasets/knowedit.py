"""KnowEdit (Zhang et al. 2024, arXiv 2401.01286): wiki_recent, wiki_counterfact and ZsRE.

The three differ in what they leave out and in how deep their answers are nested; one reader takes
what is there. WikiBio edits whole sentences and is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edit_sweeps.data_files import FieldError, check_keys
from edit_sweeps.datasets.building import (
    Fields,
    ProbeFields,
    accepted,
    kind_name,
    objects,
    place_subject,
    probe,
    published,
    table,
    true_target,
)

_KEYS = (
    *("subject", "prompt", "target_new", "ground_truth", "rephrase_prompt", "rephrase", "cond"),
    *("portability", "locality"),
)
_NAMES = {
    "subject": "subject",
    "prompt": "prompt",
    "target_new": "target_new",
    "target_true": "ground_truth",
    "paraphrases": "rephrase_prompt",
    "other_facts": "locality",
    "portability": "portability",
}


def read_knowedit(item: Any, number: int) -> list[Fields]:
    """A request of KnowEdit. Its locality is about the same subject and gives other facts.

    Raises:
        FieldError: Names the first field that is broken, as KnowEdit spells it.
    """
    check_keys(item, _KEYS)
    if "labels" in item and "concept" in item:
        message = (
            "is a record of WikiBio, whose edits are sentences without a subject to write about"
        )
        raise FieldError(None, message)
    prompt, subject = place_subject(item, "prompt", "subject")
    new = item.get("target_new")
    rewordings = accepted([item.get("rephrase_prompt"), item.get("rephrase")])
    draft: dict[str, Any] = {
        "case_id": number,
        "subject": subject,
        "prompt": prompt,
        "target_true": true_target(new, accepted(item.get("ground_truth"))),
        "paraphrases": rewordings,
        "other_facts": list(_probes(item, "locality")),
        "portability": list(_probes(item, "portability")),
    }
    if "target_new" in item:
        draft["target_new"] = new
    return [published(draft, _NAMES)]


def _probes(item: dict[str, Any], field: str) -> Iterator[ProbeFields | None]:
    """The probes below a field, by name of their kind; answers are a string, a list or a list of lists."""
    kinds = table(item, field)
    for name in kinds:
        for entry in objects(kinds, name, f"{field}.{name}"):
            yield probe(entry.get("prompt"), entry.get("ground_truth"), kind=kind_name(name))
