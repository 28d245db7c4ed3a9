"""Loading, and the matrix of a layer as `[d_out, d_in]`, whatever the family stores."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoConfig, PreTrainedTokenizer, T5Config

from edit_sweeps.model import (
    DTYPES,
    EditableModel,
    choose_device,
    describe_model,
    fingerprint_of,
    load_model,
    resolve_pretrained,
)
from tests.conftest import LAYERS, POSITIONS, D, make_tokenizer, tiny_network


def source(folder, **changes):
    values = {
        "pretrained": str(folder),
        "revision": None,
        "dtype": "float32",
        "attention": None,
        "device_map": None,
        "tokenizer": None,
    }
    return SimpleNamespace(**(values | changes))


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A tiny LLaMA on disk."""
    tiny_network("llama", len(tokenizer)).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def test_the_matrix_is_oriented_and_shares_memory_with_the_weight(family, tiny_model):
    model = tiny_model(family)
    for layer in range(model.n_layers):
        matrix = model.matrix(layer)
        parameter = model.parameter(model.parameter_name(layer))
        assert matrix.shape == (model.d_out(layer), model.d_in(layer)) == (D, matrix.shape[1])
        assert matrix.shape[1] > D
        assert matrix.data_ptr() == parameter.data_ptr()
        assert not matrix.requires_grad


def test_only_conv1d_is_transposed(family, tiny_model):
    model = tiny_model(family)
    assert model.is_transposed(model.parameter_name(0)) is (family == "gpt2")


def test_orientation_is_told_by_type_even_for_a_square_matrix(tiny_model):
    conv, linear = tiny_model("gpt2", n_inner=D), tiny_model("llama", intermediate_size=D)
    for model, stored in ((conv, True), (linear, False)):
        name = model.parameter_name(1)
        weight = model.parameter(name)
        assert weight.shape == (D, D)
        assert model.is_transposed(name) is stored
        assert torch.equal(model.matrix(1), weight.T if stored else weight)
        key = torch.randn(3, D)
        bias = 0 if model.mlp_out(1).bias is None else model.mlp_out(1).bias
        assert torch.allclose(model.mlp_out(1)(key), key @ model.matrix(1).T + bias, atol=1e-5)


def test_names_and_modules_of_a_layer_agree(family, tiny_model):
    model = tiny_model(family)
    assert model.n_layers == LAYERS == len(model.blocks)
    name = model.parameter_name(2)
    assert name.endswith(".weight")
    assert model.parameter(name) is model.mlp_out(2).weight
    assert model.block(2) is model.blocks[2]
    assert name in dict(model.network.named_parameters())


def test_all_mlp_weights_of_a_layer_are_named(family, tiny_model):
    model = tiny_model(family)
    names = model.mlp_parameters(2)
    assert names[-1] == model.parameter_name(2)
    shapes = [model.parameter(name).shape for name in names]
    matrices = {n for n, p in model.network.named_parameters() if ".2." in n and p.dim() == 2}
    attention = {n for n in matrices if f".{model.architecture.attention}." in n}
    assert set(names) == matrices - attention, shapes


@pytest.mark.parametrize("layer", [-1, LAYERS, 99])
def test_a_layer_outside_the_model_is_refused(tiny, layer):
    for ask in (tiny.block, tiny.mlp_out, tiny.parameter_name, tiny.matrix):
        with pytest.raises(ValueError, match=rf"layer {layer} is outside.*0 to {LAYERS - 1}"):
            ask(layer)


def test_a_name_in_gpt2s_table_is_the_published_one(tiny):
    assert tiny.parameter_name(2) == "transformer.h.2.mlp.c_proj.weight"


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_a_loaded_model_has_the_asked_dtype_and_the_stored_weights(folder, tokenizer, dtype):
    model = load_model(source(folder, dtype=dtype), "cpu")
    assert {p.dtype for p in model.network.parameters()} == {DTYPES[dtype]}
    assert model.dtype == DTYPES[dtype]
    written = dict(tiny_network("llama", len(tokenizer)).named_parameters())
    for name, parameter in model.network.named_parameters():
        assert torch.equal(parameter, written[name].to(DTYPES[dtype]))
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())


def test_attention_tokenizer_and_device_come_from_the_settings(folder, tmp_path):
    make_tokenizer(bos=True).save_pretrained(tmp_path / "other")
    settings = source(folder, attention="eager", tokenizer=str(tmp_path / "other"))
    model = load_model(settings, "cpu")
    assert model.network.config._attn_implementation == "eager"
    assert model.tokenizer("Paris")["input_ids"][0] == model.tokenizer.bos_token_id
    assert model.device == torch.device("cpu")


def test_facts_are_read_without_weights(folder):
    (folder / "model.safetensors").write_bytes(b"not read")
    facts = describe_model(source(folder))
    assert (facts.model_type, facts.n_layers, facts.hidden_size) == ("llama", LAYERS, D)
    assert facts.max_length == POSITIONS


def test_max_length_is_bounded_and_known_without_positions(tiny_model):
    assert tiny_model("gpt2").max_length == POSITIONS
    assert tiny_model("bloom", max_position_embeddings=None).max_length == 2048
    assert tiny_model("llama", max_position_embeddings=131_072).max_length == 2048


def refusal(settings):
    with pytest.raises((ValueError, LookupError)) as error:
        describe_model(settings)
    with pytest.raises((ValueError, LookupError)):
        load_model(settings, "cpu")
    return str(error.value)


def test_pickled_weights_are_refused_with_the_command_that_converts_them(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refusal(source(folder))
    assert "no safetensors" in message
    assert "python -c" in message
    assert str(folder) in message


@pytest.mark.slow
def test_the_printed_command_converts_pickled_weights(tmp_path, tokenizer, monkeypatch):
    import re
    import subprocess
    import sys

    network = tiny_network("gpt2", len(tokenizer))
    network.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    code = re.search(r'python -c "([^"]+)"', refusal(source(tmp_path)))[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    model = load_model(source(tmp_path / "converted"), "cpu")
    assert torch.equal(model.matrix(1), network.transformer.h[1].mlp.c_proj.weight.T)


def test_a_folder_with_index_and_shards_is_accepted(tmp_path, tokenizer):
    tiny_network("llama", len(tokenizer)).save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert load_model(source(tmp_path), "cpu").n_layers == LAYERS


def test_a_device_map_goes_to_transformers_and_leaves_the_same_model(folder, monkeypatch):
    """Several devices: test_sharded.py. `device` must not move such a model."""
    plain = load_model(source(folder), "cpu")
    monkeypatch.setattr("edit_sweeps.model.choose_device", lambda _: pytest.fail("moved"))
    mapped = load_model(source(folder, device_map={"model": "cpu", "lm_head": "cpu"}), "cuda:7")
    assert mapped.fingerprint() == plain.fingerprint()
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(mapped.network(ids).logits, plain.network(ids).logits)


def test_weights_with_a_missing_parameter_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"not complete.*layers\.1\.mlp\.down_proj"):
        load_model(source(folder), "cpu")


def test_tied_weights_are_not_missing(tmp_path, tokenizer, family):
    tiny_network(family, len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_model(source(tmp_path), "cpu").n_layers == LAYERS


def test_an_encoder_decoder_is_refused(tmp_path):
    T5Config(d_model=8, num_layers=1).save_pretrained(tmp_path)
    assert "encoder-decoder" in refusal(source(tmp_path))


def test_an_unknown_family_is_refused_before_weights_are_read(tmp_path):
    AutoConfig.for_model("mixtral").save_pretrained(tmp_path)
    assert "ARCHITECTURES" in refusal(source(tmp_path))


def test_quantised_weights_are_refused(folder):
    config = AutoConfig.from_pretrained(folder)
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    config.save_pretrained(folder)
    assert "quantised" in refusal(source(folder))


def test_an_unknown_dtype_is_refused_with_the_known_ones(folder):
    message = refusal(source(folder, dtype="fp16"))
    assert "model.dtype=fp16" in message
    assert all(name in message for name in DTYPES)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "miniature://gpt5"])
def test_a_place_that_is_not_there_is_refused(name):
    assert name in refusal(source(name))


def test_a_hub_model_out_of_reach_is_refused_with_advice():
    assert "hub id" in refusal(source("nobody-here/no-such-model"))


def test_a_slow_tokenizer_is_refused(tiny):
    class Slow(PreTrainedTokenizer):
        vocab_size = 3

        def get_vocab(self):
            return {"a": 0, "b": 1, "c": 2}

        def _tokenize(self, text):
            return list(text)

        def _convert_token_to_id(self, token):
            return self.get_vocab().get(token, 0)

    with pytest.raises(ValueError, match=r"slow tokenizer.*model\.tokenizer"):
        EditableModel(tiny.network, Slow())


def test_hub_ids_stay_as_they_are_and_folders_become_paths(tmp_path):
    assert resolve_pretrained("openai-community/gpt2-xl") == "openai-community/gpt2-xl"
    assert resolve_pretrained("gpt2") == "gpt2"
    assert resolve_pretrained(str(tmp_path)) == tmp_path


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert choose_device("auto") == torch.device("cpu")
    assert choose_device("cpu") == torch.device("cpu")
    for wrong in ("gpu", "no such"):
        with pytest.raises(ValueError, match="device=auto"):
            choose_device(wrong)


def test_fingerprints_differ_with_every_parameter_and_agree_for_equal_models(tokenizer):
    network = tiny_network("gpt2", len(tokenizer))
    before = fingerprint_of(network)
    assert before == fingerprint_of(tiny_network("gpt2", len(tokenizer)))
    seen = {before, fingerprint_of(tiny_network("gpt2", len(tokenizer), dtype="bfloat16"))}
    parameters = list(network.parameters())
    assert len(parameters) > 20
    for parameter in parameters:
        with torch.no_grad():
            parameter.view(-1)[-1] += 1
        seen.add(fingerprint_of(network))
    assert len(seen) == len(parameters) + 2


def test_a_fingerprint_counts_the_configuration_too(tokenizer):
    """Equal weights under another rope or activation are another model."""
    plain = tiny_network("gpt2", len(tokenizer))
    other = tiny_network("gpt2", len(tokenizer), overrides={"activation_function": "relu"})
    assert all(
        torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters(), strict=True)
    )
    assert fingerprint_of(plain) != fingerprint_of(other)


def test_the_fingerprint_of_a_loaded_model_is_stable(folder):
    first, second = load_model(source(folder), "cpu"), load_model(source(folder), "cpu")
    assert first.fingerprint() == second.fingerprint() == fingerprint_of(first.network)


def test_a_word_level_tokenizer_object_is_fast_enough(tiny):
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))
    assert EditableModel(tiny.network, words).tokenizer is words
