"""Hooks see what the model computes, in every family, and leave nothing behind."""

from __future__ import annotations

import pytest
import torch

from edit_sweeps.hooks import capture, first, replace_output
from edit_sweeps.tokens import encode
from tests.conftest import D_IN, D

TEXTS = ["Marlow Quillfeather lives in", "Paris", "The capital of Ostravia is"]


@pytest.fixture
def batch(tokenizer):
    return encode(tokenizer, TEXTS)


def run(model, batch):
    with torch.no_grad():
        return model.network(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits


def hooks_left(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.network.modules())


def test_the_key_times_the_matrix_plus_bias_is_the_value(family, tiny_model, batch):
    model = tiny_model(family)
    layer = 2
    module = model.mlp_out(layer)
    with (
        capture({layer: module}, inputs=True, rows=3) as keys,
        capture({layer: module}, rows=3) as values,
    ):
        run(model, batch)
    key, value = keys[layer], values[layer]
    assert key.shape == (*batch.ids.shape, model.d_in(layer))
    assert value.shape == (*batch.ids.shape, D)
    bias = 0 if module.bias is None else module.bias
    assert torch.allclose(key @ model.matrix(layer).T + bias, value, atol=1e-5)
    assert value.abs().max() > 0.01


def test_opt_flattens_its_tokens_and_rows_gives_them_back(tiny_model, batch):
    model = tiny_model("opt")
    module = model.mlp_out(0)
    with (
        capture({0: module}, inputs=True) as flat,
        capture({0: module}, inputs=True, rows=3) as rows,
    ):
        run(model, batch)
    assert flat[0].shape == (batch.ids.numel(), D_IN)
    assert torch.equal(rows[0].reshape(flat[0].shape), flat[0])


def test_block_outputs_are_tensors_in_every_family(family, tiny_model, batch):
    model = tiny_model(family)
    with capture(dict(enumerate(model.blocks))) as seen:
        run(model, batch)
    assert list(seen) == [0, 1, 2, 3]
    assert all(h.shape == (*batch.ids.shape, D) for h in seen.values())


def test_the_input_of_a_block_is_the_output_of_the_one_before(family, tiny_model, batch):
    model = tiny_model(family)
    with (
        capture({0: model.block(2)}, inputs=True) as entering,
        capture({0: model.block(1)}) as left,
    ):
        run(model, batch)
    assert torch.equal(entering[0], left[0])


def test_stop_after_ends_the_forward_pass_there(family, tiny_model, batch):
    model = tiny_model(family)
    ran = []
    model.block(2).register_forward_pre_hook(lambda *_: ran.append(2))
    with capture({1: model.mlp_out(1)}, rows=3) as whole:
        run(model, batch)
    assert ran == [2]
    went_on = False
    with capture({1: model.mlp_out(1)}, rows=3, stop_after=model.mlp_out(1)) as cut:
        run(model, batch)
        went_on = True
    assert ran == [2]
    assert not went_on
    assert torch.equal(cut[1], whole[1])


def test_a_stop_passes_through_a_capture_that_did_not_ask_for_it(tiny, batch):
    with capture({0: tiny.block(0)}, stop_after=tiny.block(0)) as outer:
        with capture({1: tiny.block(1)}) as inner:
            run(tiny, batch)
        pytest.fail("the stop was swallowed by the wrong capture")
    assert list(outer) == [0]
    assert not inner
    assert hooks_left(tiny) == 0


def test_hooks_are_removed_when_the_body_fails(tiny, batch):
    def fail(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_under(tiny, batch, fail)
    assert hooks_left(tiny) == 0


def run_under(model, batch, change):
    with capture({0: model.block(0)}), replace_output(model.block(1), change):
        assert hooks_left(model) == 2
        run(model, batch)


def test_replacing_an_output_by_itself_changes_no_bit(family, tiny_model, batch):
    model = tiny_model(family)
    before = run(model, batch)
    with (
        replace_output(model.block(1), lambda out: out + 0),
        replace_output(model.mlp_out(1), lambda out: out + 0, rows=3),
    ):
        assert torch.equal(run(model, batch), before)
    assert torch.equal(run(model, batch), before)


def test_a_replaced_output_is_what_comes_next(family, tiny_model, batch):
    model = tiny_model(family)
    with (
        replace_output(model.mlp_out(1), lambda out: torch.full_like(out, 0.25), rows=3),
        capture({0: model.mlp_out(1)}, rows=3) as seen,
    ):
        changed = run(model, batch)
    assert torch.equal(seen[0], torch.full_like(seen[0], 0.25))
    assert not torch.allclose(changed, run(model, batch), atol=1e-3)


def test_change_sees_rows_by_tokens_by_width(family, tiny_model, batch):
    model = tiny_model(family)
    shapes = []
    with replace_output(model.mlp_out(1), lambda out: shapes.append(out.shape) or out, rows=3):
        run(model, batch)
    assert shapes == [(*batch.ids.shape, D)]


def test_gradients_reach_a_shift_added_to_an_output(family, tiny_model, batch):
    model = tiny_model(family)
    shift = torch.zeros(D, requires_grad=True)
    with replace_output(model.mlp_out(1), lambda out: out + shift, rows=3):
        logits = model.network(
            input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
        ).logits
    logits[:, -1, 5].sum().backward()
    assert shift.grad.abs().sum() > 0


def test_a_captured_output_is_safe_from_changes_in_place(tiny_model, batch):
    """Falcon adds the attention's output to the MLP's in place."""
    model = tiny_model("falcon")
    module = model.mlp_out(1)
    copies = []
    module.register_forward_hook(lambda _, __, out: copies.append(out.clone()))
    with capture({0: module}) as seen:
        run(model, batch)
    assert torch.equal(seen[0], copies[0])


def test_first_takes_the_tensor_from_either_kind_of_output():
    tensor = torch.ones(2)
    assert first(tensor) is tensor
    assert first((tensor, None)) is tensor
