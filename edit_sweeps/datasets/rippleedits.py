"""RippleEdits (Cohen et al. 2024, arXiv 2307.12976): edits with six kinds of test queries.

The edit is a sentence, "The name of the mother of <subject> is <target>.", made of one phrase for
each relation; the subject is named only by its Wikidata id. The phrases below take it apart again.
Where that can be done in several ways ("The name of the director of Life is Beautiful is ..."), the
other sentences about the same subject decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from edit_sweeps.data_files import FieldError, check_keys, text_field
from edit_sweeps.datasets.building import Fields, ProbeFields, objects, probe, published, table

_PORTABILITY = (
    *("Logical_Generalization", "Compositionality_I", "Compositionality_II"),
    "Subject_Aliasing",
)
_BEFORE = ("original_fact", "previous_fact")
"""What was true of the subject, by its name in the files and in the published description."""

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
    readings = _take_apart(edit, phrase, "edit")
    earlier = {
        place: _take_apart(fact, phrase, place)
        for place, fact in ((f"edit.{field}", table(edit, field)) for field in _BEFORE)
        if fact
    }
    subject = _subject(item, readings, list(earlier.values()))
    draft: dict[str, Any] = {
        "case_id": number,
        "subject": subject,
        "prompt": phrase,
        "target_new": readings[subject],
        "relation": relation,
        "other_facts": list(_probes(item, _OTHER_FACTS)),
        "portability": list(_probes(item, _PORTABILITY)),
    }
    for place, before in earlier.items():
        if subject not in before:
            raise FieldError(f"{place}.prompt", f"is not about {subject!r}, of which the edit is")
        draft["target_true"] = before[subject] or None
    return [published(draft, _NAMES)]


def _phrase(relation: str) -> str:
    words = relation.lower().replace("_", " ")
    name = "" if relation in _PLAIN else "name of the "
    return _PHRASES.get(relation, f"The {name}{words} of {{}} is")


def _take_apart(fact: dict[str, Any], phrase: str, place: str) -> dict[str, str]:
    """Every way to read a sentence in the words of its relation: subject -> target, perhaps blank."""
    sentence = text_field(fact, "prompt", f"{place}.prompt").strip()
    before, after = phrase.split("{}")
    body = sentence.removeprefix(before).removesuffix(".")
    readings = {}
    if sentence.startswith(before):
        for found in re.finditer(rf"(?<=.){re.escape(after)}(?= |$)", body):
            readings[body[: found.start()]] = body[found.end() :].strip()
    if not readings:
        message = (
            f"is {sentence!r}; in the published wording of its relation it is {phrase!r} + target"
        )
        raise FieldError(f"{place}.prompt", message)
    return readings


def _subject(
    item: dict[str, Any], readings: dict[str, str], earlier: Sequence[dict[str, str]]
) -> str:
    """The subject of the edit among those that its sentence can be read to have.

    A query about the same subject has no target after it, hence one reading. An earlier fact shares
    the whole subject with the edit, and with it every shorter reading; the longest one counts.

    Raises:
        FieldError: There are several, and nothing says which.
    """
    if len(readings) == 1:
        return next(iter(readings))
    named = readings.keys() & set(_subjects_asked(item))
    if len(named) == 1:
        return named.pop()
    shared = readings.keys() & {subject for fact in earlier for subject in fact}
    if not shared:
        message = (
            f"can be read in several ways: its subject is one of {', '.join(map(repr, readings))}, "
            "and no other sentence about it says which"
        )
        raise FieldError("edit.prompt", message)
    return max(shared, key=len)


def _subjects_asked(item: dict[str, Any]) -> Iterator[str]:
    """How the test queries about the edit's subject name it, by the wording of their relations."""
    own = table(item, "edit").get("subject_id")
    for query in _queries(item, _OTHER_FACTS):
        prompt, relation = query.get("prompt"), query.get("relation")
        if own is None or query.get("subject_id") != own:
            continue
        if isinstance(prompt, str) and isinstance(relation, str):
            before, after = _phrase(relation).split("{}")
            if prompt.startswith(before) and prompt.rstrip().endswith(after):
                yield prompt.rstrip()[len(before) :].removesuffix(after)


def _probes(item: dict[str, Any], kinds: tuple[str, ...]) -> Iterator[ProbeFields | None]:
    for name in kinds:
        for query in _queries(item, (name,)):
            answers = [answer.get("value") for answer in objects(query, "answers")]
            prompt = query.get("prompt") or query.get("phrase")
            kind = "relation_specificity" if name == "Relation_Specifity" else name.lower()
            yield probe(prompt, answers, kind=kind, relation=query.get("relation"))


def _queries(item: dict[str, Any], kinds: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for name in kinds:
        for i, test in enumerate(objects(item, name)):
            yield from objects(test, "test_queries", f"{name}[{i}].test_queries")
