"""QAEdit (Yang et al. 2025, arXiv 2502.11177): questions of NQ, TriviaQA and SimpleQA that models get wrong."""

from __future__ import annotations

from typing import Any

from edit_sweeps.data_files import check_keys
from edit_sweeps.datasets.building import (
    Fields,
    given,
    objects,
    place_subject,
    probe,
    published,
)

_KEYS = ("id", "source", "prompt", "target", "subject", "rephrase", "locality")
_NAMES = {
    "case_id": "id",
    "subject": "subject",
    "prompt": "prompt",
    "target_new": "target",
    "paraphrases[0].prompt": "rephrase",
    "neighborhood": "locality",
}


def read_qaedit(item: Any, number: int) -> list[Fields]:
    """A request of QAEdit: the true answer is written, and nothing is known to be true before.

    Raises:
        FieldError: Names the first field that is broken, as QAEdit spells it.
    """
    check_keys(item, _KEYS)
    prompt, subject = place_subject(item, "prompt", "subject")
    own = str(item.get("id", number))
    draft: dict[str, Any] = {
        "case_id": f"{item['source']}-{own}" if given(item, "source") else own,
        "subject": subject,
        "prompt": prompt,
        "neighborhood": [
            probe(entry.get("loc"), entry.get("loc_ans")) for entry in objects(item, "locality")
        ],
    }
    if "target" in item:
        draft["target_new"] = item["target"]
    if given(item, "rephrase"):
        draft["paraphrases"] = [item["rephrase"]]
    return [published(draft, _NAMES)]
