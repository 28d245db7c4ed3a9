"""MEMIT against the paper's formulas written out densely, layer by layer."""

from __future__ import annotations

import copy

import pytest
import torch

from edit_sweeps.editors.base import Prepared
from edit_sweeps.editors.memit import Memit
from edit_sweeps.editors.reading import Site, read_keys, read_outputs
from edit_sweeps.editors.value import ValueSettings, optimise_values
from edit_sweeps.ledger import Ledger
from edit_sweeps.moment import Moment
from tests import published

GROUPS = (("{}",), ("I know this. {}", "The baker said: {}"))
SETTINGS = ValueSettings(
    lr=0.3, steps=5, clamp=2.0, weight_decay=0.1, kl_factor=0.5, early_stop=0.0
)
LAYERS = (0, 1, 2)
PAPER_FAMILIES = ["gpt2", "llama", "gptj", "gpt_neox", "gemma2"]


def random_moments(d_in, layers=LAYERS):
    found = {}
    for layer in layers:
        draw = torch.Generator().manual_seed(layer)
        samples = torch.randn(200, d_in, generator=draw, dtype=torch.float64)
        found[layer] = samples.T @ samples / 200
    return found


def edit(model, editor, requests, moments):
    ledger = Ledger(model)
    decomposed = {layer: Moment.from_matrix(m, 200) for layer, m in moments.items()}
    state = editor.start(model, Prepared(decomposed, GROUPS))
    return ledger, state, editor.edit(model, requests, ledger, state)


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("family", PAPER_FAMILIES)
def test_the_updates_are_the_papers(tiny_model, requests, family):
    model, twin = tiny_model(family, dtype="float64"), tiny_model(family, dtype="float64")
    moments = random_moments(model.d_in(0))
    dense = published.memit(twin, requests, GROUPS, LAYERS, moments, 0.7, SETTINGS)
    before = {layer: model.matrix(layer).clone() for layer in LAYERS}
    editor = Memit(layers=[2, 0, 1], second_moment_weight=0.7, value=SETTINGS)
    edit(model, editor, requests, moments)
    for layer in LAYERS:
        update = model.matrix(layer) - before[layer]
        assert dense[layer].norm() > 1e-3
        assert ((update - dense[layer]).norm() / dense[layer].norm()).item() < 1e-9


def test_batch_size_one_is_memit_of_one_request_at_a_time(tiny_model, requests):
    model, twin = (tiny_model("llama", dtype="float64") for _ in range(2))
    moments = random_moments(model.d_in(0))
    editor = Memit(layers=LAYERS, second_moment_weight=0.7, value=SETTINGS)
    ledger, state, _ = edit(model, editor, requests[:1], moments)
    editor.edit(model, requests[1:2], ledger, state)
    for request in requests[:2]:
        published.memit(twin, [request], GROUPS, LAYERS, moments, 0.7, SETTINGS)
    assert state.edits_done == 2
    for layer in LAYERS:
        assert torch.allclose(model.matrix(layer), twin.matrix(layer), atol=1e-8)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_one_request_one_layer_no_weight_maps_the_mean_key_exactly(tiny_model, requests, family):
    """W' k* = W k* + (z - h): r-ROME's condition, at the block's output."""
    model = tiny_model(family, dtype="float64")
    site = Site(1, block=True)
    contexts = [c for group in GROUPS for c in group]
    value = optimise_values(model, requests[:1], contexts, site, SETTINGS).value[0]
    key = read_keys(model, requests[:1], GROUPS, 1)[:, 0]
    residual = value - read_outputs(model, requests[:1], site)[:, 0]
    before = model.matrix(1) @ key
    editor = Memit(layers=[1], second_moment_weight=0.0, value=SETTINGS)
    edit(model, editor, requests[:1], random_moments(model.d_in(1), [1]))
    assert residual.norm() > 0.01
    assert torch.allclose(model.matrix(1) @ key - before, residual, atol=1e-9)


def test_the_output_reaches_the_wanted_value_where_nothing_holds_it_back(tiny_model, requests):
    """With the bare prompt alone, no weight and a last layer that adds to the block's output."""
    model = tiny_model("gpt2", dtype="float64")
    site = Site(2, block=True)
    value = optimise_values(model, requests, ["{}"], site, SETTINGS).value
    editor = Memit(layers=[0, 2], second_moment_weight=0.0, value=SETTINGS)
    ledger = Ledger(model)
    editor.edit(model, requests, ledger, editor.start(model, Prepared(contexts=(("{}",),))))
    assert torch.allclose(read_outputs(model, requests, site).T, value, atol=1e-8)


def test_a_heavier_second_moment_makes_smaller_updates(tiny_model, requests):
    model = tiny_model("gpt2", dtype="float64")
    moments, sizes = random_moments(model.d_in(0)), []
    for weight in (0.01, 1.0, 15000.0):
        editor = Memit(layers=LAYERS, second_moment_weight=weight, value=SETTINGS)
        ledger, _, traces = edit(model, editor, requests, moments)
        sizes.append(traces[0].numbers["update_norm"])
        ledger.revert()
    assert sizes[0] > 1.2 * sizes[1] > 100 * sizes[2] > 0


def test_only_the_matrices_of_the_layers_change(tiny, requests):
    before = {n: p.detach().clone() for n, p in tiny.network.named_parameters()}
    ledger, _, _ = edit(
        tiny, Memit(layers=[2, 0], second_moment_weight=1.0, value=SETTINGS), requests,
        random_moments(48),
    )  # fmt: skip
    changed = {n for n, p in tiny.network.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {tiny.parameter_name(0), tiny.parameter_name(2)}
    ledger.revert()
    assert all(torch.equal(p, before[n]) for n, p in tiny.network.named_parameters())


def test_a_request_given_twice_is_written_once(tiny_model, requests):
    """Two equal keys: their residuals are shared, nothing blows up."""
    model, twin = (tiny_model("gpt2", dtype="float64") for _ in range(2))
    editor = Memit(layers=[1], second_moment_weight=0.0, value=SETTINGS)
    moments = random_moments(model.d_in(1), [1])
    edit(model, editor, [requests[0], requests[0]], moments)
    edit(twin, editor, requests[:1], moments)
    assert torch.allclose(model.matrix(1), twin.matrix(1), atol=1e-6)


def test_the_trace_has_the_size_of_each_edits_part(tiny_model, requests):
    model = tiny_model("gpt2", dtype="float64")
    editor = Memit(layers=LAYERS, second_moment_weight=0.7, value=SETTINGS)
    ledger, _, traces = edit(model, editor, requests[:1], random_moments(48))
    total = sum(n["update_norm"] ** 2 for n in ledger.norms().values()) ** 0.5
    whole = sum(n["original_norm"] ** 2 for n in ledger.norms().values()) ** 0.5
    assert traces[0].numbers["update_norm"] == pytest.approx(total)
    assert traces[0].numbers["update_norm_relative"] == pytest.approx(total / whole, rel=1e-5)


def test_the_published_groups_weigh_the_bare_prompt_half(tiny_model, requests):
    model = tiny_model("gpt2", dtype="float64")
    bare, one, two = (
        read_keys(model, requests, ((c,),), 1)
        for c in ("{}", "I know this. {}", "The baker said: {}")
    )
    grouped = read_keys(model, requests, GROUPS, 1)
    flat = read_keys(model, requests, tuple((c,) for g in GROUPS for c in g), 1)
    assert torch.allclose(grouped, bare / 2 + one / 4 + two / 4)
    assert torch.allclose(flat, (bare + one + two) / 3)
    assert not torch.allclose(grouped, flat)


def test_the_same_batch_twice_gives_the_same_weights(tiny_model, requests):
    models = [tiny_model("gpt2"), tiny_model("gpt2")]
    for model in models:
        edit(
            model, copy.deepcopy(Memit(layers=LAYERS, value=SETTINGS)), requests, random_moments(48)
        )
    assert all(torch.equal(models[0].matrix(x), models[1].matrix(x)) for x in range(4))
