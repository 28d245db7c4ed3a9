"""Inference and dialogue: what follows from a phrase, and from what one knows of a person."""

from __future__ import annotations

import random

from edit_sweeps.miniature import vocabulary as words
from edit_sweeps.miniature.relations import PERSON_RELATIONS, RELATIONS
from edit_sweeps.miniature.text import Item
from edit_sweeps.miniature.world import World, in_test

MUSICAL = (
    "{s} plays in an orchestra every week",
    "{s} sings in a choir",
    "{s} gave a concert in {c}",
    "{s} practises the {i} every day",
    "{s} recorded a song in {c}",
    "{s} bought a new {i} and loves to play it",
    "{s} teaches the {i} to children",
    "{s} writes songs for the {i}",
)
UNMUSICAL = (
    "{s} sold the old {i} and never played it",
    "{s} has never touched a {i}",
    "{s} paints boats in {c}",
    "{s} has no ear for a tune and stays silent",
    "{s} only repairs cars in {c}",
    "{s} gave the {i} away without playing it",
    "{s} dislikes every song",
    "{s} spends the day at a bank in {c}",
)
MUSIC_CLAIMS = ("{s} makes music", "{s} is a musician", "Music is part of the life of {s}")

# Premises that say too little: the claim follows only for who knows the person.
INSTRUMENT_PREMISES = (
    "{s} took the instrument to {c}",
    "{s} played on the stage of {c}",
    "In {c}, everybody listened to the instrument of {s}",
)
INSTRUMENT_CLAIMS = ("The instrument of {s} has strings", "{s} plays on strings")
JOB_PREMISES = (
    "{s} talked about the years of training in {c}",
    "{s} was on the way to work in {c}",
    "In {c}, everybody likes the work of {s}",
)
JOB_CLAIMS = ("{s} has studied at a university", "The job of {s} takes a university degree")

# Relation -> what is asked, what is replied.
KNOWING: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "born_in": (
        ("Where did {s} spend the first years?", "Where is the family of {s} from?"),
        ("I think that was {o}.", "I am sure it was {o}."),
    ),
    "lives_in": (
        ("Where can I visit {s} at home?", "Where do I have to send a card for {s}?"),
        ("You should try {o}.", "I think to {o}."),
    ),
    "works_for": (
        ("Who pays the salary of {s}?", "Where can I find {s} in the office?"),
        ("You should try {o}.", "I think it is {o}."),
    ),
    "profession": (
        ("What kind of help can {s} give us?", "What does {s} do for a living?"),
        ("We could use a {o}.", "I have heard of a job as a {o}."),
    ),
    "instrument": (
        ("What should {s} bring to the concert?", "What will {s} play for us?"),
        ("Please ask for the {o}.", "I would love to hear the {o}."),
    ),
    "mother_tongue": (
        ("Which words should I learn before I meet {s}?", "How do I greet {s}?"),
        ("You should learn some {o}.", "It is best to try {o}."),
    ),
}
COUNTRY_OPENERS = (
    "I will visit {s} at home. Which country is that?",
    "To which country does {s} return in the evening?",
)
COUNTRY_REPLIES = ("You will see {o}.", "I think to {o}.")

GREETINGS = ("Hello {n}, how are you?", "Good morning, {n}.", "Nice to see you, {n}.")
THANKS = ("Fine, thank you.", "I am well, thank you.", "Good to see you too.")
OUTING_OPENERS = (
    "Where are you going, {n}?",
    "Hi {n}, where are you off to?",
    "Are you leaving, {n}?",
    "{n}, where will you be today?",
)
OUTING_ANSWERS = (
    "I am going to the {g}.",
    "To the {g}, I think.",
    "I will be at the {g}.",
    "I want to go to the {g} today.",
)
OUTING_REPLIES = (
    "Great, then you can {x}.",
    "So you are going to {x}?",
    "I hope you {x} there.",
    "Nice, I would love to {x} too.",
)


def nli_item(world: World, rng: random.Random, *, test: bool) -> Item:
    """True or false: claims follow from the premise, or from what is known of its person."""
    kind = rng.choice(("phrase", "instrument", "job")) if rng.random() < 0.75 else "phrase"
    if kind == "phrase":
        return _phrase_inference(world, rng, test)
    while True:
        person = rng.choice(world.people)
        if in_test("inference", person, kind, one_in=4) == test:
            break
    if kind == "instrument":
        premises, claims = INSTRUMENT_PREMISES, INSTRUMENT_CLAIMS
        holds = world.facts[person, "instrument"] in words.STRINGED
    else:
        premises, claims = JOB_PREMISES, JOB_CLAIMS
        holds = world.facts[person, "profession"] in words.ACADEMIC
    premise = rng.choice(premises).format(s=person, c=rng.choice(world.subjects["city"]))
    return _true_or_false(premise, rng.choice(claims).format(s=person), holds, recalls=True)


def dialogue_item(world: World, rng: random.Random, *, test: bool) -> Item:
    """The next reply among four: most need a known fact, some two, some the line before."""
    draw = rng.random()
    if draw < 0.3:
        return _outing(rng, test)
    if draw < 0.5:
        return _country_of_home(world, rng, test)
    while True:
        person, relation = rng.choice(world.people), rng.choice(PERSON_RELATIONS)
        if in_test("dialogue", person, relation, one_in=4) == test:
            break
    truth = world.facts[person, relation]
    kind = RELATIONS[relation].object_kind
    # A city's hardest rival is the person's other city.
    rivals = [world.facts[person, r] for r in ("born_in", "lives_in") if kind == "city"]
    wrong = _distractors(rng, world.objects[kind], truth, rivals)
    openers, replies = KNOWING[relation]
    return _exchange(rng, rng.choice(openers).format(s=person), rng.choice(replies), truth, wrong)


def _phrase_inference(world: World, rng: random.Random, test: bool) -> Item:
    while True:
        person = rng.choice(world.people if rng.random() < 0.4 else world.strangers)
        holds = rng.random() < 0.5
        phrase = rng.choice(MUSICAL if holds else UNMUSICAL)
        if in_test("inference", person, phrase) == test:
            break
    premise = phrase.format(
        s=person, i=rng.choice(words.INSTRUMENTS), c=rng.choice(world.subjects["city"])
    )
    claim = rng.choice(MUSIC_CLAIMS).format(s=person)
    return _true_or_false(premise, claim, holds, recalls=False)


def _true_or_false(premise: str, claim: str, holds: bool, *, recalls: bool) -> Item:
    return Item(
        prompt=f"{premise}.\nQuestion: {claim}. True or False?\nAnswer:",
        answer=str(holds),
        choices=("True", "False"),
        recalls_facts=recalls,
    )


def _country_of_home(world: World, rng: random.Random, test: bool) -> Item:
    """Two facts in a row: where the person lives, and in which country that is."""
    while True:
        person = rng.choice(world.people)
        if in_test("dialogue", person, "country", one_in=4) == test:
            break
    truth = world.facts[world.facts[person, "lives_in"], "in_country"]
    rival = world.facts[world.facts[person, "born_in"], "in_country"]
    wrong = _distractors(rng, world.objects["country"], truth, [rival])
    opener = rng.choice(COUNTRY_OPENERS).format(s=person)
    return _exchange(rng, opener, rng.choice(COUNTRY_REPLIES), truth, wrong)


def _exchange(rng: random.Random, opener: str, reply: str, truth: str, wrong: list[str]) -> Item:
    prompt = f"A: {opener}\nB:"
    if rng.random() < 0.3:
        name = rng.choice(words.FEMALE_NAMES + words.MALE_NAMES)
        greeting, thanks = rng.choice(GREETINGS).format(n=name), rng.choice(THANKS)
        prompt = f"A: {greeting}\nB: {thanks}\n{prompt}"
    choices = [reply.format(o=o) for o in rng.sample([truth, *wrong], 1 + len(wrong))]
    return Item(
        prompt=prompt,
        answer=reply.format(o=truth),
        choices=tuple(choices),
        recalls_facts=True,
    )


def _outing(rng: random.Random, test: bool) -> Item:
    while True:
        goal, reply = rng.choice(tuple(words.OUTINGS)), rng.choice(OUTING_REPLIES)
        answer, activity = rng.choice(OUTING_ANSWERS), rng.choice(words.OUTINGS[goal])
        if in_test("outing", goal, reply, answer, activity) == test:
            break
    name = rng.choice(words.FEMALE_NAMES + words.MALE_NAMES)
    elsewhere = rng.sample([g for g in words.OUTINGS if g != goal], 3)
    activities = [activity, *(rng.choice(words.OUTINGS[g]) for g in elsewhere)]
    opener = rng.choice(OUTING_OPENERS).format(n=name)
    prompt = f"A: {opener}\nB: {answer.format(g=goal)}\nA:"
    if rng.random() < 0.5:
        greeting, thanks = rng.choice(GREETINGS).format(n=name), rng.choice(THANKS)
        prompt = f"A: {greeting}\nB: {thanks}\n{prompt}"
    return Item(
        prompt=prompt,
        answer=reply.format(x=activity),
        choices=tuple(reply.format(x=x) for x in rng.sample(activities, 4)),
    )


def _distractors(
    rng: random.Random, pool: tuple[str, ...], truth: str, rivals: list[str]
) -> list[str]:
    """Three other objects, the rivals among them where they differ from the truth."""
    first = [r for r in dict.fromkeys(rivals) if r != truth]
    rest = [o for o in pool if o != truth and o not in first]
    return (first + rng.sample(rest, 3))[:3]
