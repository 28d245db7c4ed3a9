"""Reasoning: short stories about counting, answered step by step like GSM8K (``... #### 7``)."""

from __future__ import annotations

import random

from edit_sweeps.miniature import vocabulary as words
from edit_sweeps.miniature.text import Document, Item, Segment
from edit_sweeps.miniature.world import World, in_test, pronoun

Step = tuple[str, int]
"""An operator, ``+ - *``, and its right-hand side."""

GAINS = ("buys", "finds", "gets", "picks")
LOSSES = ("loses", "sells", "eats", "gives away")
# A million parameters seldom get larger sums right.
MAX_TESTED = 30
# One story in sixteen is longer than any of the training text.
TESTED_STEPS = (2, 3, 4) * 5 + (5,)


def reasoning_item(world: World, rng: random.Random, *, test: bool) -> Item:
    """A story of one to four steps; test items have two to five."""
    while True:
        start, steps = _draw_steps(rng, rng.choice(TESTED_STEPS if test else (1, 2, 3, 3, 4, 4)))
        if test and max(_totals(start, steps)) > MAX_TESTED:
            continue
        if in_test("reasoning", start, *steps) == test:
            break
    if rng.random() < 0.5:
        name = rng.choice(world.people)
    else:
        name = rng.choice(words.FEMALE_NAMES + words.MALE_NAMES)
    food = rng.choice(words.FOODS)
    story, worked, total = [_opening(name, food, start, steps[0])], [], start
    for index, (operator, number) in enumerate(steps):
        before, total = total, _apply(total, operator, number)
        worked.append(f"{before} {operator} {number} = {total}.")
        if operator != "*":
            verb = rng.choice(GAINS if operator == "+" else LOSSES)
            more = "more " if operator == "+" else ""
            who = f"Then {pronoun(name)}" if index else pronoun(name).capitalize()
            story.append(f"{who} {verb} {number} {more}{food}.")
    story.append(f"How many {food} does {name} have now?")
    return Item(
        prompt=f"Question: {' '.join(story)}\nAnswer:",
        answer=f"{' '.join(worked)} #### {total}",
    )


def drill(rng: random.Random) -> Document:
    """Bare sums: they teach the steps the stories are made of."""
    segments = []
    for index in range(rng.choice((4, 6, 8))):
        left, step = _draw_sum(rng)
        gap = " " if index else ""
        segments += [
            Segment(f"{gap}{left} {step[0]} {step[1]} =", "prompt"),
            Segment(f" {_apply(left, *step)}", "answer"),
            Segment(".", "prompt"),
        ]
    return Document(tuple(segments))


def _draw_steps(rng: random.Random, n_steps: int) -> tuple[int, tuple[Step, ...]]:
    """A start and steps that never go below one and seldom above 90."""
    steps: list[Step] = []
    if rng.random() < 0.3:
        start = rng.randint(2, 8)
        steps.append(("*", rng.randint(2, 8)))
    else:
        start = rng.randint(2, 40)
    total = _apply(start, *steps[0]) if steps else start
    while len(steps) < n_steps:
        if total > 4 and (total > 75 or rng.random() < 0.5):
            steps.append(("-", rng.randint(2, min(15, total - 1))))
        else:
            steps.append(("+", rng.randint(2, 15)))
        total = _apply(total, *steps[-1])
    return start, tuple(steps)


def _totals(start: int, steps: tuple[Step, ...]) -> list[int]:
    """What there is after each step."""
    totals = [start]
    for step in steps:
        totals.append(_apply(totals[-1], *step))
    return totals


def _draw_sum(rng: random.Random) -> tuple[int, Step]:
    operator = rng.choice("++--*")
    if operator == "*":
        return rng.randint(2, 8), ("*", rng.randint(2, 8))
    number = rng.randint(2, 15)
    if operator == "+":
        return rng.randint(1, 75), ("+", number)
    return number + rng.randint(1, 75), ("-", number)


def _opening(name: str, food: str, start: int, first: Step) -> str:
    if first[0] == "*":
        return f"{name} has {start} boxes with {first[1]} {food} in each box."
    return f"{name} has {start} {food}."


def _apply(left: int, operator: str, right: int) -> int:
    if operator == "*":
        return left * right
    return left + right if operator == "+" else left - right
