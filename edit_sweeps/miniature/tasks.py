"""The eight tasks, one for each category of the paper: items to test and documents to train."""

from __future__ import annotations

import random
from typing import Protocol

from edit_sweeps.miniature.arithmetic import drill, reasoning_item
from edit_sweeps.miniature.inference import dialogue_item, nli_item
from edit_sweeps.miniature.reading import closed_qa_document, closed_qa_item, ner_item, summary_item
from edit_sweeps.miniature.relations import RELATIONS
from edit_sweeps.miniature.reviews import sentiment_item
from edit_sweeps.miniature.text import Document, Item, Role
from edit_sweeps.miniature.world import World, question_is_test


class _Draw(Protocol):
    """Draws an item from a task's test or training split."""

    def __call__(self, world: World, rng: random.Random, /, *, test: bool) -> Item: ...


def question_item(world: World, rng: random.Random, *, test: bool) -> Item:
    """A question about a fact that training only states, or (in training) also asks about."""
    while True:
        fact = rng.choice(tuple(world.facts))
        if question_is_test(fact) == test:
            break
    relation = RELATIONS[fact[1]]
    near, far = relation.held_out_questions
    forms: tuple[str, ...] = relation.questions
    if test:
        forms = rng.choices((forms, (near,), (far,)), (0.45, 0.4, 0.15))[0]
    question = rng.choice(forms).format(fact[0])
    return Item(
        prompt=f"Question: {question}\nAnswer:", answer=world.facts[fact], recalls_facts=True
    )


DRAWS: dict[str, _Draw] = {
    "reasoning": reasoning_item,
    "nli": nli_item,
    "open_domain_qa": question_item,
    "closed_domain_qa": closed_qa_item,
    "dialogue": dialogue_item,
    "summarization": summary_item,
    "ner": ner_item,
    "sentiment": sentiment_item,
}
TASKS = tuple(DRAWS)


def draw_document(task: str, world: World, rng: random.Random) -> Document:
    """Draws a training document of a task."""
    if task == "closed_domain_qa":
        return closed_qa_document(world, rng)
    if task == "reasoning" and rng.random() < 0.25:
        return drill(rng)
    role: Role = "label" if task in {"nli", "sentiment"} else "answer"
    return DRAWS[task](world, rng, test=False).document(role)


def draw_test_items(task: str, world: World, n_items: int, seed: int) -> list[Item]:
    """Draws distinct test items."""
    rng = random.Random(f"{task} {seed}")
    items: dict[str, Item] = {}
    while len(items) < n_items:
        item = DRAWS[task](world, rng, test=True)
        items.setdefault(item.prompt, item)
    return list(items.values())
