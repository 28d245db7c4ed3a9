"""GRACE: the lookup written out, exact locality, growing and splitting, and evaluation that nothing can tip."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edit_sweeps.editors.base import Prepared, State
from edit_sweeps.editors.codebook import Codebook
from edit_sweeps.editors.grace import Grace
from edit_sweeps.ledger import Ledger
from edit_sweeps.tokens import score_targets
from edit_sweeps.trajectory import Trajectory

FAMILIES = ["gpt2", "gptj", "gpt_neox", "llama", "gemma2", "opt"]
QUICK = {"layer": 1, "radius": 0.05, "lr": 0.3, "steps": 60}


def edited(model, requests, **fields):
    editor = Grace(**QUICK | fields)
    ledger, state = Ledger(model), editor.start(model, Prepared())
    traces = [t for r in requests for t in editor.edit(model, [r], ledger, state)]
    return ledger, state, traces


@pytest.mark.parametrize("shape", [(7,), (2, 7)])
def test_the_lookup_is_what_the_paper_says(shape):
    generator = torch.Generator().manual_seed(0)
    inner = torch.nn.Linear(5, 3).double()
    book = Codebook(inner)
    x = torch.randn(*shape, 5, generator=generator, dtype=torch.float64)
    assert torch.equal(book(x), inner(x))
    keys = torch.stack([x.flatten(0, -2)[0], x.flatten(0, -2)[3] + 0.1])
    values = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    radii = torch.tensor([0.0, 0.5], dtype=torch.float64)
    tensors = {"keys": keys, "values": values, "radii": radii}
    book.fill(State(Prepared(), tensors), torch.device("cpu"))
    found = book(x).flatten(0, -2)
    for i, row in enumerate(x.flatten(0, -2)):
        distances = [(row - key).square().sum().sqrt() for key in keys]
        best = min(range(2), key=lambda j: distances[j])
        expected = values[best] if distances[best] <= radii[best] else inner(row)
        assert torch.allclose(found[i], expected)
    assert torch.equal(found[0], values[0])
    assert torch.equal(found[3], values[1])


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("family", FAMILIES)
def test_key_and_value_are_those_of_the_procedure_written_out(tiny_model, requests, family):
    """Two edits: the key at the prompt's last token, the value by torch's Adam from the output there."""
    model, twin = (tiny_model(family, dtype="float64") for _ in range(2))
    _, state, traces = edited(model, requests[:2], radius=1e-4, steps=6)
    module = twin.mlp_out(1)
    for row, request in enumerate(requests[:2]):
        text = twin.tokenizer(request.text)["input_ids"]
        ids = twin.tokenizer(f"{request.text} {request.target_new}")["input_ids"]
        place, seen, holder = len(text) - 1, {}, {}

        def hook(_, args, output, place=place, seen=seen, holder=holder):
            flat = output.reshape(-1, output.shape[-1])
            seen.setdefault("key", args[0].reshape(-1, args[0].shape[-1])[place].clone())
            seen.setdefault("start", flat[place].detach().clone())
            if "value" not in holder:
                return None
            rest = torch.arange(len(flat))[:, None] == place
            return torch.where(rest, holder["value"], flat).reshape(output.shape)

        handle = module.register_forward_hook(hook)
        twin.network(torch.tensor([ids]))
        value = seen["start"].clone().requires_grad_()
        holder["value"], optimizer = value, torch.optim.Adam([value], lr=0.3)
        for step in range(7):
            asked = twin.network(torch.tensor([ids])).logits[0, place:-1].log_softmax(-1)
            loss = -asked.gather(1, torch.tensor(ids[place + 1 :])[:, None]).mean()
            if step < 6:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        handle.remove()
        change = state.tensors["values"][row] - seen["start"]
        expected = value.detach() - seen["start"]
        assert torch.allclose(state.tensors["keys"][row], seen["key"], rtol=1e-10, atol=1e-12)
        assert expected.norm() > 0.1
        assert (change - expected).norm() < 1e-8 * expected.norm()
        assert traces[row].loss == pytest.approx(loss.item(), rel=1e-8)
    assert state.tensors["radii"].tolist() == [1e-4, 1e-4]


def test_a_codebook_grows_splits_and_adds_as_the_paper_says():
    """On keys along a line; radius 1 of a new entry, so that 2 is near and 2.1 is far."""
    editor, state = Grace(layer=0, radius=1.0), State(Prepared())
    rome, paris = torch.tensor([7]), torch.tensor([7, 8])

    def place(at, target):
        return editor._place(state, torch.tensor([at, 0.0], dtype=torch.float64), target)

    def entries():
        keys, radii = state.tensors["keys"][:, 0], state.tensors["radii"]
        return list(zip(keys.tolist(), radii.tolist(), strict=True))

    assert place(0.0, rome)
    assert place(5.0, paris)
    assert entries() == [(0.0, 1.0), (5.0, 1.0)]
    assert not place(1.5, rome)  # near, same target: the entry grows to take it in
    assert entries() == [(0.0, 1.5), (5.0, 1.0)]
    assert not place(0.5, rome)  # inside already: nothing shrinks
    assert entries() == [(0.0, 1.5), (5.0, 1.0)]
    assert place(2.4, paris)  # within 1 + 1.5 of another target: both give way
    assert entries()[0][1] == pytest.approx(1.2, abs=1e-4)
    assert entries()[2] == (2.4, pytest.approx(1.2, abs=1e-4))
    assert entries()[0][1] + entries()[2][1] < 2.4
    assert place(20.0, rome)  # far: the same target gets another entry
    assert [e[1] for e in entries()][3] == 1.0
    assert state.tensors["targets"].tolist() == [[7, -100], [7, 8], [7, 8], [7, -100]]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_new_answer_is_said_and_all_else_is_bit_for_bit_as_before(tiny_model, requests, family):
    model = tiny_model(family)
    pairs = [(r.text, r.target_new) for r in requests[:2]]
    other = torch.tensor([[5, 6, 7, 8, 9]])
    before, untouched = score_targets(model, pairs, 1), model.network(other).logits
    ledger, state, traces = edited(model, requests[:2], radius=1e-4)
    after = score_targets(model, pairs, 1)
    for old, new in zip(before, after, strict=True):
        assert sum(new.logprobs) > sum(old.logprobs) + 1
    assert torch.equal(model.network(other).logits, untouched)
    assert [t.numbers["entries"] for t in traces] == [1, 2]
    assert set(state.tensors) == {"keys", "values", "radii", "targets"}
    ledger.revert()
    assert [s.logprobs for s in score_targets(model, pairs, 1)] == [s.logprobs for s in before]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_batch_padding_and_cache_make_no_difference(tiny_model, requests, family):
    model = tiny_model(family)
    edited(model, requests)
    pairs = [(r.text, r.target_new) for r in requests] + [("A man walked", "home")]
    one, many = score_targets(model, pairs, 1), score_targets(model, pairs, 8)
    for a, b in zip(one, many, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    ids = model.tokenizer(requests[0].text, return_tensors="pt")["input_ids"]
    texts = [
        model.network.generate(
            ids, max_new_tokens=5, do_sample=False, use_cache=cache, pad_token_id=0
        )
        for cache in (True, False)
    ]
    assert torch.equal(texts[0], texts[1])


def test_the_same_fact_again_grows_and_another_target_splits(tiny, requests):
    request = requests[0]
    _, state, traces = edited(tiny, [request, request], radius=0.05)
    assert len(state.tensors["keys"]) == 1
    assert traces[1].steps == 0
    near = replace(request, target_new=requests[1].target_new + " then")
    tiny2 = tiny
    editor, ledger = Grace(**QUICK | {"radius": 1e3}), Ledger(tiny2)
    tiny2.network.set_submodule(
        "transformer.h.1.mlp.c_proj", tiny2.network.transformer.h[1].mlp.c_proj.inner
    )
    state = editor.start(tiny2, Prepared())
    editor.edit(tiny2, [request], ledger, state)
    editor.edit(tiny2, [replace(near, prompt="The man {} lives in")], ledger, state)
    keys, radii = state.tensors["keys"], state.tensors["radii"]
    distance = (keys[0] - keys[1]).norm()
    assert distance > 0
    assert radii.tolist() == pytest.approx([distance.item() / 2] * 2, abs=1e-4)
    assert (radii.sum() < distance).item()


def test_a_resumed_run_has_the_same_codebook_bit_for_bit(tiny_model, requests, tmp_path):
    found = []
    for way, counts in (("alone", (3,)), ("resumed", (2, 3))):
        for count in counts:
            model = tiny_model("gpt2")
            ledger, editor = Ledger(model), Grace(**QUICK)
            run = Trajectory(
                tmp_path / way, model=model, editor=editor, ledger=ledger, prepared=Prepared(), batch_size=1
            )  # fmt: skip
            run.advance(requests[:count])
        book = model.network.transformer.h[1].mlp.c_proj
        assert isinstance(book, Codebook)
        found.append(
            (book.keys, book.values, book.radii, model.network(torch.tensor([[1, 2, 3]])).logits)
        )
        # A prefix that is complete already attaches its codebook too.
        again = tiny_model("gpt2")
        Trajectory(
            tmp_path / way, model=again, editor=editor, ledger=Ledger(again), prepared=Prepared(), batch_size=1
        ).advance(requests[:3])  # fmt: skip
        assert torch.equal(again.network.transformer.h[1].mlp.c_proj.keys, book.keys)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_several_requests_at_once_and_impossible_settings_are_refused(tiny, requests):
    with pytest.raises(ValueError, match="use edits=sequential"):
        Grace(layer=1).edit(tiny, requests[:2], Ledger(tiny), State(Prepared()))
    with pytest.raises(ValueError, match=r"editor\.radius=0"):
        Grace(layer=1, radius=0).check(4)
