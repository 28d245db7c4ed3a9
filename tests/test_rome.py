"""ROME and r-ROME against the paper's formula written out densely, and what an edit must do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edit_sweeps.editors.base import Prepared, Stores
from edit_sweeps.editors.rome import Rome
from edit_sweeps.editors.value import ValueSettings
from edit_sweeps.ledger import Ledger
from edit_sweeps.moments import Moment, MomentSettings
from tests import published
from tests.test_editor_contract import build

GROUPS = (("{}",), ("I know this. {}",), ("The baker said: {}",))
SETTINGS = ValueSettings(
    lr=0.3, steps=5, clamp=2.0, weight_decay=0.1, kl_factor=0.5, early_stop=0.0
)
LAYER = 1
PAPER_FAMILIES = ["gpt2", "llama", "gptj", "gpt_neox", "gemma2"]


def random_moment(d_in, seed=0):
    draw = torch.Generator().manual_seed(seed)
    samples = torch.randn(200, d_in, generator=draw, dtype=torch.float64)
    samples *= torch.logspace(0, -1, d_in, dtype=torch.float64)
    return samples.T @ samples / 200


def prepared(model, moment):
    return Prepared({LAYER: Moment.from_matrix(moment, 200)}, GROUPS)


def edit(model, editor, request, moment):
    ledger = Ledger(model)
    trace = editor.edit(model, [request], ledger, editor.start(model, prepared(model, moment)))
    return ledger, trace[0]


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("uniform_key", [False, True])
@pytest.mark.parametrize("family", PAPER_FAMILIES)
def test_the_update_is_the_papers(tiny_model, requests, family, uniform_key):
    model = tiny_model(family, dtype="float64")
    moment = random_moment(model.d_in(LAYER))
    dense = published.rome(
        model, requests[1], GROUPS, LAYER, moment, SETTINGS, uniform_key=uniform_key
    )
    before = model.matrix(LAYER).clone()
    edit(model, Rome(layer=LAYER, value=SETTINGS, uniform_key=uniform_key), requests[1], moment)
    after = model.matrix(LAYER)
    assert dense.norm() > 1e-3
    assert ((after - before - dense).norm() / dense.norm()).item() < 1e-9


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("family", PAPER_FAMILIES)
def test_rome_identity_is_romes_formula_with_c_equal_to_i(tiny_model, requests, family):
    """As `conf/editor/rome_identity.yaml` builds it, statistics included: there are none."""
    model = tiny_model(family, dtype="float64")
    editor = replace(build("rome_identity", contexts=[c for (c,) in GROUPS]), value=SETTINGS)
    assert editor.layer == LAYER
    found = editor.prepare(model, Stores.at(MomentSettings(), "unused"))
    identity = torch.eye(model.d_in(LAYER), dtype=torch.float64)
    dense = published.rome(model, requests[1], GROUPS, LAYER, identity, SETTINGS, uniform_key=False)
    before = model.matrix(LAYER).clone()
    editor.edit(model, requests[1:2], Ledger(model), editor.start(model, found))
    assert (model.matrix(LAYER) - before - dense).norm() < 1e-9 * dense.norm()


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("family", PAPER_FAMILIES)
@pytest.mark.parametrize("uniform_key", [False, True])
def test_the_edited_matrix_maps_the_key_to_the_value(tiny_model, requests, family, uniform_key):
    model = tiny_model(family, dtype="float64")
    request, module = requests[0], model.mlp_out(LAYER)
    contexts = [c for group in GROUPS for c in group]
    start, shift, _, _ = published.value(model, request, contexts, module, SETTINGS)
    groups = GROUPS if uniform_key else (("{}",),)
    key = published.mean_key(model, groups, request, LAYER)
    editor = Rome(layer=LAYER, value=SETTINGS, uniform_key=uniform_key)
    edit(model, editor, request, random_moment(model.d_in(LAYER)))
    output = model.matrix(LAYER) @ key + published.bias(model, LAYER)
    assert torch.allclose(output, start + shift, atol=1e-9)
    if not uniform_key:
        now = published.at_subject(model, module, "{}", request, inputs=False)
        assert torch.allclose(now, start + shift, atol=1e-9)


def test_without_a_second_moment_the_direction_is_the_mean_key(tiny_model, requests):
    model = tiny_model("gpt2", dtype="float64")
    editor = Rome(layer=LAYER, value=SETTINGS, second_moment=False, contexts=["{}", "So. "])
    key = published.mean_key(model, (("{}",), ("So. {}",)), requests[0], LAYER)
    found = editor.prepare(model, Stores.at(MomentSettings(), "unused"))
    assert found.moments == {}
    ledger = Ledger(model)
    editor.edit(model, requests[:1], ledger, editor.start(model, found))
    (delta,) = ledger.delta().values()
    direction = delta.T[0] / delta.T[0].norm()
    assert abs((direction @ key / key.norm()).item()) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_only_the_matrix_of_the_layer_changes_and_revert_undoes_it(tiny_model, requests, family):
    model = tiny_model(family)
    before = {n: p.detach().clone() for n, p in model.network.named_parameters()}
    ledger, _ = edit(model, Rome(layer=LAYER, value=SETTINGS), requests[0], random_moment(48))
    changed = [n for n, p in model.network.named_parameters() if not torch.equal(p, before[n])]
    assert changed == [model.parameter_name(LAYER)]
    assert len(before) > 30
    ledger.revert()
    assert all(torch.equal(p, before[n]) for n, p in model.network.named_parameters())


def test_the_trace_has_the_size_of_the_update(tiny_model, requests):
    model = tiny_model("gpt2", dtype="float64")
    ledger, trace = edit(model, Rome(layer=LAYER, value=SETTINGS), requests[0], random_moment(48))
    (norms,) = ledger.norms().values()
    assert trace.numbers["update_norm"] == pytest.approx(norms["update_norm"])
    assert trace.numbers["update_norm_relative"] == pytest.approx(norms["relative"], rel=1e-5)
    assert trace.steps == SETTINGS.steps - 1
    assert 0 < trace.numbers["key_agreement"] < 2


def test_r_rome_agrees_with_its_own_key(tiny_model, requests):
    model = tiny_model("gpt2", dtype="float64")
    editor = Rome(layer=LAYER, value=SETTINGS, uniform_key=True)
    _, trace = edit(model, editor, requests[0], random_moment(48))
    assert trace.numbers["key_agreement"] == pytest.approx(1.0)


def test_edits_in_sequence_start_from_the_edited_model(tiny_model, requests):
    model = tiny_model("gpt2", dtype="float64")
    moment, editor = random_moment(48), Rome(layer=LAYER, value=SETTINGS)
    ledger = Ledger(model)
    state = editor.start(model, prepared(model, moment))
    editor.edit(model, requests[:1], ledger, state)
    middle = model.matrix(LAYER).clone()
    dense = published.rome(model, requests[1], GROUPS, LAYER, moment, SETTINGS, uniform_key=False)
    editor.edit(model, requests[1:2], ledger, state)
    assert torch.allclose(model.matrix(LAYER) - middle, dense, atol=1e-7)
    assert state.edits_done == 2


def test_two_requests_at_once_are_refused(tiny, requests):
    editor = Rome(layer=LAYER)
    assert editor.one_at_a_time
    with pytest.raises(ValueError, match="edits=sequential"):
        editor.edit(tiny, requests[:2], Ledger(tiny), editor.start(tiny, Prepared()))


def test_a_bfloat16_model_takes_the_edit(tiny_model, requests):
    model = tiny_model("llama", dtype="bfloat16")
    ledger, trace = edit(model, Rome(layer=LAYER, value=SETTINGS), requests[0], random_moment(48))
    (norms,) = ledger.norms().values()
    assert norms["update_norm"] == pytest.approx(trace.numbers["update_norm"], rel=1e-4)
    assert norms["cast_loss"] > 0


def test_a_collapsed_model_does_not_crash(tiny, requests):
    with torch.no_grad():
        tiny.matrix(0).fill_(torch.nan)
    _, trace = edit(tiny, Rome(layer=LAYER, value=SETTINGS), requests[0], random_moment(48))
    assert trace.steps == 0
    assert tiny.matrix(LAYER).isnan().all()


def test_a_stronger_pull_of_the_old_distribution_keeps_the_shift_smaller(tiny_model, requests):
    model = tiny_model("gpt2", dtype="float64")
    traces = []
    for factor in (0.0, 50.0):
        settings = replace(SETTINGS, kl_factor=factor, weight_decay=0.0, clamp=50.0, steps=12)
        ledger, trace = edit(
            model, Rome(layer=LAYER, value=settings), requests[0], random_moment(48)
        )
        ledger.revert()
        traces.append(trace.numbers["shift_norm"])
    assert traces[1] < 0.9 * traces[0]
