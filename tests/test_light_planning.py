"""A sweep is planned on a login node: torch is not imported, whatever the editor, and models are told from their files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoConfig

from edit_sweeps import model_facts
from edit_sweeps.launcher import checks
from edit_sweeps.launcher.checks import count_tokens, read_tokenizer
from edit_sweeps.launcher.freezing import frozen
from edit_sweeps.launcher.plan import make_plan
from edit_sweeps.model import DTYPES, load_tokenizer
from edit_sweeps.model_facts import DTYPE_NAMES, describe_model, tokenizer_file
from tests.conftest import FAMILIES, make_tokenizer
from tests.light_run import RUN
from tests.test_conf import composed

ROOT = Path(__file__).parent.parent
EDITORS = sorted(file.stem for file in (ROOT / "conf" / "editor").glob("*.yaml"))


def planned(folder, *arguments, code=0, **environment):
    """What launch.py prints, and which of the heavy libraries it has imported at the end."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HOME": str(folder / "hub")} | environment,
    )
    assert done.returncode == code, done.stdout + done.stderr
    shown, _, heavy = done.stdout.rpartition("HEAVY")
    return shown, heavy.split()


@pytest.mark.parametrize(
    "arguments",
    [
        [f"editor={','.join(EDITORS)}", "num_edits=1,3"],
        ["regularizer=none,rect,prune,random,low_rank,norm_match", "save=delta"],
        ["task=miniature,mini_nli", "model=miniature,miniature-llama"],
        ["editor=memit", "edits=batch", "num_edits=10", "cluster=slurm"],
    ],
)
def test_a_grid_is_planned_without_the_heavy_libraries(tmp_path, arguments):
    shown, heavy = planned(tmp_path, "-m", *arguments, "dry_run=true")
    assert "to run in" in shown
    assert heavy == []


def test_tasks_of_the_harness_bring_no_torch_either(tmp_path):
    """Groups are looked up in the harness's own index, which imports the harness, but neither torch nor transformers."""
    arguments = ["-m", "task=paper8,hellaswag,mmlu", "dry_run=true"]
    _, heavy = planned(tmp_path, *arguments, code=2)  # their documents are not here
    assert not {"torch", "transformers"} & set(heavy)


def test_what_is_refused_is_refused_without_them(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUN, "editor.layer=99"], cwd=tmp_path, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 2
    assert "99" in done.stderr
    assert done.stdout.split() == ["HEAVY"]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_facts_of_a_family_are_those_that_transformers_reads(tmp_path, family, monkeypatch):
    config = AutoConfig.for_model(family, **FAMILIES[family])
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(model_facts, "whole_config", lambda *_: pytest.fail("not from its file"))
    facts = describe_model(source(tmp_path))
    assert facts.model_type == family
    assert facts.n_layers == config.num_hidden_layers
    assert facts.hidden_size == config.hidden_size
    assert facts.vocab_size == config.vocab_size
    longest = getattr(config, "max_position_embeddings", None) or model_facts.LONGEST
    assert facts.max_length == min(longest, model_facts.LONGEST)


def test_what_a_config_leaves_out_is_filled_in_as_transformers_does(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 3}))
    (tmp_path / "model.safetensors").touch()
    facts = describe_model(source(tmp_path))
    assert (facts.n_layers, facts.hidden_size, facts.max_length) == (3, 768, 1024)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_tokens_are_counted_as_the_model_will_see_them(name):
    model = source(f"miniature://{name}")
    texts = ["Anna Kovac works as a pilot", "", "  two  spaces\n", "Zürich 12,5 %"]
    theirs = [len(ids) for ids in load_tokenizer(model)(texts)["input_ids"]]
    assert count_tokens(read_tokenizer(tokenizer_file(model)), texts) == theirs


def test_special_tokens_count(tmp_path):
    plain, both = make_tokenizer(), make_tokenizer(bos=True, eos=True)
    both.save_pretrained(tmp_path)
    ours = count_tokens(read_tokenizer(tmp_path / "tokenizer.json"), ["Paris"])
    assert ours == [len(both("Paris")["input_ids"])] == [len(plain("Paris")["input_ids"]) + 2]


def test_a_cut_or_padding_that_a_tokenizer_has_saved_does_not_count(tmp_path):
    tokenizer = make_tokenizer()
    core = tokenizer.backend_tokenizer
    core.enable_truncation(2)
    core.enable_padding(length=50)
    core.save(str(tmp_path / "tokenizer.json"))
    text = "The capital of Ostravia is Velmora."
    size = len(make_tokenizer()(text)["input_ids"])
    assert 2 < size < 50
    assert count_tokens(read_tokenizer(tmp_path / "tokenizer.json"), [text, "The"])[0] == size


def test_a_tokenizer_is_read_once_for_all_seeds(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    read = []
    whole = checks.read_tokenizer
    monkeypatch.setattr(checks, "read_tokenizer", lambda file: read.append(file) or whole(file))
    points = [["editor=ft", "num_edits=1", f"seed={seed}"] for seed in range(3)]
    cells = [frozen(composed(*point), point) for point in points]
    checks.check(make_plan(cells))
    assert len(read) == 1


def test_a_model_whose_tokenizer_only_transformers_can_make_is_planned(tmp_path):
    """Its job counts: a sentencepiece model has no tokenizer.json."""
    tiny_folder(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert tokenizer_file(source(tmp_path)) is None
    planned(tmp_path, f"model.pretrained={tmp_path}", "editor=ft", "editor.layer=1", "dry_run=true")


def test_a_model_of_the_hubs_cache_is_planned_without_them(tmp_path):
    """The layout that huggingface_hub leaves; weights and tokenizer are looked for at its commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "home" / "hub" / "models--someone--tiny"
    tiny_folder(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    arguments = [
        "model.pretrained=someone/tiny",
        "editor=ft,rome",
        "editor.layer=1",
        "dry_run=true",
    ]
    shown, heavy = planned(tmp_path, "-m", *arguments, HF_HOME=str(tmp_path / "home"))
    assert "to run in" in shown
    assert heavy == []


def test_every_dtype_can_be_asked_for_and_loaded():
    assert set(DTYPE_NAMES) == set(DTYPES)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_window_that_a_config_leaves_out_is_that_of_its_family(tmp_path, family, monkeypatch):
    config = AutoConfig.for_model(family, **FAMILIES[family])
    told = config.to_dict()
    for name in model_facts.NAMES["max_length"]:
        told.pop(name, None)
    (tmp_path / "config.json").write_text(json.dumps(told))
    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(model_facts, "whole_config", lambda *_: pytest.fail("not from its file"))
    longest = getattr(AutoConfig.for_model(family), "max_position_embeddings", None)
    facts = describe_model(source(tmp_path))
    assert facts.max_length == min(longest or model_facts.LONGEST, model_facts.LONGEST)


def tiny_folder(folder):
    """A model without weights: all that planning reads."""
    folder.mkdir(parents=True, exist_ok=True)
    AutoConfig.for_model("gpt2", **FAMILIES["gpt2"]).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "model.safetensors").touch()


def source(place):
    return SimpleNamespace(
        pretrained=str(place), revision=None, dtype="float32", attention=None, device_map=None, tokenizer=None
    )  # fmt: skip
