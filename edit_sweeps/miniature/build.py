"""Writes the data files from the world: ``python -m edit_sweeps.miniature.build [--out DIR]``.

The files are deterministic; a test compares them with what is written here, so neither can drift
from the other.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from pathlib import Path
from typing import Any

from edit_sweeps.miniature import DATA
from edit_sweeps.miniature.inference import COUNTRY_OPENERS, COUNTRY_REPLIES
from edit_sweeps.miniature.relations import RELATIONS
from edit_sweeps.miniature.tasks import TASKS, draw_test_items
from edit_sweeps.miniature.text import Item
from edit_sweeps.miniature.world import Fact, World, build_world

logger = logging.getLogger(__name__)

N_REQUESTS = 640
N_ITEMS = 250
N_NEIGHBORS = 5
# Single edits of these often fail on models this small: too many other texts name cities and firms.
NOT_EDITED = ("in_country", "continent", "currency", "headquarters", "product")

Row = dict[str, Any]


def data_files(world: World) -> dict[str, list[Row]]:
    """File name -> its rows: the edit requests and the test items of each task."""
    files = {"requests.jsonl": edit_requests(world)}
    for task in TASKS:
        files[f"{task}.jsonl"] = [
            _item_row(i) for i in draw_test_items(task, world, N_ITEMS, seed=0)
        ]
    return files


def edit_requests(world: World, seed: int = 0) -> list[Row]:
    """Edit requests in a fixed shuffled order, one for a fact at most."""
    rng = random.Random(f"requests {seed}")
    editable = [fact for fact in sorted(world.facts) if fact[1] not in NOT_EDITED]
    facts = rng.sample(editable, N_REQUESTS)
    return [_request(world, rng, index, fact) for index, fact in enumerate(facts)]


def training_requests(world: World, n: int, seed: int = 0) -> list[Row]:
    """Requests for editors that are trained, each about a fact that no edit request writes.

    Facts repeat, with other phrasings and new objects. The paraphrases are phrasings of the
    training text: those that edit requests measure with are kept from trained editors too.
    """
    rng = random.Random(f"training {seed}")
    taken = {(row["subject"], row["relation"]) for row in edit_requests(world)}
    free = [f for f in sorted(world.facts) if f not in taken and f[1] not in NOT_EDITED]
    rows = []
    for index in range(n):
        row = _request(world, rng, index, rng.choice(free))
        phrasings = [p for p in RELATIONS[row["relation"]].phrasings if p != row["prompt"]]
        texts = [p.format(row["subject"]) for p in rng.sample(phrasings, 2)]
        probes = [_probe(text, row["target_new"], row["target_true"]) for text in texts]
        rows.append(row | {"case_id": f"train-{index:05d}", "paraphrases": probes})
    return rows


def write(folder: Path) -> None:
    """Writes all data files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in data_files(build_world()).items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        logger.info("%s: %d rows", folder / name, len(rows))


def _item_row(item: Item) -> Row:
    row: Row = {"prompt": item.prompt, "answer": item.answer}
    if item.choices:
        row |= {"choices": list(item.choices), "label": item.choices.index(item.answer)}
    return row


def _request(world: World, rng: random.Random, index: int, fact: Fact) -> Row:
    subject, name = fact
    relation = RELATIONS[name]
    true = world.facts[fact]
    new = rng.choice([o for o in world.objects[relation.object_kind] if o != true])
    prompt = rng.choice(relation.phrasings)
    return {
        "case_id": f"mini-{index:04d}",
        "subject": subject,
        "relation": name,
        "prompt": prompt,
        "target_new": new,
        "target_true": true,
        "paraphrases": [_probe(p.format(subject), new, true) for p in relation.held_out],
        "neighborhood": _neighborhood(world, rng, fact, prompt, new),
        "other_facts": _other_facts(world, rng, fact),
        "portability": _portability(world, rng, fact, new),
    }


def _neighborhood(world: World, rng: random.Random, fact: Fact, prompt: str, new: str) -> list[Row]:
    """The same relation of other subjects: those with the same object first."""
    subject, name = fact
    others = [s for s in world.subjects[RELATIONS[name].subject_kind] if s != subject]
    others = [s for s in rng.sample(others, len(others)) if world.facts[s, name] != new]
    others.sort(key=lambda s: world.facts[s, name] != world.facts[fact])
    return [
        _probe(prompt.format(s), world.facts[s, name], new, (s, name)) for s in others[:N_NEIGHBORS]
    ]


def _other_facts(world: World, rng: random.Random, fact: Fact) -> list[Row]:
    """Everything else that is known about the subject."""
    subject, edited = fact
    probes = []
    for name, relation in RELATIONS.items():
        if name == edited or (subject, name) not in world.facts:
            continue
        true = world.facts[subject, name]
        wrong = rng.choice([o for o in world.objects[relation.object_kind] if o != true])
        text = rng.choice(relation.phrasings).format(subject)
        probes.append(_probe(text, true, wrong, (subject, name)))
    return probes


def _portability(world: World, rng: random.Random, fact: Fact, new: str) -> list[Row]:
    """The fact as an answer to a question, and what follows from where somebody lives."""
    subject, name = fact
    true = world.facts[fact]
    question = rng.choice(RELATIONS[name].questions).format(subject)
    probes = [_probe(f"Question: {question}\nAnswer:", new, true)]
    if name == "lives_in":
        old_country, new_country = (world.facts[c, "in_country"] for c in (true, new))
        if old_country != new_country:
            opener = rng.choice(COUNTRY_OPENERS).format(s=subject)
            begun = rng.choice(COUNTRY_REPLIES).partition(" {o}")[0]
            probes.append(_probe(f"A: {opener}\nB: {begun}", new_country, old_country))
    return probes


def _probe(prompt: str, target: str, alternative: str, fact: Fact | None = None) -> Row:
    """A probe; one about another fact names it, so that an edit of that fact can drop it."""
    row = {"prompt": prompt, "target": target, "alternative": alternative}
    return row if fact is None else row | {"subject": fact[0], "relation": fact[1]}


def main() -> None:
    """Writes the data files."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=DATA)
    logging.basicConfig(level=logging.INFO)
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
