"""Pairs of inputs and output gradients: their sum is what autograd finds in the matrix."""

import pytest
import torch

from edit_sweeps.editors.gradients import edit_gradients
from edit_sweeps.hooks import capture
from edit_sweeps.tokens import Line


@pytest.fixture
def lines(requests):
    return [Line(r.prompt, r.subject, r.target_new) for r in requests]


def by_autograd(model, lines, names, reduction):
    """One line at a time, without padding, by the gradient in the weights themselves."""
    for name in names:
        model.parameter(name).requires_grad_()
    tokens, means = [], []
    for line in lines:
        text = line.prompt.replace("{}", line.subject)
        ids = torch.tensor([model.tokenizer(f"{text} {line.target}")["input_ids"]])
        n_target = ids.shape[1] - len(model.tokenizer(text)["input_ids"])
        logprobs = model.network(ids).logits[0].log_softmax(-1)
        asked = -logprobs[-n_target - 1 : -1].gather(1, ids[0, -n_target:, None])[:, 0]
        tokens.append(asked)
        means.append(asked.mean())
    loss = {
        "tokens": torch.cat(tokens).mean(),
        "rows": torch.stack(means).mean(),
        "sum": torch.stack(means).sum(),
    }[reduction]
    gradients = torch.autograd.grad(loss, [model.parameter(n) for n in names])
    for name in names:
        model.parameter(name).requires_grad_(requires_grad=False)
    oriented = {
        n: g.T if model.is_transposed(n) else g for n, g in zip(names, gradients, strict=True)
    }
    return oriented, torch.stack(means).detach()


def test_the_pairs_sum_to_the_gradient_of_every_family(family, tiny_model, lines):
    model = tiny_model(family, dtype="float64")
    names = [n for layer in (1, 3) for n in model.mlp_parameters(layer)]
    assert len(names) >= 4
    hooks = [len(m._forward_hooks) for m in model.network.modules()]
    found = edit_gradients(model, lines, names, batch_size=2)
    wanted, nll = by_autograd(model, lines, names, "tokens")
    torch.testing.assert_close(found.nll, nll, rtol=1e-6, atol=0)
    for name in names:
        error = (found.pairs[name].dense() - wanted[name]).norm() / wanted[name].norm()
        assert wanted[name].norm() > 0
        assert error < 1e-6, name
    assert [len(m._forward_hooks) for m in model.network.modules()] == hooks
    assert not any(p.requires_grad for p in model.network.parameters())


@pytest.mark.parametrize("reduction", ["tokens", "rows", "sum"])
def test_each_reduction_is_the_loss_it_names(reduction, tiny_model, lines):
    model = tiny_model("gpt2", dtype="float64")
    names = list(model.mlp_parameters(2))
    wanted, _ = by_autograd(model, lines, names, reduction)
    for batch_size in (1, 2, 8):
        found = edit_gradients(model, lines, names, reduction=reduction, batch_size=batch_size)
        for name in names:
            torch.testing.assert_close(
                found.pairs[name].dense(), wanted[name], rtol=1e-8, atol=1e-12
            )


def test_tokens_are_told_apart_by_line_and_by_answer(tiny_model, lines):
    model = tiny_model("opt", dtype="float64")
    name = model.parameter_name(1)
    found = edit_gradients(model, lines, [name], reduction="sum", batch_size=2)
    tokenizer = model.tokenizer
    for index, line in enumerate(lines):
        text = line.prompt.replace("{}", line.subject)
        ids = tokenizer(f"{text} {line.target}")["input_ids"]
        n_target = len(ids) - len(tokenizer(text)["input_ids"])
        own = found.rows == index
        assert int(own.sum()) == len(ids) - 1
        assert (
            found.answers[own].tolist() == [False] * (len(ids) - 1 - n_target) + [True] * n_target
        )
        with torch.no_grad(), capture({0: model.mlp_out(1)}, inputs=True, rows=1) as seen:
            model.network(torch.tensor([ids[:-1]]))
        torch.testing.assert_close(found.pairs[name].inputs[own], seen[0][0], rtol=1e-6, atol=1e-9)
        alone = edit_gradients(model, [line], [name])
        torch.testing.assert_close(
            found.pairs[name].deltas[own], alone.pairs[name].deltas, rtol=1e-6, atol=1e-9
        )


def test_a_bfloat16_model_gives_float32_pairs(tiny_model, lines):
    model = tiny_model("llama", dtype="bfloat16")
    found = edit_gradients(model, lines, list(model.mlp_parameters(0)))
    assert all(p.inputs.dtype == p.deltas.dtype == torch.float32 for p in found.pairs.values())
    assert all(p.dense().isfinite().all() for p in found.pairs.values())


def test_a_line_without_target_is_refused(tiny, lines):
    with pytest.raises(ValueError, match="each with a target"):
        edit_gradients(tiny, [*lines, Line("{} lives in", "Ostravia")], [tiny.parameter_name(0)])
    with pytest.raises(ValueError, match="got 0 lines"):
        edit_gradients(tiny, [], [tiny.parameter_name(0)])
