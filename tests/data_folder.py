"""A data folder in the hub's layout with a tiny model and a small data set, and cells that read it."""

import json
import shutil

import pandas as pd
import pytest

from edit_sweeps import manifest
from edit_sweeps.launcher.freezing import frozen
from edit_sweeps.launcher.plan import make_plan
from edit_sweeps.manifest import Entry
from tests.conftest import make_tokenizer, tiny_network
from tests.test_conf import composed

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
CARD = """---
configs:
- config_name: rte
  data_files:
  - {split: train, path: rte/train-*}
  - {split: validation, path: rte/validation-*}
- config_name: sst2
  data_files: [{split: validation, path: sst2/validation-*}]
---
"""
RTE = pd.DataFrame(
    {
        "sentence1": [f"Halden has {n} singers." for n in range(8)],
        "sentence2": ["There are singers in Halden."] * 8,
        "label": [n % 2 for n in range(8)],
        "idx": range(8),
    }
)
FACTS = [
    {"case_id": str(n), "subject": name, "prompt": "{} works as a", "target_new": job}
    for n, (name, job) in enumerate([("Marlow", "baker"), ("Ingrid", "pilot")])
]
TASK = """
task: own_rte
custom_dataset: !function metrics.load
dataset_kwargs: {source: rte, splits: [validation]}
test_split: validation
output_type: multiple_choice
doc_to_text: "{{sentence1}} {{sentence2}} True or False?"
doc_to_target: label
doc_to_choice: ["True", "False"]
num_fewshot: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""

LOAD = """
from edit_sweeps import task_data


def load(source, splits, **_):
    return task_data.load(source, splits)
"""


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """A tiny GPT-2 with its tokenizer, as a folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = make_tokenizer()
    tiny_network("gpt2", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def root(tmp_path, tiny_folder):
    """A data folder with a model, a data set in the hub's layout, of one subset only, and a manifest."""
    folder = tmp_path / "data"
    shutil.copytree(tiny_folder, folder / "models" / "own" / "tiny")
    glue = folder / "datasets" / "nyu-mll" / "glue"
    (glue / "rte").mkdir(parents=True)
    (glue / "README.md").write_text(CARD)
    for name in ("train", "validation"):
        RTE.to_parquet(glue / "rte" / f"{name}-00000-of-00001.parquet")
    note(folder, "models/own/tiny", parts=("*",))
    note(folder, "datasets/nyu-mll/glue", parts=("rte",))
    return folder


def note(root, place, commit=COMMIT, **more):
    folder = root / place
    files = {p.relative_to(folder).as_posix(): manifest.facts_of(p) for p in folder.rglob("*.*")}
    entry = Entry(source=place, revision=None, commit=commit, licence="mit", files=files, **more)
    manifest.write(root, manifest.read(root) | {place: entry})


@pytest.fixture
def cell(tmp_path, monkeypatch):
    """Plans a cell on the tiny model with an own task; gives the cell that edits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDIT_SWEEPS_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    facts, task = tmp_path / "facts.jsonl", tmp_path / "tasks"
    facts.write_text("\n".join(map(json.dumps, FACTS)))
    task.mkdir()
    (task / "own_rte.yaml").write_text(TASK)
    (task / "metrics.py").write_text(LOAD)

    def plan(*more, whole=False):
        overrides = [
            *("model=custom", "model.pretrained=own/tiny", "editor=rome", "editor.layer=1"),
            *("dataset=jsonl", f"dataset.path={facts}", "task=custom", "task.custom.name=own_rte"),
            *(f"task.custom.folder={task}", "study=trial", *more),
        ]
        made = make_plan([frozen(composed(*overrides), overrides)])
        return made if whole else next(c for c in made.todo() if not c.is_baseline)

    return plan
