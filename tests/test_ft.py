"""Fine-tuning against the same written with an ordinary optimiser on the weight itself."""

from __future__ import annotations

import pytest
import torch

from edit_sweeps.editors.base import Prepared
from edit_sweeps.editors.ft import FineTune
from edit_sweeps.ledger import Ledger
from edit_sweeps.tokens import score_targets
from tests import published

PAPER_FAMILIES = ["gpt2", "llama", "gptj", "gpt_neox", "gemma2"]


def edit(model, editor, requests):
    ledger = Ledger(model)
    return ledger, editor.edit(model, requests, ledger, editor.start(model, Prepared()))


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("batch_size", [64, 2])
@pytest.mark.parametrize("loss", ["target", "last_token"])
@pytest.mark.parametrize("max_change", [None, 0.02])
@pytest.mark.parametrize("family", PAPER_FAMILIES)
def test_the_change_is_that_of_adam_on_the_weight(
    tiny_model, requests, family, loss, max_change, batch_size
):
    """All in one update, or batches with a smaller one at the end."""
    model, twin = tiny_model(family, dtype="float64"), tiny_model(family, dtype="float64")
    editor = FineTune(
        layer=1, lr=0.01, steps=4, loss=loss, max_change=max_change, batch_size=batch_size
    )
    dense = published.fine_tune(twin, requests, 1, editor)
    before = model.parameter(model.parameter_name(1)).detach().clone()
    edit(model, editor, requests)
    change = model.parameter(model.parameter_name(1)) - before
    assert dense.norm() > 0.1
    assert ((change - dense).norm() / dense.norm()).item() < 1e-9


def test_no_weight_changes_by_more_than_the_bound(tiny_model, requests):
    model = tiny_model("gpt2", dtype="float64")
    bound = 0.003
    ledger, _ = edit(model, FineTune(layer=2, lr=0.01, steps=6, max_change=bound), requests)
    (delta,) = ledger.delta().values()
    assert delta.abs().max().item() == pytest.approx(bound)
    assert (delta.abs() > 0.9 * bound).double().mean() > 0.1


def test_training_raises_the_probability_of_the_targets(tiny, requests):
    pairs = [(r.text, r.target_new) for r in requests]
    before = [sum(s.logprobs) for s in score_targets(tiny, pairs, 8)]
    _, traces = edit(tiny, FineTune(layer=1, lr=0.05), requests)
    after = [sum(s.logprobs) for s in score_targets(tiny, pairs, 8)]
    assert all(b > a + 1 for a, b in zip(before, after, strict=True))
    assert [t.steps for t in traces] == [25, 25, 25]


def test_training_stops_when_the_mean_loss_is_small(tiny, requests):
    full = edit(tiny, FineTune(layer=1, lr=0.05), requests)
    full[0].revert()
    limit = sum(t.loss for t in full[1]) / 3 + 0.5
    ledger, traces = edit(tiny, FineTune(layer=1, lr=0.05, early_stop=limit), requests)
    assert 0 < traces[0].steps < 25
    assert sum(t.loss for t in traces) / 3 < limit
    ledger.revert()
    ledger, traces = edit(tiny, FineTune(layer=1, lr=0.05, early_stop=100.0), requests)
    assert traces[0].steps == 0
    assert not next(iter(ledger.delta().values())).any()


def test_only_the_matrix_of_the_layer_changes(tiny, requests):
    before = {n: p.detach().clone() for n, p in tiny.network.named_parameters()}
    state = torch.get_rng_state()
    ledger, _ = edit(tiny, FineTune(layer=3, lr=0.01, steps=3), requests)
    changed = [n for n, p in tiny.network.named_parameters() if not torch.equal(p, before[n])]
    assert changed == [tiny.parameter_name(3)]
    assert not any(p.requires_grad for p in tiny.network.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    ledger.revert()
    assert all(torch.equal(p, before[n]) for n, p in tiny.network.named_parameters())


def test_smaller_batches_make_more_updates_a_pass(tiny_model, requests):
    model = tiny_model("gpt2", dtype="float64")
    sizes = []
    for batch_size in (3, 1):
        editor = FineTune(layer=1, lr=0.01, steps=1, batch_size=batch_size)
        ledger, traces = edit(model, editor, requests)
        sizes.append(next(iter(ledger.delta().values())).abs().max().item())
        assert len(traces) == 3
        ledger.revert()
    assert sizes[0] == pytest.approx(0.01, rel=1e-3)
    assert sizes[1] > 0.015


def test_a_bfloat16_model_is_trained_in_float32(tiny_model, requests):
    model = tiny_model("llama", dtype="bfloat16")
    ledger, traces = edit(model, FineTune(layer=1, lr=0.01, steps=4), requests)
    (delta,) = ledger.delta().values()
    assert delta.dtype == torch.float32
    assert traces[0].numbers["update_norm"] == pytest.approx(delta.norm().item(), rel=1e-3)


def test_a_collapsed_model_does_not_crash(tiny, requests):
    with torch.no_grad():
        tiny.matrix(0).fill_(torch.nan)
    ledger, traces = edit(tiny, FineTune(layer=1), requests)
    assert traces[0].steps == 0
    assert not next(iter(ledger.delta().values())).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"layer": 4}, "4 blocks"), ({"layer": 1, "loss": "all"}, "target, last_token"),
     ({"layer": 1, "steps": 0}, "editor.steps=0"), ({"layer": 1, "max_change": -0.1}, "max_change")],
)  # fmt: skip
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FineTune(**fields).check(4)
