"""What readers of published data sets share, on made-up text."""

from functools import partial

import pytest

from edit_sweeps.data_files import FieldError
from edit_sweeps.datasets.building import kind_name, place_subject, probe, word_goes_on
from edit_sweeps.requests import Probe, read_requests
from tests import dataset_records as records
from tests.request_files import COUNTERFACT, write_list


@pytest.fixture
def read(tmp_path):
    """The one request of one record."""
    write = partial(write_list, tmp_path)

    def one(record, form):
        (request,) = read_requests(write([record], form))
        return request

    return one


def place(prompt, subject):
    return place_subject({"prompt": prompt, "subject": subject}, "prompt", "subject")[0]


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [("Where was Rene\u0301 born?", "Rene"), ("Where was q\u0303uo?", "q"), ("Rene\u0301e", "e")],
)
def test_a_letter_and_its_accents_are_not_cut_apart(prompt, subject):
    with pytest.raises(FieldError, match="does not stand in prompt"):
        place(prompt, subject)


def test_an_accented_name_is_found_where_it_stands_whole():
    assert place("Was Rene\u0301 there?", "Rene\u0301") == "Was {} there?"
    assert not word_goes_on("हिन्दी", len("हिन्द")), "scripts without capitals are plain text"


@pytest.mark.parametrize(
    ("prompt", "subject", "template"),
    [
        ("Did Mary-Kate meet Mary?", "Mary", "Did Mary-Kate meet {}?"),
        ("Did Anne-Mary\u2010Kate meet Mary?", "Mary", "Did Anne-Mary\u2010Kate meet {}?"),
        ("Who runs the Paris-based firm?", "Paris", "Who runs the {}-based firm?"),
        ("Mary - she sings - met Mary", "Mary", "{} - she sings - met Mary"),
        ("-Mary- met Mary", "Mary", "-{}- met Mary"),
    ],
)
def test_a_place_without_hyphens_comes_before_one_in_a_joined_word(prompt, subject, template):
    assert place(prompt, subject) == template


def test_white_space_before_a_full_text_prompt_is_cut():
    assert place("  Who is Ada? ", "Ada") == "Who is {}?"


def test_a_number_is_an_answer():
    assert probe("How old is Ada", [[37, "thirty-seven"]])["target"] == "37"
    assert probe("How old is Ada", "thirty", alternative=37)["alternative"] == "37"


def test_an_answer_that_is_a_number_refuses_no_request(read):
    portability = {"Reasoning": [{"prompt": "How old is Ada", "ground_truth": 37}]}
    request = read(
        records.WIKI_COUNTERFACT | {"ground_truth": 12, "portability": portability}, "knowedit"
    )
    assert request.target_true == "12"
    assert [p.target for p in request.portability] == ["37"]


@pytest.mark.parametrize("alternative", ["Rome", " Rome\n", "", None, float("nan"), []])
def test_what_is_no_other_answer_is_no_alternative(alternative):
    assert probe("Ada lives in", "Rome ", alternative=alternative)["alternative"] is None


def test_a_neighbor_with_the_new_target_but_for_white_space_is_read(read):
    changed = records.FLAT | {"locality_ground_truth": f"{records.FLAT['target_new']} "}
    (neighbor,) = read(changed, "counterfact_flat").neighborhood
    assert (neighbor.target, neighbor.alternative) == ("Dutch", None)


@pytest.mark.parametrize(
    ("published", "name"),
    [
        ("Subject-Aliasing", "subject_aliasing"),
        ("2-hop", "2_hop"),
        ("Logical_Generalization", "logical_generalization"),
        (" One  hop! ", "one_hop"),
        ("東京", None),
    ],
)
def test_a_published_kind_becomes_the_name_of_a_score(read, published, name):
    assert kind_name(published) == name
    portability = {published: [{"prompt": "Ada eats in", "ground_truth": "Rome"}]}
    request = read(records.WIKI_RECENT | {"portability": portability}, "knowedit")
    assert request.portability == (Probe("Ada eats in", "Rome", kind=name),)


@pytest.mark.parametrize("braces", ["In C an empty block {} means", "{} and {} are"])
def test_braces_in_a_published_probe_stand_for_themselves(read, braces):
    locality = {"Forgetfulness": [{"prompt": braces, "ground_truth": "x"}]}
    request = read(records.WIKI_RECENT | {"locality": locality}, "knowedit")
    assert [p.prompt for p in request.other_facts] == [braces]
    request = read(COUNTERFACT[0] | {"paraphrase_prompts": [braces]}, "counterfact")
    assert [p.prompt for p in request.paraphrases] == [braces]
