"""CounterFact (Meng et al. 2022, arXiv 2202.05262): ROME's own form, and the flat one of EasyEdit."""

from __future__ import annotations

from typing import Any

from edit_sweeps.data_files import FieldError, check_keys, kind
from edit_sweeps.datasets.building import Fields, given, place_subject, probe, published

# Field of a request -> where ROME's CounterFact has it.
_NESTED = {
    "case_id": ("case_id",),
    "subject": ("requested_rewrite", "subject"),
    "prompt": ("requested_rewrite", "prompt"),
    "target_new": ("requested_rewrite", "target_new", "str"),
    "target_true": ("requested_rewrite", "target_true", "str"),
    "relation": ("requested_rewrite", "relation_id"),
    "paraphrases": ("paraphrase_prompts",),
    "neighborhood": ("neighborhood_prompts",),
}
_KEYS = ("case_id", "requested_rewrite", "paraphrase_prompts", "neighborhood_prompts")
_FLAT = {
    "case_id": "case_id",
    "subject": "subject",
    "prompt": "prompt",
    "target_new": "target_new",
    "target_true": "ground_truth",
    "paraphrases[0].prompt": "rephrase_prompt",
    "neighborhood[0].prompt": "locality_prompt",
    "neighborhood[0].target": "locality_ground_truth",
}


def read_counterfact(item: Any, _: int) -> list[Fields]:
    """A request of ROME's CounterFact; generation and attribute prompts are not used.

    Raises:
        FieldError: Names the first field that is broken, as CounterFact spells it.
    """
    check_keys(item, _KEYS)
    draft = {}
    for field, path in _NESTED.items():
        at: Any = item
        for depth, key in enumerate(path):
            if not isinstance(at, dict):
                raise FieldError(
                    ".".join(path[:depth]), f"is {kind(at)}, an object {{...}} is needed"
                )
            if key not in at:
                break
            at = at[key]
        else:
            draft[field] = at
    return [published(draft, {field: ".".join(path) for field, path in _NESTED.items()})]


def read_flat(item: Any, _: int) -> list[Fields]:
    """A request of EasyEdit's flat CounterFact, whose prompts are full text.

    Raises:
        FieldError: Names the first field that is broken.
    """
    check_keys(item, tuple(_FLAT.values()))
    prompt, subject = place_subject(item, "prompt", "subject")
    draft = {k: item[v] for k, v in _FLAT.items() if "[" not in k and v in item}
    draft |= {"prompt": prompt, "subject": subject}
    if given(item, "rephrase_prompt"):
        draft["paraphrases"] = [item["rephrase_prompt"]]
    if given(item, "locality_prompt"):
        answer = item.get("locality_ground_truth")
        draft["neighborhood"] = [
            probe(item["locality_prompt"], answer, alternative=item.get("target_new"))
        ]
    return [published(draft, _FLAT)]
