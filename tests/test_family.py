"""MEMIT's kin against their papers' formulas written out densely; `test_identities` has what holds between them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edit_sweeps.config import ModelConfig
from edit_sweeps.editors.alphaedit import AlphaEdit
from edit_sweeps.editors.base import Prepared
from edit_sweeps.editors.emmet import Emmet
from edit_sweeps.editors.encore import Encore
from edit_sweeps.editors.history import earlier_keys, squared
from edit_sweeps.editors.memit import Memit
from edit_sweeps.editors.memit_seq import MemitSeq
from edit_sweeps.editors.pmet import Pmet
from edit_sweeps.editors.reading import BothSite, Site, read_keys
from edit_sweeps.editors.value import (
    CalmValueSettings,
    SaidValueSettings,
    ValueSettings,
    optimise_values,
)
from edit_sweeps.ledger import Ledger
from edit_sweeps.model import load_model
from edit_sweeps.moment import Moment
from tests import published_family as dense
from tests.test_editor_contract import miniature_requests

GROUPS = (("{}",), ("I know this. {}", "The baker said: {}"))
FAMILIES = ["gpt2", "gptj", "gpt_neox", "llama", "gemma2"]
LAYERS = (0, 1, 2)
COMMON = {
    "lr": 0.3,
    "steps": 5,
    "clamp": 2.0,
    "weight_decay": 0.1,
    "kl_factor": 0.5,
    "early_stop": 0.0,
}
SETTINGS = ValueSettings(**COMMON)


@pytest.fixture
def models(tiny_model, exactly):
    return lambda family: [tiny_model(family, dtype="float64") for _ in range(2)]


def random_moments(model):
    """With a spectrum as wide as real ones have."""
    d_in, found = model.d_in(0), {}
    scale = torch.logspace(0, -2, d_in, dtype=torch.float64)
    for layer in LAYERS:
        draw = torch.Generator().manual_seed(layer)
        turn = torch.linalg.qr(torch.randn(d_in, d_in, generator=draw, dtype=torch.float64))[0]
        samples = torch.randn(6 * d_in, d_in, generator=draw, dtype=torch.float64) * scale @ turn
        found[layer] = samples.T @ samples / (6 * d_in)
    return found


@pytest.fixture
def quick_to_say(requests):
    """The prompt ends with the subject and the target is one token: even a random model comes to say it."""
    targets = ("the", "in", "he")
    return [
        replace(r, prompt="We saw {}", target_new=target)
        for r, target in zip(requests, targets, strict=True)
    ]


def edit(model, editor, batches, moments, groups=GROUPS):
    ledger = Ledger(model)
    decomposed = {layer: Moment.from_matrix(m, 10**6) for layer, m in moments.items()}
    state = editor.start(model, Prepared(decomposed, groups))
    traces = [trace for batch in batches for trace in editor.edit(model, batch, ledger, state)]
    return ledger, state, traces


def same(model, twin, layers=LAYERS, tolerance=1e-9):
    """Whether the *changes* of two models agree."""
    for layer in layers:
        change = model.matrix(layer) - twin.start[layer]
        other = twin.matrix(layer) - twin.start[layer]
        assert other.norm() > 1e-4
        assert ((change - other).norm() / other.norm()).item() < tolerance, layer


@pytest.fixture
def pair(models):
    def make(family):
        model, twin = models(family)
        twin.start = {layer: model.matrix(layer).clone() for layer in LAYERS}
        return model, twin, random_moments(model)

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_memit_in_sequence(pair, requests, family):
    model, twin, moments = pair(family)
    batches = [requests[:1], requests[1:]]
    editor = MemitSeq(layers=LAYERS, second_moment_weight=20.0, value=SETTINGS)
    edit(model, editor, batches, moments)
    dense.run(
        twin,
        batches,
        GROUPS,
        LAYERS,
        SETTINGS,
        dense.memit_seq(moments, 20.0),
    )
    same(model, twin)


@pytest.mark.parametrize("family", FAMILIES)
def test_encore(pair, requests, family):
    model, twin, moments = pair(family)
    settings = SaidValueSettings(**COMMON, stop_after=100)
    batches = [requests[:2], requests[2:]]
    editor = Encore(layers=LAYERS, second_moment_weight=0.7, norm_weight=0.4, value=settings)
    edit(model, editor, batches, moments)
    dense.run(
        twin,
        batches,
        GROUPS,
        LAYERS,
        SETTINGS,
        dense.encore(moments, 0.7, 0.4),
    )
    same(model, twin)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [1, 3])
def test_emmet(pair, requests, family, batch):
    model, twin, moments = pair(family)
    editor = Emmet(layers=[1], second_moment_weight=3.0, equality_ridge=0.2, value=SETTINGS)
    edit(model, editor, [requests[:batch]], moments)
    dense.run(
        twin,
        [requests[:batch]],
        GROUPS,
        (1,),
        SETTINGS,
        dense.emmet(moments, 3.0, 0.2),
    )
    same(model, twin, (1,))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", [{"threshold": 0.01}, {"energy": 0.05}])
def test_alphaedit(pair, requests, family, way):
    model, twin, moments = pair(family)
    projections = {layer: dense.projection(m, **way) for layer, m in moments.items()}
    ranks = [torch.linalg.matrix_rank(p).item() for p in projections.values()]
    assert all(0 < rank < model.d_in(0) for rank in ranks), ranks
    editor = AlphaEdit(
        layers=LAYERS, l2=0.5, value=SETTINGS,
        nullspace_threshold=way.get("threshold"), nullspace_energy=way.get("energy"),
    )  # fmt: skip
    batches = [requests[:2], requests[2:]]
    edit(model, editor, batches, moments)
    dense.run(
        twin,
        batches,
        GROUPS,
        LAYERS,
        SETTINGS,
        dense.alphaedit(projections, 0.5),
    )
    same(model, twin)


@pytest.mark.parametrize("name", ["memit_seq", "encore", "emmet", "alphaedit"])
def test_a_request_given_twice_in_a_batch_and_again_later_follows_the_formula(pair, requests, name):
    model, twin, moments = pair("llama")
    common = {"layers": [1], "value": SETTINGS}
    editor, solve = {
        "memit_seq": (
            MemitSeq(second_moment_weight=20.0, **common),
            dense.memit_seq(moments, 20.0),
        ),
        "encore": (
            Encore(second_moment_weight=0.7, norm_weight=0.4, **common),
            dense.encore(moments, 0.7, 0.4),
        ),
        "emmet": (
            Emmet(second_moment_weight=3.0, equality_ridge=0.2, **common),
            dense.emmet(moments, 3.0, 0.2),
        ),
        "alphaedit": (
            AlphaEdit(nullspace_threshold=0.01, l2=0.5, **common),
            dense.alphaedit({1: dense.projection(moments[1], threshold=0.01)}, 0.5),
        ),
    }[name]
    batches = [[requests[0], requests[1], requests[0]], [requests[0]]]
    edit(model, editor, batches, moments)
    dense.run(twin, batches, GROUPS, (1,), SETTINGS, solve)
    same(model, twin, (1,))


@pytest.mark.parametrize("family", FAMILIES)
def test_pmet(pair, requests, family):
    model, twin, moments = pair(family)
    settings = CalmValueSettings(**COMMON, said_weight=0.1, calm=0.02)
    editor = Pmet(layers=LAYERS, second_moment_weight=0.7, value=settings)
    edit(model, editor, [requests[:2]], moments)
    dense.run(
        twin, [requests[:2]], GROUPS, LAYERS, SETTINGS, dense.memit_seq(moments, 0.7),
        wanted=dense.pmet_value(2, settings), share=dense.square_root, site=twin.mlp_out(2),
    )  # fmt: skip
    same(model, twin)


@pytest.mark.parametrize("family", FAMILIES)
def test_encore_stops_by_its_own_rule(pair, quick_to_say, family):
    """Most-probable early stopping, in the middle of the optimisation, for each edit on its own."""
    model, twin, moments = pair(family)
    common = COMMON | {"steps": 12, "clamp": 20.0, "kl_factor": 0.1}
    settings = SaidValueSettings(**common, stop_after=2)
    batch = quick_to_say[:2]
    editor = Encore(layers=LAYERS, second_moment_weight=0.7, norm_weight=0.4, value=settings)
    _, _, traces = edit(model, editor, [batch], moments)
    assert 2 <= min(t.steps for t in traces) < 11
    solve = dense.encore(moments, 0.7, 0.4)
    dense.run(twin, [batch], GROUPS, LAYERS, settings, solve, stop=2)
    same(model, twin)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kl_factor", "calm"), [(0.3, 0.5), (0.05, 0.0)])
def test_pmet_once_the_target_is_said(pair, quick_to_say, family, kl_factor, calm):
    """Both branches of its loss: it stops when said and calm; and goes on with a tenth of the likelihood."""
    model, twin, moments = pair(family)
    common = COMMON | {"steps": 9, "clamp": 20.0, "kl_factor": kl_factor}
    settings = CalmValueSettings(**common, said_weight=0.1, calm=calm)
    editor = Pmet(layers=LAYERS, second_moment_weight=0.7, value=settings)
    _, _, traces = edit(model, editor, [quick_to_say[:1]], moments)
    assert (traces[0].steps < 8) == (calm > 0)
    if not calm:
        assert traces[0].loss < traces[0].numbers["nll"]
    dense.run(
        twin, [quick_to_say[:1]], GROUPS, LAYERS, settings, dense.memit_seq(moments, 0.7),
        wanted=dense.pmet_value(2, settings), share=dense.square_root, site=twin.mlp_out(2),
    )  # fmt: skip
    same(model, twin)


def test_pmet_does_not_stop_when_the_target_is_no_longer_said(pair, quick_to_say):
    """A strong pull of the old distribution takes the target back; published: said *now*, and calm."""
    model, _, _ = pair("gpt2")
    common = COMMON | {"steps": 12, "clamp": 20.0, "kl_factor": 10.0, "weight_decay": 0.0}
    settings = CalmValueSettings(**common, said_weight=0.1, calm=0.1)
    site = BothSite(2)
    found = optimise_values(model, quick_to_say, ["{}"], site, settings)
    for row, request in enumerate(quick_to_say):
        start, mlp = found.start[row].chunk(2)[1], found.value[row].chunk(2)[1]
        wanted = dense.pmet_value(2, settings)(model, request, ["{}"])
        assert (mlp - wanted).norm() < 1e-9 * (wanted - start).norm()


def test_history_keeps_earlier_keys_where_they_were(models, requests):
    """The same second batch moves the first one's outputs far less when their keys are remembered."""
    moved = []
    for editor in (Memit, MemitSeq):
        model, _ = models("llama")
        moments = {layer: m * 1e-3 for layer, m in random_moments(model).items()}
        how = editor(layers=[1], second_moment_weight=1e-3, value=SETTINGS)
        ledger, state, _ = edit(model, how, [requests[:2]], moments)
        keys = read_keys(model, requests[:2], GROUPS, 1)
        middle = model.matrix(1).clone()
        how.edit(model, requests[2:], ledger, state)
        change = model.matrix(1) - middle
        moved.append(((change @ keys).norm() / change.norm()).item())
    assert moved[1] < 0.01 * moved[0]


def test_a_long_history_is_made_square_without_changing_an_update(models, requests, monkeypatch):
    deltas = []
    for slack in (1.25, 0.02):
        monkeypatch.setattr("edit_sweeps.editors.history.SLACK", slack)
        model, _ = models("gpt2")
        editor = MemitSeq(layers=LAYERS, second_moment_weight=0.7, value=SETTINGS)
        ledger, state, _ = edit(model, editor, [[r] for r in requests], random_moments(model))
        deltas.append((ledger.delta(), earlier_keys(state, 1).shape))
    assert deltas[0][1] == (model.d_in(0), len(requests))
    assert deltas[1][1] == (model.d_in(0), model.d_in(0))
    for name, delta in deltas[0][0].items():
        assert (delta - deltas[1][0][name]).norm() < 1e-6 * delta.norm()


def test_a_square_factor_has_the_same_gram_matrix():
    keys = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = squared(keys)
    assert found.shape == (6, 6)
    assert torch.allclose(found @ found.T, keys @ keys.T)


def test_said_stops_a_few_updates_after_the_target_is_said():
    """On the trained miniature: a random model hardly ever says a whole target."""
    model = load_model(ModelConfig(name="miniature", pretrained="miniature://gpt2"), "cpu")
    chosen = miniature_requests(4)
    steps = {}
    for stop_after in (0, 2, 100):
        settings = SaidValueSettings(lr=0.2, steps=30, early_stop=0.0, stop_after=stop_after)
        found = optimise_values(model, chosen, ["{}"], Site(1, block=True), settings)
        steps[stop_after] = found.steps
    assert torch.equal(steps[0] + 2, steps[2])
    assert (steps[100] == 29).all()
    assert (steps[0] > 0).all()
    assert (steps[0] < 25).all()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"nullspace_threshold": None}, "give exactly one"),
        ({"nullspace_energy": 0.1}, "give exactly one"),
        ({"nullspace_threshold": None, "nullspace_energy": 1.0}, "below 1"),
        ({"l2": 0.0}, r"editor\.l2=0\.0 must be above 0"),
    ],
)
def test_alphaedit_refuses_thresholds_that_cannot_be(fields, says):
    with pytest.raises(ValueError, match=says):
        AlphaEdit(layers=[0], **fields).check(4)


class GivenMoments:
    """Stands for the stores."""

    def __init__(self, moments):
        self.moments, self.given = self, moments

    def get(self, model, layers):
        return self.given


def test_alphaedit_says_when_nothing_or_everything_may_be_written_to(models, caplog):
    model, _ = models("gpt2")
    moments = {1: Moment.from_matrix(random_moments(model)[1], 10**6)}
    low = AlphaEdit(layers=[1], nullspace_threshold=1e-9, contexts=["{}"])
    with pytest.raises(
        ValueError, match=r"could write nothing to layer 1.*eigenvalues of C lie between"
    ):
        low.prepare(model, GivenMoments(moments))
    AlphaEdit(layers=[1], nullspace_threshold=1e9, contexts=["{}"]).prepare(
        model, GivenMoments(moments)
    )
    assert "protects nothing" in caplog.text
