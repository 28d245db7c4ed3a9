"""Text sources: what is read, in which order, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edit_sweeps.moments import MomentSettings
from edit_sweeps.texts import pieces, read_texts, source_digest
from edit_sweeps.tokens import token_ids
from tests.conftest import TEXT


@pytest.fixture
def text(tmp_path):
    """Thirty short documents in a file."""
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"{line} Number {i}." for i in range(6) for line in TEXT))
    return path


def test_pieces_use_every_token_once_up_to_the_budget(tokenizer):
    texts = ["Paris is a city", "Rome " * 9, "Ostravia"]
    ids = [i for text in texts for i in token_ids(tokenizer, text)]
    for budget in (1, 7, len(ids), len(ids) + 50):
        batches = list(pieces(tokenizer, texts, length=4, batch_size=2, budget=budget))
        got = [
            i for b in batches for row, m in zip(b.ids, b.mask, strict=True) for i in row[m == 1]
        ]
        assert [int(i) for i in got] == ids[:budget]
        assert all(b.ids.shape[1] <= 4 for b in batches)


def test_a_text_file_is_split_at_blank_lines_and_shuffled_by_the_seed(text):
    lists = [list(read_texts(MomentSettings(source=str(text), seed=seed))) for seed in (0, 0, 1)]
    assert lists[0] == lists[1] != lists[2]
    assert sorted(lists[0]) == sorted(lists[2]) == sorted(text.read_text().split("\n\n"))


def test_json_lines_give_the_asked_field_and_name_broken_lines(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"body": "Paris is a city."}\n\n{"body": " "}\n{"body": "Rome too."}\n')
    settings = MomentSettings(source=str(path), field="body")
    assert sorted(read_texts(settings)) == ["Paris is a city.", "Rome too."]
    for line in ('{"text": "Paris"}', '{"body": 3}', "[1]", "{"):
        path.write_text('{"body": "Paris"}\n' + line)
        with pytest.raises(ValueError, match=r"text\.jsonl, line 2:.*moments\.field"):
            list(read_texts(settings))


def test_a_missing_text_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        source_digest(MomentSettings(source=str(tmp_path / "none.txt")))


def test_a_hub_data_set_out_of_reach_is_refused_with_advice(tmp_path):
    with pytest.raises(ValueError, match=r"moments\.source=nobody/nothing.*\.txt"):
        next(read_texts(MomentSettings(source="nobody/nothing")))


def test_hub_rows_are_read_by_field(monkeypatch):
    import datasets

    rows = datasets.Dataset.from_dict({"body": ["Paris", "", "Rome"]}).to_iterable_dataset()
    asked = []

    def load(*args, **options):
        asked.append((args, options))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load)
    settings = MomentSettings(source="owner/name", subset="en", split="test", field="body")
    assert sorted(read_texts(settings)) == ["Paris", "Rome"]
    assert asked == [(("owner/name", "en"), {"split": "test", "streaming": True})]
    with pytest.raises(ValueError, match="no field 'text'; it has body"):
        list(read_texts(replace(settings, field="text")))


def test_the_miniatures_own_text_is_a_source():
    settings = MomentSettings(source="miniature", seed=3)
    stream = read_texts(settings)
    first = [next(stream) for _ in range(1500)]
    assert first[:1024] == [t for t in read_first(1024, 3) if t.strip()][:1024]
    assert len(set(first)) > 1000
    assert source_digest(settings) == source_digest(settings)
    assert source_digest(settings) != source_digest(replace(settings, seed=4))


def read_first(n, seed):
    from edit_sweeps.miniature import training_text

    return training_text(n, seed)
