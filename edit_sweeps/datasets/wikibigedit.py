"""WikiBigEdit (Thede et al. 2025, arXiv 2503.05683): changes of Wikidata between two dates, as questions."""

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
    true_target,
)

_KEYS = (
    *("tag", "subject", "update", "rephrase", "personas", "ans", "loc", "loc_ans", "mhop"),
    *("mhop_ans", "subject_id", "relation", "relation_id", "object", "object_id", "ground_truth"),
)
_NAMES = {
    "subject": "subject",
    "prompt": "update",
    "target_new": "ans",
    "target_true": "ground_truth",
    "relation": "relation_id",
    "paraphrases": "rephrase, personas",
    "neighborhood[0].prompt": "loc",
    "neighborhood[0].target": "loc_ans",
    "portability[0].prompt": "mhop",
    "portability[0].target": "mhop_ans",
}


def read_wikibigedit(item: Any, number: int) -> list[Fields]:
    """A request of WikiBigEdit; what the question's answer was before is not in the data.

    Raises:
        FieldError: Names the first field that is broken, as WikiBigEdit spells it.
    """
    check_keys(item, _KEYS)
    prompt, subject = place_subject(item, "update", "subject")
    new = item.get("ans")
    draft: dict[str, Any] = {
        "case_id": number,
        "subject": subject,
        "prompt": prompt,
        "target_true": true_target(new, accepted(item.get("ground_truth"))),
        "relation": next(iter(accepted([item.get("relation_id"), item.get("relation")])), None),
        "paraphrases": accepted([item.get("rephrase"), item.get("personas")]),
    }
    if "ans" in item:
        draft["target_new"] = new
    if given(item, "loc"):
        draft["neighborhood"] = [probe(item["loc"], item.get("loc_ans"))]
    if given(item, "mhop"):
        draft["portability"] = [probe(item["mhop"], item.get("mhop_ans"), kind="multi_hop")]
    return [published(draft, _NAMES)]
