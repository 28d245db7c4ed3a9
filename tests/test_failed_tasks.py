"""A task whose documents cannot be read fails loudly, spoils no other study, and is made up for."""

import json

import pytest

from edit_sweeps.launcher import launch
from edit_sweeps.launcher.freezing import frozen
from edit_sweeps.record import Record
from tests.test_conf import composed

TASK = """task: own
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: prompt
doc_to_target: label
doc_to_choice: choices
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""
DOCUMENTS = [
    {"prompt": f"The river {n} is", "choices": ["long", "short"], "label": n % 2} for n in range(6)
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Launches one edit on the miniature with a task whose file may be missing; gives the exit code and records."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "tasks").mkdir()
    file, cache = tmp_path / "documents.jsonl", tmp_path / "cache"
    (tmp_path / "tasks" / "own.yaml").write_text(TASK.format(file=file, cache=cache))

    def go(*overrides, documents):
        file.unlink(missing_ok=True)
        if documents:
            file.write_text("\n".join(map(json.dumps, DOCUMENTS)))
        options = (
            "task=custom", "task.custom.name=own", f"task.custom.folder={tmp_path / 'tasks'}", "editor=ft",
            "editor.steps=1", "wandb=disabled", "edit_scores.limit=1", *overrides,
        )  # fmt: skip
        code = 0
        try:
            launch([frozen(composed(*options), list(options))])
        except SystemExit as stopped:
            code = stopped.code
        study = dict(o.split("=") for o in overrides).get("study", "main")
        folders = sorted((tmp_path / "outputs" / study / "cells").glob("*/"))
        return code, [Record.load(folder) for folder in folders]

    return go


def test_the_same_command_makes_up_for_a_task_that_failed(run, capsys):
    code, records = run(documents=False)
    assert code == 1
    assert [list(r.errors) for r in records] == [["own"], ["own"]]
    assert "own" in capsys.readouterr().out, "the terminal says which task is lacking"
    code, records = run("study=second", documents=False)
    assert code == 1, "the empty baseline of the first study is not taken over"
    code, records = run(documents=True)
    assert code == 0
    assert [(r.errors, r.scores["own"]["acc"].n) for r in records] == [({}, 6), ({}, 6)]
    assert any(r.comparisons["own"]["acc"].baseline is not None for r in records if r.comparisons)
    assert run("study=third", documents=True)[0] == 0
