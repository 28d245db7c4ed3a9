"""LoRA: what is written is what peft merges; nothing of peft stays in the model."""

from __future__ import annotations

import peft
import pytest
import torch
from torch.func import functional_call

from edit_sweeps.editors.base import Prepared
from edit_sweeps.editors.lora import ADAPTER, Lora
from edit_sweeps.ledger import Ledger
from edit_sweeps.tokens import score_targets
from tests.conftest import FAMILIES


def logits(model):
    return model.network(torch.tensor([[1, 2, 3, 4]])).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_the_update_is_what_peft_merges(tiny_model, requests, family, monkeypatch):
    model = tiny_model(family, dtype="float64")
    editor = Lora(layers=[1, 2], rank=3, alpha=6.0, steps=3, lr=0.01)
    merged, plain = {}, Lora._train

    def train(self, model, layers, batches):
        result = plain(self, model, layers, batches)
        for path, layer in layers.items():
            merged[path] = layer.get_delta_weight(ADAPTER).detach().clone()
        return result

    monkeypatch.setattr(Lora, "_train", train)
    before = {n: p.detach().clone() for n, p in model.network.named_parameters()}
    ledger = Ledger(model)
    editor.edit(model, requests, ledger, editor.start(model, Prepared()))
    assert len(merged) == len(editor.modules(model))
    for path, delta in merged.items():
        change = model.parameter(f"{path}.weight") - before[f"{path}.weight"]
        assert delta.norm() > 1e-6
        assert (change - delta).norm() < 1e-6 * delta.norm()
    changed = {n for n, p in model.network.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {f"{path}.weight" for path in merged}


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gpt_neox", "llama", "gemma2"])
def test_the_first_step_is_adams_on_the_formula(tiny_model, requests, family):
    """From B = 0, Adam's first step moves every entry of B by lr against its gradient's sign, and A by nothing."""
    model = tiny_model(family, dtype="float64")
    editor = Lora(layers=[1], rank=3, alpha=6.0, steps=1, lr=0.01, early_stop=0.0)
    (path, *others) = editor.modules(model)
    weight = model.parameter(f"{path}.weight")
    weight.requires_grad_()
    loss = 0.0
    for request in requests:
        text = model.tokenizer(request.text)["input_ids"]
        ids = model.tokenizer(f"{request.text} {request.target_new}")["input_ids"]
        logprobs = model.network(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(len(text) - 1, len(ids) - 1)
        loss = loss - sum(logprobs[i, ids[i + 1]] for i in places) / len(places) / len(requests)
    (gradient,) = torch.autograd.grad(loss, weight)
    weight.requires_grad_(requires_grad=False)
    if model.is_transposed(f"{path}.weight"):
        gradient = gradient.T
    before = weight.detach().clone()
    ledger = Ledger(model)
    editor.edit(model, requests, ledger, editor.start(model, Prepared()))
    change = model.parameter(f"{path}.weight") - before
    change = change.T if model.is_transposed(f"{path}.weight") else change
    generator = torch.Generator().manual_seed(0)
    a = (
        2 * torch.rand(3, gradient.shape[1], generator=generator, dtype=torch.float64) - 1
    ) / gradient.shape[1] ** 0.5
    slope = gradient @ a.T * 2.0  # dL/dB, scaling alpha / r = 2
    step = -0.01 * slope / (slope.abs() + 1e-8)
    expected = 2.0 * step @ a
    assert (change - expected).norm() < 1e-6 * expected.norm()
    assert len(others) <= 1


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("family", ["gpt2", "gptj", "gpt_neox", "llama", "gemma2"])
def test_the_update_is_that_of_adam_on_both_factors(tiny_model, requests, family):
    """W + (alpha / r) B A with A and B trained by torch's Adam, without peft; the last batch is a smaller one."""
    model = tiny_model(family, dtype="float64")
    editor = Lora(layers=[1, 2], rank=3, alpha=6.0, steps=4, lr=0.01, early_stop=0.0, batch_size=2)
    names = [f"{path}.weight" for path in editor.modules(model)]
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for name in names:
        weight = model.parameter(name)
        d_out, d_in = weight.T.shape if model.is_transposed(name) else weight.shape
        drawn = torch.rand(3, d_in, generator=generator, dtype=torch.float64)
        a = ((2 * drawn - 1) / d_in**0.5).requires_grad_()
        factors[name] = torch.zeros(d_out, 3, dtype=torch.float64, requires_grad=True), a
    optimizer = torch.optim.Adam([f for pair in factors.values() for f in pair], lr=0.01)

    def change(name):
        b, a = factors[name]
        return 2.0 * (b @ a).T if model.is_transposed(name) else 2.0 * (b @ a)

    def nll(request):
        text = model.tokenizer(request.text)["input_ids"]
        ids = model.tokenizer(f"{request.text} {request.target_new}")["input_ids"]
        changed = {n: model.parameter(n) + change(n) for n in names}
        out = functional_call(model.network, changed, (torch.tensor([ids]),)).logits[0]
        asked = out[len(text) - 1 : -1].log_softmax(-1)
        return -asked.gather(1, torch.tensor(ids[len(text) :])[:, None]).mean()

    for _ in range(4):
        for batch in (requests[:2], requests[2:]):
            optimizer.zero_grad()
            torch.stack([nll(r) for r in batch]).mean().backward()
            optimizer.step()
    expected = {name: change(name).detach() for name in names}
    ledger = Ledger(model)
    editor.edit(model, requests, ledger, editor.start(model, Prepared()))
    for name, delta in ledger.delta().items():
        assert expected[name].norm() > 1e-3
        assert (delta - expected[name]).norm() < 1e-8 * expected[name].norm()
    assert set(ledger.delta()) == set(names)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_peft_is_left(family, tiny_model, requests, monkeypatch):
    model = tiny_model(family)
    modules, before = dict(model.network.named_modules()), logits(model)
    state = torch.get_rng_state()
    editor, ledger = Lora(steps=2), Ledger(model)

    def fail(*_):
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(Lora, "_train", fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            editor.edit(model, requests, ledger, editor.start(model, Prepared()))
    assert dict(model.network.named_modules()) == modules
    assert torch.equal(logits(model), before)
    editor.edit(model, requests, ledger, editor.start(model, Prepared()))
    assert dict(model.network.named_modules()) == modules
    assert not hasattr(model.network, "peft_config")
    assert not any(p.requires_grad for p in model.network.parameters())
    assert not torch.equal(logits(model), before)
    ledger.revert()
    assert torch.equal(logits(model), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(isinstance(m, peft.tuners.lora.LoraLayer) for m in model.network.modules())


def test_it_learns_the_targets_and_draws_anew_for_each_edit(tiny, requests):
    editor, ledger = Lora(steps=60, lr=0.01), Ledger(tiny)
    state = editor.start(tiny, Prepared())
    pairs = [(r.text, r.target_new) for r in requests]
    before = [sum(s.logprobs) for s in score_targets(tiny, pairs, 8)]
    traces = editor.edit(tiny, requests, ledger, state)
    after = [sum(s.logprobs) for s in score_targets(tiny, pairs, 8)]
    assert all(b > a + 1 for a, b in zip(before, after, strict=True))
    assert traces[0].steps > 1
    rights = []
    for done in (0, 0, 1):
        with editor._adapters(tiny, done) as layers:
            rights.append(next(iter(layers.values())).lora_A[ADAPTER].weight.detach().clone())
    assert torch.equal(rights[0], rights[1])
    assert not torch.equal(rights[0], rights[2])


def test_targets_can_be_any_linear_module_and_others_are_refused(tiny_model, requests):
    model = tiny_model("llama")
    ledger = Ledger(model)
    editor = Lora(layers=[1], targets=["mlp.down_proj", "self_attn.o_proj"], steps=2)
    editor.edit(model, requests, ledger, editor.start(model, Prepared()))
    assert set(ledger.delta()) == {
        "model.layers.1.mlp.down_proj.weight", "model.layers.1.self_attn.o_proj.weight"
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"no \['attn.c_attn'\].*self_attn.q_proj"):
        Lora(targets=["attn.c_attn"]).modules(model)
    with pytest.raises(ValueError, match=r"editor\.rank=0"):
        Lora(rank=0).check(4)
    with pytest.raises(ValueError, match="layer 9"):
        Lora(layers=[9]).check(4)
