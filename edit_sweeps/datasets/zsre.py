"""zsRE (Levy et al. 2017) as MEND split it (Mitchell et al. 2022, arXiv 2110.11309).

The same keys serve ROME and MEMIT (which write `answers[0]`) and EasyEdit and the paper arXiv
2401.04700 (which write `alt`, an alternative that another model proposed).
"""

from __future__ import annotations

from typing import Any

from edit_sweeps.data_files import check_keys
from edit_sweeps.datasets.building import (
    Fields,
    accepted,
    given,
    place_subject,
    probe,
    published,
    table,
    true_target,
)

_KEYS = (
    *("subject", "src", "pred", "rephrase", "alt", "answers", "loc", "loc_ans", "cond"),
    "portability",
)
_NAMES = {
    "subject": "subject",
    "prompt": "src",
    "paraphrases[0].prompt": "rephrase",
    "neighborhood[0].prompt": "loc",
    "neighborhood[0].target": "loc_ans",
    "portability[0].prompt": "portability.New Question",
    "portability[0].target": "portability.New Answer",
}


def read_alternative(item: Any, number: int) -> list[Fields]:
    """Write `alt`. True is the first of `answers`, `pred` that is not `alt`.

    Raises:
        FieldError: Names the first field that is broken.
    """
    draft = _draft(item, number)
    if "alt" in item:
        draft["target_new"] = item["alt"]
    truth = [*accepted(item.get("answers")), *accepted(item.get("pred"))]
    draft["target_true"] = true_target(item.get("alt"), truth)
    question = table(item, "portability")
    if given(question, "New Question"):
        asked = probe(question["New Question"], question.get("New Answer"), kind="one_hop")
        draft["portability"] = [asked]
    names = _NAMES | {"target_new": "alt", "target_true": "answers"}
    return [published(draft, names)]


def read_answer(item: Any, number: int) -> list[Fields]:
    """Write the first of `answers`, as ROME does; nothing is known to be true before.

    The portability question follows from `alt` and is not asked.

    Raises:
        FieldError: Names the first field that is broken.
    """
    draft = _draft(item, number)
    if "answers" in item:
        draft["target_new"] = next(iter(accepted(item["answers"])), "")
    return [published(draft, _NAMES | {"target_new": "answers"})]


def _draft(item: Any, number: int) -> dict[str, Any]:
    """What does not depend on the target; files have no case ids, so an item's number is its own."""
    check_keys(item, _KEYS)
    prompt, subject = place_subject(item, "src", "subject")
    draft: dict[str, Any] = {"case_id": number, "subject": subject, "prompt": prompt}
    if given(item, "rephrase"):
        draft["paraphrases"] = [item["rephrase"]]
    if given(item, "loc"):
        question = item["loc"]
        if isinstance(question, str) and not question.rstrip().endswith("?"):
            question = f"{question.rstrip()}?"  # as ROME asks it
        draft["neighborhood"] = [probe(question, item.get("loc_ans"))]
    return draft
