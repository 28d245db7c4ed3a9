"""The eight tasks, one for each category of the paper: items to test and documents to train."""

from __future__ import annotations

import random

from edit_sweeps.miniature.arithmetic import drill, reasoning_item
from edit_sweeps.miniature.inference import dialogue_item, nli_item
from edit_sweeps.miniature.reading import closed_qa_document, closed_qa_item, ner_item, summary_item
from edit_sweeps.miniature.relations import RELATIONS
from edit_sweeps.miniature.reviews import sentiment_item
from edit_sweeps.miniature.text import Document, Item
from edit_sweeps.miniature.world import World, question_is_test

TASKS = (
    "reasoning",
    "nli",
    "open_domain_qa",
    "closed_domain_qa",
    "dialogue",
    "summarization",
    "ner",
    "sentiment",
)


def draw_item(task: str, world: World, rng: random.Random, *, test: bool) -> Item:
    """Draws one item of a task, from its test or from its training split."""
    match task:
        case "reasoning":
            return reasoning_item(world, rng, test=test)
        case "nli":
            return nli_item(world, rng, test=test)
        case "open_domain_qa":
            return _question_item(world, rng, test=test)
        case "closed_domain_qa":
            return closed_qa_item(world, rng, test=test)
        case "dialogue":
            return dialogue_item(world, rng, test=test)
        case "summarization":
            return summary_item(world, rng, test=test)
        case "ner":
            return ner_item(world, rng, test=test)
        case "sentiment":
            return sentiment_item(rng, test=test)
    msg = f"No task {task!r}; the tasks are {', '.join(TASKS)}."
    raise ValueError(msg)


def draw_document(task: str, world: World, rng: random.Random) -> Document:
    """Draws a training document of a task."""
    if task == "closed_domain_qa":
        return closed_qa_document(world, rng)
    if task == "reasoning" and rng.random() < 0.25:
        return drill(rng)
    role = "label" if task in {"nli", "sentiment"} else "answer"
    return draw_item(task, world, rng, test=False).document(role)


def test_items(task: str, world: World, n_items: int, seed: int) -> list[Item]:
    """Draws distinct test items."""
    rng = random.Random(f"{task} {seed}")
    items: dict[str, Item] = {}
    while len(items) < n_items:
        item = draw_item(task, world, rng, test=True)
        items.setdefault(item.prompt, item)
    return list(items.values())


def _question_item(world: World, rng: random.Random, *, test: bool) -> Item:
    """A question about a fact whose questions are not (or, for training, are) in the training text."""
    while True:
        fact = rng.choice(tuple(world.facts))
        if question_is_test(fact) == test:
            break
    relation = RELATIONS[fact[1]]
    forms = (relation.held_out_question, *relation.questions) if test else relation.questions
    question = rng.choice(forms).format(fact[0])
    return Item(
        prompt=f"Question: {question}\nAnswer:", answer=world.facts[fact], recalls_facts=True
    )
