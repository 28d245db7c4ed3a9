"""Models in bfloat16 and float16: masters in float32, finite updates, and what the cast loses is recorded."""

from __future__ import annotations

from math import isfinite

import pytest
import torch
from safetensors.torch import load_file

from edit_sweeps.editors.base import Stores
from edit_sweeps.ledger import Dense, Ledger
from edit_sweeps.model import DTYPES
from edit_sweeps.moments import MomentSettings
from edit_sweeps.tokens import score_targets, target_ids
from tests.test_editor_contract import WRITING, run
from tests.test_sharded import small

HALF = ["bfloat16", "float16"]
FAMILIES = ["gpt2", "llama"]
CLOSE = {"bfloat16": 0.3, "float16": 0.08}
"""|update - update of the float32 model| / |the latter|, at most. Loose: every activation of the
forward passes that keys, values and gradients come from has 8 bits (11 in float16). Found: 0.16
and 0.04 at most, by Adam, whose first steps are the sign of the gradient."""
OTHERWISE = {
    "kn": "neurons are chosen by a threshold, which rounding can cross; a chosen slot moves whole",
}
"""Editor -> why its update need not be close; the direction is asked for instead."""
BEYOND = torch.finfo(torch.float16).max


@pytest.fixture
def store(tmp_path):
    return Stores.at(MomentSettings(tokens=500), tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", WRITING)
def test_updates_are_kept_in_float32_and_the_loss_of_the_cast_is_recorded(
    name, family, tiny_model, requests, store, tmp_path
):
    editor, exact = small(name), None
    for kind in ("float32", *HALF):
        model = tiny_model(family, dtype=kind)
        before = {n: p.detach().double() for n, p in model.network.named_parameters()}
        traces, ledger, state = run(editor, model, requests[:2], store)
        deltas, norms = ledger.delta(), ledger.norms()
        kept = [t for t in (*deltas.values(), *state.tensors.values()) if t.is_floating_point()]
        assert bool(deltas) != editor.attaches
        assert kept
        assert all(t.dtype in {torch.float32, torch.float64} and t.isfinite().all() for t in kept)
        assert all(isfinite(x) for t in traces for x in (t.loss or 0.0, *t.numbers.values()))
        if editor.attaches:
            continue
        update = torch.cat([d.double().flatten() for d in deltas.values()])
        if kind == "float32":
            exact = update
            continue
        ledger.save(tmp_path / "masters.safetensors")
        for n, master in load_file(tmp_path / "masters.safetensors").items():
            assert (deltas[n].dtype, master.dtype) == (torch.float32, torch.float32)
            assert torch.equal(model.parameter(n), master.to(DTYPES[kind]))
            wanted = master.double() - before[n]
            lost = master.to(DTYPES[kind]).double() - master.double()
            assert (
                0
                < norms[n]["cast_loss"]
                == pytest.approx((lost.norm() / wanted.norm()).item(), rel=1e-3)
            )
        if name in OTHERWISE:
            assert torch.cosine_similarity(update, exact, dim=0) > 0.5, kind
        else:
            assert (update - exact).norm() < CLOSE[kind] * exact.norm(), kind


@pytest.mark.parametrize("kind", HALF)
def test_updates_that_would_vanish_one_by_one_add_up(kind, tiny_model):
    model = tiny_model("llama", dtype=kind)
    name, before = model.parameter_name(1), model.matrix(1).clone()
    ledger, losses = Ledger(model), []
    step = torch.finfo(DTYPES[kind]).eps / 8  # a weight moves on after eps / 4 to eps / 2 of itself
    for _ in range(10):
        ledger.write(name, Dense(before.float() * step))
        losses.append(ledger.norms()[name]["cast_loss"])
        if len(losses) == 1:
            assert torch.equal(model.matrix(1), before), "what summing in the model's dtype gives"
    total = ledger.delta()[name]
    assert torch.allclose(total, 10 * step * before.float(), rtol=1e-2, atol=1e-8)
    normal = before.abs() > 1e-3
    assert (model.matrix(1) != before)[normal].all()
    assert losses[0] == pytest.approx(1)
    assert losses[-1] < 0.3
    ledger.revert()
    assert torch.equal(model.matrix(1), before)


@pytest.mark.parametrize("name", ["ft", "lora", "memit", "rome", "ultraedit"])
def test_a_loss_that_float16_cannot_hold_stays_finite(name, tiny_model, requests, store):
    """Logits of +- 36 000: each can be held, but not how much less likely than the first the last is."""
    model, request = tiny_model("llama", dtype="float16"), requests[0]
    request = type(request)(**vars(request) | {"target_new": "the"})
    head, (target,) = target_ids(model.tokenizer, request.text, "the")
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([head])).logits[0, -1].float()
        weight = model.network.lm_head.weight
        weight.mul_(3.6e4 / logits.max())
        weight[target] = -weight[logits.argmax()]
    (score,) = score_targets(model, [(request.text, "the")], 1)
    assert -score.logprobs[0] == pytest.approx(7.2e4, rel=0.02)
    changes = {"steps": 1, "value": {"steps": 1}, "second_moment": False, "contexts": ["{}"]}
    (trace,), *_ = run(small(name, **changes), model, [request], store)
    assert BEYOND < trace.loss == pytest.approx(-score.logprobs[0], rel=0.02)
