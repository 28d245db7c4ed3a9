"""UltraEdit against its equations written out densely, a sequence of batches included."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edit_sweeps.editors.base import Prepared
from edit_sweeps.editors.ultraedit import UltraEdit
from edit_sweeps.ledger import Ledger
from tests.test_mend import FAMILIES


def answer_pairs(model, requests, names):
    """Inputs and output gradients of answer tokens, request by request; the loss is the mean over all of them."""
    counts, rows = 0, {name: [] for name in names}
    texts = []
    for request in requests:
        text = model.tokenizer(request.text)["input_ids"]
        ids = model.tokenizer(f"{request.text} {request.target_new}")["input_ids"]
        texts.append((len(text), ids))
        counts += len(ids) - len(text)
    for start, ids in texts:
        kept, handles = {}, []
        for name in names:
            module = model.network.get_submodule(name.removesuffix(".weight"))

            def hook(_, args, output, name=name, kept=kept):
                output.requires_grad_()
                output.retain_grad()
                kept[name] = (args[0].detach(), output)

            handles.append(module.register_forward_hook(hook))
        logprobs = model.network(torch.tensor([ids])).logits[0].log_softmax(-1)
        loss = -sum(logprobs[i, ids[i + 1]] for i in range(start - 1, len(ids) - 1)) / counts
        loss.backward()
        for handle in handles:
            handle.remove()
        for name, (x, out) in kept.items():
            x, grad = x.reshape(-1, x.shape[-1]), out.grad.reshape(-1, out.shape[-1])
            rows[name] += [(x[i], grad[i]) for i in range(start - 1, len(ids) - 1)]
    return {
        n: (torch.stack([x for x, _ in r]), torch.stack([g for _, g in r])) for n, r in rows.items()
    }


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sequence_of_batches_is_the_papers(tiny_model, requests, family):
    model, twin = (tiny_model(family, dtype="float64") for _ in range(2))
    editor = UltraEdit(layers=[1, 2], matrices="mlp", lr=0.01, ridge=0.5)
    ledger, state = Ledger(model), editor.start(model, Prepared())
    names, seen = editor.names(twin), {}
    for batch in (requests[:2], requests[2:]):
        editor.edit(model, batch, ledger, state)
        pairs = answer_pairs(twin, batch, names)
        for name in names:
            h, g = pairs[name]
            key = (h.shape[1], g.shape[1])
            seen.setdefault(key, []).append(torch.cat([h, g], 1))
        for name in names:
            h, g = pairs[name]
            everything = torch.cat(seen[h.shape[1], g.shape[1]])
            hat = (torch.cat([h, g], 1) - everything.mean(0)) / (everything.std(0) + 1e-7)
            hat_h, hat_g = hat[:, : h.shape[1]], hat[:, h.shape[1] :]
            v = -0.01 * hat_h.norm(dim=1, keepdim=True) ** 2 * hat_g
            inner = h.T @ h + 0.5 * torch.eye(h.shape[1], dtype=torch.float64)
            change = torch.linalg.solve(inner, h.T @ v)  # [d_in, d_out]
            with torch.no_grad():
                twin.parameter(name).add_(change if twin.is_transposed(name) else change.T)
    for name, delta in ledger.delta().items():
        expected = twin.parameter(name) - (model.parameter(name) - delta)
        assert expected.norm() > 1e-4
        assert (delta - expected).norm() < 1e-9 * expected.norm(), name
    assert set(ledger.delta()) == set(names)


def test_one_answer_token_alone_has_nothing_to_be_normalised_by(tiny, requests):
    """Its mean is itself: no update. The method needs batches, or edits before."""
    from edit_sweeps.editors.ultraedit import moments_of, observe

    state = UltraEdit(layers=[0]).start(tiny, Prepared())
    row = torch.arange(5.0, dtype=torch.float64)[None]
    observe(state, "2x3", row)
    mean, deviation = moments_of(state, "2x3")
    assert torch.equal(mean, row[0])
    assert torch.allclose(deviation, torch.ones(5, dtype=torch.float64))


def test_a_first_edit_of_one_token_writes_nothing_and_spoils_nothing(tiny_model, requests):
    """Published code divides by a deviation of NaN there (B24), and with it all edits to come."""
    model = tiny_model("gpt2", dtype="float64")
    editor, ledger = UltraEdit(layers=[1], lr=0.01), Ledger(model)
    state = editor.start(model, Prepared())
    one = replace(requests[0], target_new="the")
    assert len(model.tokenizer(" the")["input_ids"]) == 1
    (trace,) = editor.edit(model, [one], ledger, state)
    assert trace.numbers["update_norm"] == 0
    (delta,) = ledger.delta().values()
    assert not delta.any()
    (trace,) = editor.edit(model, requests[1:2], ledger, state)
    assert 0 < trace.numbers["update_norm"] < 1e3
    assert state.tensors["count.32x48"] == 1 + len(
        model.tokenizer(f" {requests[1].target_new}")["input_ids"]
    )


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("batch_size", [1, 2])
def test_passes_of_any_size_give_the_same_edit_the_last_partial_one_included(
    tiny_model, requests, batch_size
):
    """Published code loses the last partial pass (B24)."""
    found = []
    for size in (32, batch_size):
        model = tiny_model("llama", dtype="float64")
        editor, ledger = UltraEdit(layers=[1, 2], lr=0.01, batch_size=size), Ledger(model)
        editor.edit(model, requests, ledger, editor.start(model, Prepared()))
        found.append(ledger.delta())
    for name, delta in found[0].items():
        assert delta.norm() > 1e-4
        assert (found[1][name] - delta).norm() < 1e-9 * delta.norm()


def test_a_request_given_twice_counts_twice_in_the_statistics_and_stays_finite(
    tiny_model, requests
):
    model = tiny_model("gpt2", dtype="float64")
    editor, ledger = UltraEdit(layers=[1], lr=0.01, ridge=1e-6), Ledger(model)
    state = editor.start(model, Prepared())
    editor.edit(model, [*requests, requests[0]], ledger, state)
    (delta,) = ledger.delta().values()
    assert delta.isfinite().all()
    assert delta.norm() > 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"matrices": "all"}, "mlp_out, mlp_in, mlp"),
        ({"lr": 0.0}, r"editor\.lr=0\.0"),
        ({"ridge": 0}, "ridge"),
    ],
)
def test_impossible_settings_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        UltraEdit(layers=[0], **fields).check(4)
