"""Files of edit requests that tests write: JSON lines and ROME's CounterFact."""

import json
from dataclasses import dataclass


@dataclass
class Data:
    """What `config.DatasetConfig` holds."""

    path: str | None
    name: str = "jsonl"
    format: str = "jsonl"
    order: str = "sampled"
    skip: int = 0
    repeat: bool = False
    on_invalid: str = "refuse"
    target: str | None = None


MINIATURE = Data(None, name="miniature", format="miniature")


def line(i=0, **changes):
    """A request as an item of a file; `...` takes a field away."""
    fields = {
        "case_id": i,
        "subject": f"Person {i}",
        "prompt": "{} lives in",
        "target_new": "Rome",
        "target_true": "Paris",
    }
    return {k: v for k, v in (fields | changes).items() if v is not ...}


def write_lines(folder, *items, name="facts.jsonl", **settings):
    """A file of JSON lines; strings are written as they are."""
    path = folder / name
    rows = (i if isinstance(i, str) else json.dumps(i, ensure_ascii=False) for i in items)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return Data(str(path), **settings)


def write_list(folder, items, form, **settings):
    """A JSON list in the form of a published data set."""
    path = folder / f"{form}.json"
    path.write_text(json.dumps(items, indent=1, ensure_ascii=False), encoding="utf-8")
    return Data(str(path), **{"name": form, "format": form, **settings})


def write_counterfact(folder, items):
    """A file in ROME's form; a string is written as it is."""
    path = folder / "counterfact.json"
    text = items if isinstance(items, str) else json.dumps(items, indent=1, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    return Data(str(path), name="counterfact", format="counterfact")


COUNTERFACT = [
    {
        "case_id": 7,
        "pararel_idx": 2796,
        "requested_rewrite": {
            "prompt": "The mother tongue of {} is",
            "relation_id": "P103",
            "target_new": {"str": "English", "id": "Q1860"},
            "target_true": {"str": "French", "id": "Q150"},
            "subject": "Danielle Darrieux",
        },
        "paraphrase_prompts": ["Shayna does this. Danielle Darrieux, a native"],
        "neighborhood_prompts": ["The mother tongue of Léon Blum is", "Michel Rocard speaks"],
        "attribute_prompts": ["J.R.R. Tolkien, a native"],
        "generation_prompts": ["Danielle Darrieux's mother tongue is"],
    },
    {
        "case_id": 9,
        "requested_rewrite": {
            "prompt": "{} is located in",
            "relation_id": "P30",
            "target_new": {"str": "Asia"},
            "target_true": {"str": "Antarctica"},
            "subject": "Vinson Massif",
        },
        "paraphrase_prompts": [],
        "neighborhood_prompts": [],
    },
]
