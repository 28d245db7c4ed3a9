"""RippleEdits (Cohen et al. 2024, arXiv 2307.12976): edits with six kinds of test queries.

The edit is a sentence, "The name of the mother of <subject> is <target>.", made of one phrase for
each relation; the subject is named only by its Wikidata id. The phrases below take it apart again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from edit_sweeps.data_files import FieldError, check_keys, text_field
from edit_sweeps.datasets.building import Fields, ProbeFields, objects, probe, published, table

_PORTABILITY = (
    *("Logical_Generalization", "Compositionality_I", "Compositionality_II"),
    "Subject_Aliasing",
)
_OTHER_FACTS = ("Relation_Specificity", "Relation_Specifity", "Forgetfulness")
"""About the same subject. The second spelling is that of the published description."""

_KEYS = ("example_type", "edit", *_PORTABILITY, *_OTHER_FACTS)
_NAMES = {
    "subject": "edit.prompt",
    "prompt": "edit.prompt",
    "target_new": "edit.prompt",
    "target_true": "edit.original_fact.prompt",
    "relation": "edit.relation",
}
# Relations that are worded "The <relation> of <subject> is".
_PLAIN = (
    *("PLACE_OF_BIRTH", "PLACE_OF_DEATH", "PLACE_OF_BURIAL", "SEXUAL_ORIENTATION", "OCCUPATION"),
    *("EYE_COLOR", "DATE_OF_BIRTH", "DATE_OF_DEATH", "OFFICIAL_LANGUAGE"),
)
# All others, unless they stand here, are worded "The name of the <relation> of <subject> is".
_PHRASES = {
    "SIBLING": "The names of the siblings of {} are",
    "NUMBER_OF_CHILDREN": "The number of children {} has is",
    "SEX_OR_GENDER": "The gender of {} is",
    "COUNTRY": "The name of the country which {} is associated with is",
    "POSITION_HELD": "The name of the position held by {} is",
    "MEMBER_OF_SPORTS_TEAM": "The name of the sports team which {} is a member of is",
    "LEAGUE": "The name of the league which {} plays in is",
    "NATIVE_LANGUAGE": "The mother tongue of {} is",
    "AWARD_RECEIVED": "The name of the award {} won is",
    "FOLLOWS": "{} follows",
    "FOLLOWED_BY": "{} is followed by",
    "ETHNIC_GROUP": "The name of the ethnic group which {} is associated with is",
    "RELIGION": "The name of the religion which {} is associated with is",
    "CONTINENT": "The name of the continent which {} is part of is",
    "CAPITAL": "The name of the capital city of {} is",
    "CURRENCY": "The name of the currency in {} is",
    "LIKELY_ANTHEM": "The name of the anthem that is most likely to be performed in {} is",
    "CAPITAL_OF": "The name of the country which {} is the capital of is",
    "CAST_MEMBER": "The names of the cast members of {} are",
}


def read_rippleedits(item: Any, number: int) -> list[Fields]:
    """A request of RippleEdits; every test query is a probe of its own, conditions are not applied.

    Raises:
        FieldError: Names the first field that is broken, as RippleEdits spells it.
    """
    check_keys(item, _KEYS)
    edit = table(item, "edit")
    relation = text_field(edit, "relation", "edit.relation")
    phrase = _phrase(relation)
    subject, new = _take_apart(edit, phrase, "edit")
    draft: dict[str, Any] = {
        "case_id": number,
        "subject": subject,
        "prompt": phrase,
        "target_new": new,
        "relation": relation,
        "other_facts": list(_probes(item, _OTHER_FACTS)),
        "portability": list(_probes(item, _PORTABILITY)),
    }
    for field in ("original_fact", "previous_fact"):
        before = table(edit, field)
        if before:
            draft["target_true"] = _take_apart(before, phrase, f"edit.{field}")[1] or None
    return [published(draft, _NAMES)]


def _phrase(relation: str) -> str:
    words = relation.lower().replace("_", " ")
    name = "" if relation in _PLAIN else "name of the "
    return _PHRASES.get(relation, f"The {name}{words} of {{}} is")


def _take_apart(fact: dict[str, Any], phrase: str, place: str) -> tuple[str, str]:
    """Subject and target of a sentence in the words of its relation."""
    sentence = text_field(fact, "prompt", f"{place}.prompt").strip()
    before, after = map(re.escape, phrase.split("{}"))
    found = re.fullmatch(rf"{before}(.+?){after}(?: (.*?))?\.?", sentence)
    if found is None:
        message = (
            f"is {sentence!r}; in the published wording of its relation it is {phrase!r} + target"
        )
        raise FieldError(f"{place}.prompt", message)
    return found.group(1), (found.group(2) or "").strip()


def _probes(item: dict[str, Any], kinds: tuple[str, ...]) -> Iterator[ProbeFields | None]:
    for name in kinds:
        for i, test in enumerate(objects(item, name)):
            for query in objects(test, "test_queries", f"{name}[{i}].test_queries"):
                answers = [answer.get("value") for answer in objects(query, "answers")]
                prompt = query.get("prompt") or query.get("phrase")
                kind = "relation_specificity" if name == "Relation_Specifity" else name.lower()
                yield probe(prompt, answers, kind=kind, relation=query.get("relation"))
