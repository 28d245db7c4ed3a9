"""Probes about what the cell itself edits, and requests that a later one overrides."""

import pytest

from edit_sweeps import requests as module
from edit_sweeps.edited_probes import drop_edited_probes, superseded
from edit_sweeps.requests import EditRequest, Probe, load_requests
from tests.request_files import MINIATURE, line, write_lines


def ask(
    case_id, subject, new="Rome", relation="lives_in", prompt="{} lives in", case=None, **probes
):
    return EditRequest(
        case_id=case_id,
        case=case,
        subject=subject,
        prompt=prompt,
        target_new=new,
        target_true="Paris",
        relation=relation,
        **{k: tuple(v) for k, v in probes.items()},
    )


def prompts(request, field):
    return [p.prompt for p in getattr(request, field)]


def test_a_probe_about_another_request_is_dropped_and_counted():
    anna = ask(
        "1",
        "Anna Bell",
        relation=None,
        neighborhood=[
            Probe("Bo Lee  lives in", "Paris"),
            Probe("Bo's home is", "Paris"),
            Probe("Cy Roe lives in", "Paris"),
        ],
        portability=[Probe("Bo Lee lives in", "Paris"), Probe("Anna eats in", "Rome")],
    )
    bo = ask("2", "Bo Lee", relation=None, paraphrases=[Probe("Bo's home is", "Rome")])
    (anna, bo), dropped = drop_edited_probes([anna, bo])
    assert dropped == 3
    assert prompts(anna, "neighborhood") == ["Cy Roe lives in"]
    assert prompts(anna, "portability") == ["Anna eats in"]
    assert prompts(bo, "paraphrases") == ["Bo's home is"]


def test_a_neighbor_is_known_by_subject_and_relation_under_any_wording():
    neighbors = [
        Probe("People say that bo lee's home is in", "Paris"),
        Probe("Bo Leeds resides in", "Paris"),
        Probe("The one who lives next door", "Paris", subject="Bo Lee"),
    ]
    anna = ask("1", "Anna Bell", neighborhood=neighbors)
    (anna, _), dropped = drop_edited_probes([anna, ask("2", "Bo Lee")])
    assert (dropped, prompts(anna, "neighborhood")) == (2, ["Bo Leeds resides in"])
    anna = ask("1", "Anna Bell", neighborhood=neighbors)
    _, dropped = drop_edited_probes([anna, ask("2", "Bo Lee", relation="works_in")])
    assert dropped == 0


def test_accents_belong_to_the_letters_of_a_name():
    neighbors = [Probe("Near Rene\u0301 lives", "Paris"), Probe("q\u0303 lives in", "Paris")]
    anna = ask("1", "Anna Bell", neighborhood=neighbors)
    assert drop_edited_probes([anna, ask("2", "Rene"), ask("3", "q")])[1] == 0
    assert drop_edited_probes([anna, ask("2", "Ren\u00e9"), ask("3", "q\u0303")])[1] == 2


def test_a_neighbor_may_name_the_requests_own_subject():
    anna = ask("1", "Anna Bell", neighborhood=[Probe("Unlike Anna Bell, Cy Roe lives in", "Paris")])
    assert drop_edited_probes([anna, ask("2", "Bo")])[1] == 0


def test_other_facts_of_a_subject_that_is_edited_twice_are_dropped():
    born = Probe("The birthplace of Anna is", "Bonn", relation="born_in")
    works = Probe("Anna works for", "Acme", relation="works_for")
    first = ask("1", "Anna", other_facts=[born, works])
    second = ask("2", "Anna", relation="born_in", prompt="{} was born in")
    (first, _), dropped = drop_edited_probes([first, second])
    assert (dropped, first.other_facts) == (1, (works,))


def test_paraphrases_fall_only_to_a_later_request_with_another_target():
    rewording = [Probe("The home of Anna is", "Rome")]
    early = ask("1", "Anna", paraphrases=rewording)
    for later, expected in (("Oslo", 1), ("Rome", 0)):
        late = ask("2", "Anna", new=later, prompt="{} has a house in")
        assert drop_edited_probes([early, late])[1] == expected
        assert drop_edited_probes([late, early])[1] == 0


def test_nothing_is_dropped_from_unrelated_requests_or_a_single_one():
    probes = {
        "paraphrases": [Probe("The home of Anna is", "Rome")],
        "neighborhood": [Probe("Cy lives in", "Paris")],
        "other_facts": [Probe("Anna lives in", "Paris", relation="lives_in")],
    }
    requests = [ask("1", "Anna", **probes), ask("2", "Bo"), ask("3", "!?")]
    assert drop_edited_probes(requests) == (requests, 0)
    assert drop_edited_probes([]) == ([], 0)


def test_a_request_is_superseded_by_a_later_one_on_the_same_fact():
    first = ask("1", "Anna")
    assert superseded([first, ask("2", "Anna", new="Oslo")]) == {"1"}
    assert superseded([first, ask("2", "Anna")]) == set()
    assert superseded([first, ask("2", "Anna", new="Oslo", prompt="{} rests in")]) == {"1"}
    assert (
        superseded([first, ask("2", "Anna", new="Oslo", relation="born_in", prompt="{} x")])
        == set()
    )
    late = ask("2", "Anna", "Oslo", None, "{} x", paraphrases=[Probe("Anna lives in", "Oslo")])
    assert superseded([first, late]) == {"1"}
    assert superseded([late, first]) == set()


def test_questions_of_a_case_fall_when_any_of_its_edits_is_overridden():
    question = [Probe("Where do Anna's neighbors live?", "Rome", kind="multi_hop")]
    first = ask("7-0", "Anna", case="7")
    last = ask("7-1", "Bo", case="7", portability=question)
    other = ask("8", "Anna", new="Oslo", portability=question)
    (_, last_kept, other_kept), dropped = drop_edited_probes([first, last, other])
    assert (dropped, last_kept.portability, len(other_kept.portability)) == (1, (), 1)
    assert drop_edited_probes([first, last, ask("8", "Cy", new="Oslo")])[1] == 0


def test_writing_a_request_again_supersedes_nothing(tmp_path):
    data = write_lines(tmp_path, line(1), line(2), repeat=True)
    requests = load_requests(data, 4, seed=0)
    assert len(requests) == 4
    assert superseded(requests) == set()
    assert drop_edited_probes(requests) == (requests, 0)


def test_the_miniature_loses_only_probes_that_the_cell_edits():
    if not module.MINIATURE_FILE.exists():
        pytest.skip("the miniature's requests are not there yet")
    requests = load_requests(MINIATURE, 300, seed=0)
    kept, dropped = drop_edited_probes(requests)
    edited = {(r.subject, r.relation) for r in requests}
    asked = [(p.subject, p.relation) for r in kept for p in (*r.neighborhood, *r.other_facts)]
    assert 0 < dropped < 0.5 * sum(len(r.neighborhood) + len(r.other_facts) for r in requests)
    assert len(asked) > 1000
    assert not edited & set(asked)
