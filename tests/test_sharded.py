"""Models that accelerate spreads over several devices; the devices are `fake_devices`.

What they cannot show is how `device_map=auto` divides real memory, and how fast anything is: that takes a
machine with two GPUs. The map here is one that `auto` would make, and the dispatch is what
`from_pretrained` does with it.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from accelerate import dispatch_model

from edit_sweeps.editors.base import Stores
from edit_sweeps.ledger import Ledger, LowRank
from edit_sweeps.live_lm import live, quiet
from edit_sweeps.model import EditableModel
from edit_sweeps.moments import MomentSettings, collect
from edit_sweeps.tokens import greedy, score_targets
from tests.conftest import D_IN, LAYERS, D, tiny_network
from tests.fake_devices import MixedError, fake_devices
from tests.test_editor_contract import WRITING, build, run, settings_of
from tests.test_live_lm import Request
from tests.test_regularizers import FILES as RULES
from tests.test_regularizers import built

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)
SHARDED = ["gemma2", "gpt2", "llama"]
SPREAD = {"layer": 2, "layers": [1, 2], "contexts": ["{}", "I know this. {}"]}
"""Token ids go to the first device, blocks 2 and 3 lie on the second."""
SMALL = {"rank": 8, "training": {"validation": 8, "accumulate": 2, "at_once": 2}}
GENERATED = {"context_source": "generated", "contexts": None, "context_lengths": [[3, 2]]}
OTHER_WAYS = {
    "the whole text at every step": ("rome", {"value": {"fast": False}}),
    "generated contexts": ("rome", GENERATED),
    "published neurons": ("kn", {"mode": "dai"}),
    "all matrices of the MLP": ("ultraedit", {"matrices": "mlp"}),
}


def halves(network, block):
    """The device map of a network: two blocks here, two there, as `device_map=auto` would have it."""
    home, _, blocks = block.rpartition(".")
    tied = network.config.tie_word_embeddings
    places = {
        name: FIRST if tied else SECOND
        for name, _ in network.named_children()
        if not home.startswith(name)
    }
    place = FIRST
    for name, _ in network.get_submodule(home).named_children():
        if name == blocks:
            places |= {f"{block}.{i}": FIRST if i < LAYERS // 2 else SECOND for i in range(LAYERS)}
            place = SECOND
        else:
            places[f"{home}.{name}"] = place
    return places


def whole(family, tokenizer, **options):
    """The same on one device."""
    return EditableModel(tiny_network(family, len(tokenizer), **options), tokenizer)


def sharded(family, tokenizer, **options):
    """A tiny model on two devices; to be called inside `fake_devices`."""
    network = tiny_network(family, len(tokenizer), **options)
    block = EditableModel(network, tokenizer).architecture.block
    places, kept = halves(network, block), network._skip_keys_device_placement
    network = dispatch_model(network, places, main_device=FIRST, skip_keys=kept)
    return EditableModel(network, tokenizer)


def test_the_fake_devices_refuse_what_torch_refuses():
    with fake_devices() as tags:
        here, there = torch.ones(3, device="cuda:0"), torch.ones(3).to("cuda:1")
        assert (here.device, there.device, torch.ones(3).device.type) == (FIRST, SECOND, "cpu")
        assert (here[1:] * 2).device == torch.zeros_like(here).device == FIRST
        number, index = torch.tensor(2.0), torch.tensor([0, 2])
        assert (here * number + 1)[index].device == FIRST
        assert there.to(here).device == there.to(FIRST, torch.float64).device == FIRST
        assert here.clone().copy_(there).device == FIRST
        for mixing in (
            lambda: here + there,
            lambda: torch.cat([here, there]),
            lambda: here @ there,
            lambda: here * torch.ones(3),
            lambda: torch.stack([here, there]),
            lambda: here.add_(there),
            lambda: here.sum() + there.sum(),
            lambda: here[index.to(SECOND)],
            lambda: torch.ones(3)[index.to(FIRST)],
            lambda: here.index_put((index,), there[:2]),
        ):
            with pytest.raises(MixedError, match="aten::"):
                mixing()
        with pytest.raises(TypeError, match="numpy"):
            here.numpy()
        weight = torch.ones(3, device="cuda:0", requires_grad=True)
        ((weight * 2).to(SECOND) * there).sum().backward()
        assert weight.grad.device == tags.get(weight.grad) == FIRST
        assert weight.grad.tolist() == [2, 2, 2]


def test_the_model_lies_on_both_devices_and_its_plain_forward_pass_needs_the_hooks(tokenizer):
    with fake_devices():
        model = sharded("llama", tokenizer)
        assert [model.matrix(i).device for i in range(4)] == [FIRST, FIRST, SECOND, SECOND]
        ids = torch.tensor([[3, 4, 5]], device=FIRST)
        assert model.network(input_ids=ids).logits.device == FIRST
        hidden = model.network.get_input_embeddings()(ids)
        with pytest.raises(MixedError):
            model.mlp_out(3).weight @ hidden[0].T


def small(name, **changes):
    """An editor that is done soon, and writes to both devices if it can write to more than one layer."""
    known = settings_of(name)
    fields = {key: value for key, value in (SPREAD | SMALL | changes).items() if key in known}
    nested = {key: known[key] | v for key, v in fields.items() if isinstance(v, dict)}
    return build(name, **fields | nested)


def edit_whole_and_sharded(editor, family, tokenizer, requests, folder):
    """Deltas and learnt tensors of one model, then of the other; what is prepared is so on each."""
    found = []
    for spread in (False, True):
        store = Stores.at(MomentSettings(tokens=500), folder / str(spread))
        with fake_devices() if spread else nullcontext():
            model = (sharded if spread else whole)(family, tokenizer)
            before = {n: p.detach().clone() for n, p in model.network.named_parameters()}
            _, ledger, state = run(editor, model, requests, store)
            delta = ledger.delta()
            assert all(d.device == before[n].device for n, d in delta.items())
            score_targets(model, [("Marlow lives in", "Paris")], 1)
            if delta:
                ledger.save(folder / "masters.safetensors")
                ledger.load(folder / "masters.safetensors")
                assert all(torch.equal(ledger.delta()[n], d) for n, d in delta.items())
            ledger.revert()
            for n, p in model.network.named_parameters():
                assert p.device == before[n].device
                assert torch.equal(p, before[n])
            found.append({n: t.detach().cpu() for n, t in (delta | state.tensors).items()})
    return found


def assert_same(found):
    expected, got = found
    assert expected.keys() == got.keys() != set()
    for n, wanted in expected.items():
        assert (got[n] - wanted).double().norm() <= 1e-4 * wanted.double().norm(), n


@pytest.mark.parametrize("family", SHARDED)
@pytest.mark.parametrize("name", WRITING)
def test_an_editor_writes_the_same_into_a_sharded_model(
    name, family, tokenizer, requests, tmp_path
):
    editor = small(name)
    assert_same(edit_whole_and_sharded(editor, family, tokenizer, requests[:2], tmp_path))


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_so_do_editors_set_otherwise(way, tokenizer, requests, tmp_path):
    name, changes = OTHER_WAYS[way]
    editor = small(name, **changes)
    assert_same(edit_whole_and_sharded(editor, "llama", tokenizer, requests[:2], tmp_path))


def test_second_moments_scores_and_answers_of_a_sharded_model(tokenizer):
    settings = MomentSettings(tokens=2000)
    pairs = [("Marlow Quillfeather lives in", "Velmora"), ("The capital is", "Paris")]
    found = []
    for spread in (False, True):
        with fake_devices() if spread else nullcontext():
            model = (sharded if spread else whole)("gpt2", tokenizer)
            moments, _ = collect(model, [0, 3], settings)
            scores = score_targets(model, pairs, 2)
            text = greedy(model, [p for p, _ in pairs], 4, 2)
            with quiet(), live(model, batch_size=2, max_length=128) as lm:
                likely = lm.loglikelihood([Request(pair) for pair in pairs])
                asked = {"until": ["e"], "max_gen_toks": 4}
                said = lm.generate_until([Request((p, dict(asked))) for p, _ in pairs])
            found.append((scores, text, likely, said, moments))
    (*one_says, one), (*both_say, two) = found
    assert one_says == both_say
    assert all(torch.equal(one[layer], two[layer]) for layer in (0, 3))


@pytest.mark.parametrize("rule", ["none", *RULES])
def test_an_update_from_any_device_is_written_where_the_weight_is(rule, tokenizer):
    torch.manual_seed(0)
    left, right = torch.randn(D, 2), torch.randn(D_IN, 2)
    found = []
    for spread in (False, True):
        with fake_devices() if spread else nullcontext():
            model = (sharded if spread else whole)("llama", tokenizer)
            ledger = Ledger(model, None if rule == "none" else built(rule))
            name, place = model.parameter_name(3), FIRST if spread else "cpu"
            ledger.write(name, LowRank(left.to(place), right.to(place)))
            ledger.finish()
            assert model.matrix(3).device == (SECOND if spread else torch.device("cpu"))
            found.append((ledger.delta()[name].cpu(), ledger.norms()))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
