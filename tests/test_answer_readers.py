"""How the scorers of `glue_alphaedit` and `ll_ner` read an answer, on answers worked out by hand."""

import pytest

from edit_sweeps.lm_tasks.glue_alphaedit import metrics as glue
from edit_sweeps.lm_tasks.loglikelihood.metrics import entities


@pytest.mark.parametrize(
    ("text", "sound", "released"),
    [
        (" No", 1, 1),
        (" no.", 1, 1),
        (" not sure", -1, 1),
        (" I don't know", -1, 1),
        (" now", -1, 1),
        (" No, not yes", 1, 0),
        (" Yesterday it was", -1, 0),
        (" maybe", -1, -1),
        ("", -1, -1),
    ],
)
def test_a_label_within_another_word_is_none_but_for_the_released_scorer(text, sound, released):
    for gold in ("Yes", "No"):
        found = glue.word({"words": ["Yes", "No"], "answer": gold}, [text])
        number = ("Yes", "No").index(gold)
        assert found["f1"] == (number, sound)
        assert found["released"] == (number, released)
        assert (found["acc"], found["invalid"]) == (number == sound, sound == -1)


@pytest.mark.parametrize(
    ("text", "sound", "released"),
    [(" C", 2, -1), (" C\n", 2, 2), (" (B) Rome\n", 1, -1), (" Oslo and A\nB", 0, 0), (" the sea\n", -1, 0)],
)  # fmt: skip
def test_a_letter_stands_alone_but_for_the_released_scorer(text, sound, released):
    found = glue.letter({"words": ["A", "B", "C", "D"], "answer": "D"}, [text])
    assert (found["f1"], found["released"]) == ((3, sound), (3, released))


@pytest.mark.parametrize(
    ("text", "counts", "invalid"),
    [
        (" U.N. (ORG); Rolf Ekeus (PER)", (2, 0, 0), 0),
        (" U.N. (ORG), Rolf Ekeus (PER)", (2, 0, 0), 0),
        (" U.N. (ORG), Rolf Ekeus (PER).", (2, 0, 0), 0),
        (" U.N. (ORG) Rolf Ekeus (PER) said", (2, 0, 0), 0),
        (" Rolf Ekeus (ORG); U.N. (ORG);", (1, 1, 1), 0),
        (" Ekeus, Rolf (PER); U.N. (ORG)", (1, 1, 1), 0),
        (" U.N., Rolf Ekeus", (0, 0, 2), 1),
        (" None", (0, 0, 2), 0),
        (" none.", (0, 0, 2), 0),
        (" nobody", (0, 0, 2), 1),
    ],
)
def test_entities_are_read_whatever_separates_them(text, counts, invalid):
    doc = {
        "tokens": ["U.N.", "official", "Rolf", "Ekeus"],
        "tags": ["B-ORG", "O", "B-PER", "I-PER"],
    }
    found = entities(doc, [text])
    assert (found["f1"], found["invalid"]) == (counts, invalid)


def test_an_entity_may_hold_a_comma():
    doc = {"tokens": ["Velmora", ",", "Inc"], "tags": ["B-ORG", "I-ORG", "I-ORG"]}
    for text in (" Velmora , Inc (ORG)", " Velmora , Inc (ORG), "):
        assert entities(doc, [text])["f1"] == (1, 0, 0)
