"""Each rule against its formula written out densely, alone and behind every editor that writes matrices."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from edit_sweeps.editors.base import Prepared
from edit_sweeps.ledger import Dense, Ledger, LowRank, to_dense
from edit_sweeps.regularizers import NormMatch, Prune, RandomKeep, Rect, Regularizer, Truncate
from edit_sweeps.trajectory import Trajectory
from tests.test_editor_contract import WRITING, build, store  # noqa: F401  # the fixture

CONF = Path(__file__).parent.parent / "conf" / "regularizer"
FILES = {p.stem: p for p in sorted(CONF.glob("*.yaml")) if p.stem != "none"}
NAME = "transformer.h.1.mlp.c_proj.weight"
D_OUT, D_IN = 7, 11


def built(name, **changes) -> Regularizer:
    tree = OmegaConf.to_container(OmegaConf.load(FILES[name])) | changes
    return instantiate({k: v for k, v in tree.items() if k != "name"})


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def update():
    return LowRank(draw(D_OUT, 3, seed=1), draw(D_IN, 3, seed=2))


@pytest.fixture
def weights():
    """The unedited matrix and the one with earlier edits."""
    return draw(D_OUT, D_IN, seed=3), draw(D_OUT, D_IN, seed=4)


def applied(rule, update, weights, seed=0):
    return rule.on_write(update, *weights, torch.Generator().manual_seed(seed))


def test_there_are_rules_to_look_at():
    assert {"rect", "norm_match", "random", "prune", "low_rank"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_the_configuration_has_exactly_the_fields_of_the_class_and_its_defaults(name):
    tree = OmegaConf.to_container(OmegaConf.load(FILES[name]))
    target = get_class(tree["_target_"])
    assert tree["name"] == name
    assert FILES[name].read_text().startswith("# ")
    assert set(tree) - {"name", "_target_"} == {f.name for f in fields(target)}
    assert built(name) == target()
    with pytest.raises(Exception, match="unexpected keyword argument 'kepe'"):
        built(name, kepe=1)


@pytest.mark.parametrize("keep", [0.8, 0.6, 0.4, 0.2])
@pytest.mark.parametrize("reference", ["original", "current"])
def test_rect_keeps_the_largest_relative_changes(update, weights, keep, reference):
    found = to_dense(applied(Rect(keep=keep, reference=reference), update, weights))
    plain, base = to_dense(update), weights[reference == "current"]
    ranked = sorted(
        ((abs(plain[i, j] / (base[i, j].abs() + 1e-8)).item(), i, j) for i in range(D_OUT) for j in range(D_IN)),
        reverse=True,
    )  # fmt: skip
    expected = torch.zeros_like(plain)
    for _, i, j in ranked[: round(keep * D_OUT * D_IN)]:
        expected[i, j] = plain[i, j]
    assert torch.allclose(found, expected)
    assert (found != 0).sum() == round(keep * D_OUT * D_IN)


def test_rect_takes_an_exact_number_even_of_equal_changes(weights):
    same = (torch.ones(D_OUT, D_IN, dtype=torch.float64),) * 2
    found = to_dense(applied(Rect(keep=0.5), Dense(same[0]), same))
    assert found.sum() == round(0.5 * D_OUT * D_IN)


def test_rect_and_random_that_keep_all_and_a_low_rank_that_cuts_nothing_do_nothing(update, weights):
    for rule in (Rect(keep=1), NormMatch(keep=1), RandomKeep(keep=1), Truncate(rank=3)):
        assert applied(rule, update, weights) is update


@pytest.mark.parametrize("dense", [False, True])
def test_norm_match_has_the_norm_of_rect_and_the_direction_of_the_plain_update(
    update, weights, dense
):
    given = Dense(to_dense(update)) if dense else update
    plain = to_dense(update)
    rect = to_dense(applied(Rect(keep=0.3), given, weights))
    found = applied(NormMatch(keep=0.3), given, weights)
    assert isinstance(found, type(given))
    found = to_dense(found)
    assert found.norm().item() == pytest.approx(rect.norm().item())
    assert found.norm() < 0.99 * plain.norm()
    assert torch.allclose(found / found.norm(), plain / plain.norm())


def test_random_keeps_its_share_and_follows_the_seed(update, weights):
    rule = RandomKeep(keep=0.3)
    found = [to_dense(applied(rule, update, weights, seed)) for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    for each in found:
        kept = each != 0
        assert kept.sum() == round(0.3 * D_OUT * D_IN)
        assert torch.equal(each[kept], to_dense(update)[kept])


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("rank", [1, 2])
def test_low_rank_is_the_best_approximation(update, weights, rank, dense):
    plain = to_dense(update)
    found = applied(Truncate(rank=rank), Dense(plain) if dense else update, weights)
    left, values, right = torch.linalg.svd(plain, full_matrices=False)
    expected = (left[:, :rank] * values[:rank]) @ right[:rank]
    assert found.left.shape == (D_OUT, rank)
    assert torch.allclose(to_dense(found), expected)


@pytest.mark.parametrize("alpha", [math.e, 2.0, 1.5])
def test_prune_compresses_what_is_above_the_bound(weights, alpha):
    original = weights[0]
    bound = torch.linalg.svdvals(original)[0].item()
    left, right = (
        torch.linalg.qr(draw(D_OUT, 3, seed=5))[0],
        torch.linalg.qr(draw(D_IN, 3, seed=6))[0],
    )
    total = (
        left * torch.tensor([4 * bound, 1.5 * bound, 0.5 * bound], dtype=torch.float64)
    ) @ right.T
    found = Prune(alpha=alpha).on_finish(total, original)
    told = [math.log(v * bound, alpha) - math.log(bound, alpha) + bound for v in (4, 1.5)]
    expected = (left * torch.tensor([*told, 0.5 * bound], dtype=torch.float64)) @ right.T
    assert torch.allclose(found, expected)
    linear = Prune(form="linear", slope=0.25).on_finish(total, original)
    expected = (
        left * torch.tensor([1.75 * bound, 1.125 * bound, 0.5 * bound], dtype=torch.float64)
    ) @ right.T
    assert torch.allclose(linear, expected)


def test_prune_below_the_bound_does_nothing(weights):
    original = weights[0]
    total = 0.1 * weights[1]
    assert Prune().on_finish(total, original) is total


def test_a_collapsed_update_stays_visible(weights):
    nan = Dense(torch.full((D_OUT, D_IN), torch.nan, dtype=torch.float64))
    for rule in (Rect(), NormMatch(), Truncate()):
        assert applied(rule, nan, weights) is nan
    assert Prune().on_finish(nan.matrix, weights[0]) is nan.matrix


@pytest.mark.parametrize(
    ("name", "fields_", "says"),
    [
        ("rect", {"keep": 0.0}, r"regularizer\.keep=0\.0"),
        ("rect", {"keep": 1.5}, r"regularizer\.keep=1\.5"),
        ("rect", {"reference": "first"}, "original, current"),
        ("norm_match", {"keep": 2}, r"regularizer\.keep=2"),
        ("random", {"keep": -1}, r"regularizer\.keep=-1"),
        ("low_rank", {"rank": 0}, r"regularizer\.rank=0"),
        ("prune", {"alpha": 1.0}, "above 1"),
        ("prune", {"form": "cubic"}, "log, linear"),
        ("prune", {"slope": 2}, "0 to 1"),
    ],
)
def test_impossible_settings_are_refused(name, fields_, says):
    with pytest.raises(Exception, match=says):
        built(name, **fields_)


def written(model, requests, regularizer):
    """The change of one matrix by one r-ROME edit under a rule, in the parameter's own layout."""
    editor, ledger = (
        build("r_rome", second_moment=False, contexts=["{}"]),
        Ledger(model, regularizer),
    )
    editor.edit(model, requests[:1], ledger, editor.start(model, Prepared()))
    ledger.finish()
    (delta,) = ledger.delta().values()
    ledger.revert()
    return delta


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gpt_neox", "llama", "gemma2"])
def test_behind_an_editor_each_rule_changes_the_edit_as_its_formula_says(
    tiny_model, requests, family
):
    """On models, whichever way round a matrix is stored; and each rule that asks for nothing does nothing, bit for bit."""
    model = tiny_model(family, dtype="float64")
    original = model.parameter(model.parameter_name(1)).detach().clone()
    plain = written(model, requests, None)
    size, bound = (torch.linalg.matrix_norm(x, 2) for x in (plain, original))
    assert size < bound
    for rule in (Rect(keep=1), NormMatch(keep=1), RandomKeep(keep=1), Truncate(rank=1), Prune()):
        assert torch.equal(written(model, requests, rule), plain), rule
    scores = plain.abs() / (original.abs() + 1e-8)
    bar = scores.flatten().sort(descending=True).values[round(0.3 * scores.numel()) - 1]
    rect = plain.where(scores >= bar, 0.0)
    assert torch.allclose(written(model, requests, Rect(keep=0.3)), rect, rtol=1e-9, atol=1e-14)
    scaled = plain * rect.norm() / plain.norm()
    assert torch.allclose(
        written(model, requests, NormMatch(keep=0.3)), scaled, rtol=1e-9, atol=1e-14
    )
    with torch.no_grad():
        model.matrix(1).mul_(0.01)  # so that the edit is above the bound
    plain, bound = written(model, requests, None), 0.01 * bound
    size = torch.linalg.matrix_norm(plain, 2)
    assert size > 1.5 * bound
    pruned = written(model, requests, Prune(form="log"))
    want = plain * (size.log() - bound.log() + bound) / size
    assert torch.allclose(pruned, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", FILES)
@pytest.mark.parametrize("name", WRITING)
def test_every_rule_goes_with_every_editor_that_writes(name, rule, tiny, requests, store):  # noqa: F811
    editor = build(name)
    if editor.attaches:
        pytest.skip(
            f"{name} attaches a module and writes no update; the plan refuses it with {rule}"
        )
    before = {n: p.clone() for n, p in tiny.network.named_parameters()}
    plain, changed = {}, {}
    prepared = editor.prepare(tiny, store)
    for how, regularizer in ((plain, None), (changed, built(rule))):
        ledger = Ledger(tiny, regularizer, seed=0)
        state = editor.start(tiny, prepared)
        size = 1 if editor.one_at_a_time else 2
        for start in range(0, 2, size):
            editor.edit(tiny, requests[start : start + size], ledger, state)
        ledger.finish()
        how.update(ledger.delta())
        ledger.revert()
    assert plain.keys() == changed.keys()
    assert all(d.isfinite().all() for d in changed.values())
    if rule in {"rect", "random", "norm_match"}:
        # Of a matrix of which an editor changes less than they keep (KN: some columns) they keep all.
        wide = [n for n, d in plain.items() if d.count_nonzero() > 0.45 * d.numel()]
        assert wide or name == "kn"
        assert all(not torch.equal(plain[n], changed[n]) for n in wide)
    assert all(torch.equal(p, before[n]) for n, p in tiny.network.named_parameters())


def test_cells_of_one_trajectory_with_prune_equal_cells_alone(
    tiny_model,
    requests,
    tmp_path,
    store,  # noqa: F811
):
    """Prefixes hold the sum before pruning: 1 then 3 edits give what 3 edits alone give."""
    deltas = {}
    for way, counts in (("shared", (1, 3)), ("alone", (3,))):
        model = tiny_model("gpt2")
        editor = build("memit", second_moment_weight=1e-4)
        prepared = editor.prepare(model, store)
        for count in counts:
            ledger = Ledger(model, Prune(form="linear", slope=0.1))
            run = Trajectory(
                tmp_path / way, model=model, editor=editor, ledger=ledger, prepared=prepared, batch_size=1
            )  # fmt: skip
            run.advance(requests[:count])
            unpruned = ledger.delta()
            ledger.finish()
            deltas[way] = ledger.delta()
            ledger.revert()
        assert any(not torch.equal(unpruned[n], deltas[way][n]) for n in unpruned), "it must bite"
    assert all(torch.equal(deltas["shared"][n], deltas["alone"][n]) for n in deltas["alone"])
