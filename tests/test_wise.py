"""WISE: module and training written out densely in float64, masks, exact locality, and evaluation that nothing can tip."""

from __future__ import annotations

import pytest
import torch

from edit_sweeps.cell import Digests
from edit_sweeps.editors.base import Prepared, State
from edit_sweeps.editors.side_memory import SideMemories, shard_mask, ties
from edit_sweeps.editors.wise import Wise
from edit_sweeps.launcher.checks import clashes
from edit_sweeps.launcher.freezing import freeze
from edit_sweeps.launcher.plan import make_cell
from edit_sweeps.ledger import Ledger
from edit_sweeps.tokens import score_targets
from edit_sweeps.trajectory import Trajectory
from tests.test_conf import composed

FAMILIES = ["gpt2", "gptj", "gpt_neox", "llama", "gemma2"]
QUICK = {"layer": 1, "lr": 0.3, "steps": 25, "alpha": 0.1, "beta": 0.5, "gamma": 0.3}
TEXTS = ("The baker plays the violin. {}", "Velmora is near the river. {}")
PREPARED = Prepared(contexts=(("{}", "She said. {}"), TEXTS))


def edited(model, requests, **fields):
    editor = Wise(**QUICK | fields)
    ledger, state = Ledger(model), editor.start(model, PREPARED)
    traces = [t for r in requests for t in editor.edit(model, [r], ledger, state)]
    return ledger, state, traces


def matrix(module):
    """Weight `[d_out, d_in]` and bias of a projection, Conv1D or Linear."""
    weight = module.weight.T if type(module).__name__ == "Conv1D" else module.weight
    return weight, 0.0 if module.bias is None else module.bias


def ids_of(model, text):
    return model.tokenizer(text)["input_ids"]


def keys_of(model, ids):
    """Inputs of the matrix of layer 1, one text at a time."""
    seen = []
    handle = model.mlp_out(1).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.network(torch.tensor([ids]))
    handle.remove()
    return seen[0].reshape(len(ids), -1)


def mean_of_violations(values):
    bad = [v for v in values if v > 0]
    return sum(bad) / len(bad) if bad else 0.0


def merged(shards, density):
    """TIES entry by entry."""
    out = torch.zeros_like(shards[0])
    kept = []
    for shard in shards:
        order = sorted(shard.flatten().abs().tolist(), reverse=True)
        least = order[int(density * shard.numel()) - 1]
        kept.append(torch.where(shard.abs() >= least, shard, 0.0))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            entries = [k[i, j].item() for k in kept]
            sign = 1 if sum(entries) > 0 else -1
            agree = [e for e in entries if e * sign > 0] if sum(entries) != 0 else []
            out[i, j] = sum(agree) / len(agree) if agree else 0.0
    return out


@pytest.mark.parametrize("density", [0.3, 0.53, 1.0])
def test_ties_is_its_algorithm_entry_by_entry(density):
    generator = torch.Generator().manual_seed(0)
    shards = torch.randn(3, 4, 7, generator=generator, dtype=torch.float64)
    expected = merged(shards, density)
    assert torch.allclose(ties(shards, density), expected, rtol=1e-12, atol=0)
    assert (expected == 0).any() == (density < 1)
    assert torch.equal(ties(shards[:1], 1.0), shards[0])


@pytest.mark.parametrize("shape", [(7,), (2, 7)])
def test_the_router_is_what_the_paper_says(shape):
    generator = torch.Generator().manual_seed(0)
    inner = torch.nn.Linear(5, 3).double()
    memories = SideMemories(inner)
    x = torch.randn(*shape, 5, generator=generator, dtype=torch.float64)
    assert torch.equal(memories(x), inner(x))
    changes = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    thresholds = torch.tensor([2.5, 4.0], dtype=torch.float64)
    tensors = {"changes": changes, "thresholds": thresholds}
    memories.fill(State(Prepared(), tensors), torch.device("cpu"))
    found, chosen = memories(x).flatten(0, -2), set()
    for out, key in zip(found, x.flatten(0, -2), strict=True):
        scores = [(change @ key).square().sum().sqrt() for change in changes]
        above = [i for i in range(2) if scores[i] > thresholds[i]]
        if above:
            best = max(above, key=lambda i: scores[i])
            weight = inner.weight + changes[best]
            assert torch.allclose(out, weight @ key + inner.bias, rtol=1e-12)
        else:
            best = None
            assert torch.allclose(out, inner(key), rtol=1e-12)
        chosen.add(best)
    assert len(chosen) >= 2
    plain = inner(x).flatten(0, -2)
    memories.fill(State(Prepared(), tensors | {"thresholds": thresholds + 1e6}), x.device)
    assert torch.equal(memories(x).flatten(0, -2), plain), "below the threshold: bit for bit"


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_is_the_published_descent_written_out_densely(tiny_model, requests, family):
    """Two steps of masked SGD on the whole loss, with W' itself and with autograd through the whole model."""
    model = tiny_model(family, dtype="float64")
    request, steps, lr = requests[0], 2, 0.05
    editor = Wise(
        layer=1, lr=lr, steps=steps, alpha=0.01, beta=0.5, gamma=0.3, norm_constraint=0.004, seed=3
    )
    module = model.mlp_out(1)
    weight, bias = matrix(module)
    mask = shard_mask(weight.shape, 0.2, 3, 0)
    rows, in_scope = [], []
    for context in PREPARED.contexts[0]:
        text = context.format(request.text)
        before = context.format(request.prompt).partition("{}")[0] + request.subject
        ids = ids_of(model, f"{text} {request.target_new}")
        rows.append((ids, len(ids_of(model, text)), len(ids_of(model, before)) - 1))
        in_scope.append(keys_of(model, ids[:-1])[rows[-1][2] :])
    heads = ["The baker", "Velmora is"]
    texts = [t[:-3] for t in TEXTS] + [request.prompt.format(head) for head in heads]
    others = torch.cat([keys_of(model, ids_of(model, text)) for text in texts])
    side = weight.clone()
    for _ in range(steps):
        side.requires_grad_()
        nll = 0.0
        for ids, start, subject in rows:
            keys = keys_of(model, ids[:-1])

            def put(_, __, out, keys=keys, subject=subject, side=side):
                new = keys[subject:] @ side.T + bias
                return torch.cat([out.reshape(len(keys), -1)[:subject], new]).reshape(out.shape)

            handle = module.register_forward_hook(put)
            logprobs = model.network(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
            handle.remove()
            places = range(start - 1, len(ids) - 1)
            nll = nll - sum(logprobs[i, ids[i + 1]] for i in places) / len(places) / len(rows)
        edit = [(side - weight) @ k for k in torch.cat(in_scope)]
        edit = [torch.linalg.vector_norm(v) for v in edit]
        far = [torch.linalg.vector_norm((side - weight) @ k) for k in others]
        loss = nll + mean_of_violations([s - 0.01 for s in far])
        loss = loss + mean_of_violations([0.5 - s for s in edit])
        loss = loss + mean_of_violations([0.3 - (e - s) for e in edit for s in far])
        (gradient,) = torch.autograd.grad(loss, side)
        moved = side.detach() - lr * torch.where(mask, gradient, 0.0)
        side = torch.maximum(torch.minimum(moved, weight + 0.004), weight - 0.004)
    expected = side - weight
    assert (expected.abs().max() - 0.004).abs() < 1e-9, "the bound is met"
    least = min(torch.linalg.vector_norm(expected @ k) for k in torch.cat(in_scope))
    state = editor.start(model, PREPARED)
    (trace,) = editor.edit(model, [request], Ledger(model), state)
    change = state.tensors["changes"][0]
    assert trace.steps == steps
    assert (change - expected).norm() < 1e-6 * expected.norm()
    assert state.tensors["thresholds"][0] == pytest.approx(0.88 * least.item(), rel=1e-6)
    # The attached module, written out: W' for tokens above the threshold, W for the others.
    ids = rows[0][0]
    keys, attached = keys_of(model, ids), []
    handle = model.mlp_out(1).register_forward_hook(lambda _, __, out: attached.append(out))
    model.network(torch.tensor([ids]))
    handle.remove()
    scores = (keys @ change.T).norm(dim=1)
    fires = scores > state.tensors["thresholds"][0]
    assert fires[rows[0][2] : -1].all()
    routed = torch.where(fires[:, None], keys @ side.T, keys @ weight.T) + bias
    assert torch.allclose(attached[0].reshape(routed.shape), routed, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_new_answer_gains_and_a_text_of_low_scores_is_bit_for_bit_as_before(
    tiny_model, requests, family
):
    model = tiny_model(family)
    pairs = [(r.text, r.target_new) for r in requests[:1]]
    other = torch.tensor([[5, 6, 7, 8, 9]])
    before, untouched = score_targets(model, pairs, 1), model.network(other).logits
    ledger, state, _ = edited(model, requests[:1])
    after = score_targets(model, pairs, 1)
    assert sum(after[0].logprobs) > sum(before[0].logprobs) + 0.5
    assert set(state.tensors) == {"changes", "thresholds"}
    assert state.tensors["changes"].dtype == torch.float32
    memories = model.mlp_out(1)
    seen = []
    handle = memories.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.network(other)
    handle.remove()
    scores = (seen[0].reshape(5, -1) @ memories.changes[0].T).norm(dim=1)
    memories.thresholds = scores.max()[None]
    assert torch.equal(model.network(other).logits, untouched)
    memories.thresholds = scores.min()[None] - 1
    assert not torch.equal(model.network(other).logits, untouched)
    ledger.revert()
    assert [s.logprobs for s in score_targets(model, pairs, 1)] == [s.logprobs for s in before]


@pytest.mark.parametrize("family", FAMILIES)
def test_without_edits_the_logits_are_exactly_unchanged(tiny_model, family):
    model = tiny_model(family)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    before, editor = model.network(ids).logits, Wise(layer=1)
    ledger = Ledger(model)
    editor.resume(model, ledger, editor.start(model, Prepared()))
    assert len(ledger.attached) == 1
    assert torch.equal(model.network(ids).logits, before)


def test_a_shard_changes_masked_entries_only_and_shards_are_merged(tiny, requests):
    many = [*requests, *requests[:2]]
    states = [edited(tiny_copy, many[:n], save_every=2, merge_every=4, steps=4)[1]
              for n, tiny_copy in ((n, fresh(tiny)) for n in range(1, 6))]  # fmt: skip
    counts = [len(s.tensors["changes"]) for s in states]
    assert counts == [1, 1, 2, 1, 2], "open, full, open, merged, open again"
    for state, shards in ((states[0], [0]), (states[2], [0, 1]), (states[4], [None, 2])):
        for change, shard in zip(state.tensors["changes"], shards, strict=True):
            if shard is not None:
                mask = shard_mask(change.shape, 0.2, 0, shard)
                assert 0.1 < mask.float().mean() < 0.3
                assert (change != 0).any()
                assert not change[~mask].any()
                assert change.abs().max() <= 1.0
    assert not torch.equal(shard_mask((9, 9), 0.5, 0, 0), shard_mask((9, 9), 0.5, 0, 1))
    assert not torch.equal(shard_mask((9, 9), 0.5, 0, 0), shard_mask((9, 9), 0.5, 1, 0))
    third = edited(fresh(tiny), many[:4], save_every=2, merge_every=8, steps=4)[1].tensors
    assert torch.equal(states[3].tensors["changes"][0], ties(third["changes"], 0.53))
    assert states[3].tensors["thresholds"][0] == third["thresholds"].min()


def test_training_leaves_the_attached_memory_alone(tiny, requests):
    """Else tokens out of scope would be routed otherwise on the CPU, where tensors are shared, than on a GPU."""
    editor, ledger, state = Wise(**QUICK), Ledger(tiny), State(PREPARED)
    editor.edit(tiny, requests[:1], ledger, state)
    attached = tiny.mlp_out(1).changes
    before = attached.clone()
    editor.edit(tiny, requests[1:2], ledger, state)
    assert torch.equal(attached, before)
    assert not torch.equal(tiny.mlp_out(1).changes, before)


def fresh(model):
    """The model with its own module back in place."""
    block = model.network.transformer.h[1].mlp
    if isinstance(block.c_proj, SideMemories):
        model.network.set_submodule("transformer.h.1.mlp.c_proj", block.c_proj.inner)
    return model


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_batch_padding_and_cache_make_no_difference(tiny_model, requests, family):
    model = tiny_model(family)
    edited(model, requests)
    fired = []
    model.mlp_out(1).register_forward_hook(
        lambda m, args, out: fired.append(m.inner(args[0]) != out)
    )
    pairs = [(r.text, r.target_new) for r in requests] + [("A man walked", "home")]
    one, many = score_targets(model, pairs, 1), score_targets(model, pairs, 8)
    assert any(f.any() for f in fired)
    assert not all(f.any(-1).all() for f in fired)
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


def test_a_resumed_run_has_the_same_memories_bit_for_bit(tiny_model, requests, tmp_path):
    found = []
    editor = Wise(**QUICK | {"steps": 5, "save_every": 1, "merge_every": 2})
    ids = torch.tensor([ids_of(tiny_model("gpt2"), requests[0].text)])
    for way, counts in (("alone", (3,)), ("resumed", (2, 3)), ("resumed", (3,))):
        for count in counts:
            model = tiny_model("gpt2")
            run = Trajectory(
                tmp_path / way, model=model, editor=editor, ledger=Ledger(model), prepared=PREPARED, batch_size=1
            )  # fmt: skip
            run.advance(requests[:count])
        memories = model.mlp_out(1)
        assert isinstance(memories, SideMemories)
        found.append((memories.changes, memories.thresholds, model.network(ids).logits))
    assert not torch.equal(found[0][2], tiny_model("gpt2").network(ids).logits)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_memories_of_a_half_precision_model_are_float32(tiny_model, requests):
    model = tiny_model("llama", dtype="bfloat16")
    _, state, traces = edited(model, requests[:1])
    assert state.tensors["changes"].dtype == state.tensors["thresholds"].dtype == torch.float32
    assert model.network(torch.tensor([[5, 6]])).logits.dtype == torch.bfloat16
    assert traces[0].numbers["threshold"] == pytest.approx(0.88 * traces[0].numbers["least_score"])


def test_irrelevant_texts_are_the_models_own_and_never_the_probes(tiny, requests, monkeypatch):
    editor = Wise(layer=1, context_lengths=[[5, 2]], irrelevant_lengths=[[12, 3]])
    prepared = editor.prepare(tiny, None)
    assert [len(group) for group in prepared.contexts] == [3, 3]
    assert prepared == editor.prepare(tiny, None)
    assert prepared.contexts[1] != Wise(layer=1, context_seed=1).prepare(tiny, None).contexts[1]
    read = []
    from edit_sweeps.editors import wise

    plain = wise.token_ids
    monkeypatch.setattr(wise, "token_ids", lambda t, text: read.append(text) or plain(t, text))
    subject = requests[0].subject
    texts = (*TEXTS, f"Once {subject} left. {{}}")
    edited_ = Wise(**QUICK | {"steps": 1})
    edited_.edit(tiny, requests[:1], Ledger(tiny), State(Prepared(contexts=(("{}",), texts))))
    assert read[2:] == ["The baker lives in", "Velmora is lives in"]
    assert all(subject not in text for text in read)
    probes = {p.prompt for p in requests[0].neighborhood + requests[0].paraphrases}
    assert probes
    assert not probes & set(read)


def test_several_requests_at_once_and_impossible_settings_are_refused(tiny, requests):
    with pytest.raises(ValueError, match="use edits=sequential"):
        Wise(layer=1).edit(tiny, requests[:2], Ledger(tiny), State(Prepared()))
    for fields, says in (
        ({"lr": 0}, r"editor\.lr=0"),
        ({"mask_ratio": 1.5}, r"editor\.mask_ratio=1\.5"),
        ({"save_every": 3, "merge_every": 10}, r"editor\.merge_every=10 must be a multiple"),
        ({"context_source": "bare"}, "without irrelevant texts"),
        ({"context_lengths": [[5]]}, r"editor\.context_lengths"),
    ):
        with pytest.raises(ValueError, match=says):
            Wise(**{"layer": 1} | fields).check(4)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["regularizer=rect"], "use regularizer=none"),
        (["save=delta"], "use save=none"),
        (["save=[model,adapter]"], "use save=none"),
        (["edits=batch"], "use edits=sequential"),
        ([], None),
    ],
)
def test_the_plan_refuses_what_needs_a_changed_weight(tmp_path, monkeypatch, overrides, says):
    monkeypatch.chdir(tmp_path)
    given = ["editor=wise", "num_edits=2", "wandb=disabled", *overrides]
    reasons = clashes(
        make_cell(freeze(composed(*given)), given, Digests(tmp_path / "digests.json"))
    )
    assert [says in r and "editor=wise" in r for r in reasons] == ([True] if says else [])
