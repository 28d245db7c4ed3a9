"""The table of architectures tells the truth about every family."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from edit_sweeps.architectures import ARCHITECTURES, architecture
from edit_sweeps.hooks import capture, replace_output
from edit_sweeps.tokens import encode
from tests.conftest import FAMILIES, LAYERS, D


def test_every_row_of_the_table_is_tested():
    assert set(FAMILIES) == set(ARCHITECTURES)
    assert len(FAMILIES) >= 16


def test_every_path_leads_to_a_module(family, tiny_model):
    model = tiny_model(family)
    row = model.architecture
    assert len(model.network.get_submodule(row.block)) == LAYERS
    assert model.network.get_submodule(row.norm).weight.shape == (D,)
    block = model.block(0)
    for path in (row.attention, row.mlp_out, *row.mlp_in):
        assert any(True for _ in block.get_submodule(path).parameters()), path


def test_mlp_in_feeds_the_key(family, tiny_model):
    """A constant output of every `mlp_in` makes the key the same at every token."""
    model = tiny_model(family)
    block = model.block(1)
    batch = encode(model.tokenizer, ["Marlow Quillfeather lives in"])
    with ExitStack() as stack, torch.no_grad():
        for path in model.architecture.mlp_in:
            stack.enter_context(replace_output(block.get_submodule(path), torch.ones_like))
        keys = stack.enter_context(capture({0: model.mlp_out(1)}, inputs=True, rows=1))
        model.network(input_ids=batch.ids)
    key = keys[0][0]
    assert key.shape[0] > 3
    assert torch.equal(key, key[:1].expand_as(key))


def test_post_mlp_norm_says_whether_the_mlp_output_goes_straight_into_the_residual(
    family, tiny_model
):
    model = tiny_model(family, dtype="float64")
    batch = encode(model.tokenizer, ["Ingrid Thistledown was born"])
    shift = torch.linspace(-0.5, 1, D, dtype=torch.float64)

    def block_output(change):
        with (
            torch.no_grad(),
            replace_output(model.mlp_out(1), change),
            capture({0: model.block(1)}) as seen,
        ):
            model.network(input_ids=batch.ids)
        return seen[0]

    moved = block_output(lambda out: out + shift) - block_output(lambda out: out)
    straight = torch.allclose(moved, shift.expand_as(moved), atol=1e-12)
    assert straight is not model.architecture.post_mlp_norm


def test_attention_is_what_lets_a_token_see_the_ones_before(family, tiny_model):
    model = tiny_model(family)
    block = model.block(0).get_submodule(model.architecture.attention)
    batch = encode(model.tokenizer, ["Paris, London and Rome"])
    with torch.no_grad(), capture({0: block}) as seen:
        model.network(input_ids=batch.ids)
        full = seen[0]
        model.network(input_ids=batch.ids[:, 1:])
    assert full.shape[-1] == D
    assert not torch.allclose(full[:, 1:], seen[0], atol=1e-4)


def test_an_unknown_family_is_refused_with_how_to_add_a_row():
    with pytest.raises(LookupError) as error:
        architecture("gpt3")
    message = str(error.value)
    for part in ("'gpt3'", "gpt2", "edit_sweeps/architectures.py", "mlp_out=", "tests/conftest.py"):
        assert part in message
