"""Reading, counting and choosing edit requests."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest

from edit_sweeps import requests as module
from edit_sweeps.requests import (
    EditRequest,
    Probe,
    RequestError,
    check_count,
    count_requests,
    digest,
    left_out,
    load_requests,
    read_requests,
    repeats,
)
from tests.request_files import COUNTERFACT, MINIATURE, line, write_counterfact, write_lines


@pytest.fixture
def lines(tmp_path):
    return partial(write_lines, tmp_path)


@pytest.fixture
def counterfact(tmp_path):
    return partial(write_counterfact, tmp_path)


@pytest.fixture
def many(lines):
    return lines(*(line(i) for i in range(30)))


# Reading


def test_every_field_of_a_line_is_read(lines):
    (request,) = read_requests(
        lines(
            line(
                3,
                relation="lives_in",
                paraphrases=[{"prompt": "{}'s home is", "target": "Rome", "alternative": "Paris"}],
                neighborhood=[{"prompt": "Bo lives in", "target": "Oslo", "alternative": "Rome"}],
                other_facts=[{"prompt": "{} was born in", "target": "Bonn", "relation": "born_in"}],
                portability=[{"prompt": "{} lives in the country", "target": "Italy"}],
            )
        )
    )
    assert request == EditRequest(
        case_id="3",
        subject="Person 3",
        prompt="{} lives in",
        target_new="Rome",
        target_true="Paris",
        paraphrases=(Probe("Person 3's home is", "Rome", "Paris"),),
        neighborhood=(Probe("Bo lives in", "Oslo", "Rome"),),
        other_facts=(Probe("Person 3 was born in", "Bonn", relation="born_in"),),
        portability=(Probe("Person 3 lives in the country", "Italy"),),
        relation="lives_in",
    )
    assert request.text == "Person 3 lives in"


def test_bare_prompts_take_the_targets_that_follow_from_the_edit(lines):
    (request,) = read_requests(
        lines(line(paraphrases=["{}'s home:"], neighborhood=["Bo lives in"]))
    )
    assert request.paraphrases == (Probe("Person 0's home:", "Rome", "Paris"),)
    assert request.neighborhood == (Probe("Bo lives in", "Paris", "Rome"),)


def test_without_true_target_paraphrases_have_no_alternative(lines):
    (request,) = read_requests(lines(line(target_true=..., paraphrases=["{}'s home:"])))
    assert request.target_true is None
    assert request.paraphrases == (Probe("Person 0's home:", "Rome", None),)


def test_an_alternative_of_null_asks_for_no_comparison(lines):
    neighbor = {"prompt": "Bo lives in", "target": "Oslo", "alternative": None}
    (request,) = read_requests(lines(line(neighborhood=[neighbor, "Cy lives in"])))
    assert request.neighborhood == (
        Probe("Bo lives in", "Oslo", None),
        Probe("Cy lives in", "Paris", "Rome"),
    )


def test_a_probe_may_name_its_kind(lines):
    probe = {"prompt": "{} votes in", "target": "Italy", "kind": "multi_hop"}
    (request,) = read_requests(lines(line(portability=[probe])))
    assert request.portability == (Probe("Person 0 votes in", "Italy", kind="multi_hop"),)


def test_a_neighbor_whose_answer_is_the_new_target_has_no_alternative(lines):
    (request,) = read_requests(lines(line(neighborhood=[{"prompt": "Bo", "target": "Rome"}])))
    assert request.neighborhood == (Probe("Bo", "Rome", None),)


def test_text_is_normalised_and_unicode_kept(lines):
    (request,) = read_requests(
        lines(
            line(
                subject="Zoë 東京",
                prompt="  {} lebt in ",
                target_new=" Köln\u00a0\n",
                target_true="  x\u2028y",
                paraphrases=["\t{} wohnt in "],
            )
        )
    )
    assert (request.subject, request.prompt) == ("Zoë 東京", "{} lebt in")
    assert (request.target_new, request.target_true) == ("Köln", "x\u2028y")
    assert request.paraphrases == (Probe("Zoë 東京 wohnt in", "Köln", "x\u2028y"),)


def test_blank_lines_and_a_byte_order_mark_are_passed_over(lines):
    data = lines("\ufeff" + json.dumps(line(1)), "", "  ", line(2))
    assert [r.case_id for r in read_requests(data)] == ["1", "2"]
    assert count_requests(data) == 2


def test_every_form_is_read_from_a_list_and_from_lines(lines, counterfact):
    items = [line(1), line(2)]
    assert read_requests(lines(json.dumps(items, indent=1))) == read_requests(lines(*items))
    as_lines = replace(lines(*COUNTERFACT), name="counterfact", format="counterfact")
    assert read_requests(as_lines) == read_requests(counterfact(COUNTERFACT))


def test_keys_of_no_meaning_are_passed_over(lines):
    assert len(read_requests(lines(line(relation_id="P30", source="me")))) == 1


def test_counterfact_is_read_in_romes_own_form(counterfact):
    first, second = read_requests(counterfact(COUNTERFACT))
    assert first == EditRequest(
        case_id="7",
        subject="Danielle Darrieux",
        prompt="The mother tongue of {} is",
        target_new="English",
        target_true="French",
        relation="P103",
        paraphrases=(Probe("Shayna does this. Danielle Darrieux, a native", "English", "French"),),
        neighborhood=(
            Probe("The mother tongue of Léon Blum is", "French", "English"),
            Probe("Michel Rocard speaks", "French", "English"),
        ),
    )
    assert (second.case_id, second.text) == ("9", "Vinson Massif is located in")


def test_the_miniatures_file_is_read_whole():
    if not module.MINIATURE_FILE.exists():
        pytest.skip("the miniature's requests are not there yet")
    requests = read_requests(MINIATURE)
    assert len(requests) == count_requests(MINIATURE) >= 500
    assert all(r.target_true and r.relation and r.paraphrases for r in requests)
    for field in ("neighborhood", "other_facts", "portability"):
        assert sum(bool(getattr(r, field)) for r in requests) >= 500, field


# Leaving out


def test_broken_requests_are_skipped_told_by_line_and_counted(lines, caplog):
    items = [line(i, subject=" " if i % 2 else ...) for i in range(14)]
    for i in range(0, 14, 2):
        items[i]["subject"] = f"Person {i}"
    data = lines(*items, on_invalid="skip")
    assert ids(read_requests(data)) == [str(i) for i in range(0, 14, 2)]
    assert count_requests(data) == 7
    assert left_out(data) == {"requests_invalid_skipped": 7, "probes_without_answer": 0}
    assert left_out(lines(line(1), name="whole.jsonl"))["requests_invalid_skipped"] == 0
    assert len(load_requests(data, 7, seed=0)) == 7
    assert "7 of 14 requests are broken and LEFT OUT" in caplog.text
    for number in range(2, 15, 2):
        assert f"line {number}, field subject" in caplog.text
    assert "line 2, field subject: is empty" in caplog.text


def test_only_valid_requests_count(lines):
    data = lines(line(1), line(2, target_new=""), line(3), on_invalid="skip")
    check_count(data, 2)
    with pytest.raises(RequestError, match="num_edits=3: dataset=jsonl has 2 requests"):
        check_count(data, 3)


def test_a_file_without_any_valid_request_is_refused_even_when_skipping(lines):
    with pytest.raises(RequestError, match="gives no valid request"):
        read_requests(lines(line(1, subject=""), on_invalid="skip"))


# Choosing


def ids(requests):
    return [r.case_id for r in requests]


def test_smaller_samples_are_prefixes_of_larger_ones(many):
    whole = ids(load_requests(many, 30, seed=1))
    assert sorted(whole, key=int) == [str(i) for i in range(30)] != whole
    for n in (0, 1, 7, 29):
        assert ids(load_requests(many, n, seed=1)) == whole[:n]


def test_the_seed_chooses_the_permutation_and_nothing_else_does(many):
    assert ids(load_requests(many, 9, seed=1)) != ids(load_requests(many, 9, seed=2))
    script = (
        "import types, sys; from edit_sweeps.requests import load_requests as load;"
        f"d = types.SimpleNamespace(**{vars(many)!r});"
        "print(*[r.case_id for r in load(d, 9, 1)])"
    )
    env = os.environ | {"PYTHONHASHSEED": "77"}
    out = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, env=env
    )
    assert out.stdout.split() == ids(load_requests(many, 9, seed=1)), out.stderr


def test_file_order_begins_after_what_is_skipped(many):
    data = replace(many, order="file", skip=4)
    assert ids(load_requests(data, 3, seed=5)) == ["4", "5", "6"]
    assert ids(load_requests(data, 26, seed=5))[-1] == "29"


@pytest.mark.parametrize("function", [check_count, lambda data, n: load_requests(data, n, 0)])
def test_more_edits_than_requests_are_refused(many, function):
    function(many, 30)
    with pytest.raises(RequestError, match=r"num_edits=31: dataset=jsonl has 30 .*repeat=true"):
        function(many, 31)
    with pytest.raises(RequestError, match=r"26 requests after dataset.skip=4"):
        function(replace(many, order="file", skip=4), 27)
    with pytest.raises(RequestError, match=r"dataset.skip=30: .* has only 30 requests"):
        function(replace(many, order="file", skip=30, repeat=True), 1)
    with pytest.raises(RequestError, match="num_edits=-1"):
        function(many, -1)


def test_repeating_starts_over_in_the_same_order_and_says_so(lines, caplog):
    data = lines(*(line(i) for i in range(3)), repeat=True)
    once = ids(load_requests(data, 3, seed=2))
    assert not caplog.records
    again = ids(load_requests(data, 8, seed=2))
    assert again == once + [f"{i}#2" for i in once] + [f"{i}#3" for i in once[:2]]
    assert "REPEATED UP TO 3 TIMES" in caplog.text
    check_count(data, 8)


def test_a_count_that_fits_repeats_nothing(lines):
    data = lines(*(line(i) for i in range(3)), repeat=True)
    assert [repeats(data, n) for n in (1, 3, 4)] == [False, False, True]
    assert not repeats(replace(data, repeat=False), 4)
    assert repeats(replace(data, order="file", skip=1), 3)


def test_the_digest_follows_the_content_and_not_the_name(lines):
    first, copy = lines(line(1), name="a"), lines(line(1), name="b")
    assert digest(first) == digest(copy)
    changed = lines(line(1), line(2), name="a")
    assert digest(changed) != digest(copy)


def test_a_file_changed_in_place_is_counted_and_digested_anew(lines):
    data = lines(line(1))
    before = digest(data), count_requests(data)
    lines(line(1), line(2))
    assert (digest(data), count_requests(data)) != before
    assert count_requests(data) == 2


def test_reading_needs_neither_torch_nor_transformers():
    script = "import sys, edit_sweeps.requests; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert out.stdout.strip() == "[]", out.stderr
