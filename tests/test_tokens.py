"""Positions and targets are right for every kind of tokenizer and padding; decoding and scores are the naive ones."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from edit_sweeps.model import EditableModel
from edit_sweeps.tokens import (
    IGNORE,
    Line,
    batch_of,
    encode,
    greedy,
    join,
    lay_out,
    lookup_index,
    score_targets,
    subject_span,
    target_ids,
    token_ids,
)
from tests.conftest import TEXT, make_tokenizer

KINDS = ("byte", "byte_bos", "byte_bos_eos", "byte_trimmed", "metaspace_bos", "words")

CASES = {
    "start": ("{}", "{} lives in", "Marlow Quillfeather"),
    "middle": ("{}", "The mother tongue of {} is", "Danielle Darrieux"),
    "end": ("{}", "The capital of {}", "Ostravia"),
    "one character": ("{}", "Town {} is", "X"),
    "behind a context": ("She said so. {}", "{} lives in", "Ingrid Thistledown"),
    "context around": ("Question: {} Answer:", "Where does {} live?", "Ingrid Thistledown"),
    "twice in the text": ("Paris. {}", "The mayor of {} is not from Paris", "Paris"),
    "accents": ("{}", "The mother tongue of {} is", "Léon Blüm"),
    "emoji": ("{}", "What is {}? It is", "a 🦊"),
    "punctuation": ("{}", 'The book "{}" is', "Who, me?"),
    "glued to letters": ("{}", "Anti{}ism is", "Paris"),
    "braces elsewhere": ("A {}", "{} is {}", "Rome"),
    "white space inside": ("{}", "Go to {} now", "New  York"),
}


@pytest.fixture(scope="module", params=KINDS)
def any_tokenizer(request):
    return build(request.param)


def build(kind):
    """One tokenizer of each kind that transformers' decoders use."""
    if kind.startswith("byte"):
        made = make_tokenizer(bos="bos" in kind, eos="eos" in kind)
        if kind == "byte_trimmed":
            made.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        return made
    words = kind == "words"
    core = Tokenizer(models.WordLevel({}, "<unk>") if words else models.BPE(byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Whitespace() if words else pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    special = ["<pad>", "<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kind_of = trainers.WordLevelTrainer if words else trainers.BpeTrainer
    core.train_from_iterator(
        TEXT, kind_of(vocab_size=460, special_tokens=special, show_progress=False)
    )
    if not words:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def spans(tokenizer, text):
    return tokenizer(text, return_offsets_mapping=True)["offset_mapping"]


@pytest.mark.parametrize("case", CASES)
def test_the_lookup_token_ends_the_subject(any_tokenizer, case):
    """It holds the subject's last character, and no later token does."""
    context, prompt, subject = CASES[case]
    index = lookup_index(any_tokenizer, context, prompt, subject)
    text, (start, end) = subject_span(context, prompt, subject)
    assert text[start:end] == subject
    found = spans(any_tokenizer, text)
    low, high = found[index]
    assert low < end <= high
    assert all(later_low >= end for later_low, later_high in found[index + 1 :] if later_high)


@pytest.mark.parametrize("case", CASES)
def test_what_follows_the_subject_does_not_move_the_lookup_token(any_tokenizer, case):
    context, prompt, subject = CASES[case]
    index = lookup_index(any_tokenizer, context, prompt, subject)
    longer = f"{prompt} and then some more"
    assert lookup_index(any_tokenizer, context, longer, subject) == index


def test_the_subject_is_found_where_the_template_says_not_where_its_text_first_stands(tokenizer):
    context, prompt, subject = CASES["twice in the text"]
    first = lookup_index(tokenizer, "{}", "{}. The mayor of Paris is not from Paris", subject)
    assert lookup_index(tokenizer, context, prompt, subject) > first


def test_a_bos_in_front_moves_the_lookup_by_one(tokenizer, bos_tokenizer):
    for context, prompt, subject in CASES.values():
        plain = lookup_index(tokenizer, context, prompt, subject)
        assert lookup_index(bos_tokenizer, context, prompt, subject) == plain + 1


def test_the_subjects_of_the_tests_are_several_tokens(tokenizer, requests):
    assert all(len(token_ids(tokenizer, request.subject)) > 2 for request in requests)


@pytest.mark.parametrize(
    ("context", "prompt", "subject", "message"),
    [
        ("no place", "{} is", "Paris", "context 'no place' needs a {}"),
        ("{}", "no place", "Paris", "prompt 'no place' needs a {}"),
        ("{}", "{} is", "", "subject must not be empty"),
        ("{}", "The city {} is", "", "subject must not be empty"),
    ],
)
def test_what_cannot_be_looked_up_is_refused(tokenizer, context, prompt, subject, message):
    with pytest.raises(ValueError, match=message):
        lookup_index(tokenizer, context, prompt, subject)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_lookup_column_of_a_padded_row_holds_the_lookup_token(any_tokenizer, side):
    lines = [
        Line(prompt, subject, "French", context) for context, prompt, subject in CASES.values()
    ]
    rows = lay_out(any_tokenizer, lines, side=side)
    assert len({int(n) for n in rows.mask.sum(1)}) > 3
    for i, line in enumerate(lines):
        alone = lay_out(any_tokenizer, [line])
        assert alone.mask.all()
        real = rows.mask[i].bool()
        assert torch.equal(rows.ids[i][real], alone.ids[0])
        assert torch.equal(rows.labels[i][real], alone.labels[0])
        assert (rows.labels[i][~real] == IGNORE).all()
        index = lookup_index(any_tokenizer, line.context, line.prompt, line.subject)
        assert int(alone.lookup[0]) == index
        assert rows.positions[i, rows.lookup[i]] == index
        assert rows.ids[i, rows.lookup[i]] == alone.ids[0, index]


def test_padding_lies_on_the_asked_side(tokenizer):
    texts = ["Paris", "Marlow Quillfeather lives in"]
    right, left = encode(tokenizer, texts), encode(tokenizer, texts, side="left")
    assert right.mask[0, 0] == 1
    assert right.mask[0, -1] == 0
    assert torch.equal(left.mask[0], right.mask[0].flip(0))
    assert torch.equal(left.ids[1], right.ids[1])
    assert left.positions[0, -1] == right.mask[0].sum() - 1


def test_no_special_token_stands_behind_a_text(any_tokenizer):
    ids = token_ids(any_tokenizer, "Paris is")
    assert any_tokenizer.eos_token_id not in ids
    assert any_tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "Parisis"


def test_a_special_token_that_the_user_wrote_stays():
    tokenizer = make_tokenizer(eos=True)
    assert token_ids(tokenizer, "Paris</s>")[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("The mother tongue of Danielle Darrieux is", "French"),
        ("Marlow Quillfeather lives in", "Brackenford near the river"),
        ("Question: Where?\nAnswer:", "Velmora"),
        ("one line\n", "Paris"),
        ("It is ", "Paris"),
        ("Léon", "Blüm 🦊"),
    ],
)
def test_prompt_and_target_tokens_make_up_the_joined_text(any_tokenizer, prompt, target):
    before, after = target_ids(any_tokenizer, prompt, target)
    assert before + after == token_ids(any_tokenizer, join(prompt, target))
    assert any_tokenizer.bos_token_id not in after
    found = spans(any_tokenizer, join(prompt, target))
    start = found[len(before)]
    assert start[1] > len(prompt)
    assert all(high <= len(prompt) for _, high in found[: len(before)])


def test_the_target_is_never_tokenised_alone(bos_tokenizer):
    """Alone it would begin with a BOS, and without the space that is part of its first token."""
    prompt, target = "The mother tongue of Danielle Darrieux is", "French"
    alone = bos_tokenizer(target)["input_ids"]
    _, inside = target_ids(bos_tokenizer, prompt, target)
    assert inside != alone
    assert bos_tokenizer.decode(inside) == " French"


def test_a_token_over_the_seam_is_the_targets():
    """With `is` + ` Paris` merged differently than apart, the ids are those of the whole text."""
    core = Tokenizer(
        models.BPE({"a": 0, "b": 1, "ab": 2, "c": 3, "bc": 4}, [("b", "c"), ("a", "b")])
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    text = "a" + "bc"
    assert token_ids(tokenizer, text) == [0, 4]
    from edit_sweeps.tokens import _encode, _target_start

    assert _target_start(_encode(tokenizer, text), "ab", "c") == 1


def test_leading_space_in_a_target_changes_nothing(tokenizer):
    assert target_ids(tokenizer, "She is", "  French") == target_ids(tokenizer, "She is", "French")
    assert join("She is", "French") == "She is French"
    assert join("She is ", "French") == "She is French"
    assert join("", "French") == "French"


def test_an_empty_target_or_prompt_is_refused(tokenizer, bos_tokenizer):
    with pytest.raises(ValueError, match="target must not be empty"):
        target_ids(tokenizer, "She is", " ")
    with pytest.raises(ValueError, match="nothing stands before"):
        target_ids(tokenizer, "", "French")
    assert target_ids(bos_tokenizer, "", "French")[0] == [bos_tokenizer.bos_token_id]
    with pytest.raises(ValueError, match="no texts"):
        encode(tokenizer, [])
    with pytest.raises(ValueError, match="empty text"):
        encode(tokenizer, ["Paris", ""])


def test_labels_are_the_targets_tokens_at_the_positions_that_predict_them(any_tokenizer):
    line = Line("The mother tongue of {} is", "Danielle Darrieux", "French and more")
    rows = lay_out(any_tokenizer, [line])
    prompt, target = target_ids(any_tokenizer, line.prompt.replace("{}", line.subject), line.target)
    assert len(target) > 1
    assert rows.ids[0].tolist() == (prompt + target)[:-1]
    assert rows.labels[0][rows.target_mask[0]].tolist() == target
    assert rows.target_mask[0].nonzero()[0] == len(prompt) - 1
    assert rows.target_mask[0, -1]


def test_a_line_without_target_keeps_its_last_token_and_has_no_labels(tokenizer):
    rows = lay_out(tokenizer, [Line("{} is a", "Ostravia")])
    assert rows.ids[0].tolist() == token_ids(tokenizer, "Ostravia is a")
    assert not rows.target_mask.any()


def naive_greedy(model, prompt, n):
    """One forward pass a token, no cache, no padding."""
    ids = torch.tensor([token_ids(model.tokenizer, prompt)])
    start = ids.shape[1]
    for _ in range(n):
        with torch.no_grad():
            best = model.network(input_ids=ids, use_cache=False).logits[0, -1].argmax()
        if best == model.tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, best.view(1, 1)], 1)
    return model.tokenizer.decode(ids[0, start:], skip_special_tokens=True)


PROMPTS = ["Paris", "The mother tongue of Danielle Darrieux is", "Ostravia is a", "Who, me?"]


@pytest.mark.parametrize("attention", ["own", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_greedy_is_the_naive_argmax_loop(family, tiny_model, dtype, attention):
    model = tiny_model(family, dtype=dtype)
    if attention == "eager":
        model.network.set_attn_implementation(attention)
    assert greedy(model, PROMPTS, 6, batch_size=3) == [naive_greedy(model, p, 6) for p in PROMPTS]


def test_greedy_stops_at_the_end_token_and_leaves_it_out(tiny_model):
    model = tiny_model("gpt2", dtype="float64")
    with torch.no_grad():
        model.network.transformer.wte.weight[2] = 40 * model.network.transformer.wte.weight[300]
    texts = greedy(model, PROMPTS, 12, batch_size=4)
    assert texts == [naive_greedy(model, p, 12) for p in PROMPTS]
    lengths = {len(token_ids(model.tokenizer, text)) if text else 0 for text in texts}
    assert min(lengths) < 12
    assert not any("</s>" in text for text in texts)


def test_the_models_own_generation_settings_do_not_change_greedy(tiny_model):
    model = tiny_model("llama", dtype="float64")
    before = greedy(model, PROMPTS, 6, batch_size=4)
    own = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        repetition_penalty=50.0,
        no_repeat_ngram_size=1,
        bad_words_ids=[[i] for i in range(3, 200)],
    )
    model.network.generation_config = own
    assert greedy(model, PROMPTS, 6, batch_size=4) == before
    assert model.network.generation_config is own


def test_greedy_gives_the_settings_back_when_it_fails(tiny):
    own = tiny.network.generation_config
    with pytest.raises(ValueError, match=r"the model takes 128.*max_new_tokens"):
        greedy(tiny, ["Paris"], 128, batch_size=1)
    assert tiny.network.generation_config is own


def test_batch_size_does_not_change_what_is_decoded(tiny_model):
    model = tiny_model("gpt2", dtype="float64")
    assert (
        greedy(model, PROMPTS, 5, 1)
        == greedy(model, PROMPTS, 5, 4)
        == greedy(model, PROMPTS, 5, 99)
    )
    assert greedy(model, [], 5, 4) == []


PAIRS = [
    ("The mother tongue of Danielle Darrieux is", "French"),
    ("Ostravia", "is a city on the river"),
    ("Paris", "London"),
    ("It is ", "Rome"),
]


def test_scores_are_those_of_a_naive_forward_pass(family, tiny_model):
    model = tiny_model(family, dtype="float64")
    scores = score_targets(model, PAIRS, batch_size=3)
    assert len(scores) == len(PAIRS)
    for (prompt, target), score in zip(PAIRS, scores, strict=True):
        before, after = target_ids(model.tokenizer, prompt, target)
        with torch.no_grad():
            logits = model.network(input_ids=torch.tensor([before + after])).logits[0]
        naive = logits.log_softmax(-1)[len(before) - 1 : -1]
        wanted = [naive[i, token].item() for i, token in enumerate(after)]
        assert score.logprobs == pytest.approx(
            wanted, abs=1e-6
        )  # some take a float32 softmax inside
        assert score.hits == [
            row.argmax() == token for row, token in zip(naive, after, strict=True)
        ]
    assert all(len(score.logprobs) == len(score.hits) > 0 for score in scores)


def test_a_hit_is_what_greedy_would_say(tiny_model):
    model = tiny_model("gpt2", dtype="float64")
    said = greedy(model, ["Paris is"], 3, 1)[0]
    prompt = token_ids(model.tokenizer, "Paris is")
    with torch.no_grad():
        best = model.network(input_ids=torch.tensor([prompt])).logits[0, -1].argmax()
    token = model.tokenizer.decode([best])
    assert said.startswith(token)


def test_half_precision_scores_come_from_a_float32_softmax(tiny_model):
    model = tiny_model("llama", dtype="bfloat16")
    (score,) = score_targets(model, PAIRS[:1], 1)
    before, after = target_ids(model.tokenizer, *PAIRS[0])
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([before + after])[:, :-1]).logits[0]
    assert logits.dtype == torch.bfloat16
    exact = logits.float().log_softmax(-1)[len(before) - 1 :]
    wanted = exact[torch.arange(len(after)), torch.tensor(after)]
    assert score.logprobs == pytest.approx(wanted.tolist(), abs=1e-6)
    rounded = logits.log_softmax(-1)[len(before) - 1 :][
        torch.arange(len(after)), torch.tensor(after)
    ]
    assert not torch.equal(rounded.float(), wanted)


def test_a_text_beyond_the_model_is_refused(tiny):
    with pytest.raises(ValueError, match="the model takes 128"):
        score_targets(tiny, [("Paris " * 80, "Rome")], 1)


def test_a_model_that_went_nan_still_gets_scores(tiny):
    with torch.no_grad():
        tiny.network.transformer.ln_f.weight.fill_(torch.nan)
    (score,) = score_targets(tiny, PAIRS[:1], 1)
    assert all(value != value for value in score.logprobs)
    assert len(greedy(tiny, PROMPTS, 4, 4)) == len(PROMPTS)


def test_a_bos_model_scores_with_its_bos(tiny_model, bos_tokenizer):
    model = EditableModel(tiny_model("llama").network, bos_tokenizer)
    before, _ = target_ids(model.tokenizer, *PAIRS[0])
    assert before[0] == bos_tokenizer.bos_token_id
    assert before.count(bos_tokenizer.bos_token_id) == 1


def test_batch_of_pads_with_any_id_but_masks_it(tokenizer):
    batch = batch_of(tokenizer, [[5, 6, 7], [8]])
    assert batch.ids.tolist()[1][0] == 8
    assert batch.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
