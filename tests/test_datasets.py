"""Readers of published data sets, on made-up records in the published schemas."""

import copy
from collections import Counter
from functools import partial

import pytest

from edit_sweeps.requests import (
    EditRequest,
    Probe,
    RequestError,
    check_count,
    left_out,
    load_requests,
    read_requests,
)
from tests import dataset_records as records
from tests.request_files import write_list


@pytest.fixture
def write(tmp_path):
    return partial(write_list, tmp_path)


@pytest.fixture
def read(write):
    """The one request of one record."""

    def one(record, form, **settings):
        (request,) = read_requests(write([record], form, **settings))
        return request

    return one


def changed(record, **changes):
    """A copy; `...` takes a field away."""
    return {k: v for k, v in (copy.deepcopy(record) | changes).items() if v is not ...}


def test_flat_counterfact_gives_one_probe_of_each_kind(read):
    assert read(records.FLAT, "counterfact_flat") == EditRequest(
        case_id="3",
        subject="Ada Quill",
        prompt="The mother tongue of {} is",
        target_new="Dutch",
        target_true="Welsh",
        paraphrases=(Probe("Where Ada Quill is from, people speak", "Dutch", "Welsh"),),
        neighborhood=(Probe("Bo Marsh is a native speaker of", "Welsh", "Dutch"),),
    )


def test_zsre_writes_the_alternative_and_compares_with_the_truth(read):
    question = "What is the capital of Ada Quill's home country?"
    assert read(records.ZSRE, "zsre") == EditRequest(
        case_id="0",
        subject="Ada Quill",
        prompt="What country is {} from?",
        target_new="Yemen",
        target_true="Wales",
        paraphrases=(Probe("Which country is Ada Quill from?", "Yemen", "Wales"),),
        neighborhood=(Probe("nq question: who wrote the song of the sea?", "Cy Roe"),),
        portability=(Probe(question, "Sana'a", kind="one_hop"),),
    )
    assert read(records.ZSRE, "zsre", target="alt") == read(records.ZSRE, "zsre")


def test_zsre_writes_the_first_true_answer_on_demand_and_asks_nothing_that_follows_from_another(
    read,
):
    request = read(records.ZSRE, "zsre", target="answers")
    assert (request.target_new, request.target_true) == ("Wales", None)
    assert request.paraphrases == (Probe("Which country is Ada Quill from?", "Wales"),)
    assert request.portability == ()


@pytest.mark.parametrize(
    ("answers", "pred", "true"),
    [
        (["Yemen"], "Chile", "Chile"),
        (["Yemen", "Wales"], "Chile", "Wales"),
        ([" Yemen"], " Yemen", None),
    ],
)
def test_an_alternative_that_is_true_is_compared_with_another_answer_or_none(
    read, answers, pred, true
):
    assert read(changed(records.ZSRE, answers=answers, pred=pred), "zsre").target_true == true


def test_qaedit_writes_true_answers_and_counts_neighbors_without_one(write):
    data = write([records.QAEDIT], "qaedit")
    assert read_requests(data) == [
        EditRequest(
            case_id="NQ-1104",
            subject="the silver gate",
            prompt="who directed {}?",
            target_new="Ada Quill",
            paraphrases=(Probe("Which director made The Silver Gate?", "Ada Quill"),),
            neighborhood=(Probe("who sang the long road", "Bo Marsh"),),
        )
    ]
    assert left_out(data) == {"requests_invalid_skipped": 0, "probes_without_answer": 1}


def test_knowedit_is_read_in_its_three_shapes(write):
    shapes = [records.WIKI_RECENT, records.WIKI_COUNTERFACT, records.KNOWEDIT_ZSRE]
    data = write(shapes, "knowedit")
    recent, counterfact, zsre = read_requests(data)
    assert (recent.text, recent.target_new, recent.target_true) == (
        "The place of death of Ada Quill is",
        "Bonn",
        None,
    )
    assert recent.portability == (
        Probe("Is Ada Quill still alive?", "no", kind="logical_generalization"),
        Probe("The country of the place of death of Ada Quill is", "Germany", kind="reasoning"),
        Probe("The place of death of A. Quill is", "Bonn", kind="subject_aliasing"),
    )
    assert recent.other_facts == (
        Probe("The name of the father of Ada Quill is", "Cy Quill", kind="relation_specificity"),
    )
    assert (counterfact.target_true, counterfact.other_facts[0].kind) == ("mayor", "forgetfulness")
    assert (zsre.target_true, zsre.paraphrases) == (
        "beetles",
        (Probe("What family are Quillia?", "moths", "beetles"),),
    )
    assert zsre.portability[0].target == "bats"
    assert left_out(data)["probes_without_answer"] == 1


def test_sentences_of_wikibio_are_refused_by_name(write):
    with pytest.raises(RequestError, match="line 2: is a record of WikiBio"):
        read_requests(write([records.WIKIBIO], "knowedit"))


def test_a_case_of_mquake_is_several_requests_and_its_question_hangs_on_the_last(write):
    single, first, last = read_requests(write(records.MQUAKE, "mquake"))
    assert single == EditRequest(
        case_id="1",
        subject="Ada Quill",
        prompt="{} is a citizen of",
        target_new="Yemen",
        target_true="Wales",
        relation="P27",
        paraphrases=(Probe("What is the country of citizenship of Ada Quill?", "Yemen", "Wales"),),
        portability=tuple(
            Probe(question, "Sana'a", "Cardiff", kind="multi_hop")
            for question in records.MQUAKE[0]["questions"]
        ),
    )
    assert (first.case_id, first.case, first.portability) == ("2-0", "2", ())
    assert (last.case_id, last.case) == ("2-1", "2")
    assert [p.target for p in last.portability] == ["Santiago"]


@pytest.fixture
def cases(write):
    """Thirty cases of one to four rewrites."""
    return write(
        [
            {
                "case_id": i,
                "requested_rewrite": [
                    records.rewrite(f"Person {i} {j}", "Chile", "Peru") for j in range(1 + i % 4)
                ],
                "questions": ["Where?"],
                "answer": "Lima",
                "new_answer": "Santiago",
            }
            for i in range(30)
        ],
        "mquake",
    )


def test_a_question_is_never_asked_before_all_edits_of_its_case(cases):
    whole = load_requests(cases, 73, seed=3)
    wanted = Counter(r.case or r.case_id for r in whole)
    for n in (1, 5, 20, 41, 73):
        requests = load_requests(cases, n, seed=3)
        assert requests == whole[:n]
        written = Counter(r.case or r.case_id for r in requests)
        asked = {r.case or r.case_id for r in requests if r.portability}
        assert asked == {case for case in written if written[case] == wanted[case]}
    assert [r.case_id for r in whole] != [r.case_id for r in read_requests(cases)]


def test_passing_over_half_a_case_is_refused(cases):
    cases.order, cases.skip = "file", 2
    with pytest.raises(RequestError, match=r"dataset.skip=2 cuts case 1 in two"):
        check_count(cases, 3)
    cases.skip = 3
    assert load_requests(cases, 1, seed=0)[0].case == "2"


def test_a_case_with_one_broken_edit_is_left_out_whole(write):
    broken = copy.deepcopy(records.MQUAKE)
    broken[1]["requested_rewrite"][0]["target_new"]["str"] = ""
    data = write(broken, "mquake", on_invalid="skip")
    assert [r.case_id for r in read_requests(data)] == ["1"]
    assert left_out(data)["requests_invalid_skipped"] == 1
    data.on_invalid = "refuse"
    with pytest.raises(RequestError, match=r"requested_rewrite\[0\]\.target_new\.str: is empty"):
        read_requests(data)


def test_a_sentence_of_rippleedits_is_taken_apart_by_its_relation(write):
    data = write([records.RIPPLE], "rippleedits")
    (request,) = read_requests(data)
    assert request == EditRequest(
        case_id="0",
        subject="Ada Quill",
        prompt="The name of the country of citizenship of {} is",
        target_new="Yemen",
        target_true="Wales",
        relation="COUNTRY_OF_CITIZENSHIP",
        other_facts=(
            Probe(
                "The name of the mother of Ada Quill is",
                "Di Quill",
                relation="MOTHER",
                kind="relation_specificity",
            ),
        ),
        portability=(
            Probe(
                "The capital of the country of Ada Quill is",
                "Sana'a",
                relation="CAPITAL",
                kind="compositionality_i",
            ),
            Probe(
                "The name of the country of citizenship of A. Quill is",
                "Yemen",
                relation="COUNTRY_OF_CITIZENSHIP",
                kind="subject_aliasing",
            ),
        ),
    )
    assert left_out(data)["probes_without_answer"] == 1


@pytest.mark.parametrize(
    ("relation", "sentence", "subject", "target"),
    [
        ("MOTHER", "The name of the mother of Ada is Di.", "Ada", "Di"),
        ("PLACE_OF_BIRTH", "The place of birth of Ada is Bonn.", "Ada", "Bonn"),
        ("SIBLING", "The names of the siblings of Ada are Bo.", "Ada", "Bo"),
        ("FOLLOWED_BY", "Super Cup V is followed by Super Cup VI.", "Super Cup V", "Super Cup VI"),
        ("EMPLOYER", "The name of the employer of Ada is Acme Inc..", "Ada", "Acme Inc."),
    ],
)
def test_each_wording_of_rippleedits_gives_subject_and_target(
    read, relation, sentence, subject, target
):
    edit = {"prompt": sentence, "relation": relation, "subject_id": "Q1", "target_id": "Q2"}
    request = read({"example_type": "recent", "edit": edit}, "rippleedits")
    assert (request.subject, request.target_new, request.target_true) == (subject, target, None)
    assert f"{request.text} {request.target_new}." == sentence


def test_wikibigedit_gives_rewordings_a_neighbor_and_a_two_hop_question(read):
    assert read(records.WIKIBIGEDIT, "wikibigedit") == EditRequest(
        case_id="0",
        subject="Ada Quill",
        prompt="Who employs {}?",
        target_new="Acme",
        relation="P108",
        paraphrases=(
            Probe("Which firm is the employer of Ada Quill?", "Acme"),
            Probe("Arr, who be payin' Ada Quill?", "Acme"),
        ),
        neighborhood=(Probe("Who employs Bo Marsh?", "Bolt"),),
        portability=(
            Probe("In which city is the employer of Ada Quill?", "Bonn", kind="multi_hop"),
        ),
    )


@pytest.mark.parametrize("nothing", [None, "", float("nan"), ...])
def test_what_a_record_leaves_blank_is_no_probe(write, nothing):
    data = write(
        [changed(records.WIKIBIGEDIT, mhop=nothing, mhop_ans=nothing, rephrase=nothing)],
        "wikibigedit",
    )
    (request,) = read_requests(data)
    assert (len(request.paraphrases), request.portability) == (1, ())
    assert left_out(data)["probes_without_answer"] == 0


# The subject in the prompt


@pytest.mark.parametrize(
    ("prompt", "subject", "template", "spelled"),
    [
        ("Who is Ed, editor?", "Ed", "Who is {}, editor?", "Ed"),
        ("Edith met Ed's son", "Ed", "Edith met {}'s son", "Ed"),
        ("who sang the long road?", "The Long Road", "who sang {}?", "the long road"),
        ("THE ROAD and the road", "the road", "THE ROAD and {}", "the road"),
        ("彼は東京都に", "東京", "彼は{}都に", "東京"),
        ("Is C++ (1998) old?", "C++ (1998)", "Is {} old?", "C++ (1998)"),
    ],
)
def test_the_subject_is_found_as_whole_words_and_spelled_as_the_prompt_has_it(
    read, prompt, subject, template, spelled
):
    request = read(
        changed(records.FLAT, prompt=prompt, subject=subject, target_new="x"), "counterfact_flat"
    )
    assert (request.prompt, request.subject, request.text) == (template, spelled, prompt)


FULL_TEXT = {
    "counterfact_flat": (records.FLAT, "prompt", "target_new"),
    "zsre": (records.ZSRE, "src", "alt"),
    "qaedit": (records.QAEDIT, "prompt", "target"),
    "knowedit": (records.WIKI_RECENT, "prompt", "target_new"),
    "wikibigedit": (records.WIKIBIGEDIT, "update", "ans"),
}


@pytest.mark.parametrize("form", FULL_TEXT)
def test_broken_records_are_refused_by_line_in_the_words_of_their_file(write, form):
    record, prompt, target = FULL_TEXT[form]
    broken = {
        "subject: 'Edith' does not stand in " + prompt: {"subject": "Edith"},
        "subject: is missing": {"subject": ...},
        f"{prompt}: holds {{}}": {prompt: "Who is {}?"},
        f"{target}: is empty": {target: " "},
        f"{target}: is missing": {target: ...},
        f"{target}: is a number": {target: 5},
        "subjec: did you mean 'subject'": {"subjec": "x"},
    }
    for words, change in broken.items():
        data = write([record, changed(record, **change)], form)
        with pytest.raises(RequestError, match=r"1 of 2 requests are broken") as error:
            read_requests(data)
        assert f", field {words}" in str(error.value)
    text = read_text(data)
    line = text[: text.rindex("\n {\n") + 1].count("\n") + 1
    assert f"line {line}, " in str(error.value)


def read_text(data):
    with open(data.path, encoding="utf-8") as file:  # noqa: PTH123
        return file.read()


@pytest.mark.parametrize(
    ("form", "record", "words"),
    [
        ("mquake", changed(records.MQUAKE[0], requested_rewrite=[]), "at least one rewrite"),
        ("mquake", changed(records.MQUAKE[0], requested_rewrite=[5]), "is a number, an object"),
        ("mquake", changed(records.MQUAKE[0], case_id=...), "field case_id"),
        ("rippleedits", changed(records.RIPPLE, edit={}), "edit.relation: is missing"),
        (
            "rippleedits",
            changed(records.RIPPLE, edit={"relation": "MOTHER", "prompt": "Ada sings."}),
            "in the published wording of its relation",
        ),
        (
            "rippleedits",
            changed(
                records.RIPPLE,
                edit={"relation": "MOTHER", "prompt": "The name of the mother of Ada is ."},
            ),
            "edit.prompt: is empty",
        ),
        ("knowedit", changed(records.WIKI_RECENT, portability=["x"]), "portability: is a list"),
        (
            "knowedit",
            changed(records.WIKI_RECENT, locality={"Forgetfulness": ["x"]}),
            r"locality.Forgetfulness[0]: is a string",
        ),
        ("qaedit", changed(records.QAEDIT, locality={}), "locality: is an object, a list"),
        ("zsre", changed(records.ZSRE, portability=[1]), "portability: is a list, an object"),
    ],
)
def test_parts_of_the_wrong_shape_are_refused_by_name(write, form, record, words):
    with pytest.raises(RequestError) as error:
        read_requests(write([record], form))
    assert words in str(error.value)
