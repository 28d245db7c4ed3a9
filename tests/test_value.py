"""The optimised value: the published procedure, many at once, from the suffix alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edit_sweeps.editors.reading import Site
from edit_sweeps.editors.shifted import Whole
from edit_sweeps.editors.suffix import Suffix, can_be_cut
from edit_sweeps.editors.value import ValueSettings, optimise_values
from edit_sweeps.model import EditableModel
from edit_sweeps.tokens import IGNORE, Line, lay_out
from tests import published

CONTEXTS = ("{}", "I know this. {}", "The baker said: {}")
SETTINGS = ValueSettings(
    lr=0.3, steps=6, clamp=20.0, weight_decay=0.3, kl_factor=0.5, early_stop=0.0
)
SITES = {"mlp_out": Site(1, block=False), "block_out": Site(2, block=True)}
PAPER_FAMILIES = ["gpt2", "llama", "gptj", "gpt_neox", "gemma2"]


def relative_error(got, want):
    return ((got - want).norm() / want.norm()).item()


def everything(model):
    return {name: p.detach().clone() for name, p in model.network.named_parameters()}


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", PAPER_FAMILIES)
def test_the_value_is_that_of_the_published_procedure(tiny_model, requests, family, site):
    model = tiny_model(family, dtype="float64")
    where = SITES[site]
    got = optimise_values(model, requests[:2], CONTEXTS, where, SETTINGS)
    for row, request in enumerate(requests[:2]):
        start, shift, loss, updates = published.value(
            model, request, CONTEXTS, where.modules(model)[0], SETTINGS
        )
        assert relative_error(got.start[row], start) < 1e-12
        assert relative_error(got.shift[row], shift) < 1e-10
        assert got.loss[row].item() == pytest.approx(loss, rel=1e-10)
        assert got.steps[row] == updates == SETTINGS.steps - 1


def test_a_clamped_value_is_that_of_the_published_procedure(tiny_model, requests):
    model = tiny_model("gpt2", dtype="float64")
    settings = replace(SETTINGS, clamp=0.8, weight_decay=0.01, steps=9)
    site = SITES["block_out"]
    got = optimise_values(model, requests[:1], CONTEXTS, site, settings)
    start, shift, _, _ = published.value(
        model, requests[0], CONTEXTS, site.modules(model)[0], settings
    )
    assert relative_error(got.shift[0], shift) < 1e-6
    assert got.clamped[0]
    assert got.shift[0].norm().item() == pytest.approx(0.8 * start.norm().item())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_many_at_once_are_the_same_as_one_by_one(tiny_model, requests, dtype, tolerance):
    model = tiny_model("gpt2", dtype=dtype)
    together = optimise_values(model, requests, CONTEXTS, SITES["mlp_out"], SETTINGS)
    for row, request in enumerate(requests):
        alone = optimise_values(model, [request], CONTEXTS, SITES["mlp_out"], SETTINGS)
        assert relative_error(together.value[row], alone.value[0]) < tolerance
        assert together.steps[row] == alone.steps[0]


def test_edits_that_stop_early_do_not_disturb_the_others(tiny_model, requests):
    model = tiny_model("llama", dtype="float64")
    free = replace(SETTINGS, kl_factor=0.0, weight_decay=0.0, lr=1.0, steps=12)
    site = SITES["block_out"]
    first, last = (
        optimise_values(model, requests, CONTEXTS, site, replace(free, steps=n)).loss
        for n in (1, free.steps)
    )
    reachable = (first + last) / 2
    settings = replace(free, early_stop=reachable.sort().values[1].item())
    together = optimise_values(model, requests, CONTEXTS, site, settings)
    assert len(set(together.steps.tolist())) > 1
    for row, request in enumerate(requests):
        alone = optimise_values(model, [request], CONTEXTS, site, settings)
        assert together.steps[row] == alone.steps[0]
        assert torch.allclose(together.shift[row], alone.shift[0], rtol=1e-9, atol=1e-9)


def test_chunks_of_the_batch_give_the_same(tiny_model, requests):
    model = tiny_model("gpt2", dtype="float64")
    one, all_of_them = (
        optimise_values(
            model, requests, CONTEXTS, SITES["mlp_out"], replace(SETTINGS, batch_size=size)
        )
        for size in (2, 3)
    )
    assert relative_error(one.value, all_of_them.value) < 1e-10


def shifted_both_ways(model, requests, site):
    """Labels, target log-probabilities, KL row and gradient of both ways, for edits in a new order."""
    lines = [
        line
        for r in requests
        for line in (
            *(Line(r.prompt, r.subject, r.target_new, c) for c in CONTEXTS),
            Line("{} is a", r.subject),
        )
    ]
    rows = lay_out(model.tokenizer, lines)
    edits = torch.tensor([len(requests) - 1, 0])
    draw = torch.Generator().manual_seed(1)
    for way in (Whole, Suffix):
        shift = torch.randn(2, model.d_out(0), generator=draw.manual_seed(1), dtype=model.dtype)
        shift.requires_grad_()
        run = way(model, site.modules(model), rows, len(CONTEXTS) + 1)
        logits, labels = run.logits(edits, shift), run.kept.labels[edits]
        asked = labels != IGNORE
        logprobs = logits[asked].log_softmax(-1)
        last = logits[torch.arange(2), -1, run.kept.kl_column[edits]].log_softmax(-1)
        picked = logprobs.gather(1, labels[asked][:, None])
        (gradient,) = torch.autograd.grad(picked.sum() + last[:, 7].sum(), shift)
        yield labels[asked], logprobs.detach(), last.detach(), gradient


@pytest.mark.parametrize("site", SITES)
def test_the_suffix_alone_gives_the_same_logits_and_gradients(tiny_model, requests, family, site):
    model = tiny_model(family)
    short = replace(requests[0], subject="a", prompt="{} lives")  # nothing stands before the shift
    whole, suffix = shifted_both_ways(model, [*requests, short], SITES[site])
    assert torch.equal(whole[0], suffix[0])
    assert len(whole[0]) > 5
    for mine, theirs in zip(whole[1:], suffix[1:], strict=True):
        assert relative_error(theirs, mine) < 5e-6


def test_the_suffix_alone_gives_the_same_with_a_first_token_of_its_own(
    tiny_model, requests, bos_tokenizer
):
    model = tiny_model("llama", tokenizer=bos_tokenizer)
    whole, suffix = shifted_both_ways(model, requests, SITES["block_out"])
    for mine, theirs in zip(whole[1:], suffix[1:], strict=True):
        assert relative_error(theirs, mine) < 5e-6


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_fast_values_are_the_plain_ones(tiny_model, requests, family):
    model = tiny_model(family, dtype="float64")
    fast, plain = (
        optimise_values(
            model, requests, CONTEXTS, SITES["mlp_out"], replace(SETTINGS, fast=fast)
        ).value
        for fast in (True, False)
    )
    assert relative_error(fast, plain) < 1e-8


def test_eager_float64_models_take_the_plain_way(tiny_model, requests):
    lines = [Line(r.prompt, r.subject) for r in requests]
    model = tiny_model("gemma2", dtype="float64")
    rows = lay_out(model.tokenizer, lines)
    assert not can_be_cut(model, rows)
    assert can_be_cut(tiny_model("gemma2"), rows)
    assert can_be_cut(tiny_model("gpt2", dtype="float64"), rows)
    assert (
        optimise_values(model, requests, CONTEXTS, SITES["mlp_out"], SETTINGS)
        .value.isfinite()
        .all()
    )


def test_rows_that_fit_only_one_by_one_take_the_plain_way(tiny_model, requests):
    """One text long before its subject, one long behind: aligned they are too wide."""
    long = "the baker " * 20
    early = replace(requests[0], prompt="{} " + long)
    late = replace(requests[0], prompt=long + "{}")
    model = tiny_model("gptj", max_position_embeddings=70)
    rows = lay_out(model.tokenizer, [Line(r.prompt, r.subject, "Rome") for r in (early, late)])
    assert rows.ids.shape[1] <= 70
    assert not can_be_cut(model, rows)
    values = optimise_values(model, [early, late], ["{}"], SITES["mlp_out"], SETTINGS).value
    assert values.isfinite().all()


def test_a_text_longer_than_the_model_takes_is_refused(tiny, requests):
    with pytest.raises(ValueError, match=r"tokens and the model takes 128.*editor\.contexts"):
        optimise_values(
            tiny, requests, ["{}", "the baker " * 70 + "{}"], SITES["mlp_out"], SETTINGS
        )


def test_one_step_makes_no_update(tiny, requests):
    found = optimise_values(tiny, requests, CONTEXTS, SITES["mlp_out"], replace(SETTINGS, steps=1))
    assert not found.shift.any()
    assert (found.loss > 1).all()
    assert torch.equal(found.loss, found.nll)


def test_the_stop_looks_at_the_whole_loss(tiny_model, requests):
    model = tiny_model("gpt2", dtype="float64")
    heavy = replace(SETTINGS, weight_decay=0.1, kl_factor=0.0, steps=3)
    first, last = (
        optimise_values(model, requests[:1], CONTEXTS, SITES["mlp_out"], replace(heavy, steps=n))
        for n in (1, heavy.steps)
    )
    threshold = first.loss[0].item() - 1e-6
    assert last.nll[0].item() < threshold - 0.03
    assert last.loss[0].item() > threshold + 0.03
    stopping = replace(heavy, early_stop=threshold)
    found = optimise_values(model, requests[:1], CONTEXTS, SITES["mlp_out"], stopping)
    assert found.steps[0] == heavy.steps - 1


def test_nothing_of_the_model_is_changed(tiny, requests):
    before, state = everything(tiny), torch.get_rng_state()
    optimise_values(tiny, requests, CONTEXTS, SITES["block_out"], SETTINGS)
    assert all(torch.equal(p, before[n]) for n, p in tiny.network.named_parameters())
    assert not any(p.requires_grad or p.grad is not None for p in tiny.network.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny.network.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_half_precision_model_is_optimised_in_float32(tiny_model, requests):
    found = optimise_values(
        tiny_model("llama", dtype="bfloat16"), requests, CONTEXTS, SITES["block_out"], SETTINGS
    )
    assert found.value.dtype == torch.float32
    assert found.shift.norm(dim=-1).min() > 0


@pytest.mark.parametrize("fast", [True, False])
def test_a_collapsed_model_ends_at_once(tiny, requests, fast):
    with torch.no_grad():
        tiny.matrix(0).fill_(torch.nan)
    found = optimise_values(
        tiny, requests, CONTEXTS, SITES["mlp_out"], replace(SETTINGS, fast=fast)
    )
    assert found.steps.tolist() == [0, 0, 0]
    assert found.loss.isnan().all()


def test_traces_hold_the_course_of_each_edit(tiny, requests):
    found = optimise_values(tiny, requests, CONTEXTS, SITES["mlp_out"], SETTINGS)
    traces = found.traces(requests, extra=torch.tensor([1.0, 2.0, 3.0]))
    assert [t.case_id for t in traces] == ["1", "2", "3"]
    assert [t.numbers["extra"] for t in traces] == [1.0, 2.0, 3.0]
    assert traces[1].loss == pytest.approx(found.loss[1].item())
    assert traces[2].numbers["shift_norm"] == pytest.approx(found.shift[2].norm().item())
    assert {"nll", "value_norm", "start_norm"} <= set(traces[0].numbers)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("lr", 0.0), ("clamp", -1.0), ("batch_size", 0), ("kl_factor", -0.1),
     ("early_stop", -1.0), ("weight_decay", float("nan"))],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"editor\.value\.{name}="):
        ValueSettings(**{name: value}).check()


def test_the_model_type_of_the_fixtures_covers_the_papers(tiny_model):
    models = [tiny_model(f) for f in PAPER_FAMILIES]
    assert all(isinstance(m, EditableModel) for m in models)
    assert sum(m.architecture.post_mlp_norm for m in models) == 1
    assert sum(m.is_transposed(m.parameter_name(0)) for m in models) == 1
