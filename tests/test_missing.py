"""What is not on this machine: found before anything runs, and the command that is printed brings just that."""

import dataclasses
import shlex
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest

from edit_sweeps import catalogue, data_root, hub_cache, manifest, missing
from edit_sweeps.building import pick
from edit_sweeps.cli_data import split
from edit_sweeps.data_order import needs_of_options
from edit_sweeps.launcher import checks
from edit_sweeps.launcher.freezing import Refusal, freeze, frozen
from edit_sweeps.launcher.plan import make_plan
from edit_sweeps.model import load_model
from edit_sweeps.moments import MomentSettings, MomentStore
from tests.data_folder import COMMIT, note
from tests.test_conf import CONF, composed

pytest_plugins = ["tests.data_folder"]

ROOT = CONF.parent
OTHER = "f" * 40


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [cut, lambda path: path.unlink()], ids=["cut", "lost"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("datasets/nyu-mll/glue/rte/train-00000-of-00001.parquet", "nyu-mll/glue rte"),
        ("models/own/tiny/model.safetensors", "model own/tiny"),
    ],
)
def test_a_file_that_is_lost_or_cut_is_missing(cell, root, name, said, harm):
    assert cell(f"data_root={root}")
    harm(root / name)
    with pytest.raises(Refusal) as caught:
        cell(f"data_root={root}")
    assert said in str(caught.value)
    assert name in str(caught.value)


def test_a_damaged_model_is_missing_though_a_cache_holds_it(cell, root, monkeypatch):
    monkeypatch.setattr(hub_cache, "has_model", lambda *_: True)
    assert cell(f"data_root={root}")
    cut(root / "models" / "own" / "tiny" / "model.safetensors")
    with pytest.raises(Refusal, match="model own/tiny"):
        cell(f"data_root={root}")


def test_one_lost_file_of_a_folder_of_documents_is_missing(tmp_path):
    folder = tmp_path / "files" / "mutual" / "dev"
    folder.mkdir(parents=True)
    for n in range(3):
        (folder / f"dev_{n}.txt").write_text("{}")
    note(tmp_path, "files/mutual/dev")
    need = catalogue.documents_need("mutual/dev")
    with data_root.using(tmp_path):
        assert missing.is_there(need)
        (folder / "dev_1.txt").unlink()
        assert not missing.is_there(need)
        (tmp_path / "manifest.json").unlink()  # put there by hand: taken as it is
        assert missing.is_there(need)


def what(need):
    """What is fetched, whatever option asks for it."""
    return need.kind, need.name, need.revision or "main", need.subset, frozenset(need.only)


MEND = ("model=gpt2-xl", "editor=mend", "editor.layers=[45,46,47]")
HUB_TEXT = ("editor.training.locality=own/text", "editor.training.locality_subset=small")


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=gpt2-xl", "dataset=counterfact", "task=paper8", "moments=quick"),
        ("model=gpt2-xl", "model.revision=v2", "moments=faithful", "dataset=knowedit_zsre"),
        ("model=custom", "model.pretrained=own/tiny", "model.tokenizer=own/words"),
        ("model=gpt2-xl", "model.tokenizer=own/words"),
        ("model=custom", "model.pretrained=opt", "model.tokenizer=words"),
        ("moments=quick", "moments.split=validation"),
        ("moments=quick", "moments.source=own/text", "moments.subset=null", "moments.split=test"),
        ("moments=quick", "moments.source=text", "moments.subset=null"),
        (*MEND, *HUB_TEXT, "editor.train_source=zsre"),
        (*MEND, "editor.train_source=zsre", "editor.train_file=zsre/zsre_mend_train.json"),
    ],
)
def test_the_command_brings_exactly_what_cells_need(monkeypatch, tmp_path, overrides):
    monkeypatch.chdir(tmp_path)
    given = dict.fromkeys(o.split("=")[0] for o in overrides)
    unset = {"editor": "editor=rome", "dataset": "dataset=counterfact", "model": "model=gpt2-xl"}
    more = [o for key, o in unset.items() if key not in given]
    if not any(o.startswith("editor=mend") for o in overrides):
        more.append("editor.layer=5")
    needs = catalogue.needs_of(freeze(composed(*more, *overrides)))
    words = shlex.split(missing.command(needs, "/a folder"))
    assert words[:3] == ["edit-sweeps", "data", "fetch"]
    asked, to = {}, None
    for option, value in zip(words[3::2], words[4::2], strict=True):
        if option == "--to":
            to = value
        else:
            asked.setdefault(option.removeprefix("--"), []).extend(split([value]))
    brought = [need for found in needs_of_options(asked, ROOT).values() for need in found]
    assert to == "/a folder"
    assert {what(need) for need in brought} == {what(need) for need in needs}
    assert len(needs) >= 2


def test_a_tokenizer_of_another_repository_does_not_bring_its_weights():
    model = {"name": "own", "pretrained": "own/a", "revision": None, "tokenizer": "own/b"}
    _, need = catalogue.model_needs(model)
    assert (need.group, need.option) == ("tokenizer", "own/b")
    ((found,),) = needs_of_options({"tokenizer": ["own/b"]}, ROOT).values()
    assert found == need
    assert found.only


def cached_main(home, name, commit):
    """The hub's cache knows the commit of the main branch, and nothing else."""
    refs = home / "hub" / f"models--{name.replace('/', '--')}" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(commit)


def test_the_commit_that_a_cell_is_pinned_to_is_not_what_the_command_asks_for(
    cell, root, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cached_main(tmp_path / "hf", "own/tiny", OTHER)
    plan = cell(whole=True)
    assert {c.config["model"]["revision"] for c in plan.todo()} == {OTHER}
    with pytest.raises(Refusal) as caught:
        checks.check(plan)
    assert "--model own/tiny --task" in str(caught.value)


def test_a_folder_pinned_to_a_commit_serves_who_asks_for_none(cell, root):
    entries = manifest.read(root)
    for revision, served in ((COMMIT, True), ("v2", False)):
        pinned = dataclasses.replace(entries["models/own/tiny"], revision=revision)
        manifest.write(root, entries | {"models/own/tiny": pinned})
        if served:
            assert cell(f"data_root={root}")
        else:
            with pytest.raises(Refusal, match="own/tiny"):
                cell(f"data_root={root}")


@pytest.fixture
def stored(cell, root, monkeypatch):
    """Second moments of layer 1 of the tiny model over a text of the data folder, which is then lost."""
    folder = root / "datasets" / "own" / "text"
    folder.mkdir(parents=True)
    words = "The baker said that the pilot works as a singer in the town. "
    pd.DataFrame({"text": [f"{words}{n}" for n in range(20)]}).to_parquet(folder / "a.parquet")
    text = ("moments.source=own/text", "moments.tokens=100", f"data_root={root}")
    config = cell(*text).config
    settings = pick(MomentSettings, config["moments"])
    store = MomentStore(settings, cell(*text).study.parent / ".cache")
    with data_root.using(root):
        store.get(load_model(SimpleNamespace(**config["model"]), "cpu"), [1])
    shutil.rmtree(folder)
    return text


def test_text_is_not_missing_where_the_moments_that_the_cell_takes_are_stored(cell, stored):
    assert cell(*stored)


@pytest.mark.parametrize(
    "other", ["editor.layer=2", "moments.tokens=200", "moments.seed=1", "model.pretrained=own/two"]
)
def test_moments_of_another_layer_model_or_budget_do_not_stand_for_the_text(
    cell, root, stored, other
):
    shutil.copytree(root / "models" / "own" / "tiny", root / "models" / "own" / "two")
    with pytest.raises(Refusal, match="own/text"):
        cell(*stored, other)


def test_mends_text_is_missing_whatever_moments_are_stored(cell, root, stored):
    tree = cell(*stored).config
    training = {"locality": "own/text", "locality_subset": None, "locality_split": "train"}
    mend = tree | {"editor": {"name": "mend", "layers": [1], "training": training}}
    with data_root.using(root):
        assert missing.of_cells([tree], ()) == []
        assert [need.name for need in missing.of_cells([mend], ())] == ["own/text"]


def planned(*overrides):
    return make_plan([frozen(composed(*overrides), overrides)])


@pytest.mark.parametrize("folder", [True, False])
def test_mends_published_training_file_is_named_with_its_command(
    cell, root, tmp_path, monkeypatch, folder
):
    place = (f"data_root={root}",) if folder else ("data_root=null",)
    overrides = (
        *(
            "model=miniature",
            "editor=mend",
            "dataset=jsonl",
            f"dataset.path={tmp_path}/facts.jsonl",
        ),
        *("editor.train_source=zsre", "editor.train_file=zsre/zsre_mend_train.json", *place),
    )
    with pytest.raises(Refusal) as caught:
        planned(*overrides)
    to = root if folder else "FOLDER"
    assert f"edit-sweeps data fetch --dataset zsre_train --to {to}" in str(caught.value)
    assert "no such file" not in str(caught.value) or not folder
    file = root / "files" / "zsre" / "zsre_mend_train.json"
    file.parent.mkdir(parents=True)
    file.write_text("[]")
    if folder:
        assert planned(*overrides)
