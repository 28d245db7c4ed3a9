"""Second moments are the direct sums, are kept under a digest of all that matters, and are computed once."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edit_sweeps import moments
from edit_sweeps.hooks import capture
from edit_sweeps.ledger import Dense, Ledger
from edit_sweeps.model import EditableModel
from edit_sweeps.moments import MomentSettings, MomentStore, collect
from edit_sweeps.texts import read_texts
from edit_sweeps.tokens import token_ids
from tests.conftest import TEXT, tiny_network
from tests.test_moment import random_matrix, relative


@pytest.fixture
def text(tmp_path):
    """Thirty short documents in a file."""
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"{line} Number {i}." for i in range(6) for line in TEXT))
    return path


@pytest.fixture
def settings(text):
    return MomentSettings(source=str(text), tokens=400, max_length=16, batch_size=4)


def direct(model, layer, settings):
    """Sum of k k^T over the same tokens, one document piece at a time, in float64."""
    total, count = 0, 0
    for document in read_texts(settings):
        ids = token_ids(model.tokenizer, document)
        for start in range(0, len(ids), settings.max_length):
            piece = ids[start : start + settings.max_length][: settings.tokens - count]
            if not piece:
                return total / count, count
            with torch.no_grad(), capture({0: model.mlp_out(layer)}, inputs=True, rows=1) as keys:
                model.network(input_ids=torch.tensor([piece]))
            key = keys[0][0].double()
            total, count = total + key.T @ key, count + len(piece)
    return total / count, count


def test_one_pass_over_all_layers_is_the_direct_sum_of_each(family, tiny_model, settings):
    model = tiny_model(family)
    sums, tokens = collect(model, [0, 2], settings)
    assert tokens == settings.tokens == 400
    for layer in (0, 2):
        want, count = direct(model, layer, settings)
        assert count == tokens
        assert sums[layer].dtype == torch.float64
        assert relative(sums[layer], want) < 1e-5
    assert relative(sums[0], sums[2]) > 1e-2


@pytest.mark.parametrize("fold", [1, 100, 10**9])
def test_folding_often_or_never_gives_the_same_sum(tiny_model, settings, monkeypatch, fold):
    model = tiny_model("gpt2", dtype="float64")
    monkeypatch.setattr(moments, "FOLD_TOKENS", fold)
    sums, _ = collect(model, [1], replace(settings, dtype="float64"))
    assert relative(sums[1], direct(model, 1, settings)[0]) < 1e-12


def test_batch_size_does_not_change_the_tokens(tiny_model, settings):
    model = tiny_model("llama", dtype="float64")
    exact = replace(settings, dtype="float64")
    one, other = (collect(model, [1], replace(exact, batch_size=n))[0][1] for n in (1, 7))
    assert relative(one, other) < 1e-12


def test_half_precision_keys_are_summed_in_float32(tiny_model, settings):
    model = tiny_model("llama", dtype="bfloat16")
    sums, _ = collect(model, [1], settings)
    assert relative(sums[1], direct(model, 1, settings)[0]) < 2e-2
    naive = sums[1].bfloat16().double()
    assert relative(naive, sums[1]) > 1e-4


def test_the_forward_pass_ends_at_the_last_layer_asked_for(tiny, settings):
    ran = []
    for layer, block in enumerate(tiny.blocks):
        block.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    collect(tiny, [1, 0], settings)
    assert set(ran) == {0}


def test_a_source_that_ends_early_is_used_up_and_said(tiny, settings, caplog):
    with caplog.at_level(logging.WARNING):
        _, tokens = collect(tiny, [0], replace(settings, tokens=10**6))
    whole = sum(len(token_ids(tiny.tokenizer, t)) for t in read_texts(settings))
    assert tokens == whole < 10**6
    assert f"ended after {whole} tokens" in caplog.text


def test_a_source_without_text_is_refused(tiny, settings, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n \n\n")
    with pytest.raises(ValueError, match="no text"):
        collect(tiny, [0], replace(settings, source=str(empty)))


def test_the_stored_moment_is_the_collected_one(tiny, settings, tmp_path):
    found = MomentStore(settings, tmp_path).get(tiny, [1, 3])
    assert sorted(found) == [1, 3]
    sums, tokens = collect(tiny, [1, 3], settings)
    for layer, moment in found.items():
        assert moment.tokens == tokens
        assert moment.eigenvalues.dtype == moment.eigenvectors.dtype == torch.float64
        assert (moment.eigenvalues.diff() >= 0).all()
        assert relative(moment.matrix(), sums[layer]) < 1e-6


@pytest.fixture
def passes(monkeypatch):
    """The calls of `collect`: the layers of each."""
    calls = []
    real = moments.collect

    def counted(model, layers, settings):
        calls.append(list(layers))
        return real(model, layers, settings)

    monkeypatch.setattr(moments, "collect", counted)
    return calls


def test_a_second_call_reads_the_disk_and_runs_no_forward_pass(tiny, settings, tmp_path, passes):
    first = MomentStore(settings, tmp_path).get(tiny, [0, 1])
    tiny.network.register_forward_pre_hook(lambda *_: pytest.fail("a forward pass ran"))
    second = MomentStore(settings, tmp_path).get(tiny, [1, 0])
    assert passes == [[0, 1]]
    for layer in (0, 1):
        assert torch.equal(first[layer].eigenvalues, second[layer].eigenvalues)
        assert torch.equal(first[layer].eigenvectors, second[layer].eigenvectors)


def test_only_missing_layers_are_collected(tiny, settings, tmp_path, passes):
    store = MomentStore(settings, tmp_path)
    store.get(tiny, [1])
    store.get(tiny, [0, 1, 2])
    assert passes == [[1], [0, 2]]
    assert store.get(tiny, []) == {}


CHANGES = {
    "tokens": 401,
    "max_length": 17,
    "batch_size": 5,
    "dtype": "float64",
    "seed": 1,
    "field": "body",
    "split": "test",
    "subset": "en",
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_is_part_of_the_digest(tiny, settings, tmp_path, passes, name):
    MomentStore(settings, tmp_path).get(tiny, [0])
    MomentStore(replace(settings, **{name: CHANGES[name]}), tmp_path).get(tiny, [0])
    assert len(passes) == 2


def test_no_setting_is_missing_from_that_test():
    from dataclasses import fields

    assert {f.name for f in fields(MomentSettings)} == {*CHANGES, "source", "file"}


def test_weights_text_dtype_and_tokenizer_are_part_of_the_digest(
    tiny_model, bos_tokenizer, settings, tmp_path, passes
):
    model = tiny_model("gpt2")
    variants = [
        (model, settings),
        (tiny_model("gpt2", seed=1), settings),
        (tiny_model("gpt2", dtype="bfloat16"), settings),
        (EditableModel(model.network, bos_tokenizer), settings),
    ]
    for which, how in variants:
        MomentStore(how, tmp_path).get(which, [0])
    path = Path(settings.source)
    path.write_text(path.read_text() + " More.")
    MomentStore(settings, tmp_path).get(model, [0])
    assert len(passes) == len(variants) + 1


def test_the_place_of_a_file_and_padding_of_the_tokenizer_are_not_part_of_the_digest(
    tiny, settings, tmp_path, passes
):
    MomentStore(settings, tmp_path).get(tiny, [0])
    copy = tmp_path / "elsewhere.txt"
    copy.write_bytes(Path(settings.source).read_bytes())
    tiny.tokenizer(["Paris", "Rome is"], padding=True, truncation=True, max_length=2)
    MomentStore(replace(settings, source=str(copy)), tmp_path).get(tiny, [0])
    assert len(passes) == 1


def test_a_manifest_says_what_each_file_is(tiny, settings, tmp_path):
    MomentStore(settings, tmp_path).get(tiny, [2])
    (stored,) = (tmp_path / "moments").glob("*.safetensors")
    facts = json.loads(stored.with_suffix(".json").read_text())
    assert facts["parameter"] == tiny.parameter_name(2)
    assert facts["model"] == tiny.fingerprint()
    assert facts["tokens_used"] == 400
    leftovers = {p.suffix for p in (tmp_path / "moments").iterdir() if p.is_file()}
    assert leftovers == {".safetensors", ".json"}


def test_moments_of_an_edited_model_are_refused(tiny, settings, tmp_path):
    store, ledger = MomentStore(settings, tmp_path), Ledger(tiny)
    ledger.write(tiny.parameter_name(0), Dense(torch.ones(32, 48)))
    with pytest.raises(RuntimeError, match="unedited"):
        store.get(tiny, [1])
    ledger.revert()
    before = store.get(tiny, [1])
    ledger.write(tiny.parameter_name(0), Dense(torch.ones(32, 48)))
    assert torch.equal(store.get(tiny, [1])[1].eigenvalues, before[1].eigenvalues)


@pytest.mark.slow
def test_two_processes_compute_once(tmp_path, text, tokenizer):
    tiny_network("gpt2", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    code = f"""
        import logging, sys, time
        from pathlib import Path
        from types import SimpleNamespace
        from edit_sweeps import moments
        from edit_sweeps.model import load_model
        logging.basicConfig(level=logging.INFO)
        here = Path({str(tmp_path)!r})
        real = moments.collect
        def slow(*args):
            (here / f"pass-{{sys.argv[1]}}").touch()
            time.sleep(2)
            return real(*args)
        moments.collect = slow
        source = SimpleNamespace(pretrained=str(here / "model"), revision=None, dtype="float32",
                                 attention=None, device_map=None, tokenizer=None)
        model = load_model(source, "cpu")
        settings = moments.MomentSettings(source={str(text)!r}, tokens=400, max_length=16)
        (here / f"ready-{{sys.argv[1]}}").touch()
        while len(list(here.glob("ready-*"))) < 2:
            time.sleep(0.02)
        found = moments.MomentStore(settings, here / "cache").get(model, [0, 1])
        print(found[1].eigenvalues.sum().item())
    """
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    outputs = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert len(list(tmp_path.glob("pass-*"))) == 1
    assert outputs[0][0] == outputs[1][0] != ""
    assert sum("waiting" in err for _, err in outputs) == 1


@pytest.fixture
def file(tiny, tmp_path):
    """A safetensors file with the second moments of layers 0 and 1."""
    path = tmp_path / "given.safetensors"
    save_file({tiny.parameter_name(n): random_matrix(48, seed=n) for n in (0, 1)}, path)
    return path


def test_a_given_file_is_used_as_it_is(tiny, file, tmp_path, passes):
    store = MomentStore(MomentSettings(file=str(file)), tmp_path / "cache")
    found = store.get(tiny, [0, 1])
    for n in (0, 1):
        assert relative(found[n].matrix(), random_matrix(48, seed=n)) < 1e-12
        assert found[n].tokens == 0
    assert passes == []


def test_a_changed_file_is_read_again(tiny, file, tmp_path):
    store = MomentStore(MomentSettings(file=str(file)), tmp_path / "cache")
    before = store.get(tiny, [0])[0]
    save_file({tiny.parameter_name(0): random_matrix(48, seed=9)}, file)
    assert relative(store.get(tiny, [0])[0].matrix(), before.matrix()) > 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: {"transformer.h.0.mlp.c_proj.weight": c},
            r"no transformer\.h\.2.*it has .*h\.0",
        ),
        (lambda c: {}, "it has nothing"),
        (
            lambda c: {"transformer.h.2.mlp.c_proj.weight": c[:5, :5].clone()},
            r"\[5, 5\], not \[48, 48\]",
        ),
        (lambda c: {"transformer.h.2.mlp.c_proj.weight": c.triu()}, "not symmetric"),
        (lambda c: {"transformer.h.2.mlp.c_proj.weight": c * torch.nan}, "not finite"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tiny, tmp_path, change, message):
    path = tmp_path / "given.safetensors"
    save_file(change(random_matrix(48)), path)
    with pytest.raises(ValueError, match=message):
        MomentStore(MomentSettings(file=str(path)), tmp_path).get(tiny, [2])


def test_files_that_are_not_there_or_not_safetensors_are_refused(tiny, tmp_path):
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name, message in (
        ("none.safetensors", "there is no file"),
        ("text.safetensors", "not a safetensors"),
    ):
        with pytest.raises(ValueError, match=message):
            MomentStore(MomentSettings(file=str(tmp_path / name)), tmp_path).get(tiny, [0])


def test_the_same_file_for_a_model_of_other_width_is_checked_again(
    tiny, tiny_model, file, tmp_path
):
    store = MomentStore(MomentSettings(file=str(file)), tmp_path / "cache")
    store.get(tiny, [0])
    with pytest.raises(ValueError, match=r"\[48, 48\], not \[64, 64\]"):
        store.get(tiny_model("gpt2", n_inner=64), [0])


@pytest.mark.parametrize(
    "wrong", [{"tokens": 0}, {"max_length": 0}, {"batch_size": -1}, {"dtype": "bfloat16"}]
)
def test_settings_outside_their_range_are_refused(tmp_path, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"moments\.{name}="):
        MomentStore(MomentSettings(**wrong), tmp_path)
