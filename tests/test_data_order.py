"""What the options of `edit-sweeps data fetch` ask for, worked out from conf/ and from the tasks' own files."""

import functools

import pytest
import yaml

from edit_sweeps import catalogue, edit_sources
from edit_sweeps.data_order import needs_of_options
from edit_sweeps.hub import FetchError
from tests.test_conf import CONF

PROJECT = CONF.parent


@functools.cache
def asked(group, name):
    return [need for needs in needs_of_options({group: [name]}, PROJECT).values() for need in needs]


def test_every_model_of_conf_asks_for_its_own_repository_by_its_own_name():
    files = [f for f in sorted((CONF / "model").glob("*.yaml")) if f.stem != "custom"]
    unset = {"revision": None, "tokenizer": None}
    models = [unset | yaml.safe_load(file.read_text()) for file in files]
    needs = [need for model in models for need in catalogue.model_needs(model)]
    on_hub = [m for m in models if not m["pretrained"].startswith("miniature://")]
    assert len(on_hub) >= 15
    assert [need.option for need in needs] == [model["name"] for model in on_hub]
    assert [need.name for need in needs] == [model["pretrained"] for model in on_hub]
    assert asked("model", "gpt2-xl") == [need for need in needs if need.option == "gpt2-xl"]


def test_the_papers_tasks_ask_for_all_their_documents():
    found = asked("task", "paper8")
    assert {need.place for need in found} >= {
        "datasets/openai/gsm8k",
        "datasets/nyu-mll/glue",
        "files/mutual/dev",
        "files/paper/test-OpenDomainQA.jsonl",
    }
    assert {need.subset for need in found if need.name == "nyu-mll/glue"} == {"rte", "sst2"}


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("task", "glue_alphaedit"),
        ("task", "nli"),
        ("task", "wikitext"),
        ("task", "own/set:sub@v1"),
        ("task", "mutual/dev"),
        ("dataset", "counterfact"),
        ("dataset", "knowedit_zsre"),
        ("moments", "quick"),
        ("moments", "own/text:small"),
        ("model", "own/tiny@v2"),
    ],
)
def test_a_need_names_the_option_that_asks_for_it(group, name):
    needs = asked(group, name)
    assert needs
    for need in needs:
        assert need.group == group
        assert need in asked(group, need.option)


def test_a_task_that_is_none_is_refused_with_what_was_meant(monkeypatch):
    def unknown(name, folder):
        raise LookupError(f"lm-eval has no task {name}")

    monkeypatch.setattr("edit_sweeps.task_files.check_task", unknown)
    with pytest.raises(FetchError, match=r"did you mean wikitext.*lm-eval has no task wikitex"):
        asked("task", "wikitex")


def test_every_plain_file_that_is_needed_has_an_address():
    needs = asked("task", "paper8") + asked("task", "ll_dialogue") + asked("dataset", "counterfact")
    files = [need for need in needs if need.kind == "files"]
    assert len(files) >= 4
    sources = [catalogue.plain_file(need.name) for need in files]
    sources += [catalogue.plain_file(s.file) for s in edit_sources.EDIT_SOURCES if s.url]
    for source in sources:
        assert source is not None
        assert source.url.startswith("https://")
        assert source.licence


def test_moments_ask_for_a_few_files_of_a_large_data_set():
    (need,) = asked("moments", "faithful")
    assert need.name == "wikimedia/wikipedia"
    assert 1 <= len(need.only) <= 4
    (need,) = asked("moments", "own/text:small")
    assert (need.name, need.subset, need.only) == ("own/text", "small", ())
