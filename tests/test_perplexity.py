"""Perplexity of a text of the user's: three forms of one file, and what is refused."""

import json

import pytest

from edit_sweeps.task_data import TaskDataError
from edit_sweeps.task_scores import Bench, EvalSettings, TaskSpec
from edit_sweeps.tasks import build_task
from tests.hub_folder import write_lines


def test_perplexity_reads_a_text_of_the_users(tmp_path, tiny):
    texts = ["Velmora is a town.", "Ingrid lives\nin Velmora, near London.", "Rome"]
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    (tmp_path / "a.json").write_text(json.dumps([{"Corpus": "x", "Text": t} for t in texts]))
    write_lines(tmp_path / "a.jsonl", [*texts[:2], {"text": texts[2]}])
    found = []
    for suffix in ("txt", "json", "jsonl"):
        given = TaskSpec("perplexity", folder="perplexity", data=str(tmp_path / f"a.{suffix}"))
        bench = Bench({"perplexity": given}, EvalSettings())
        assert bench.errors == {}
        found.append(bench.score(tiny).scores["perplexity"])
    assert found[0] == found[1] == found[2]
    bits = found[0]["bits_per_byte"]
    n_bytes = sum(len(text.encode()) for text in texts)
    assert bits.n == 3
    assert sum(length for _, length in bits.samples.values()) == n_bytes
    expected = 2**bits.value
    assert found[0]["byte_perplexity"].value == pytest.approx(expected)
    words = sum(len(text.split()) for text in texts)
    assert found[0]["word_perplexity"].value == pytest.approx(expected ** (n_bytes / words))
    write_lines(tmp_path / "bad.jsonl", [{"words": "x"}])
    bad = TaskSpec("perplexity", folder="perplexity", data=str(tmp_path / "bad.jsonl"))
    with pytest.raises(TaskDataError, match=r"bad.jsonl, line 1: is neither.*one of text"):
        build_task(bad, EvalSettings())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"text": "Velmora is a town."}', "holds a JSON dict; a list is needed"),
        ("a.json", '"Velmora is a town."', "holds a JSON str; a list is needed"),
        ("a.json", '["Rome", {"words": "x"}]', "text 2 of 2: is neither"),
        ("a.json", '["Rome"', "cannot be read"),
        ("a.jsonl", '"Rome"\n\n{"words": "x"}', "line 3: is neither"),
        ("a.jsonl", '"Rome"\n\n{"text": ', "line 3: is not JSON"),
        ("a.txt", b"\xff\xfe\xfa", "cannot be read"),
        ("a.json", "[]", "holds no text"),
    ],
)
def test_what_holds_no_list_of_texts_is_refused_with_its_place(tmp_path, name, content, message):
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    spec = TaskSpec("perplexity", folder="perplexity", data=str(tmp_path / name))
    with pytest.raises(TaskDataError, match=f"{name}.*{message}"):
        build_task(spec, EvalSettings())
