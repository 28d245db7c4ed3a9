"""Sentences of RippleEdits that can be read in several ways; the records are made up."""

import copy
from functools import partial

import pytest

from edit_sweeps.requests import RequestError, read_requests
from tests.dataset_records import ripple_query, ripple_test
from tests.request_files import write_list

DIRECTOR = "The name of the director of Soup is Hot is"
FOLLOWS = "Part Two follows Ada follows"


@pytest.fixture
def read(tmp_path):
    """The one request of a record, as (subject, new target, true target)."""
    write = partial(write_list, tmp_path)

    def one(record):
        (request,) = read_requests(write([record], "rippleedits"))
        return request.subject, request.target_new, request.target_true

    return one


def edit(sentence, relation="DIRECTOR", **more):
    facts = {k: {"prompt": v, "relation": relation} for k, v in more.items()}
    return {"edit": {"prompt": sentence, "relation": relation, "subject_id": "Q7"} | facts}


@pytest.mark.parametrize("field", ["original_fact", "previous_fact"])
def test_a_subject_with_words_of_the_wording_is_the_one_of_the_original_fact(read, field):
    record = edit(f"{DIRECTOR} Ada Quill.", **{field: f"{DIRECTOR} Bo Marsh."})
    assert read(record) == ("Soup is Hot", "Ada Quill", "Bo Marsh")


def test_a_target_with_words_of_the_wording_is_no_part_of_the_subject(read):
    work = "The name of the notable work of Ada is"
    record = edit(f"{work} Soup is Hot.", "NOTABLE_WORK", original_fact=f"{work} The Long Road.")
    assert read(record) == ("Ada", "Soup is Hot", "The Long Road")
    record = edit(f"{work} The Long Road.", "NOTABLE_WORK", original_fact=f"{work} Soup is Hot.")
    assert read(record) == ("Ada", "The Long Road", "Soup is Hot")


def test_an_original_fact_without_target_still_names_the_subject(read):
    record = edit(f"{DIRECTOR} Ada Quill.", original_fact=f"{DIRECTOR} .")
    assert read(record) == ("Soup is Hot", "Ada Quill", None)


@pytest.mark.parametrize("kind", ["Relation_Specificity", "Forgetfulness"])
def test_a_query_about_the_same_subject_says_where_its_name_ends(read, kind):
    def asking(name, subject_id):
        query = ripple_query(f"The name of the composer of {name} is", "Di", "COMPOSER")
        return ripple_test(query | {"subject_id": subject_id})

    record = edit(f"{DIRECTOR} Ada Quill.")
    elsewhere = asking("Soup", "Q8")
    assert read(record | {kind: [elsewhere, asking("Soup is Hot", "Q7")]})[0] == "Soup is Hot"
    assert read(record | {kind: [asking("Soup", "Q7")]})[:2] == ("Soup", "Hot is Ada Quill")
    with pytest.raises(RequestError, match="several ways"):
        read(record | {kind: [elsewhere]})


@pytest.mark.parametrize(
    ("sentence", "relation", "subjects"),
    [
        (f"{DIRECTOR} Ada Quill.", "DIRECTOR", "'Soup', 'Soup is Hot'"),
        (f"{FOLLOWS} Part One.", "FOLLOWS", "'Part Two', 'Part Two follows Ada'"),
    ],
)
def test_what_nothing_else_decides_is_refused_with_its_readings(read, sentence, relation, subjects):
    words = f"field edit.prompt: can be read in several ways: its subject is one of {subjects}"
    with pytest.raises(RequestError, match=words):
        read(edit(sentence, relation))


def test_an_original_fact_about_another_subject_is_refused(read):
    mother = "The name of the mother of {} is"
    record = edit(f"{mother.format('Ada')} Di.", "MOTHER")
    record["edit"]["original_fact"] = {"prompt": f"{mother.format('Bo')} Cy."}
    with pytest.raises(RequestError, match=r"edit\.original_fact\.prompt: is not about 'Ada'"):
        read(copy.deepcopy(record))
