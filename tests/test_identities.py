"""Identities between methods of the locate-then-edit family, and what each must leave alone, on every family."""

from __future__ import annotations

import pytest
import torch

from edit_sweeps.editors.alphaedit import AlphaEdit
from edit_sweeps.editors.emmet import Emmet
from edit_sweeps.editors.history import earlier_keys
from edit_sweeps.editors.memit import Memit
from edit_sweeps.editors.memit_seq import MemitSeq
from edit_sweeps.editors.rome import Rome
from edit_sweeps.editors.value import ValueSettings
from tests.test_family import COMMON, FAMILIES, LAYERS, SETTINGS, edit, random_moments

pytestmark = pytest.mark.usefixtures("exactly")


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_read_after_a_batch_are_those_of_its_solve(tiny_model, requests, family, monkeypatch):
    """What AlphaEdit's code remembers is not another thing (B5): a key sees only the layers below its own."""
    model = tiny_model(family, dtype="float64")
    seen, plain = {}, MemitSeq.factor

    def factor(self, layer, keys, state):
        seen[layer] = keys.clone()
        return plain(self, layer, keys, state)

    monkeypatch.setattr(MemitSeq, "factor", factor)
    editor = MemitSeq(layers=LAYERS, second_moment_weight=0.7, value=SETTINGS)
    _, state, _ = edit(model, editor, [requests], random_moments(model))
    for layer in LAYERS:
        torch.testing.assert_close(earlier_keys(state, layer), seen[layer], rtol=1e-12, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_emmet_is_memit_at_the_product_of_its_weights(tiny_model, requests, family):
    model, twin = (tiny_model(family, dtype="float64") for _ in range(2))
    moments = random_moments(model)
    edit(
        model,
        Emmet(layers=[1], second_moment_weight=5.0, equality_ridge=0.3, value=SETTINGS),
        [requests],
        moments,
    )
    edit(twin, Memit(layers=[1], second_moment_weight=1.5, value=SETTINGS), [requests], moments)
    assert torch.allclose(model.matrix(1), twin.matrix(1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gpt_neox", "llama"])
def test_memit_of_one_edit_without_lambda_is_r_rome(tiny_model, requests, family):
    """On the bare prompt alone: with more contexts r-ROME also writes W (k - mean k), MEMIT does not.

    Not so for Gemma 2, whose norm behind the MLP stands between the two sites.
    """
    model, twin = (tiny_model(family, dtype="float64") for _ in range(2))
    moments, bare = random_moments(model), (("{}",),)
    # The start of an optimisation enters its decay and bound; without them both sites have one optimum.
    free = ValueSettings(**COMMON | {"weight_decay": 0.0, "clamp": 1e6})
    before = model.matrix(1).clone()
    for lam, tolerance in ((1e-9, 1e-6), (0.0, 1e-9)):
        model.matrix(1).copy_(before)
        memit = Memit(layers=[1], second_moment_weight=lam, value=free)
        edit(model, memit, [requests[:1]], moments, bare)
        twin.matrix(1).copy_(before)
        edit(twin, Rome(layer=1, uniform_key=True, value=free), [requests[:1]], moments, bare)
        change = twin.matrix(1) - before
        assert change.norm() > 1e-3
        assert (model.matrix(1) - twin.matrix(1)).norm() < tolerance * change.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_alphaedit_leaves_protected_directions_alone(tiny_model, requests, family):
    """After batches with and without a history."""
    model = tiny_model(family, dtype="float64")
    moments = random_moments(model)
    before = {layer: model.matrix(layer).clone() for layer in LAYERS}
    edit(
        model,
        AlphaEdit(layers=LAYERS, nullspace_threshold=0.01, l2=0.5, value=SETTINGS),
        [requests[:2], requests[2:]],
        moments,
    )
    for layer in LAYERS:
        change = model.matrix(layer) - before[layer]
        values, vectors = torch.linalg.eigh(moments[layer])
        kept = vectors[:, values >= 0.01]
        assert 0 < kept.shape[1] < len(values)
        assert (change @ kept).norm() < 1e-9 * change.norm()
        assert change.norm() > 1e-3
