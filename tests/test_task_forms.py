"""One form of document for each data set: what is accepted is scored without a crash, what would not be is refused."""

import pytest

from edit_sweeps import task_forms
from edit_sweeps.lm_tasks.paper.metrics import reasoning, reasoning_cot

CHAT = {"article": "m : shall we go ?", "options": ["yes", "no", "perhaps", "why ?"]}


@pytest.mark.parametrize(
    "number", ["18", "-3", "−3", "2,125", "1,234,567", "0.5", "1,450.25", "3 "]
)
def test_each_gold_number_that_is_accepted_is_read_as_that_one_number(number):
    doc = task_forms.gsm8k({"question": "q", "answer": f"So it is.\n#### {number}"})
    for score in (reasoning, reasoning_cot):
        assert score(doc, [f" {doc['number']}."])["exact_match"] == 1.0
        assert score(doc, [" 77777"])["exact_match"] == 0.0


@pytest.mark.parametrize(
    "number", ["1,2345", "12,34", "1e3", "10:30", "5 and 6", "many", "$", "nan"]
)
def test_what_is_not_one_number_is_refused_and_quoted(number):
    with pytest.raises(ValueError, match="is not one number") as error:
        task_forms.gsm8k({"question": "q", "answer": f"So.\n#### {number}"})
    assert repr(number) in str(error.value)


@pytest.mark.parametrize("label", [-1, 7, "-1", 2, 0.5, "maybe", None, float("nan")])
@pytest.mark.parametrize(
    ("form", "texts"),
    [
        (task_forms.boolq, ("question", "passage")),
        (task_forms.rte, ("sentence1", "sentence2")),
        (task_forms.sst2, ("sentence",)),
    ],
)
def test_a_label_that_is_none_of_the_tasks_is_refused(form, texts, label):
    with pytest.raises((ValueError, TypeError)):
        form({**dict.fromkeys(texts, "Oslo"), "label": label})
    assert form({**dict.fromkeys(texts, "Oslo"), "label": 1})["label"] == 1


@pytest.mark.parametrize("said", [True, 1, 1.0, "1", "True"])
def test_yes_is_one_however_boolq_says_it(said):
    for name in ("label", "answer"):
        row = {"question": "q", "passage": "p", name: said}
        assert task_forms.boolq(row) == {"question": "q", "passage": "p", "label": 1}


@pytest.mark.parametrize("answer", ["", "BC", "ABCD", "a", "E", None, 1, ["A"]])
def test_an_answer_that_is_not_one_of_four_letters_is_refused(answer):
    with pytest.raises(ValueError, match="an answer of A to D"):
        task_forms.mutual({**CHAT, "answers": answer})
    assert task_forms.mutual({**CHAT, "answers": "D"}) == {**CHAT, "answers": "D"}


@pytest.mark.parametrize("text", [None, "", " \n", 3, float("nan")])
def test_a_text_that_is_missing_or_blank_is_refused_by_name(text):
    rows = [
        (task_forms.samsum, {"dialogue": "Ann: Hi.", "summary": "Ann greets."}),
        (task_forms.boolq, {"question": "q", "passage": "p", "label": 1}),
        (task_forms.rte, {"sentence1": "a", "sentence2": "b", "label": 1}),
        (task_forms.mutual, {**CHAT, "answers": "A"}),
        (task_forms.sst2, {"sentence": "fine ", "label": 1}),
        (task_forms.nq_open, {"question": "q", "answer": ["a"]}),
        (task_forms.gsm8k, {"question": "q", "answer": "#### 1"}),
    ]
    for form, row in rows:
        form(row)
        for name in set(row) - {"label", "answers", "options", "answer"}:
            with pytest.raises(task_forms.BlankTextError, match=name):
                form({**row, name: text})
    with pytest.raises(task_forms.BlankTextError, match="'B'"):
        task_forms.mutual({"article": "m", "options": ["a", text, "c", "d"], "answers": "A"})


@pytest.mark.parametrize("tag", [-1, 9])
def test_a_tag_that_is_no_number_of_the_hub_is_refused(tag):
    with pytest.raises(ValueError, match="1 tokens with the tags"):
        task_forms.conll2003({"tokens": ["Oslo"], "ner_tags": [tag]})
