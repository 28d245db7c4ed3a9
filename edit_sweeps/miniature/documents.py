"""The training text: facts, short biographies and the eight tasks, in fixed shares."""

from __future__ import annotations

import random
from collections.abc import Iterator

from edit_sweeps.miniature.relations import PERSON_RELATIONS, RELATIONS
from edit_sweeps.miniature.tasks import draw_document
from edit_sweeps.miniature.text import Document, Segment
from edit_sweeps.miniature.world import Fact, World, pronoun

SHARES = {
    "facts": 0.42,
    "open_domain_qa": 0.06,
    "reasoning": 0.14,
    "nli": 0.05,
    "closed_domain_qa": 0.09,
    "dialogue": 0.07,
    "summarization": 0.08,
    "ner": 0.06,
    "sentiment": 0.03,
}
"""Share of the characters of the training text."""


def document_stream(world: World, seed: int) -> Iterator[Document]:
    """Yields training documents without end."""
    rng = random.Random(f"documents {seed}")
    kinds = tuple(SHARES)
    lengths = {kind: _mean_length(kind, world) for kind in kinds}
    weights = [SHARES[kind] / lengths[kind] for kind in kinds]
    while True:
        kind = rng.choices(kinds, weights)[0]
        yield _draw(kind, world, rng)


def _draw(kind: str, world: World, rng: random.Random) -> Document:
    return _facts_document(world, rng) if kind == "facts" else draw_document(kind, world, rng)


def _mean_length(kind: str, world: World) -> float:
    """Mean characters of a document of this kind, from its own fixed draws."""
    rng = random.Random(f"length {kind}")
    return sum(len(_draw(kind, world, rng).text) for _ in range(200)) / 200


def _facts_document(world: World, rng: random.Random) -> Document:
    """One to four unrelated facts, a short biography, or a few facts about a place or a company."""
    draw = rng.random()
    if draw < 0.6:
        facts = [_any_fact(world, rng) for _ in range(rng.choice((1, 2, 3, 4)))]
        sentences = [_statement(world, rng, fact) for fact in facts]
    elif draw < 0.94:
        person = rng.choice(world.people)
        relations = rng.sample(PERSON_RELATIONS, rng.choice((2, 3, 4)))
        short = rng.random() < 0.2
        sentences = [
            _statement(world, rng, (person, relation), by_pronoun=short and index > 0)
            for index, relation in enumerate(relations)
        ]
    else:
        kind = rng.choice(("country", "country", "company", "city"))
        subject = rng.choice(world.subjects[kind])
        names = [name for name, r in RELATIONS.items() if r.subject_kind == kind]
        chosen = rng.sample(names, min(3, len(names)))
        sentences = [_statement(world, rng, (subject, name)) for name in chosen]
    segments: list[Segment] = []
    for index, sentence in enumerate(sentences):
        if index:
            segments.append(Segment(" ", "prompt"))
        segments.extend(sentence)
    return Document(tuple(segments), recalls_facts=True)


def _any_fact(world: World, rng: random.Random) -> Fact:
    if rng.random() < 0.88:
        return rng.choice(world.people), rng.choice(PERSON_RELATIONS)
    kind = rng.choice(("country", "country", "company", "city"))
    names = [name for name, r in RELATIONS.items() if r.subject_kind == kind]
    return rng.choice(world.subjects[kind]), rng.choice(names)


def _statement(
    world: World, rng: random.Random, fact: Fact, *, by_pronoun: bool = False
) -> list[Segment]:
    """A fact in one of its training phrasings."""
    subject, relation = fact
    phrasing = rng.choice(RELATIONS[relation].phrasings)
    if by_pronoun and phrasing.startswith("{} "):
        prompt = phrasing.format(pronoun(subject).capitalize())
    elif by_pronoun and phrasing.startswith("{}'s "):
        possessive = {"she": "Her", "he": "His"}[pronoun(subject)]
        prompt = phrasing.replace("{}'s", possessive)
    else:
        prompt = phrasing.format(subject)
    return [
        Segment(prompt, "prompt"),
        Segment(f" {world.facts[fact]}", "answer"),
        Segment(".", "prompt"),
    ]
