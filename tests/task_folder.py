"""A folder of lm-eval tasks over JSONL files, benches of them, and a language model that knows the answers."""

import contextlib
import json
import random

import pytest
from lm_eval.api.model import LM

from edit_sweeps import live_lm
from edit_sweeps.task_scores import Bench, EvalSettings, TaskSpec

PEOPLE = ["Marlow", "Ingrid", "Danielle", "Halden", "Ostravia", "Léon", "Paris", "Velmora"]
PLACES = ["Brackenford", "Velmora", "London", "the river", "Rome"]

METRICS = '''
import random

import numpy as np
import torch


def margin(doc, results):
    """How much likelier the right choice is, in nats; and the draws that tasks like to make."""
    random.random(), np.random.rand(), torch.rand(1)
    scores = [ll for ll, _ in results]
    other = max(s for i, s in enumerate(scores) if i != doc["label"])
    right = float(scores[doc["label"]] > other)
    return {"margin": scores[doc["label"]] - other, "acc": right}


def spans(doc, results):
    """Words in common; invalid when there is no answer."""
    found, gold = set(results[0].split()), set(doc["answer"].split())
    hits = len(found & gold)
    return {"f1": (hits, len(found) - hits, len(gold) - hits), "invalid": float(not found)}


def micro_f1(counts):
    tp, fp, fn = (sum(column) for column in zip(*counts))
    return 2 * tp / (2 * tp + fp + fn)


def fails(doc, results):
    if doc["number"] == 3:
        raise FAILURE
    return {"acc": 1.0}


FAILURE = ValueError("document 3 is bad")
'''

SHARED = """
dataset_path: json
dataset_kwargs: {{data_files: {{train: {train}, test: {test}}}, cache_dir: {cache}}}
training_split: train
test_split: test
fewshot_split: train
doc_to_text: prompt
doc_to_target: answer
metadata: {{version: 1.0}}
"""
CHOICE = "include: _shared.yaml\noutput_type: multiple_choice\ndoc_to_target: label\ndoc_to_choice: choices\n"
WRITE = "include: _shared.yaml\noutput_type: generate_until\n"
TASKS = {
    "choice": CHOICE,
    "shots": CHOICE + "num_fewshot: 2\n",
    "margin": CHOICE
    + """
process_results: !function metrics.margin
metric_list:
  - {metric: margin, aggregation: mean, higher_is_better: true}
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata: {headline: acc, chance: 0.4}
""",
    "pairs": CHOICE
    + "tag: both\nmetric_list: [{metric: mcc}, {metric: acc, aggregation: mean, higher_is_better: true}]\n",
    "writing": WRITE
    + """
tag: both
generation_kwargs: {until: ["e", " "], max_gen_toks: 12, do_sample: true, temperature: 2.0}
process_results: !function metrics.spans
metric_list:
  - {metric: f1, aggregation: !function metrics.micro_f1, higher_is_better: true}
  - {metric: invalid, aggregation: mean, higher_is_better: false}
""",
    "filtered": WRITE
    + """
generation_kwargs: {until: ["."], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - {name: strict-match, filter: [{function: regex, regex_pattern: "^(Brack)$"}, {function: take_first}]}
  - {name: flexible-extract, filter: [{function: take_first}]}
""",
    "prose": """include: _shared.yaml
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: prompt
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
    "broken": CHOICE
    + "process_results: !function metrics.fails\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
}


def documents(n, seed):
    rng = random.Random(seed)
    for number in range(n):
        choices = rng.sample(PLACES, 2 + number % 2)
        label = rng.randrange(len(choices))
        name = f"{rng.choice(PEOPLE)} {rng.choice(PEOPLE)}"
        tail = " in the morning" * rng.randrange(3)
        yield {
            "number": number,
            "prompt": f"{number}: {name} lives{tail} near",
            "choices": choices,
            "label": label,
            "answer": choices[label],
        }


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder of lm-eval tasks over two JSONL files."""
    root = tmp_path_factory.mktemp("tasks")
    for split, n in (("train", 8), ("test", 20)):
        lines = [json.dumps(doc) for doc in documents(n, split)]
        (root / f"{split}.jsonl").write_text("\n".join(lines))
    (root / "metrics.py").write_text(METRICS)
    places = {"train": root / "train.jsonl", "test": root / "test.jsonl", "cache": root / "cache"}
    (root / "_shared.yaml").write_text(SHARED.format(**places))
    for name, text in TASKS.items():
        (root / f"{name}.yaml").write_text(f"task: {name}\n{text}")
    return root


@pytest.fixture(scope="session")
def make(folder):
    """Factory of benches: `make("choice", shots={"limit": 4}, batch_size=3)`."""

    def build(*names, settings=None, **specs):
        tasks = {key: {} for key in names} | specs
        return Bench(
            {
                key: TaskSpec(**{"name": key, "folder": str(folder), **spec})
                for key, spec in tasks.items()
            },
            EvalSettings(**(settings or {"batch_size": 3})),
        )

    return build


@pytest.fixture(scope="session")
def everything(make):
    """All tasks that work, built once; scored by several tests, which is what a bench is for."""
    return make("choice", "shots", "margin", "pairs", "writing", "filtered", "prose")


class Oracle(LM):
    """Knows the answer: the right choice is likely, what is written is the answer."""

    def __init__(self):
        super().__init__()
        self.broken, self.cut = frozenset(), 0

    def watch(self, bar):
        pass

    def loglikelihood(self, requests):
        return [(-float(r.idx != r.doc["label"]), r.idx == r.doc["label"]) for r in requests]

    def generate_until(self, requests):
        return [r.doc["answer"] for r in requests]

    def loglikelihood_rolling(self, requests):
        return [0.0 for _ in requests]


@pytest.fixture
def oracle(monkeypatch):
    """Whatever model is scored, `Oracle` answers."""
    monkeypatch.setattr(live_lm, "live", lambda *_, **__: contextlib.nullcontext(Oracle()))
    monkeypatch.setattr(Bench, "_dead", lambda self, model: False)
