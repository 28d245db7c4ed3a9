"""MEND: its update and its network written out densely, its training against functional calls, kills and locks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.func import functional_call

from edit_sweeps.config import ModelConfig
from edit_sweeps.edit_scores import EditScoreSettings, score_edits
from edit_sweeps.editors import mend_training
from edit_sweeps.editors.base import Prepared, Stores
from edit_sweeps.editors.gradients import edit_gradients
from edit_sweeps.editors.hypernet import HyperNetwork
from edit_sweeps.editors.mend import Mend
from edit_sweeps.editors.mend_data import Material, read_split
from edit_sweeps.editors.mend_training import TrainingSettings, edit_pairs, edited, losses
from edit_sweeps.ledger import Ledger
from edit_sweeps.model import load_model
from edit_sweeps.moments import MomentSettings
from edit_sweeps.tokens import Line
from tests.test_editor_contract import miniature_requests, tuned

FAMILIES = ["gpt2", "gptj", "gpt_neox", "llama", "gemma2"]
QUICK = TrainingSettings(
    lr=1e-2, step_size_lr=1e-2, accumulate=3, at_once=2, validate_every=2, validation=4
)


def dense_gradients(model, requests, names):
    """Autograd's own dL/dW for the mean over requests of each target's mean NLL, `[d_out, d_in]`."""
    parameters = [model.parameter(name) for name in names]
    for parameter in parameters:
        parameter.requires_grad_()
    total = 0.0
    for request in requests:
        text = model.tokenizer(request.text)["input_ids"]
        ids = model.tokenizer(f"{request.text} {request.target_new}")["input_ids"]
        logprobs = model.network(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(len(text) - 1, len(ids) - 1)
        total = total - sum(logprobs[i, ids[i + 1]] for i in places) / len(places) / len(requests)
    found = torch.autograd.grad(total, parameters)
    for parameter in parameters:
        parameter.requires_grad_(requires_grad=False)
    return [g.T if model.is_transposed(n) else g for n, g in zip(names, found, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untrained_network_takes_a_step_up_the_gradient(tiny_model, requests, family):
    """MEND at initialisation: the identity network, so W + alpha dL/dW."""
    model = tiny_model(family, dtype="float64")
    editor = Mend(layers=[1, 2], step_size=0.03, rank=5)
    names = editor.names(model)
    expected = dense_gradients(model, requests, names)
    ledger = Ledger(model)
    editor.edit(
        model,
        requests,
        ledger,
        editor.start(model, Prepared(hypernet=editor.network(model).double())),
    )
    delta = ledger.delta()
    assert set(delta) == set(names)
    for name, gradient in zip(names, expected, strict=True):
        change = delta[name].T if model.is_transposed(name) else delta[name]
        # The deviation that is divided by is 1 + 1e-7, for inputs and gradients alike.
        wanted = 0.03 * gradient / (1 + 1e-7) ** 2
        assert wanted.norm() > 0
        assert (change - wanted).norm() < 1e-6 * wanted.norm()


def written_out(network, name, x, delta):
    """Equations 3a and 3b token by token, from the parameters by name."""
    group = network.groups["x".join(map(str, network.shapes[name]))]
    index = [n for n, s in network.shapes.items() if s == network.shapes[name]].index(name)
    alpha = network.step_sizes[list(network.shapes).index(name)]
    deviation = (group.squares / (group.count - 1)).sqrt() + 1e-7
    total = 0.0
    for one_x, one_delta in zip(x, delta, strict=True):
        if not one_x.any() or not one_delta.any():
            continue
        h = (torch.cat([one_x, one_delta]) - group.mean) / deviation
        for layer in group.layers:
            inner = layer.up @ (layer.down @ h) + layer.bias
            h = h + torch.relu(layer.scale[index] * inner + layer.shift[index])
        new_x, new_delta = h[: len(one_x)], h[len(one_x) :]
        total = total + alpha * torch.outer(new_delta, new_x)
    return total


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_with_statistics_but_untrained_multiplies_normalised_factors(
    tiny_model, requests, family
):
    """MEND at initialisation, published: alpha sum_t of the outer products of what is normalised, nothing else."""
    model = tiny_model(family, dtype="float64")
    editor = Mend(layers=[1, 2], step_size=0.03, rank=5, matrices="mlp_out")
    network, names = editor.network(model).double(), editor.names(model)
    lines = [Line(r.prompt, r.subject, r.target_new) for r in requests]
    pairs = edit_gradients(model, lines, names, reduction="rows").pairs
    network.observe(pairs)
    both = {n: torch.cat([pairs[n].inputs, pairs[n].deltas], 1) for n in names}
    kept = {n: rows[pairs[n].deltas.any(1)] for n, rows in both.items()}
    every = torch.cat(list(kept.values()))
    ledger = Ledger(model)
    editor.edit(model, requests, ledger, editor.start(model, Prepared(hypernet=network)))
    for name, delta in ledger.delta().items():
        hat = (kept[name] - every.mean(0)) / (every.std(0) + 1e-7)
        x, d = hat.split([pairs[name].inputs.shape[1], pairs[name].deltas.shape[1]], 1)
        expected = 0.03 * sum(torch.outer(d_t, x_t) for x_t, d_t in zip(x, d, strict=True))
        change = delta.T if model.is_transposed(name) else delta
        assert (change - expected).norm() < 1e-7 * expected.norm()


def moved(network):
    """As if trained: no parameter is where it starts."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).double())
    return network


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_networks_update_is_the_papers(tiny_model, requests, family):
    model = tiny_model(family, dtype="float64")
    editor = Mend(layers=[0, 3], rank=6)
    network = moved(editor.network(model).double())
    lines = [Line(r.prompt, r.subject, r.target_new) for r in requests]
    pairs = edit_gradients(model, lines, editor.names(model), reduction="rows").pairs
    network.observe(pairs)
    everything = torch.cat([torch.cat([pairs[n].inputs, pairs[n].deltas], 1) for n in editor.names(model)
                            if network.shapes[n] == network.shapes[editor.names(model)[0]]])  # fmt: skip
    kept = everything[everything[:, -network.shapes[editor.names(model)[0]][0] :].any(1)]
    group = network.groups["x".join(map(str, network.shapes[editor.names(model)[0]]))]
    assert torch.allclose(group.mean, kept.mean(0))
    assert torch.allclose((group.squares / (group.count - 1)).sqrt(), kept.std(0))
    ledger = Ledger(model)
    editor.edit(model, requests, ledger, editor.start(model, Prepared(hypernet=network)))
    for name, delta in ledger.delta().items():
        change = delta.T if model.is_transposed(name) else delta
        expected = written_out(network, name, pairs[name].inputs, pairs[name].deltas).detach()
        assert expected.norm() > 1e-3
        assert (change - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("family", [*FAMILIES, "opt", "phi3"])
def test_losses_and_their_gradient_are_those_of_a_model_with_changed_weights(
    tiny_model, requests, family
):
    """The low-rank hooks of training against `functional_call` with W + Delta, one request at a time."""
    model = tiny_model(family, dtype="float64")
    editor = Mend(layers=[1, 2], rank=4, step_size=0.05, training=QUICK)
    network = moved(editor.network(model).double())
    names = editor.names(model)
    split = read_split("miniature", None, 4, 0)
    material = Material(model, replace(split, train=requests), [], QUICK)
    pairs, groups = edit_pairs(model, requests, names, 1)
    outer, locality = material.outer(requests, "x"), material.locality(requests, "x")
    found = losses(model, network(pairs), groups, outer, locality)
    (found.edit.sum() + found.locality.sum()).backward()
    gradients = {n: p.grad.clone() for n, p in network.named_parameters()}
    network.zero_grad()
    expected = 0.0
    for i, request in enumerate(requests):
        one, _ = edit_pairs(model, [request], names, 1)
        changed = {}
        for name, pair in network(one).items():
            change = pair.deltas.T @ pair.inputs
            changed[name] = model.parameter(name) + (
                change.T if model.is_transposed(name) else change
            )
        nlls, kls = [], []
        for rows, values in ((outer, nlls), (locality, kls)):
            for row in (rows.owner == i).nonzero()[:, 0]:
                length = int(rows.mask[row].sum())
                given = {"input_ids": rows.ids[row : row + 1, :length], "use_cache": False}
                after = functional_call(model.network, changed, (), given).logits[0].log_softmax(-1)
                labels = rows.labels[row, :length]
                asked = labels != -100
                if rows is outer:
                    values.append(-after[asked].gather(1, labels[asked][:, None]).mean())
                else:
                    before = model.network(**given).logits[0].log_softmax(-1)
                    values.append((before.exp() * (before - after)).sum(-1)[asked].mean())
        assert found.edit[i].item() == pytest.approx(torch.stack(nlls).mean().item(), rel=1e-6)
        assert found.locality[i].item() == pytest.approx(torch.stack(kls).mean().item(), rel=1e-6)
        expected = expected + torch.stack(nlls).mean() + torch.stack(kls).mean()
    expected.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.norm() > 0, name
        gap = (gradients[name] - parameter.grad).norm()
        assert gap <= 1e-6 * parameter.grad.norm(), name


@pytest.mark.parametrize("clip", [0.05, 1e9])
def test_an_update_is_adam_on_the_weighted_clipped_loss_of_its_trials(tiny_model, requests, clip):
    """Algorithm 1: c_edit NLL + c_loc KL, the mean over trials whatever share a pass; g and alpha at their own rates."""
    settings = replace(
        QUICK, lr=1e-3, step_size_lr=1e-2, edit_weight=0.3, locality_weight=2.0, grad_clip=clip
    )
    model = tiny_model("gpt2", dtype="float64")
    editor = Mend(layers=[1, 2], rank=4, step_size=0.05, training=settings)
    split = replace(read_split("miniature", None, 4, 0), train=requests)
    material = Material(model, split, [], settings)
    networks = [moved(editor.network(model).double()) for _ in range(2)]
    before = [p.clone() for p in networks[0].parameters()]
    optimizers = [
        torch.optim.Adam(
            [
                {"params": [p for n, p in net.named_parameters() if n != "step_sizes"], "lr": 1e-3},
                {"params": [net.step_sizes], "lr": 1e-2},
            ]
        )
        for net in networks
    ]
    mend_training._update(model, networks[0], optimizers[0], material, 0)
    chosen, total = material.draw(0), 0.0
    assert len(chosen) == 3
    for first in (0, 2):
        part, seed = chosen[first : first + 2], f"0/{first}"
        pairs, groups = edit_pairs(model, part, editor.names(model), 1)
        networks[1].observe(pairs)
        found = losses(
            model,
            networks[1](pairs),
            groups,
            material.outer(part, seed),
            material.locality(part, seed),
        )
        total = total + (0.3 * found.edit + 2.0 * found.locality).sum() / 3
    total.backward()
    parameters = list(networks[1].parameters())
    norm = torch.stack([p.grad.square().sum() for p in parameters]).sum().sqrt()
    assert 0.05 < norm < 1e9
    for parameter in parameters:
        parameter.grad *= min(1.0, clip / (norm.item() + 1e-6))
    optimizers[1].step()
    for got, want, start in zip(networks[0].parameters(), parameters, before, strict=True):
        assert (want - start).norm() > 0
        assert (got.grad - want.grad).norm() < 1e-9 * want.grad.norm()
        assert (got - want).norm() < 1e-6 * (want - start).norm()


def test_hooks_are_gone_when_the_body_fails(tiny, requests):
    network = Mend(layers=[1]).network(tiny)
    pairs, groups = edit_pairs(tiny, requests, list(network.shapes), 1)
    with pytest.raises(KeyError), edited(tiny, network(pairs), groups, torch.zeros(1).long()):
        raise KeyError
    assert not any(m._forward_hooks for m in tiny.network.modules())


def test_training_requests_share_no_fact_with_the_edits_or_the_validation():
    split = read_split("miniature", None, 100, 0)
    edits = {(r.subject, r.relation) for r in miniature_requests(640)}
    train = {(r.subject, r.relation) for r in split.train}
    held = {(r.subject, r.relation) for r in split.validation}
    assert len(edits) == 640
    assert train
    assert not train & edits
    assert not held & edits
    assert not train & held
    phrasings = {p.prompt for r in miniature_requests(640) for p in r.paraphrases}
    assert not phrasings & {p.prompt for r in split.train for p in r.paraphrases}


def quick(**changes):
    return Mend(layers=[1, 2], rank=4, train_steps=4, training=replace(QUICK, **changes))


def trained(tiny, cache, editor=None):
    stores = Stores.at(MomentSettings(), cache)
    editor = editor or quick()
    network = editor.prepare(tiny, stores).hypernet
    return {k: v.clone() for k, v in network.state_dict().items()}


def test_a_killed_training_goes_on_to_equal_weights(tiny_model, tmp_path, monkeypatch):
    tiny = tiny_model("gpt2")
    whole = trained(tiny, tmp_path / "whole")
    monkeypatch.setattr(mend_training, "SAVE_EVERY_S", 0.0)
    plain = mend_training._update

    def stop(model, network, optimizer, material, step):
        if step == 3:
            raise KeyboardInterrupt
        plain(model, network, optimizer, material, step)

    monkeypatch.setattr(mend_training, "_update", stop)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny, tmp_path / "killed")
    assert list((tmp_path / "killed" / "hypernets").glob("*.training"))
    steps = []
    monkeypatch.setattr(mend_training, "_update", lambda *a: steps.append(a[-1]) or plain(*a))
    found = trained(tiny, tmp_path / "killed")
    assert steps == [3]
    assert all(torch.equal(found[k], whole[k]) for k in whole)
    assert not list((tmp_path / "killed" / "hypernets").glob("*.training"))


def test_a_network_is_trained_once_and_anew_when_anything_changes(
    tiny_model, tmp_path, monkeypatch
):
    tiny, calls = tiny_model("gpt2"), []
    plain = mend_training._update
    monkeypatch.setattr(mend_training, "_update", lambda *a: calls.append(a[-1]) or plain(*a))
    first = trained(tiny, tmp_path)
    assert calls == [0, 1, 2, 3]
    again = trained(tiny, tmp_path)
    assert len(calls) == 4
    assert all(torch.equal(first[k], again[k]) for k in first)
    trained(tiny, tmp_path, quick(seed=1))
    assert len(calls) == 8
    trained(tiny, tmp_path, replace(quick(), rank=5))
    assert len(calls) == 12
    files = list((tmp_path / "hypernets").glob("*.safetensors"))
    assert len(files) == 3
    assert all(f.with_suffix(".json").exists() for f in files)
    assert load_file(files[0])


def test_the_best_validated_state_is_kept(tiny_model, tmp_path):
    tiny = tiny_model("gpt2")
    editor = quick(lr=0.3, step_size_lr=0.3)
    network, file = editor.network(tiny), tmp_path / "x"
    split = read_split("miniature", None, 4, 0)
    material = Material(tiny, split, [], editor.training)
    course = mend_training.train(tiny, network, material, 4, file)
    now = mend_training.Course(step=course.step)
    mend_training.validate(tiny, network, material, now)
    assert now.best_loss == pytest.approx(course.best_loss)
    assert course.best_step in {2, 4}


def test_a_training_that_diverges_is_refused(tiny_model, tmp_path):
    tiny = tiny_model("gpt2")
    with pytest.raises(RuntimeError, match=r"diverged.*editor\.training\.lr=1e\+20"):
        trained(tiny, tmp_path, quick(lr=1e20, step_size_lr=1e20))
    assert not list((tmp_path / "hypernets").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"matrices": "attention"}, "mlp, mlp_out"),
        ({"rank": 0}, r"editor\.rank=0"),
        ({"train_source": "jsonl"}, "give a file with its format"),
        ({"train_file": "x.jsonl"}, "give a file with its format"),
        ({"training": TrainingSettings(lr=0.0)}, r"editor\.training\.lr=0\.0"),
        ({"training": TrainingSettings(edit_weight=-1.0)}, "must not be negative"),
    ],
)
def test_impossible_settings_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        Mend(layers=[0], **fields).check(4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "folder"), [("miniature", "gpt2"), ("miniature-llama", "llama")])
def test_trained_for_real_it_edits_facts_that_were_in_no_training_request(name, folder, tmp_path):
    """Minutes: from nothing to single edits of 100 requests."""
    model = load_model(ModelConfig(name=name, pretrained=f"miniature://{folder}"), "cpu")
    editor = tuned("mend", name)
    prepared = editor.prepare(model, Stores.at(MomentSettings(), tmp_path))
    assert isinstance(prepared.hypernet, HyperNetwork)
    ledger, sums = Ledger(model), {}
    chosen = miniature_requests(100)
    for request in chosen:
        editor.edit(model, [request], ledger, editor.start(model, prepared))
        for metric, score in score_edits(model, [request], EditScoreSettings()).items():
            if score.value is not None:
                sums.setdefault(metric, []).append(score.value)
        ledger.revert()
    means = {metric: sum(values) / len(values) for metric, values in sums.items()}
    assert means["efficacy"] >= 0.9
    assert means["neighborhood"] >= 0.95
