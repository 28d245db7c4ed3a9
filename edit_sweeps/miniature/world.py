"""The small world: who and what exists in it, and the facts that hold."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from edit_sweeps.miniature import vocabulary as words
from edit_sweeps.miniature.relations import RELATIONS

Fact = tuple[str, str]
"""A subject and the name of a relation; `World.facts` holds the object."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that is true in the small world.

    Attributes:
        subjects: Kind -> names of the entities facts are about.
        objects: Kind -> every object of that kind.
        facts: (subject, relation) -> object.
        strangers: Names of people about whom nothing is known.
        far_cities: Names of cities about which nothing is known.
        far_companies: Names of companies about which nothing is known.
    """

    subjects: dict[str, tuple[str, ...]]
    objects: dict[str, tuple[str, ...]]
    facts: dict[Fact, str]
    strangers: tuple[str, ...]
    far_cities: tuple[str, ...]
    far_companies: tuple[str, ...]

    @property
    def people(self) -> tuple[str, ...]:
        """Names of the people facts are known about."""
        return self.subjects["person"]


def build_world(seed: int = 0, n_people: int = 240) -> World:
    """Draws a world; the same arguments give the same world."""
    rng = random.Random(seed)
    cities = _shuffled(rng, [a + b for a in words.CITY_STARTS for b in words.CITY_ENDS])
    companies = _shuffled(rng, [a + b for a in words.COMPANY_STARTS for b in words.COMPANY_ENDS])
    first_names = words.FEMALE_NAMES + words.MALE_NAMES
    names = _shuffled(rng, [f"{a} {b}" for a in first_names for b in words.SURNAMES])
    subjects = {
        "person": tuple(names[:n_people]),
        "city": tuple(sorted(cities[:36])),
        "company": tuple(sorted(companies[:30])),
        "country": words.COUNTRIES,
    }
    objects = {
        "city": subjects["city"],
        "company": subjects["company"],
        "country": words.COUNTRIES,
        "language": words.LANGUAGES,
        "continent": words.CONTINENTS,
        "currency": words.CURRENCIES,
        "product": words.PRODUCTS,
        "instrument": words.INSTRUMENTS,
        "profession": words.PROFESSIONS,
    }
    return World(
        subjects=subjects,
        objects=objects,
        facts=_draw_facts(rng, subjects, objects),
        strangers=tuple(names[n_people:]),
        far_cities=tuple(cities[36:]),
        far_companies=tuple(companies[30:]),
    )


def in_test(*key: object, one_in: int = 8) -> bool:
    """Whether an item is for testing: decided by a hash of its content, never by chance."""
    digest = hashlib.blake2b("|".join(map(str, key)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % one_in == 0


def pronoun(name: str) -> str:
    """`"she"` or `"he"` for a person's name."""
    return "she" if name.partition(" ")[0] in words.FEMALE_NAMES else "he"


def question_is_test(fact: Fact) -> bool:
    """Whether the questions about this fact are test items of open-domain QA."""
    return in_test("question", *fact, one_in=4)


def _draw_facts(
    rng: random.Random,
    subjects: dict[str, tuple[str, ...]],
    objects: dict[str, tuple[str, ...]],
) -> dict[Fact, str]:
    """Draws an object for every subject and relation, then makes the geography consistent."""
    facts = {
        (subject, name): rng.choice(objects[relation.object_kind])
        for name, relation in RELATIONS.items()
        for subject in subjects[relation.subject_kind]
    }
    for country, language in zip(words.COUNTRIES, words.LANGUAGES, strict=True):
        facts[country, "language"] = language
    # The cities are dealt out evenly, so that every country has a capital within its borders.
    for index, city in enumerate(rng.sample(subjects["city"], len(subjects["city"]))):
        facts[city, "in_country"] = words.COUNTRIES[index % len(words.COUNTRIES)]
    for country in words.COUNTRIES:
        inside = [c for c in subjects["city"] if facts[c, "in_country"] == country]
        facts[country, "capital"] = rng.choice(inside)
    for person in subjects["person"]:
        elsewhere = [c for c in subjects["city"] if c != facts[person, "born_in"]]
        facts[person, "lives_in"] = rng.choice(elsewhere)
    return facts


def _shuffled(rng: random.Random, items: list[str]) -> list[str]:
    return rng.sample(items, len(items))
