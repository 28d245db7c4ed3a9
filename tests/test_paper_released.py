"""The paper's scorers on answers worked out by hand: the released one with its quirks, and the sound one beside it."""

import pytest

from edit_sweeps.lm_tasks.paper import py_rouge, released
from edit_sweeps.lm_tasks.paper.metrics import (
    ner,
    open_domain_qa_closed_book,
    reasoning,
    reasoning_cot,
    summarization,
)
from tests.paper_documents import SOUND

pytest_plugins = ["tests.paper_bench"]

ANSWERS = {
    # Gold 18; 2,125; -3; 5. Released is a substring: the comma is missed, -3 is in -30, 5 in 15.
    "reasoning": [" 18.", " 2125", " -30", " 15"],
    "reasoning_cot": [" 3 and 15 are 18.", " 2,000 + 125 = 2,125", " 4 - 7 = -3", " none"],
    # Gold true, false, true, false. "Untrue" holds "true" and is no label.
    "nli": [" True", " False", " Untrue", " maybe"],
    # Gold positive, negative, positive.
    "sentiment": [" Positively", " negative", " negative"],
    # Gold yes, no, no, yes. "not" holds "no"; the third passage says "answer: nobody moved".
    "closed_domain_qa": [" Yes", " not", " yes", " no"],
    # Gold B, C, A, D. "Both" holds B; "Chi" is invalid though it holds C.
    "dialogue": [" Both", " Chi", " A", " B"],
    # See test_the_last_characters_of_a_summary_are_lost and the sums below.
    "summarization": [" Ann will bring tea and cake.", " Yes.", " so\nTL;DR: They will watch a film. Yes, she will"],
    # The first: "Moor" twice in the passage, which is searched too, counts 2. The second: "Ada Moor"
    # in the passage counts 1 and raises the flag. The third: as the first, but the flag is up: 0.
    # The fourth says "Answer:", so only what follows is read: 1.
    "open_domain_qa": [" I do not know", " It was Ada Moor then.\nQuestion: who", "\n", "\nAnswer: Oslo"],
    "open_domain_qa_closed_book": [" Ada Moor. She did.", " the city of Oslo", " on May 18, 2018"],
    "ner": [
        " Marlow Quill and Marlow", " Oslo", " None", " Oslo",
        "", " Trinidad and Tobago, Ostravia", "\n1. Halden", "Entity: x",
        " Talks", "\n", " none.", " None",
    ],
}  # fmt: skip

BY_HAND = {
    # task: (sound, released, invalid)
    "reasoning": (2 / 4, 3 / 4, 0),
    "reasoning_cot": (3 / 4, 3 / 4, 1 / 4),
    "nli": (2 / 4, 3 / 4, 2 / 4),
    "sentiment": (1 / 3, 2 / 3, 1 / 3),
    "closed_domain_qa": (1 / 4, 3 / 4, 1 / 4),
    "dialogue": (1 / 4, 2 / 4, 2 / 4),
    # Sound, first: ROUGE-1 and -L 4 of 6 and 4 of 4 words, F .8; ROUGE-2 2 of 5 and 2 of 3, F .5; mean .7.
    # Third (11 words, 5 of them gold): 1 and L: F 10 / 16; 2: 4 of 10 and 4 of 4, F 8 / 14.
    # Released, first: " Ann will bring " is left. 1 and L: 3 of 3 and 3 of 4, F 6 / 7; 2: 2 of 2 and 2 of 3, F .8.
    # Third: " They will watch a film. " is left, whose second sentence is one empty word. 1 and L: 5 of 6 and
    # 5 of 5, F 10 / 11; 2: 4 of 5 and 4 of 4, F 8 / 9.
    "summarization": (
        (0.7 + (10 / 16 + 8 / 14 + 10 / 16) / 3) / 3,
        ((6 / 7 + 0.8 + 6 / 7) / 3 + (10 / 11 + 8 / 9 + 10 / 11) / 3) / 3,
        0,
    ),
    "open_domain_qa": (1 / 4, (2 + 1 + 0 + 1) / 4, 1 / 4),
    # Released: "ada moor" starts the text and raises the flag; "oslo" is the last word; "may 18 2018"
    # starts at the second word, which the flag forbids. Sound: the first sentence; the other two hold
    # more than the answer.
    "open_domain_qa_closed_book": (1 / 3, 2 / 3, 0),
    # Released: people 1 of 1; places 1 ("" at the end of the sentence is in any text) + 2 of 3;
    # organizations 0 of 1 ("Halden Ostravia" was cut out); others 0 + 1 ("Entity:" at once leaves
    # nothing where nothing was to find) + 0 of 3.
    # Sound: 5 right; spurious are the second Marlow, Oslo as an other, "Entity: x" and Talks.
    "ner": (2 * 5 / (2 * 5 + 4 + 0), (1 / 1 + 3 / 3 + 0 / 1 + 1 / 3) / 4, 2 / 12),
}


@pytest.mark.parametrize("task", BY_HAND)
def test_both_scores_are_those_worked_out_by_hand(paper, written, task):
    scores = written(paper, lambda r: ANSWERS[r.metadata[0].removeprefix("paper_")][r.doc_id])
    sound, old, invalid = BY_HAND[task]
    found = scores[task]
    assert found[SOUND[task]].value == pytest.approx(sound)
    assert found["released"].value == pytest.approx(old, rel=1e-6)
    assert found[SOUND[task]].invalid == found["released"].invalid == pytest.approx(invalid)


def test_the_best_answer_gives_the_token_f1(paper, written):
    scores = written(paper, lambda r: ANSWERS[r.metadata[0].removeprefix("paper_")][r.doc_id])
    # "it was ada moor then" has 2 words of 5 and both of "Ada Moor".
    assert scores["open_domain_qa"]["f1"].value == pytest.approx((0 + 4 / 7 + 0 + 1) / 4)
    # The first sentence; 1 of 3 words ("the" is none); 3 of 4 words.
    assert scores["open_domain_qa_closed_book"]["f1"].value == pytest.approx((1 + 2 / 4 + 6 / 7) / 3)  # fmt: skip


def test_the_open_qa_score_depends_on_the_order_and_has_no_samples(paper, written):
    score = written(paper, lambda r: "")["open_domain_qa"]["released"]
    assert (score.aggregation, score.samples, score.low) == ("value", {}, None)
    raises, twice = (1, 1, 0), (2, 0, 0)
    assert released.never_reset([twice, raises]) == 1.5
    assert released.never_reset([raises, twice]) == 0.5


def test_a_span_of_several_words_ends_the_search_but_single_words_do_not():
    doc = {"answer": ["red", "blue sky"]}
    found = released.open_domain_qa(doc, "", "so red and red, a blue sky or red again")
    # red, red, blue sky: 3, and the third red is not looked at.
    assert found == (3, 1, 0)
    assert released.open_domain_qa(doc, "", "Blue sky it is") == (1, 1, 1)
    assert released.open_domain_qa(doc, "no ", "it is red.") == (1, 0, 1)
    assert released.open_domain_qa(doc, "red or red or so", " Answer: green") == (0, 0, 0)


def test_the_last_characters_of_a_summary_are_lost():
    doc = {"summary": "Ann came"}
    assert released.summarization(doc, " Ann came") == 0.0
    # " Ann" is left: 1 of 1 and 1 of 2 words, no pair of words.
    assert released.summarization(doc, " Ann" + 13 * "x") == pytest.approx(2 / 3 * 2 / 3, rel=1e-6)
    assert summarization(doc, [" Ann came"])["rouge"] == 1.0


def test_entity_runs_merge_and_are_cut_as_released():
    tokens = ["Ann", "Lee", "Bo", "met", "Oslo", "Club"]
    tags = ["B-PER", "I-PER", "B-PER", "O", "B-ORG", "I-ORG"]
    assert released.entities(tokens, tags, "PER") == ["Ann Lee Bo"]
    assert released.entities(tokens, tags, "ORG") == ["Oslo"]
    assert released.entities(["Oslo"], ["B-LOC"], "LOC") == [""]


# Values of the package `rouge` 1.0.1 itself: mean F of `Rouge().get_scores(summary, reference)`.
ROUGE = [
    ("the cat sat on the mat", "the cat lay on the mat", 0.7333333283333335),
    (
        " Ann will bring tea. Bo, too",
        "Ann will bring cake, Bo too. They agreed.",
        0.4920634871778156,
    ),
    ("no no no. a dog ran far", "A dog ran. no one saw the U.S. flag", 0.31428570979213916),
    ("red green blue", "blue green red. green red", 0.5777777728444445),
    ("...", "red", 0.0),  # the package raises an error
]


@pytest.mark.parametrize(("summary", "reference", "value"), ROUGE)
def test_rouge_is_that_of_the_package_they_used(summary, reference, value):
    assert py_rouge.mean_f(summary, reference) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        (" $1,450.00 in all", "1450", "1450"),
        (" is -5", "-5", "-5"),
        (" 10-3=7", "10", "7"),
        ("7.", "7", "7"),
        (" .5", "0.5", "0.5"),
        (" 1,2345 and 12,345", "1", "12345"),
        (" ten", None, None),
    ],
)
def test_numbers_are_read_as_numbers(text, first, last):
    for score, number in ((reasoning, first), (reasoning_cot, last)):
        found = score({"number": number or "10"}, [text])
        assert (found["exact_match"], found["invalid"]) == (float(number is not None), float(number is None))  # fmt: skip


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("?\n\nAnswer: Oslo\nQuestion: who", 1),
        (" Oslo Question: who? Answer: Rome", 1),
        (" Oslo! It is in the north", 1),
        (" Oslo, in the north", 0),
        (" Rome\nOslo", 0),
    ],
)
def test_an_answer_is_the_first_line_or_its_first_sentence(text, right):
    assert open_domain_qa_closed_book({"answer": ["the Oslo"]}, [text])["exact_match"] == right


def test_an_answer_without_a_word_is_right_only_when_written_as_it_is():
    doc = {"answer": ["---", "The The"]}
    for text, right, invalid in [
        (" ---", 1, 0),
        (" The The", 1, 0),
        (" the", 0, 0),
        (" ***", 0, 1),
    ]:
        found = open_domain_qa_closed_book(doc, [text])
        assert (found["exact_match"], found["f1"], found["invalid"]) == (right, right, invalid)


@pytest.mark.parametrize(
    ("text", "gold", "counts", "invalid"),
    [
        (" Paris. Text: Paris is big", ["Paris"], (1, 0, 0), 0),
        (" None. The text", [], (0, 0, 0), 0),
        (" Paris", ["Paris"], (1, 0, 0), 0),
        (" Paris.", ["Paris"], (1, 0, 0), 0),
        (" Paris is big", ["Paris"], (0, 1, 1), 0),
        (" Paris is big", [], (0, 1, 0), 0),
        (" Paris, Rome. The text says", ["Paris", "Rome"], (2, 0, 0), 0),
        (" Paris, Rome, Oslo. It is", ["Paris", "Rome"], (2, 1, 0), 0),
        (" Paris\n\nPlease identify Person Entity from", ["Paris"], (1, 0, 0), 0),
        (" Paris\nIt is the capital", ["Paris"], (1, 0, 0), 0),
        (" Paris Please identify Person", ["Paris"], (1, 0, 0), 0),
        ("\n1. Paris\n2. Rome\nThe text", ["Paris", "Rome"], (2, 0, 0), 0),
        ("\n- Paris\n- Rome", ["Paris"], (1, 1, 0), 0),
        (" U.S. Senate. The text", ["U.S. Senate"], (1, 0, 0), 0),
        (" St. Louis and Trinidad and Tobago. A", ["St. Louis", "Trinidad and Tobago"], (2, 0, 0), 0),
        (" Text: Paris is big", ["Paris"], (0, 0, 1), 1),
        (" ...", ["Paris"], (0, 0, 1), 1),
    ],
)  # fmt: skip
def test_a_list_of_names_ends_where_the_model_goes_on_to_something_else(
    text, gold, counts, invalid
):
    doc = {"text": "", "kind": "Location", "gold": gold, "released": gold}
    found = ner(doc, [text])
    assert (found["f1"], found["invalid"]) == (counts, invalid)
