"""A data folder in the hub's layout: read without a network, keyed as on line, what is missing named beforehand."""

import json
import os
import shlex
import shutil
import socket
from types import SimpleNamespace

import datasets
import pandas as pd
import pytest

from edit_sweeps import (
    data_root,
    edit_sources,
    hub_cache,
    manifest,
    offline,
    stock_data,
    task_data,
    text_shards,
)
from edit_sweeps.cli_data import split
from edit_sweeps.data_order import needs_of_options
from edit_sweeps.launcher import inputs
from edit_sweeps.launcher.checks import check
from edit_sweeps.launcher.freezing import Refusal, frozen
from edit_sweeps.launcher.plan import make_plan
from edit_sweeps.model import load_model, load_tokenizer, resolve_pretrained
from edit_sweeps.texts import read_texts, source_digest
from tests.data_folder import COMMIT, RTE, note
from tests.test_conf import CONF, composed

pytest_plugins = ["tests.data_folder"]

ROOT = CONF.parent


@pytest.fixture
def no_network(monkeypatch):
    """Whoever opens a connection fails."""

    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def cached(home, kind, name, commit, revision="main"):
    """What a download leaves in the hub's cache: the commit behind a branch."""
    ref = home / "hub" / f"{kind}--{name.replace('/', '--')}" / "refs" / revision
    ref.parent.mkdir(parents=True)
    ref.write_text(commit)


def test_a_hub_id_is_the_data_folders_copy_inside_the_block_alone(root):
    assert resolve_pretrained("own/tiny") == "own/tiny"
    with data_root.using(root):
        assert resolve_pretrained("own/tiny") == root / "models" / "own" / "tiny"
        assert resolve_pretrained("own/other") == "own/other"
        assert data_root.entry("models", "own/tiny").commit == COMMIT
    assert data_root.entry("models", "own/tiny") is None


def test_a_model_loads_from_the_data_folder_without_a_network(root, no_network):
    source = SimpleNamespace(
        pretrained="own/tiny", revision="main", dtype="float32", attention=None, device_map=None,
        tokenizer=None,
    )  # fmt: skip
    with data_root.using(root):
        model = load_model(source, "cpu")
        assert load_tokenizer(source).get_vocab() == model.tokenizer.get_vocab()
    assert model.n_layers == 4


def test_one_subset_of_a_data_set_loads_though_its_card_lists_others(root, no_network):
    with data_root.using(root):
        found = task_data.load("rte", ["train", "validation"])
    assert [len(found[s]) for s in ("train", "validation")] == [8, 8]
    assert found["train"][1]["label"] == 1


@pytest.mark.parametrize("shards", [(), ("a.parquet", "c.parquet")])
def test_text_for_second_moments_comes_from_the_data_folder(root, monkeypatch, no_network, shards):
    folder = root / "datasets" / "own" / "text"
    folder.mkdir(parents=True)
    for name in "abc":
        pd.DataFrame({"text": [f"{name}{n}" for n in range(3)]}).to_parquet(
            folder / f"{name}.parquet"
        )
    monkeypatch.setattr(text_shards, "SHARDS", {("own/text", None, "train"): shards})
    settings = SimpleNamespace(source="own/text", subset=None, split="train", field="text", seed=3)
    with data_root.using(root):
        texts = list(read_texts(settings))
    assert sorted(texts) == sorted(f"{s[0]}{n}" for s in shards or "abc" for n in range(3))
    assert source_digest(settings) == " ".join(("hub:own/text", *shards))


def test_on_line_the_same_files_are_read_as_from_the_data_folder(root, monkeypatch):
    asked = []

    def load(*arguments, **options):
        asked.append((arguments, options))
        return datasets.Dataset.from_list([{"text": "x"}]).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(text_shards, "SHARDS", {("own/text", "s", "train"): ("s/a.parquet",)})
    settings = SimpleNamespace(source="own/text", subset="s", split="train", field="text", seed=3)
    folder = root / "datasets" / "own" / "text"
    folder.mkdir(parents=True)
    list(read_texts(settings))
    with data_root.using(root):
        list(read_texts(settings))
    places = [options.pop("data_files")["train"] for _, options in asked]
    assert places == [["hf://datasets/own/text/s/a.parquet"], [f"{folder}/s/a.parquet"]]
    assert asked[0] == asked[1]


def test_the_key_is_the_same_from_the_hubs_cache_and_from_a_data_folder(cell, root, tmp_path):
    cached(tmp_path / "hf", "models", "own/tiny", COMMIT)
    cached(tmp_path / "hf", "datasets", "nyu-mll/glue", COMMIT)
    on_line = cell()
    assert on_line.identity["model"]["pretrained"] == f"own/tiny@{COMMIT}"
    local = cell(f"data_root={root}")
    assert local.key == on_line.key
    assert local.baseline == on_line.baseline
    assert local.overrides == on_line.overrides


def test_the_key_does_not_depend_on_where_the_data_folder_lies(cell, root, tmp_path):
    there = shutil.copytree(root, tmp_path / "elsewhere")
    assert cell(f"data_root={root}").key == cell(f"data_root={there}").key
    (root / "manifest.json").unlink()  # as if put there by hand: content counts
    (there / "manifest.json").unlink()
    by_hand = cell(f"data_root={root}").key
    assert by_hand == cell(f"data_root={there}").key


@pytest.mark.parametrize("place", ["models/own/tiny", "datasets/nyu-mll/glue"])
def test_another_commit_of_a_model_or_of_documents_is_another_key(cell, root, place):
    before = cell(f"data_root={root}")
    note(root, place, commit="f" * 40, parts=manifest.read(root)[place].parts)
    assert cell(f"data_root={root}").key != before.key


def test_documents_given_by_a_path_enter_the_key_by_content(cell, root, tmp_path):
    one, two = (tmp_path / f"{n}.jsonl" for n in ("one", "two"))
    one.write_text('{"sentence1": "a", "sentence2": "b", "label": 0}\n')
    shutil.copy(one, two)
    from_root = cell(f"data_root={root}")
    given = cell(f"data_root={root}", f"++task.custom.data={one}")
    assert given.key != from_root.key
    one.write_text('{"sentence1": "a", "sentence2": "b", "label": 1}\n')
    assert cell(f"data_root={root}", f"++task.custom.data={one}").key != given.key


def test_documents_that_are_not_there_are_refused(cell, root):
    with pytest.raises(Refusal, match=r"task\.custom\.data=nowhere\.jsonl: there is no such file"):
        cell(f"data_root={root}", "++task.custom.data=nowhere.jsonl")


def parsed(text):
    """The needs that the command in a refusal asks for."""
    words = shlex.split(text.partition("edit-sweeps data fetch ")[2].splitlines()[0])
    asked = {}
    for option, value in zip(words[::2], words[1::2], strict=True):
        asked.setdefault(option.removeprefix("--"), []).extend(split([value]))
    to = asked.pop("to")
    found = [need for needs in needs_of_options(asked, ROOT).values() for need in needs]
    return to, {need.place for need in found}


def test_everything_missing_is_named_at_once_with_a_command_that_brings_exactly_that(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    root = tmp_path / "data"
    root.mkdir()
    overrides = [
        *("model=gpt2-xl", "editor=rome", "dataset=counterfact", "task=[nli,ll_dialogue]"),
        *("moments=quick", f"data_root={root}"),
    ]
    with pytest.raises(Refusal) as caught:
        make_plan([frozen(composed(*overrides), overrides)])
    text = str(caught.value)
    for name in (
        "gpt2-xl (openai-community/gpt2-xl)",
        "nli (nyu-mll/glue rte)",
        "ll_dialogue",
        "quick",
    ):
        assert name in text
    assert len(text.splitlines()) == 1
    to, places = parsed(text)
    assert to == [str(root)]
    assert places == {
        "models/openai-community/gpt2-xl",
        "datasets/nyu-mll/glue",
        "files/mutual/dev",
        f"files/{edit_sources.find('counterfact').file}",
        "datasets/Salesforce/wikitext",
    }


def test_only_what_is_missing_is_named(cell, root):
    with pytest.raises(Refusal) as caught:
        cell(f"data_root={root}", "moments=quick")
    assert parsed(str(caught.value))[1] == {"datasets/Salesforce/wikitext"}
    shutil.rmtree(root / "datasets")
    with pytest.raises(Refusal) as caught:
        cell(f"data_root={root}")
    assert "nyu-mll/glue" in str(caught.value)
    assert parsed(str(caught.value))[1] == {"datasets/nyu-mll/glue"}


def test_a_subset_that_was_not_fetched_is_missing(cell, root):
    note(root, "datasets/nyu-mll/glue", parts=("sst2",))
    with pytest.raises(Refusal, match="nyu-mll/glue rte"):
        cell(f"data_root={root}")


def test_another_revision_of_the_model_is_missing(cell, root):
    with pytest.raises(Refusal, match=r"--model own/tiny@v2"):
        cell(f"data_root={root}", "model.revision=v2")
    assert cell(f"data_root={root}", f"model.revision={COMMIT}")


def test_a_data_folder_that_is_not_there_is_refused(cell, tmp_path):
    with pytest.raises(Refusal, match=r"data_root=.*nowhere"):
        cell(f"data_root={tmp_path}/nowhere")
    overrides = [f"data_root={tmp_path}/nowhere"]
    with pytest.raises(Refusal, match=r"nowhere: there is no such folder"):
        make_plan([frozen(composed(*overrides), overrides)])


def test_with_off_line_flags_alone_the_caches_are_looked_into(cell, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    with pytest.raises(Refusal) as caught:
        check(cell(whole=True))
    assert "model own/tiny" in str(caught.value)
    assert "nyu-mll/glue rte" in str(caught.value)
    assert "--model own/tiny --task nyu-mll/glue:rte --to FOLDER" in str(caught.value)
    loaded = tmp_path / "hf" / "datasets" / "nyu-mll___glue" / "rte" / "0.0.0" / COMMIT
    loaded.mkdir(parents=True)
    with pytest.raises(Refusal) as caught:
        check(cell(whole=True))
    assert "nyu-mll/glue" not in str(caught.value)


def test_on_line_nothing_is_looked_for(cell, monkeypatch):
    monkeypatch.setattr(offline, "FLAGS", ())
    for flag in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(flag, raising=False)
    monkeypatch.setattr("edit_sweeps.hub_cache._ask", lambda *_: None)
    assert cell()


def test_on_line_documents_are_read_at_the_commit_in_the_key(cell, tmp_path, monkeypatch):
    asked = []

    def load(*arguments, **options):
        asked.append((arguments, options))
        return datasets.Dataset.from_list(RTE.to_dict("records"))

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(datasets, "load_dataset", load)
    cached(tmp_path / "hf", "datasets", "nyu-mll/glue", COMMIT)
    task_data.load("rte", ["validation"])
    stock = {"task": "own", "dataset_path": "nyu-mll/glue", "dataset_name": "rte"}
    with stock_data.reading("own", [stock | {"validation_split": "validation"}]):
        datasets.load_dataset("nyu-mll/glue", "rte")
    assert [arguments for arguments, _ in asked] == [("nyu-mll/glue", "rte")] * 2
    assert [options["revision"] for _, options in asked] == [COMMIT, COMMIT]


def test_documents_prepared_from_another_commit_do_not_serve_off_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    cached(tmp_path / "hf", "datasets", "nyu-mll/glue", COMMIT)
    home = tmp_path / "hf" / "datasets" / "nyu-mll___glue" / "rte" / "0.0.0"
    (home / ("f" * 40)).mkdir(parents=True)
    assert not hub_cache.has_dataset("nyu-mll/glue", "rte")
    (home / COMMIT).mkdir()
    os.utime(home / ("f" * 40), (0, 0))
    assert hub_cache.has_dataset("nyu-mll/glue", "rte")


def test_that_a_commit_is_not_known_is_said(cell, root, caplog, monkeypatch):
    inputs.tell_unknown.cache_clear()
    monkeypatch.setattr("edit_sweeps.hub_cache._ask", lambda *_: None)
    cell()
    assert "datasets/nyu-mll/glue: its commit is not known here" in caplog.text
    caplog.clear()
    inputs.tell_unknown.cache_clear()
    cell(f"data_root={root}")
    assert "its commit is not known" not in caplog.text


@pytest.mark.parametrize("key", ["moments.source", "moments.file"])
def test_a_file_of_text_that_is_not_there_is_refused(cell, root, key):
    with pytest.raises(Refusal, match=rf"{key}=/no/such\.txt: there is no such file"):
        cell(f"data_root={root}", f"{key}=/no/such.txt")


def test_text_enters_the_key_by_content_whatever_its_path(cell, root, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "words.txt").write_text("one")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "words.txt").write_text("one")
    at_home = (f"data_root={root}", "moments.source='~/words.txt'")
    before = cell(*at_home).key
    assert cell(f"data_root={root}", f"moments.source={tmp_path}/there/words.txt").key == before
    (tmp_path / "words.txt").write_text("two")
    assert cell(*at_home).key != before


def test_mends_locality_file_is_looked_for_and_enters_the_key_by_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = tmp_path / "one" / "text.txt", tmp_path / "two" / "text.txt"

    def key(file):
        overrides = ["model=miniature", "editor=mend", f"editor.training.locality={file}"]
        return next(c for c in make_plan([frozen(composed(*overrides), overrides)]).todo()[-1:]).key

    with pytest.raises(Refusal, match=r"editor\.training\.locality=.*no such file"):
        key(one)
    for file in (one, two):
        file.parent.mkdir()
        file.write_text("a")
    before = key(one)
    assert key(two) == before
    one.write_text("b")
    assert key(one) != before


def test_a_tokenizer_of_its_own_enters_the_key_by_content(cell, root, tmp_path, tiny_folder):
    one, two = (shutil.copytree(tiny_folder, tmp_path / name) for name in ("one", "two"))
    before = cell(f"data_root={root}", f"model.tokenizer={one}")
    assert before.key != cell(f"data_root={root}").key
    assert cell(f"data_root={root}", f"model.tokenizer={two}").key == before.key
    assert str(tmp_path) not in json.dumps(before.identity["model"])
    with (one / "tokenizer.json").open("a") as file:
        file.write(" ")
    changed = cell(f"data_root={root}", f"model.tokenizer={one}")
    assert changed.key != before.key
    assert changed.baseline != before.baseline


def test_a_tokenizer_on_the_hub_is_read_at_the_commit_in_the_key(cell, root, tmp_path, monkeypatch):
    cached(tmp_path / "hf", "models", "own/words", COMMIT)
    made = cell("model.tokenizer=own/words")
    assert made.identity["model"]["tokenizer"] == f"own/words@{COMMIT}"
    asked = []
    monkeypatch.setattr(
        "edit_sweeps.model.AutoTokenizer.from_pretrained", lambda *a, **o: asked.append((a, o))
    )
    source = SimpleNamespace(pretrained="own/tiny", revision="v2", tokenizer="own/words")
    load_tokenizer(source)
    ((place,), options) = asked[0]
    assert (place, options["revision"]) == ("own/words", COMMIT)


def test_a_manifest_that_cannot_be_read_is_a_refusal(cell, root):
    for content in (b"{", b"[]", b"\xff", b'{"format": 9}'):
        (root / "manifest.json").write_bytes(content)
        with pytest.raises(Refusal, match=r"manifest\.json"):
            cell(f"data_root={root}")


def test_an_empty_variable_names_no_data_folder(cell, tmp_path, monkeypatch):
    monkeypatch.setenv("EDIT_SWEEPS_DATA", "")
    assert offline.offline_environment("") == {}
    monkeypatch.setattr("edit_sweeps.hub_cache._ask", lambda *_: None)
    assert cell()  # nothing is missing in the folder one happens to be in
    with data_root.using(""):
        assert data_root.root() is None
