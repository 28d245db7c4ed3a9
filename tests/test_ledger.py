"""The ledger changes what it is told to, keeps what the dtype would lose, and takes it all back bit for bit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from edit_sweeps.ledger import Dense, Ledger, LowRank, to_dense
from edit_sweeps.regularizers import Regularizer
from tests.conftest import D

PRECISIONS = ("float32", "bfloat16", "float16", "float64")


def bits(model):
    """Every parameter's bytes."""
    return {
        name: p.detach().reshape(-1).view(torch.uint8).clone()
        for name, p in model.network.named_parameters()
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def draw(model, layer, rank=2, scale=0.1, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shape = (model.d_out(layer), rank), (model.d_in(layer), rank)
    left, right = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in shape)
    return LowRank((scale * left).to(dtype), (scale * right).to(dtype))


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_revert_restores_every_bit(family, tiny_model, dtype):
    model = tiny_model(family, dtype=dtype)
    before, ledger = bits(model), Ledger(model)
    for step in range(3):
        for layer in (0, 2):
            ledger.write(model.parameter_name(layer), draw(model, layer, seed=step))
    assert not same(bits(model), before)
    ledger.revert()
    assert same(bits(model), before)
    assert ledger.norms() == {}
    assert ledger.delta() == {}


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_save_and_load_restore_every_bit(tiny_model, tmp_path, dtype):
    model = tiny_model("gpt2", dtype=dtype)
    ledger = Ledger(model)
    for step in range(4):
        ledger.write(model.parameter_name(step % 2), draw(model, step % 2, seed=step))
    edited, delta = bits(model), ledger.delta()
    ledger.save(tmp_path / "ledger.safetensors")
    ledger.write(model.parameter_name(3), draw(model, 3))
    ledger.load(tmp_path / "ledger.safetensors")
    assert same(bits(model), edited)
    assert same(ledger.delta(), delta)
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.safetensors"]

    fresh = tiny_model("gpt2", dtype=dtype)
    before, other = bits(fresh), Ledger(fresh)
    other.load(tmp_path / "ledger.safetensors")
    assert same(bits(fresh), edited)
    other.revert()
    assert same(bits(fresh), before)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_going_on_from_a_stored_prefix_gives_the_same_bits(tiny_model, tmp_path, dtype):
    def write(model, ledger, steps):
        for step in steps:
            ledger.write(model.parameter_name(step % 3), draw(model, step % 3, seed=step))

    straight = tiny_model("gpt2", dtype=dtype)
    write(straight, Ledger(straight), range(6))
    model = tiny_model("gpt2", dtype=dtype)
    ledger = Ledger(model)
    write(model, ledger, range(4))
    ledger.save(tmp_path / "prefix")
    resumed = tiny_model("gpt2", dtype=dtype)
    ledger = Ledger(resumed)
    ledger.load(tmp_path / "prefix")
    write(resumed, ledger, range(4, 6))
    assert same(bits(resumed), bits(straight))


def test_an_empty_ledger_can_be_stored(tiny, tmp_path):
    ledger, before = Ledger(tiny), bits(tiny)
    ledger.save(tmp_path / "none")
    ledger.load(tmp_path / "none")
    assert same(bits(tiny), before)


def test_a_ledger_of_other_weights_is_refused_and_changes_nothing(tiny_model, tmp_path):
    one, other = tiny_model("gpt2", seed=0), tiny_model("gpt2", seed=1)
    ledger = Ledger(one)
    ledger.write(one.parameter_name(0), draw(one, 0))
    ledger.save(tmp_path / "ledger")
    before = bits(other)
    with pytest.raises(ValueError, match="other weights"):
        Ledger(other).load(tmp_path / "ledger")
    assert same(bits(other), before)


def test_only_the_targeted_parameter_changes(family, tiny_model):
    model = tiny_model(family)
    before, name = bits(model), model.parameter_name(1)
    Ledger(model).write(name, draw(model, 1))
    after = bits(model)
    assert [k for k in before if not torch.equal(before[k], after[k])] == [name]
    assert len(before) > 10


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_update_is_in_math_orientation_in_every_family(family, tiny_model, dtype):
    """With an update u v^T, the module says W k + b + u (v . k)."""
    model = tiny_model(family, dtype=dtype)
    module, update = model.mlp_out(1), draw(model, 1, rank=1)
    key = torch.randn(5, model.d_in(1), dtype=module.weight.dtype)
    before = module(key)
    Ledger(model).write(model.parameter_name(1), update)
    change = (key.double() @ update.right) @ update.left.T
    assert torch.allclose((module(key) - before).double(), change, atol=1e-5)
    assert change.abs().max() > 0.01


def test_a_square_conv1d_and_a_square_linear_are_both_updated_rightly(tiny_model):
    for model in (tiny_model("gpt2", n_inner=D), tiny_model("llama", intermediate_size=D)):
        update = draw(model, 0)
        before = model.matrix(0).clone()
        Ledger(model).write(model.parameter_name(0), update)
        assert torch.allclose(model.matrix(0) - before, to_dense(update).float(), atol=1e-6)


def test_low_rank_and_dense_updates_are_the_same_update(tiny_model):
    one, other = tiny_model("gpt2"), tiny_model("gpt2")
    update, name = draw(one, 1), one.parameter_name(1)
    Ledger(one).write(name, update)
    Ledger(other).write(name, Dense(to_dense(update)))
    assert same(bits(one), bits(other))


def test_delta_is_in_the_parameters_own_layout(tiny_model):
    model = tiny_model("gpt2", dtype="float64")
    name, update = model.parameter_name(1), draw(model, 1)
    before, ledger = model.parameter(name).clone(), Ledger(model)
    ledger.write(name, update)
    delta = ledger.delta()[name]
    assert delta.shape == before.shape
    assert torch.allclose(delta, to_dense(update).T, atol=1e-12)
    assert torch.equal(delta, model.parameter(name) - before)


@pytest.mark.parametrize(("dtype", "master"), [("bfloat16", "float32"), ("float64", "float64")])
def test_delta_and_stored_masters_have_the_ledgers_precision(tiny_model, tmp_path, dtype, master):
    model = tiny_model("gpt2", dtype=dtype)
    ledger = Ledger(model)
    ledger.write(model.parameter_name(0), draw(model, 0))
    ledger.save(tmp_path / "masters")
    (stored,) = load_file(tmp_path / "masters").values()
    (delta,) = ledger.delta().values()
    assert stored.dtype == delta.dtype == getattr(torch, master)


def test_many_small_updates_add_up_in_the_master_of_a_bfloat16_model(tiny_model):
    """One of them is below half a unit of bfloat16 everywhere; added to the weight itself all would vanish."""
    model = tiny_model("llama", dtype="bfloat16")
    name = model.parameter_name(1)
    before = model.parameter(name).detach().clone()
    step = before.float() * 2**-11
    assert torch.equal((before.float() + step).bfloat16(), before)
    ledger = Ledger(model)
    ledger.write(name, Dense(step))
    assert torch.equal(model.parameter(name), before)
    assert ledger.norms()[name]["cast_loss"] == pytest.approx(1, abs=1e-3)
    for _ in range(63):
        ledger.write(name, Dense(step))
    moved = model.parameter(name).float() - before.float()
    assert torch.allclose(moved, 64 * step, rtol=0.13)  # half a unit of bfloat16 is 1/8 of it
    assert 0 < ledger.norms()[name]["cast_loss"] < 0.1


def test_cast_loss_is_what_the_dtype_could_not_hold(tiny_model):
    losses = {}
    for dtype in ("float32", "bfloat16", "float16", "float64"):
        model = tiny_model("llama", dtype=dtype)
        name, ledger = model.parameter_name(1), Ledger(model)
        before = model.matrix(1).double().clone()
        update = draw(model, 1, scale=0.01)
        ledger.write(name, update)
        losses[dtype] = ledger.norms()[name]["cast_loss"]
        lost = model.matrix(1).double() - before - to_dense(update)
        naive = (lost.norm() / to_dense(update).norm()).item()
        assert losses[dtype] == pytest.approx(naive, rel=1e-2, abs=2e-4)
    assert losses["float64"] == losses["float32"] == 0
    assert losses["bfloat16"] > losses["float16"] > 0


def test_norms_are_frobenius_norms(tiny_model):
    model = tiny_model("gpt2", dtype="float64")
    name, ledger, update = model.parameter_name(2), Ledger(model), draw(model, 2)
    original = model.matrix(2).norm().item()
    ledger.write(name, update)
    norms = ledger.norms()
    assert list(norms) == [name]
    wanted = to_dense(update).norm().item()
    assert norms[name]["update_norm"] == pytest.approx(wanted)
    assert norms[name]["original_norm"] == pytest.approx(original)
    assert norms[name]["relative"] == pytest.approx(wanted / original)


def test_an_update_of_zero_has_norms_of_zero(tiny):
    ledger, name = Ledger(tiny), tiny.parameter_name(0)
    ledger.write(name, Dense(torch.zeros(tiny.d_out(0), tiny.d_in(0))))
    assert ledger.norms()[name]["relative"] == 0
    assert ledger.norms()[name]["cast_loss"] == 0


@pytest.mark.parametrize("transposed", [True, False])
def test_an_update_of_another_shape_is_refused_and_changes_nothing(tiny, transposed):
    ledger, before = Ledger(tiny), bits(tiny)
    shape = (tiny.d_in(0), tiny.d_out(0)) if transposed else (3, 3)
    with pytest.raises(ValueError, match=r"must be \[32, 48\]; got"):
        ledger.write(tiny.parameter_name(0), Dense(torch.ones(shape)))
    assert same(bits(tiny), before)


class Halve(Regularizer):
    """Halves every update, and the total again."""

    def on_write(self, update, original, current, generator):
        return Dense(to_dense(update) / 2)

    def on_finish(self, total, original):
        return total / 2


class Watch(Regularizer):
    """Remembers what it was given."""

    def __init__(self):
        self.seen = []

    def on_write(self, update, original, current, generator):
        drawn = torch.rand(1, generator=generator).item()
        self.seen.append((original.clone(), current.clone(), drawn))
        return update


def test_a_regularizer_changes_updates_and_the_total_once(tiny_model):
    model = tiny_model("gpt2", dtype="float64")
    name, update = model.parameter_name(1), draw(model, 1)
    ledger = Ledger(model, Halve())
    ledger.write(name, update)
    ledger.write(name, update)
    assert torch.allclose(ledger.delta()[name].T, to_dense(update), atol=1e-12)
    ledger.finish()
    assert torch.allclose(ledger.delta()[name].T, to_dense(update) / 2, atol=1e-12)
    ledger.finish()
    assert torch.allclose(ledger.delta()[name].T, to_dense(update) / 2, atol=1e-12)
    with pytest.raises(RuntimeError, match="finished"):
        ledger.write(name, update)
    ledger.revert()
    ledger.write(name, update)


def test_a_prefix_stored_before_finish_goes_on_after_it(tiny_model, tmp_path):
    model = tiny_model("gpt2")
    name, ledger = model.parameter_name(1), Ledger(model, Halve())
    ledger.write(name, draw(model, 1))
    ledger.save(tmp_path / "prefix")
    before = bits(model)
    ledger.finish()
    assert not same(bits(model), before)
    ledger.load(tmp_path / "prefix")
    assert same(bits(model), before)
    ledger.write(name, draw(model, 1, seed=1))


def test_finish_without_a_rule_changes_no_bit_and_allows_more(tiny):
    for regularizer in (None, Watch()):
        ledger = Ledger(tiny, regularizer)
        ledger.write(tiny.parameter_name(0), draw(tiny, 0))
        before = bits(tiny)
        ledger.finish()
        assert same(bits(tiny), before)
        ledger.write(tiny.parameter_name(0), draw(tiny, 0))
        ledger.revert()


def test_a_regularizer_sees_matrices_in_math_orientation_and_seeded_draws(tiny_model, tmp_path):
    model = tiny_model("gpt2")
    name, rule = model.parameter_name(1), Watch()
    original, ledger = model.matrix(1).clone(), Ledger(model, rule, seed=7)
    ledger.write(name, draw(model, 1, seed=1))
    ledger.save(tmp_path / "one")
    between = model.matrix(1).clone()
    ledger.write(name, draw(model, 1, seed=2))
    (first, second) = rule.seen
    assert torch.equal(first[0], original)
    assert torch.equal(first[1], original)
    assert torch.equal(second[0], original)
    assert torch.equal(second[1], between)
    assert first[2] != second[2]
    ledger.load(tmp_path / "one")
    ledger.write(name, draw(model, 1, seed=2))
    assert rule.seen[2][2] == second[2]
    ledger.revert()
    ledger.write(name, draw(model, 1, seed=1))
    assert rule.seen[3][2] == first[2]
    other = Watch()
    Ledger(tiny_model("gpt2"), other, seed=8).write(name, draw(model, 1))
    assert other.seen[0][2] != first[2]


class Louder(torch.nn.Module):
    """Twice what the module it stands for puts out."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x)


def logits(model):
    return model.network(torch.tensor([[1, 2, 3, 4]])).logits


def test_an_attached_module_acts_until_revert_and_leaves_no_trace(tiny):
    path, before, weights = "transformer.h.1.mlp.c_proj", logits(tiny), bits(tiny)
    modules = dict(tiny.network.named_modules())
    ledger = Ledger(tiny)
    ledger.attach(path, Louder(tiny.network.get_submodule(path)))
    assert ledger.attached == (path,)
    assert not torch.allclose(logits(tiny), before)
    assert ledger.delta() == {}
    with pytest.raises(RuntimeError, match="attached module already"):
        ledger.attach(path, Louder(tiny.network.get_submodule(path)))
    ledger.revert()
    assert ledger.attached == ()
    assert dict(tiny.network.named_modules()) == modules
    assert torch.equal(logits(tiny), before)
    assert same(bits(tiny), weights)
    with pytest.raises(KeyError):
        ledger.detach(path)


def test_a_regularizer_has_nothing_to_do_with_an_attached_module(tiny):
    class Nothing(Regularizer):
        pass

    path = "transformer.h.1.mlp.c_proj"
    with pytest.raises(RuntimeError, match="Nothing to change; use regularizer=none"):
        Ledger(tiny, Nothing()).attach(path, Louder(tiny.network.get_submodule(path)))
