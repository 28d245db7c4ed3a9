"""Data files and settings that are refused, and the words for it."""

import json
from dataclasses import replace
from functools import partial

import pytest

from edit_sweeps.requests import (
    RequestError,
    count_requests,
    digest,
    read_requests,
)
from tests.request_files import COUNTERFACT, Data, line, write_counterfact, write_lines


@pytest.fixture
def lines(tmp_path):
    return partial(write_lines, tmp_path)


@pytest.fixture
def counterfact(tmp_path):
    return partial(write_counterfact, tmp_path)


@pytest.fixture
def many(lines):
    return lines(*(line(i) for i in range(30)))


BROKEN = {
    "no subject": (line(subject=...), "subject", "is missing"),
    "empty subject": (line(subject=" "), "subject", "is empty"),
    "null subject": (line(subject=None), "subject", "is null, a string is needed"),
    "empty target": (line(target_new=" "), "target_new", "is empty"),
    "same but for white space": (line(target_new="Paris\u00a0\n"), "target_new", "is target_true"),
    "empty true target": (line(target_true=""), "target_true", "is empty"),
    "number": (line(target_new=1998), "target_new", "is a number, a string is needed"),
    "truth value": (line(case_id=True), "case_id", "is true/false, a string is needed"),
    "no case id": (line(case_id=...), "case_id", "is missing"),
    "same targets": (line(target_true=" Rome"), "target_new", "is target_true too"),
    "no placeholder": (line(prompt="He lives in"), "prompt", "0 times {}"),
    "two placeholders": (line(prompt="{} and {}"), "prompt", "2 times {}"),
    "half a character": (json.dumps(line(subject="\ud800")), "subject", "surrogate"),
    "no object": (["a"], None, "is a list, an object {...} is needed"),
    "probes no list": (line(paraphrases="{} x"), "paraphrases", "is a string, a list"),
    "probe a number": (line(paraphrases=[5]), r"paraphrases\[0\]", "is a number, an object"),
    "probe without prompt": (
        line(neighborhood=["x", {"target": "y"}]),
        r"neighborhood\[1\].prompt",
        "is missing",
    ),
    "probe with two {}": (
        line(paraphrases=["{} {}"]),
        r"paraphrases\[0\].prompt",
        "more than once",
    ),
    "probe without answer": (
        line(target_true=..., neighborhood=["Bo lives in"]),
        r"neighborhood\[0\]",
        '"target"',
    ),
    "bare other fact": (line(other_facts=["{} was born in"]), r"other_facts\[0\]", '"target"'),
    "bare consequence": (line(portability=["{} pays in"]), r"portability\[0\]", '"target"'),
    "equal alternative": (
        line(other_facts=[{"prompt": "x", "target": "y", "alternative": " y"}]),
        r"other_facts\[0\].alternative",
        "is the target too",
    ),
    "misspelt": (line(neighbourhood=[]), "neighbourhood", "did you mean 'neighborhood'"),
    "misspelt in probe": (
        line(paraphrases=[{"prompt": "x", "targets": "y"}]),
        r"paraphrases\[0\].targets",
        "did you mean 'target'",
    ),
    "odd kind": (
        line(portability=[{"prompt": "x", "target": "y", "kind": "Two Hops"}]),
        r"portability\[0\].kind",
        "a kind names a score",
    ),
    "reserved kind": (
        line(portability=[{"prompt": "x", "target": "y", "kind": "probability"}]),
        r"portability\[0\].kind",
        "and not probability",
    ),
    "no JSON": ('{"case_id": 1,', None, "is not valid JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_line_is_refused_by_file_line_and_field(lines, case):
    item, field, reason = BROKEN[case]
    place = f"line 3, field {field}" if field else "line 3"
    with pytest.raises(RequestError, match=rf"facts\.jsonl: 1 of 2 [^\n]*\n  {place}: ") as error:
        read_requests(lines(line("good"), "", item))
    assert reason in str(error.value)


def test_request_errors_are_value_errors():
    assert issubclass(RequestError, ValueError)


def test_bytes_that_are_not_utf8_are_refused_by_line(lines, tmp_path):
    data = lines(line(1))
    with (tmp_path / "facts.jsonl").open("ab") as file:
        file.write(b'{"case_id": "\xff"}\n')
    with pytest.raises(RequestError, match="line 2: is not UTF-8"):
        read_requests(data)


def test_a_second_use_of_a_case_id_is_refused(lines):
    with pytest.raises(RequestError, match="line 2, field case_id: '4' has been used before"):
        read_requests(lines(line(4), line("4")))


def test_of_many_broken_lines_five_are_shown_and_all_counted(lines):
    with pytest.raises(RequestError, match="7 of 8 requests are broken; the first 5") as error:
        read_requests(lines(line(0), *(line(i, subject="") for i in range(1, 8))))
    assert str(error.value).count("\n") == 5
    assert "line 6" in str(error.value)
    assert "line 7" not in str(error.value)


def test_one_object_over_several_lines_is_explained(lines):
    with pytest.raises(RequestError, match=r"either one list .* or one object"):
        read_requests(lines("{", '"case_id": 1', "}"))


def test_items_of_a_list_on_one_line_are_told_apart_by_number(lines):
    items = [line(1), line(2, subject=" "), line(3)]
    with pytest.raises(RequestError, match="line 1, item 2, field subject: is empty"):
        read_requests(lines(json.dumps(items)))


@pytest.mark.parametrize("form", ["jsonl", "counterfact", "miniature"])
def test_empty_missing_and_wrong_files_are_refused(tmp_path, form):
    path = tmp_path / "facts"
    data = Data(str(path), name=form, format=form)
    for function in (read_requests, count_requests, digest):
        with pytest.raises(RequestError, match="facts does not exist"):
            function(data)
    with pytest.raises(RequestError, match="is a folder"):
        read_requests(replace(data, path=str(tmp_path)))
    path.write_text("\n \n")
    with pytest.raises(RequestError, match="is empty"):
        read_requests(data)


def test_a_data_set_without_path_asks_for_one_or_says_how_to_fetch_it():
    with pytest.raises(RequestError, match=r"give dataset\.path=FILE$"):
        read_requests(Data(None))
    fetch = r"give dataset\.path=FILE, or run `edit-sweeps data fetch --dataset counterfact`"
    with pytest.raises(RequestError, match=fetch):
        read_requests(Data(None, name="counterfact", format="counterfact"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "csv"}, "dataset.format=csv: allowed are miniature, jsonl, counterfact"),
        ({"on_invalid": "drop"}, "dataset.on_invalid=drop: allowed are refuse, skip"),
        ({"target": "alt"}, "dataset.target=alt: .* must be null"),
        ({"target": "pred", "format": "zsre"}, "must be one of alt, answers, or null"),
        ({"order": "random"}, "dataset.order=random: allowed are sampled, file"),
        ({"skip": -1, "order": "file"}, "skip is a count from 0 on"),
        ({"skip": 3}, "needs dataset.order=file"),
    ],
)
def test_impossible_settings_are_refused(many, changes, message):
    with pytest.raises(RequestError, match=message):
        count_requests(replace(many, **changes))


def broken_counterfact(change):
    items = json.loads(json.dumps(COUNTERFACT))
    change(items[1])
    return items


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        (lambda r: r.pop("requested_rewrite"), "requested_rewrite.subject", "is missing"),
        (
            lambda r: r["requested_rewrite"].update(target_new="Asia"),
            "requested_rewrite.target_new",
            "is a string, an object",
        ),
        (
            lambda r: r["requested_rewrite"]["target_new"].update(str=""),
            "requested_rewrite.target_new.str",
            "is empty",
        ),
        (
            lambda r: r["requested_rewrite"].update(prompt="x"),
            "requested_rewrite.prompt",
            "0 times {}",
        ),
        (lambda r: r.update(paraphrase_prompts=[1]), r"paraphrase_prompts\[0\]", "is a number"),
        (lambda r: r.update(case_id=7), "case_id", "has been used before"),
    ],
)
def test_a_broken_counterfact_record_is_refused_in_its_own_words(
    counterfact, change, field, reason
):
    data = counterfact(broken_counterfact(change))
    text = open(data.path, encoding="utf-8").read()  # noqa: PTH123, SIM115
    start = text[: text.index(" },\n {") + 5].count("\n") + 1
    with pytest.raises(
        RequestError, match=rf"1 of 2 [^\n]*\n  line {start}, field {field}: "
    ) as error:
        read_requests(data)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"case_id": 1}\n', "line 1, field requested_rewrite.subject: is missing"),
        ('[\n{"case_id": 1},\n{]', "line 3: is not valid JSON"),
        ('[\n{"case_id": 1}\n{"case_id": 2}]', "line 3: is not valid JSON: ',' or ']' is missing"),
        ('[\n{"case_id": 1}', "',' or ']' is missing"),
        ("[] x", "text after the list's end"),
        ("[]", "is empty"),
    ],
)
def test_a_counterfact_file_that_is_no_list_is_refused(counterfact, text, message):
    with pytest.raises(RequestError, match=message):
        read_requests(counterfact(text))
