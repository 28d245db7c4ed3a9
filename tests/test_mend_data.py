"""What MEND is trained on when its file has broken requests."""

import json
from dataclasses import replace
from functools import partial

import pytest

from edit_sweeps.editors.base import Stores
from edit_sweeps.editors.mend import Mend
from edit_sweeps.editors.mend_data import read_split
from edit_sweeps.editors.mend_training import TrainingSettings
from edit_sweeps.moments import MomentSettings
from edit_sweeps.requests import RequestError
from tests.request_files import line, write_lines
from tests.test_conf import composed


@pytest.fixture
def lines(tmp_path):
    return partial(write_lines, tmp_path)


@pytest.fixture
def broken(lines):
    """Twelve requests, of which every third has no place for its subject."""
    neighbors = ["Bo lives in"]
    items = (line(i, neighborhood=neighbors) for i in range(12))
    return lines(*(r | {"prompt": "He lives"} if i % 3 == 0 else r for i, r in enumerate(items)))


def test_a_training_file_with_broken_requests_is_refused_and_the_setting_named(broken):
    words = r"4 of 12 requests are broken \(editor\.train_on_invalid=skip leaves them out\)"
    with pytest.raises(RequestError, match=words) as error:
        read_split("jsonl", broken.path, 2, 0)
    assert "line 1, field prompt: holds 0 times {}" in str(error.value)


def test_broken_training_requests_that_are_skipped_are_named_and_counted(broken, caplog):
    split = read_split("jsonl", broken.path, 2, 0, "skip")
    assert (len(split.train), len(split.validation), split.skipped) == (6, 2, 4)
    told = "4 of 12 requests are broken and LEFT OUT (editor.train_on_invalid=skip)"
    assert told in caplog.text
    for number in (1, 4, 7, 10):
        assert f"line {number}, field prompt" in caplog.text


def test_what_is_left_out_does_not_change_the_network_and_stands_beside_it(
    lines, broken, tiny_model, tmp_path
):
    training = TrainingSettings(accumulate=1, at_once=1, validate_every=1, validation=2)
    lenient = Mend(
        layers=[1],
        rank=2,
        train_steps=1,
        train_source="jsonl",
        train_file=broken.path,
        train_on_invalid="skip",
        training=training,
    )
    tiny, stores = tiny_model("gpt2"), Stores.at(MomentSettings(), tmp_path / "cache")
    with pytest.raises(RequestError, match=r"editor\.train_on_invalid=skip"):
        replace(lenient, train_on_invalid="refuse").prepare(tiny, stores)
    lenient.prepare(tiny, stores)
    (told,) = (tmp_path / "cache" / "hypernets").glob("*.json")
    assert json.loads(told.read_text())["requests_invalid_skipped"] == 4
    kept = (line(i, neighborhood=["Bo lives in"]) for i in range(12) if i % 3)
    whole = lines(*kept, name="whole.jsonl")
    replace(lenient, train_file=whole.path, train_on_invalid="refuse").prepare(tiny, stores)
    assert list((tmp_path / "cache" / "hypernets").glob("*.json")) == [told]


def test_an_unknown_way_with_broken_requests_is_refused():
    with pytest.raises(ValueError, match="train_on_invalid=drop: allowed are refuse, skip"):
        Mend(layers=[0], train_on_invalid="drop").check(4)


def test_training_files_are_refused_by_default_and_skipped_by_the_papers_presets():
    assert composed("editor=mend").editor.train_on_invalid == "refuse"
    for name in ("gpt2-xl", "llama-7b"):
        preset = composed(f"experiment=paper_batch/mend-{name}")
        assert preset.editor.train_on_invalid == "skip"
