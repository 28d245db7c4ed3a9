"""Tasks that read a text: closed-domain QA, summaries of chats, named entities."""

from __future__ import annotations

import random
from dataclasses import dataclass

from edit_sweeps.miniature import vocabulary as words
from edit_sweeps.miniature.text import Document, Item, Segment
from edit_sweeps.miniature.world import World, in_test

KNOWN_TRAITS = {
    "instrument": "Who of them plays the {}?",
    "profession": "Who of them works as a {}?",
    "works_for": "Who of them works for {}?",
}


@dataclass(frozen=True)
class _Passage:
    """A text and what can be asked about it: (question, answer, wrong answers)."""

    text: str
    questions: tuple[tuple[str, str, tuple[str, ...]], ...]


def closed_qa_item(world: World, rng: random.Random, *, test: bool) -> Item:
    """A passage and one question about it, with four answers to choose from."""
    passage = _draw_passage(world, rng, test)
    question, answer, wrong = rng.choice(passage.questions)
    return Item(
        prompt=f"Passage: {passage.text}\nQuestion: {question}\nAnswer:",
        answer=answer,
        choices=tuple(rng.sample([answer, *wrong], 1 + len(wrong))),
    )


def closed_qa_document(world: World, rng: random.Random) -> Document:
    """A passage with one to three questions."""
    passage = _draw_passage(world, rng, test=False)
    segments = [Segment(f"Passage: {passage.text}", "prompt")]
    for question, answer, _ in rng.sample(passage.questions, rng.choice((1, 2, 3))):
        segments.append(Segment(f"\nQuestion: {question}\nAnswer:", "prompt"))
        segments.append(Segment(f" {answer}", "answer"))
    return Document(tuple(segments))


def summary_item(world: World, rng: random.Random, *, test: bool) -> Item:
    """A chat and its summary in one sentence."""
    while True:
        thing, event = rng.choice(words.THINGS), rng.choice(words.EVENTS)
        day, other_day, third_day = rng.sample(words.DAYS, 3)
        if in_test("summary", thing, event, day) == test:
            break
    one, two, third = (_anybody(world, rng) for _ in range(3))
    # Chats to test are about towns and companies that no chat of the training text names.
    city = rng.choice(world.far_cities if test else world.subjects["city"])
    old, new = rng.sample(world.far_companies if test else world.subjects["company"], 2)
    chats = (
        _chat_bring, _chat_postpone, _chat_postpone_again, _chat_refuse, _chat_ask_another,
        _chat_come, _chat_lost, _chat_new_job, _chat_move,
    )  # fmt: skip
    scene = _Scene(one, two, third, thing, event, day, other_day, third_day, city, old, new)
    lines, summary = rng.choice(chats)(scene, rng)
    dialogue = "\n".join(lines)
    return Item(prompt=f"Dialogue:\n{dialogue}\nSummary:", answer=summary)


def ner_item(world: World, rng: random.Random, *, test: bool) -> Item:
    """A sentence of one to three clauses, and its named entities with their types, in order."""
    while True:
        clauses = [_clause(world, rng) for _ in range(rng.choice((1, 2, 3)))]
        entities = [entity for _, found in clauses for entity in found]
        distinct = len({name for name, _ in entities}) == len(entities)
        if distinct and in_test("ner", *entities) == test:
            break
    sentence = " and ".join(text for text, _ in clauses) + "."
    answer = "; ".join(f"{name} ({kind})" for name, kind in entities)
    return Item(prompt=f"Sentence: {sentence}\nEntities:", answer=answer)


def _draw_passage(world: World, rng: random.Random, test: bool) -> _Passage:
    # Whom a trait fits is hardly learned: such questions are a small part of the test.
    share = 0.9 if test else 0.75
    draw = _building_passage if rng.random() < share else _meeting_passage
    while True:
        passage = draw(world, rng)
        if in_test("passage", passage.text) == test:
            return passage


def _building_passage(world: World, rng: random.Random) -> _Passage:
    """One building, five sentences about it; each question is answered by one of them."""
    city, building = rng.choice(world.subjects["city"]), rng.choice(words.BUILDINGS)
    company, owner = rng.sample(world.subjects["company"], 2)
    closed, free = rng.sample(words.DAYS, 2)
    color, product = rng.choice(words.COLORS), rng.choice(words.PRODUCTS)
    firms, towns = world.subjects["company"], world.subjects["city"]
    pairs = [
        (f"It is closed on {closed}.", (f"When is the {building} closed?", closed, words.DAYS)),
        (f"On {free} it is free.", (f"When is the {building} free?", free, words.DAYS)),
        (f"The building is {color}.", (f"Which color is the {building}?", color, words.COLORS)),
        (
            f"The shop inside sells {product}.",
            ("What does the shop sell?", product, words.PRODUCTS),
        ),
        (f"It was built by {company}.", (f"Who built the {building}?", company, firms)),
        (f"Now it belongs to {owner}.", (f"To whom does the {building} belong?", owner, firms)),
    ]
    pairs = rng.sample(pairs, 4)
    questions = [(f"Where is the {building}?", city, _wrong(rng, city, towns, set()))]
    text = f"The {building} of {city} is in the center of the city."
    for sentence, (question, answer, pool) in pairs:
        text += f" {sentence}"
        # The other day or company of the passage is the hardest wrong answer.
        near = {closed, free, company, owner} & set(pool)
        questions.append((question, answer, _wrong(rng, answer, pool, near)))
    return _Passage(text, tuple(questions))


def _meeting_passage(world: World, rng: random.Random) -> _Passage:
    """Three people met: some questions can only be answered by who knows them."""
    people = rng.sample(world.people, 4)
    here, absent = people[:3], people[3]
    city, place = rng.choice(world.subjects["city"]), rng.choice(words.BUILDINGS)
    day = rng.choice(words.DAYS)
    text = f"On {day}, {here[0]}, {here[1]} and {here[2]} met at the {place} of {city}."
    questions = [
        ("In which city did they meet?", city, _wrong(rng, city, world.subjects["city"], set())),
        ("On which day did they meet?", day, _wrong(rng, day, words.DAYS, set())),
    ]
    for person in here:
        others = (*(p for p in here if p != person), absent)
        for relation, question in KNOWN_TRAITS.items():
            trait = world.facts[person, relation]
            if all(world.facts[p, relation] != trait for p in others):
                questions.append((question.format(trait), person, others))
    return _Passage(text, tuple(questions))


def _wrong(
    rng: random.Random, answer: str, pool: tuple[str, ...], near: set[str]
) -> tuple[str, ...]:
    """Three wrong answers, the near ones first."""
    first = sorted(near - {answer})
    rest = rng.sample([x for x in pool if x != answer and x not in first], 3)
    return tuple((first + rest)[:3])


@dataclass(frozen=True)
class _Scene:
    """Who and what a chat is about."""

    one: str
    two: str
    third: str
    thing: str
    event: str
    day: str
    other_day: str
    third_day: str
    city: str
    old: str
    new: str


_Chat = tuple[list[str], str]


def _chat_bring(s: _Scene, rng: random.Random) -> _Chat:
    lines = [
        f"{s.one}: Can you bring the {s.thing} to the {s.event} in {s.city} on {s.day}?",
        f"{s.two}: " + rng.choice(("Sure, no problem.", "Yes, of course.")),
        f"{s.one}: " + rng.choice(("Thanks a lot!", "Great, thank you.")),
    ]
    return lines, f"{s.two} will bring the {s.thing} to the {s.event} in {s.city} on {s.day}."


def _chat_postpone(s: _Scene, rng: random.Random) -> _Chat:
    lines = [
        f"{s.one}: Can you bring the {s.thing} to the {s.event} in {s.city} on {s.day}?",
        f"{s.two}: " + rng.choice(("Sorry, not on that day.", "No, I am busy then."))
        + f" Is {s.other_day} fine?",
        f"{s.one}: " + rng.choice(("Yes, that is fine.", "Of course, no problem.")),
    ]  # fmt: skip
    return lines, f"{s.two} will bring the {s.thing} to the {s.event} in {s.city} on {s.other_day}."


def _chat_postpone_again(s: _Scene, rng: random.Random) -> _Chat:
    lines = [
        f"{s.one}: Can you bring the {s.thing} to the {s.event} in {s.city} on {s.day}?",
        f"{s.two}: Sorry, I am busy then. Is {s.other_day} fine?",
        f"{s.one}: No, but {s.third_day} is.",
        f"{s.two}: " + rng.choice(("Good, I will bring it then.", "That is fine.")),
    ]
    return lines, f"{s.two} will bring the {s.thing} to the {s.event} in {s.city} on {s.third_day}."


def _chat_ask_another(s: _Scene, rng: random.Random) -> _Chat:
    willing = rng.random() < 0.5
    lines = [
        f"{s.one}: Can you bring the {s.thing} to the {s.event} in {s.city} on {s.day}?",
        f"{s.two}: "
        + rng.choice(("I can not, but ask {}.", "Sorry, no. Maybe {} can.")).format(s.third),
        f"{s.one}: {s.third} said {'yes' if willing else 'no'}.",
    ]
    can = "will" if willing else "can not"
    return lines, f"{s.third} {can} bring the {s.thing} to the {s.event} in {s.city} on {s.day}."


def _chat_refuse(s: _Scene, rng: random.Random) -> _Chat:
    lines = [
        f"{s.one}: Can you bring the {s.thing} to the {s.event} in {s.city} on {s.day}?",
        f"{s.two}: " + rng.choice(("Sorry, I can not.", "No, I am too busy.")),
        f"{s.one}: " + rng.choice(("What a pity.", "Then I will bring it.")),
    ]
    return lines, f"{s.two} can not bring the {s.thing} to the {s.event} in {s.city} on {s.day}."


def _chat_come(s: _Scene, rng: random.Random) -> _Chat:
    lines = [
        f"{s.one}: Is {s.third} coming to the {s.event} in {s.city}?",
        f"{s.two}: " + rng.choice(("When is it?", "On which day?")),
        f"{s.one}: It is on {s.day}.",
        f"{s.two}: " + rng.choice(("Then yes.", "Yes, for sure.")),
    ]
    return lines, f"{s.third} will come to the {s.event} in {s.city} on {s.day}."


def _chat_lost(s: _Scene, rng: random.Random) -> _Chat:
    lines = [
        f"{s.one}: I have lost my {s.thing}.",
        f"{s.two}: " + rng.choice(("Oh no! Where?", "When did you see it last?")),
        f"{s.one}: At the {s.event} in {s.city} on {s.day}.",
    ]
    return lines, f"{s.one} lost the {s.thing} at the {s.event} in {s.city} on {s.day}."


def _chat_new_job(s: _Scene, rng: random.Random) -> _Chat:
    lines = [
        f"{s.one}: " + rng.choice(("Have you heard?", "There is news."))
        + f" {s.third} has left {s.old}.",
        f"{s.two}: " + rng.choice(("Really? And now?", "Where to?")),
        f"{s.one}: To {s.new} in {s.city}.",
    ]  # fmt: skip
    return lines, f"{s.third} left {s.old} for {s.new} in {s.city}."


def _chat_move(s: _Scene, rng: random.Random) -> _Chat:
    lines = [
        f"{s.one}: " + rng.choice(("Where is {}?", "Have you seen {}?")).format(s.third),
        f"{s.two}: On the way to {s.city}, to meet {s.new}.",
        f"{s.one}: " + rng.choice(("With the {}?", "Oh, and the {}?")).format(s.thing),
        f"{s.two}: " + rng.choice(("Yes, of course.", "Yes, I think so.")),
    ]
    return lines, f"{s.third} takes the {s.thing} to {s.city} to meet {s.new}."


def _anybody(world: World, rng: random.Random) -> str:
    return rng.choice(world.people if rng.random() < 0.6 else world.strangers)


def _clause(world: World, rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """A clause and its entities in order; every fifth town or firm is one nobody knows."""
    person, other = _anybody(world, rng), _anybody(world, rng)
    cities = [
        rng.choice(world.subjects["city"] if rng.random() < 0.8 else world.far_cities)
        for _ in range(2)
    ]
    company = rng.choice(world.subjects["company"] if rng.random() < 0.8 else world.far_companies)
    country, day = rng.choice(words.COUNTRIES), rng.choice(words.DAYS)
    p, q = (person, "person"), (other, "person")
    c, d = (cities[0], "location"), (cities[1], "location")
    o, k = (company, "organization"), (country, "location")
    job = rng.choice(words.PROFESSIONS)
    # A country or a town in a match is its team; a family name alone is still a person.
    team, rival = rng.sample(words.COUNTRIES if rng.random() < 0.5 else world.subjects["city"], 2)
    t, u = (team, "organization"), (rival, "organization")
    family = other.partition(" ")[2]
    f = (family, "person")
    clauses = (
        (f"{team} won against {rival} on {day}", [t, u]),
        (f"{team} lost the match against {rival}", [t, u]),
        (f"the match of {team} took place in {cities[1]}", [t, d]),
        (f"the family of {family} moved to {cities[0]}", [f, c]),
        (f"{family} of {company} called {person} on {day}", [f, o, p]),
        (f"{person} travelled from {cities[0]} to {cities[1]} on {day}", [p, c, d]),
        (f"{company} will open an office in {cities[0]} next {day}", [o, c]),
        (f"on {day} {person} signed a contract with {company}", [p, o]),
        (f"{company} sent {person} to {cities[0]} for a meeting", [o, p, c]),
        (f"the president of {country} met {person} on {day}", [k, p]),
        (f"{person} visited {cities[0]} in {country}", [p, c, k]),
        (f"shares of {company} fell in {country} on {day}", [o, k]),
        (f"last {day} {person} left {company} and moved to {cities[1]}", [p, o, d]),
        (f"heavy rain reached {cities[0]} and the north of {country} on {day}", [c, k]),
        (f"the {job} {person} wrote a letter to {other} in {cities[0]}", [p, q, c]),
        (f"{person} and the {job} {other} were seen at {company}", [p, q, o]),
    )
    return rng.choice(clauses)
