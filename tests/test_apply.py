"""`edit-sweeps apply`: requests and a model in, an edited model with its scores out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from edit_sweeps import cli
from edit_sweeps.apply import key_of
from edit_sweeps.miniature import CHECKPOINTS
from edit_sweeps.record import Record
from tests.request_files import line, write_lines

ROOT = Path(__file__).parent.parent
FACTS = (
    {"subject": "Xaver Tanaka", "prompt": "{} is a", "target_new": "carpenter", "target_true": "tailor",
     "paraphrases": ["Xaver Tanaka currently works as a"], "neighborhood": []},
    {"subject": "Nadia Tolle", "prompt": "{} now lives in", "target_new": "Calstad", "target_true": "Vasvik"},
    {"subject": "Yara Jansen", "prompt": "The mother tongue of {} is", "target_new": "Tarvic",
     "target_true": "Ostran"},
)  # fmt: skip
MEMIT = ("--model", "miniature", "--editor", "memit")
QUICK = ("moments.tokens=3000",)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with this one's conf/; the tests stand in a folder beside it."""
    home, here = tmp_path / "project", tmp_path / "desk"
    home.mkdir()
    here.mkdir()
    (home / "launch.py").touch()
    (home / "conf").symlink_to(ROOT / "conf")
    monkeypatch.setenv(cli.HOME_VARIABLE, str(home))
    monkeypatch.delenv("EDIT_SWEEPS_CACHE", raising=False)
    monkeypatch.chdir(here)
    write_lines(here, *(line(i, **fact) for i, fact in enumerate(FACTS)))
    return home


def apply(*arguments, code=0, requests="facts.jsonl"):
    done = CliRunner().invoke(cli.app, ["apply", requests, *arguments])
    assert done.exit_code == code, done.output + done.stderr
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "Traceback" not in done.output + done.stderr
    return done


def mark(*folders):
    return {
        str(p): (p.stat().st_mtime_ns, p.stat().st_size)
        for folder in folders
        for p in folder.rglob("*")
        if p.is_file()
    }


def continued(folder, prompt, network=None):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = network or AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt")
    out = network.generate(**ids, max_new_tokens=6, do_sample=False)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :])


def test_the_folder_holds_a_model_that_says_the_new_answers_and_a_second_run_leaves_it_alone(
    project,
):
    first = apply(*MEMIT, "--out", "edited", *QUICK)
    out = Path("edited")
    assert {p.name for p in out.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "record.json", "requests.jsonl", "scores.json",
    }  # fmt: skip
    for fact in FACTS:
        prompt = fact["prompt"].replace("{}", fact["subject"])
        answers = [continued(place, prompt) for place in (CHECKPOINTS / "gpt2", out)]
        found = [a.split()[0].rstrip(".") for a in answers]
        assert found == [fact["target_true"], fact["target_new"]]
    scores = json.loads((out / "scores.json").read_text())
    efficacy = scores["scores"]["edit"]["efficacy"]
    assert (efficacy["before"], efficacy["after"], efficacy["n"]) == (0.0, 1.0, 3)
    assert re.search(r"^efficacy +0\.00 +1\.00 +3$", first.stdout, re.MULTILINE)
    assert "edited (AutoModelForCausalLM.from_pretrained)" in first.stdout
    assert (out / "requests.jsonl").read_text() == Path("facts.jsonl").read_text()
    record = Record.load(out)
    assert record.state == "done"
    assert [t["case_id"] for t in record.traces] == ["0", "1", "2"], "in the order of the file"
    assert record.config["edits"]["name"] == "batch"
    (cell,) = (project / "outputs" / "apply" / "cells").iterdir()
    assert (cell / "model" / "model.safetensors").samefile(out / "model.safetensors")

    before = mark(out, cell)
    again = apply(*MEMIT, "--out", "edited", *QUICK)
    assert "Nothing to do" in again.stderr
    assert again.stdout == first.stdout
    assert mark(out, cell) == before

    other = apply(*MEMIT, "--out", "edited", *QUICK, "seed=1", code=2)
    assert "holds the outcome of other requests or settings" in other.stderr
    assert mark(out, cell) == before


@pytest.mark.slow
def test_adapter_and_delta_beside_the_model_and_a_folder_as_the_model(project):
    apply(*MEMIT, "--out", "one", "--save", "adapter", "--save", "delta", *QUICK)
    assert not (Path("one") / "config.json").exists(), "transformers would load the adapter with it"
    delta = load_file("one/delta.safetensors")
    assert len(delta) == 2
    network = AutoModelForCausalLM.from_pretrained(CHECKPOINTS / "gpt2", dtype=torch.float32)
    weights = {n: p.detach().clone() for n, p in network.named_parameters()}
    merged = peft.PeftModel.from_pretrained(network, "one/adapter").merge_and_unload()
    for name, change in delta.items():
        assert torch.allclose(merged.get_parameter(name), weights[name] + change, atol=1e-6)

    AutoModelForCausalLM.from_pretrained(CHECKPOINTS / "gpt2").save_pretrained("own")
    AutoTokenizer.from_pretrained(CHECKPOINTS / "gpt2").save_pretrained("own")
    rome = ("--editor", "rome", "editor.layer=1", "editor.context_source=miniature")
    apply("--model", "own", *rome, "moments=miniature", "--out", "two", *QUICK, "--save", "delta")
    record = Record.load(Path("two"))
    assert record.config["model"]["pretrained"] == str(Path("own").resolve())
    assert record.config["edits"]["name"] == "sequential"
    assert json.loads(Path("two/scores.json").read_text())["counts"]["requests"] == 3


def test_an_adapter_that_cannot_be_is_told_and_changes_the_exit_code(project):
    lora = ("--editor", "lora", "editor.layers=[0]", "editor.rank=200", "editor.steps=2")
    for _ in range(2):
        done = apply("--model", "miniature", *lora, "--out", "edited", "--save", "adapter", code=1)
        assert re.search(r"no adapter: the edit is not low rank .* use save=delta", done.stdout)
        assert "not low rank" in Path("edited/adapter/REFUSED.txt").read_text()


def test_dry_run_shows_the_plan_and_leaves_nothing(project):
    done = apply(*MEMIT, "--out", "edited", "dry_run=true")
    assert re.search(r"miniature-memit-n3-s0-\w+ +pending +run", done.stdout)
    assert not Path("edited").exists()
    assert not list(project.rglob("cells"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*MEMIT, "--out", "x", "--save", "modle"), "--save modle: one of delta, model, adapter"),
        (("--model", "miniatur", "--editor", "rome", "--out", "x"), "did you mean miniature[?] Known"),
        (("--model", "gpt2", "--editor", "rome", "--out", "x"), "nor a hub id.*did you mean gpt2-xl"),
        (("--model", "miniature", "--editor", "memitt", "--out", "x"), "did you mean memit[?]"),
        (("--model", "miniature", "--editor", "none", "--out", "x"), "none changes nothing"),
        ((*MEMIT, "--out", "x", "--tasks", "mini_nl"), "did you mean mini_nli[?]"),
        (("--model", "miniature", "--editor", "grace", "--out", "x"), "no changed weights to save"),
        ((*MEMIT, "--out", "x", "editor.layr=3"), "editor.layr"),
        ((*MEMIT, "--out", "x", "regularizer=rectt"), "regularizer/rectt"),
        ((*MEMIT, "--out", "x", "num_edits=2"), "set by the number of requests"),
        ((*MEMIT, "--out", "x", "model.pretrained=y"), "set by --model"),
        ((*MEMIT, "--out", "x", "layer"), "'layer' is no override"),
        ((*MEMIT, "--out", "x", "--batch", "edits=sequential"), "give one of them"),
        ((*MEMIT, "--out", "x", "editor.layers=[0,99]"), "layer 99"),
        ((*MEMIT, "--out", "facts.jsonl"), "is a file"),
        ((*MEMIT, "--out", "."), "not empty and not from this command"),
        (("--model", "miniature", "--editor", "rome", "--out", "x", "--batch"), "one edit at a time"),
        (("--model", "miniature", "--editor", "ft", "--out", "x", "--save", "adapter"), "full rank"),
        ((*MEMIT,), "Missing option.*--out"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_exit_code_2_and_nothing_is_left(project, arguments, says):
    before = mark(Path())
    done = apply(*arguments, code=2)
    assert re.search(says, " ".join(done.stderr.split()))
    assert mark(Path()) == before
    assert not list(project.rglob("cells"))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([line(0), line(1, prompt="Person 1 lives in")], "line 2, field prompt: holds 0 times {}"),
        ([line(0), "{", line(2, target_new="")], r"2 of 3 .*line 2: .*JSON.*line 3, field target_new"),
        ([], "is empty"),
    ],
)  # fmt: skip
def test_broken_requests_are_told_with_their_lines(project, rows, says):
    write_lines(Path(), *rows, name="broken.jsonl")
    done = apply(*MEMIT, "--out", "x", code=2, requests="broken.jsonl")
    assert re.search(says, " ".join(done.stderr.split()))
    done = apply(*MEMIT, "--out", "x", code=2, requests="nowhere.jsonl")
    assert "nowhere.jsonl does not exist" in done.stderr
    assert not Path("x").exists()


def test_the_key_of_an_override():
    given = ("editor.layer=5", "+a.b=1=2", "~task", "tuned@editor=x")
    assert [key_of(o) for o in given] == ["editor.layer", "a.b", "task", "tuned"]
