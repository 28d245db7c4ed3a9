"""Requests that are unusual or wrong, as the table of docs/methods.md says; broken lines: test_request_errors.py."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edit_sweeps.editors.reading import keys_at_first_token
from edit_sweeps.launcher import launch
from edit_sweeps.launcher.freezing import frozen
from edit_sweeps.model import EditableModel
from edit_sweeps.requests import EditRequest
from tests.test_conf import composed
from tests.test_editor_contract import WRITING, build, run, store  # noqa: F401  # `store` is a fixture


def first(target="Velmora", case_id="1"):
    """A request whose subject is the first token of the text and no more than that."""
    return EditRequest(
        case_id=case_id, subject="a", prompt="{} lives in", target_new=target, target_true="Paris"
    )


def test_keys_at_the_first_token_are_counted_without_a_special_token_before(
    tiny, tiny_model, bos_tokenizer, requests
):
    assert keys_at_first_token(tiny, [first(), *requests]) == 1
    with_bos = EditableModel(tiny_model("llama").network, bos_tokenizer)
    assert keys_at_first_token(with_bos, [first(), *requests]) == 0


@pytest.mark.parametrize("name", WRITING)
def test_a_subject_at_the_first_token_is_written(name, tiny, store):  # noqa: F811
    editor = build(name)
    traces, ledger, _ = run(editor, tiny, [first()], store)
    assert [t.case_id for t in traces] == ["1"]
    assert all(0 < row["update_norm"] < float("inf") for row in ledger.norms().values())


@pytest.mark.parametrize("name", WRITING)
def test_the_same_fact_twice_and_with_two_targets_is_written(name, tiny, requests, store):  # noqa: F811
    twice = [requests[0], replace(requests[0], case_id="again")]
    both = [*twice, replace(requests[0], case_id="other", target_new="Paris")]
    for batch in (twice, both):
        traces, ledger, _ = run(build(name), tiny, batch, store)
        assert [t.case_id for t in traces] == [r.case_id for r in batch]
        assert all(0 < row["update_norm"] < float("inf") for row in ledger.norms().values())
        ledger.revert()


@pytest.fixture
def long_file(tmp_path, monkeypatch):
    """Two requests in a file, the second of them longer than the miniature's window."""
    monkeypatch.chdir(tmp_path)
    line = {"subject": "Anna", "target_new": "pilot", "target_true": "baker"}
    prompts = ("{} works as a", "word " * 400 + "{} works as a")
    lines = [{"case_id": f"case {i}", "prompt": p, **line} for i, p in enumerate(prompts)]
    file = tmp_path / "facts.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def test_a_prompt_longer_than_the_window_is_refused_before_anything_runs(
    long_file, capsys, tmp_path
):
    """Truncating it could cut the subject away."""
    point = ("dataset=jsonl", f"dataset.path={long_file}", "dataset.order=file", "task=none")
    with pytest.raises(SystemExit) as stopped:
        launch([frozen(composed(*point, f"num_edits={n}"), [*point]) for n in (1, 2)])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "1 requests do not fit into the window of model=miniature" in said
    assert "case_id=case 1" in said
    assert not list(tmp_path.rglob("cells"))


def test_the_shorter_one_alone_is_no_reason_to_refuse(long_file, capsys):
    point = ("dataset=jsonl", f"dataset.path={long_file}", "dataset.order=file", "task=none")
    launch([frozen(composed(*point, "num_edits=1", "dry_run=true"), [*point])])
    assert "1 to run" in capsys.readouterr().out
