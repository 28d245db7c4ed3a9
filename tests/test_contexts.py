"""Contexts: what a user may give, and what is sampled."""

from __future__ import annotations

import json
import re

import pytest
import torch

from edit_sweeps.editors.base import Stores
from edit_sweeps.editors.contexts import (
    ContextRecipe,
    flatten,
    make_contexts,
    parse_contexts,
    read_contexts,
    weights,
)
from edit_sweeps.editors.located import check_layers
from edit_sweeps.editors.memit import Memit
from edit_sweeps.editors.rome import Rome
from edit_sweeps.moments import MomentSettings


def recipe(**changes):
    settings = {
        "source": "generated", "seed": 0, "starts": ("",), "lengths": ((5, 2), (10, 3)),
        "grouped": False,
    }  # fmt: skip
    return ContextRecipe(**{**settings, **changes})


def test_templates_and_prefixes_may_be_mixed():
    assert parse_contexts(["{}", "", "I know. ", "He said {} once"], "x") == (
        ("{}",), ("{}",), ("I know. {}",), ("He said {} once",),
    )  # fmt: skip


def test_a_list_of_lists_is_groups():
    assert parse_contexts([["{}"], ["A. ", "B. {}"]], "x") == (("{}",), ("A. {}", "B. {}"))


@pytest.mark.parametrize(
    "entries",
    [[], "{}", None, [["{}"], "A"], [[]], [["{}"], []], ["{} and {}"], [3], [[3]], {"a": 1}],
)
def test_anything_else_is_refused_with_its_place(entries):
    with pytest.raises(ValueError, match="over there"):
        parse_contexts(entries, "over there")


def test_other_braces_of_a_context_are_left_alone(tiny, requests):
    editor = Rome(layer=1, contexts=["{}", "set {a, b}. "], second_moment=False)
    found = editor.prepare(tiny, Stores.at(MomentSettings(), "unused"))
    assert found.contexts == (("{}",), ("set {a, b}. {}",))


def test_a_file_says_the_same_as_a_list(tmp_path):
    file = tmp_path / "contexts.json"
    file.write_text(json.dumps([["{}"], ["Ä. ", "B. {}"]]), encoding="utf-8")
    assert read_contexts(None, str(file)) == (("{}",), ("Ä. {}", "B. {}"))
    assert read_contexts(None, None) is None
    with pytest.raises(ValueError, match="both"):
        read_contexts(["{}"], str(file))
    file.write_text('{"a": 1}')
    with pytest.raises(ValueError, match=re.escape(str(file))):
        read_contexts(None, str(file))


def test_weights_are_a_mean_of_group_means():
    assert weights((("a",), ("b", "c"))).tolist() == [0.5, 0.25, 0.25]
    assert weights((("a",), ("b",), ("c",))).tolist() == pytest.approx([1 / 3] * 3)
    assert flatten((("a",), ("b", "c"))) == ("a", "b", "c")


def test_a_seed_decides_the_samples_and_nothing_else_does(tiny):
    torch.manual_seed(1)
    first = make_contexts(tiny, recipe())
    state = torch.get_rng_state()
    torch.rand(10)
    assert make_contexts(tiny, recipe()) == first
    torch.set_rng_state(state)
    assert make_contexts(tiny, recipe(seed=1)) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_have_the_lengths_asked_for(tiny, monkeypatch):
    drawn = []
    generate = tiny.network.generate

    def watch(ids, **kwargs):
        out = generate(ids, **kwargs)
        assert kwargs["attention_mask"].all()
        drawn.append(tuple(out.shape))
        return out

    monkeypatch.setattr(tiny.network, "generate", watch)
    contexts = make_contexts(tiny, recipe())
    assert drawn == [(2, 5), (3, 10)]
    assert contexts[0] == ("{}",)
    assert [len(group) for group in contexts] == [1] * 6
    assert all(text.endswith(". {}") and text.count("{}") == 1 for text in flatten(contexts)[1:])


def test_grouped_samples_form_one_group_a_length(tiny):
    starts = ("The", "Because", "I")
    contexts = make_contexts(tiny, recipe(grouped=True, starts=starts, lengths=((8, 1), (9, 2))))
    assert [len(group) for group in contexts] == [1, 3, 6]
    assert [text.startswith(s) for text, s in zip(contexts[1], starts, strict=True)] == [True] * 3


def test_samples_hold_neither_braces_nor_special_tokens(tiny):
    tiny.network.get_output_embeddings().weight.data[:3] += 3.0  # special tokens become likely
    contexts = make_contexts(tiny, recipe(lengths=((20, 10),)))
    joined = "".join(text.removesuffix("{}") for text in flatten(contexts))
    assert not re.search(r"[{}]|<pad>|<s>|</s>", joined)


def test_a_start_longer_than_the_text_is_refused(tiny):
    with pytest.raises(ValueError, match=r"editor\.context_lengths asks for 5 tokens"):
        make_contexts(tiny, recipe(starts=("Marlow Quillfeather lives in Velmora",)))


def test_a_tokenizer_without_a_first_token_needs_words(tiny_model, tokenizer):
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.bos_token = bare.eos_token = None
    model = tiny_model("gpt2", tokenizer=bare)
    with pytest.raises(ValueError, match=r"editor\.context_starts"):
        make_contexts(model, recipe())


def test_miniature_contexts_are_sentences_of_the_world(tiny):
    contexts = make_contexts(tiny, recipe(source="miniature", grouped=True))
    assert [len(group) for group in contexts] == [1, 5]
    assert contexts[0] == ("{}",)
    assert all(re.fullmatch(r"[A-Z].+\. \{\}", text) for text in contexts[1])
    assert contexts == make_contexts(tiny, recipe(source="miniature", grouped=True))
    assert contexts != make_contexts(tiny, recipe(source="miniature", grouped=True, seed=1))


def test_bare_is_the_prompt_alone(tiny):
    assert make_contexts(tiny, recipe(source="bare")) == (("{}",),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"source": "wikipedia"}, "generated, miniature, bare"), ({"lengths": ()}, "pairs"),
     ({"lengths": ((5,),)}, "pairs"), ({"lengths": ((5, 0),)}, "pairs"), ({"starts": ()}, "starts")],
)  # fmt: skip
def test_impossible_recipes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_rome_has_twenty_contexts_of_their_own_and_memit_five_in_a_group(tiny):
    store = Stores.at(MomentSettings(), "unused")
    rome = Rome(layer=0, second_moment=False).prepare(tiny, store).contexts
    assert [len(group) for group in rome] == [1] * 21
    memit = Memit(layers=[0], second_moment=False).prepare(tiny, store).contexts
    assert [len(group) for group in memit] == [1, 5]
    words = ("The", "Therefore", "Because", "I", "You")
    assert [t.startswith(w) for t, w in zip(memit[1], words, strict=True)] == [True] * 5


@pytest.mark.parametrize("layers", [[], [1, 1], [4], [-1], [True], [1.0]])
def test_layers_outside_the_model_are_refused(layers):
    with pytest.raises(ValueError, match="layer"):
        check_layers(layers, 4)
    check_layers([0, 3], 4)
