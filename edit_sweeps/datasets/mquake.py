"""MQuAKE (Zhong et al. 2023, arXiv 2305.14795): cases of one to four edits with a multi-hop question."""

from __future__ import annotations

from typing import Any

from edit_sweeps.data_files import FieldError, check_keys
from edit_sweeps.datasets.building import Fields, accepted, given, objects, probe, published, table

_KEYS = ("case_id", "requested_rewrite", "questions", "answer", "new_answer", "single_hops")
_NAMES = {
    "case_id": "case_id",
    "subject": "subject",
    "prompt": "prompt",
    "target_new": "target_new.str",
    "target_true": "target_true.str",
    "relation": "relation_id",
    "paraphrases[0].prompt": "question",
}


def read_mquake(item: Any, _: int) -> list[Fields]:
    """The requests of a case, one for each rewrite; the multi-hop questions hang on the last of them.

    Requests of a case stay together when they are sampled, so that a cell which writes the last one
    has written them all.

    Raises:
        FieldError: Names the first field that is broken, as MQuAKE spells it.
    """
    check_keys(item, _KEYS)
    rewrites = objects(item, "requested_rewrite")
    if not rewrites:
        raise FieldError(
            "requested_rewrite", "is missing or empty; a case has at least one rewrite"
        )
    case = item.get("case_id")
    requests = []
    for i, rewrite in enumerate(rewrites):
        place = f"requested_rewrite[{i}]."
        draft = _rewrite(rewrite, place) | {"case_id": case}
        names = {k: v if k == "case_id" else place + v for k, v in _NAMES.items()}
        if i == len(rewrites) - 1:
            draft["portability"] = _questions(item)
            names["portability"] = "questions"
        fields = published(draft, names)
        several = {"case": fields["case_id"], "case_id": f"{fields['case_id']}-{i}"}
        requests.append(fields | several if len(rewrites) > 1 else fields)
    return requests


def _rewrite(rewrite: dict[str, Any], place: str) -> dict[str, Any]:
    draft: dict[str, Any] = {k: rewrite[k] for k in ("subject", "prompt") if k in rewrite}
    for field in ("target_new", "target_true"):
        try:
            answer = table(rewrite, field)
        except FieldError as error:
            raise FieldError(place + field, str(error)) from error
        if "str" in answer:
            draft[field] = answer["str"]
    if given(rewrite, "relation_id"):
        draft["relation"] = rewrite["relation_id"]
    if given(rewrite, "question"):
        draft["paraphrases"] = [rewrite["question"]]
    return draft


def _questions(item: dict[str, Any]) -> list[Any]:
    """The multi-hop questions: the answer after the edits, compared with the one before."""
    after, before = item.get("new_answer"), item.get("answer")
    questions = accepted(item.get("questions"))
    return [probe(q, after, alternative=before, kind="multi_hop") for q in questions]
