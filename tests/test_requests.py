"""Reading, refusing, sampling and cleaning of edit requests."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest

from edit_sweeps import requests as module
from edit_sweeps.requests import (
    EditRequest,
    Probe,
    RequestError,
    check_count,
    count_requests,
    digest,
    drop_edited_probes,
    load_requests,
    read_requests,
    superseded,
)


@dataclass
class Data:
    path: str | None
    name: str = "jsonl"
    format: str = "jsonl"
    order: str = "sampled"
    skip: int = 0
    repeat: bool = False


def line(i=0, **changes):
    fields = {
        "case_id": i,
        "subject": f"Person {i}",
        "prompt": "{} lives in",
        "target_new": "Rome",
        "target_true": "Paris",
    }
    return {k: v for k, v in (fields | changes).items() if v is not ...}


@pytest.fixture
def lines(tmp_path):
    """Writes JSON lines; strings are written as they are."""

    def write(*items, name="facts.jsonl", **settings):
        path = tmp_path / name
        rows = (i if isinstance(i, str) else json.dumps(i, ensure_ascii=False) for i in items)
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return Data(str(path), **settings)

    return write


@pytest.fixture
def many(lines):
    return lines(*(line(i) for i in range(30)))


COUNTERFACT = [
    {
        "case_id": 7,
        "pararel_idx": 2796,
        "requested_rewrite": {
            "prompt": "The mother tongue of {} is",
            "relation_id": "P103",
            "target_new": {"str": "English", "id": "Q1860"},
            "target_true": {"str": "French", "id": "Q150"},
            "subject": "Danielle Darrieux",
        },
        "paraphrase_prompts": ["Shayna does this. Danielle Darrieux, a native"],
        "neighborhood_prompts": ["The mother tongue of Léon Blum is", "Michel Rocard speaks"],
        "attribute_prompts": ["J.R.R. Tolkien, a native"],
        "generation_prompts": ["Danielle Darrieux's mother tongue is"],
    },
    {
        "case_id": 9,
        "requested_rewrite": {
            "prompt": "{} is located in",
            "relation_id": "P30",
            "target_new": {"str": "Asia"},
            "target_true": {"str": "Antarctica"},
            "subject": "Vinson Massif",
        },
        "paraphrase_prompts": [],
        "neighborhood_prompts": [],
    },
]


@pytest.fixture
def counterfact(tmp_path):
    def write(items):
        path = tmp_path / "counterfact.json"
        text = items if isinstance(items, str) else json.dumps(items, indent=1, ensure_ascii=False)
        path.write_text(text, encoding="utf-8")
        return Data(str(path), name="counterfact", format="counterfact")

    return write


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


def test_a_neighbor_whose_answer_is_the_new_target_has_no_alternative(lines):
    (request,) = read_requests(lines(line(neighborhood=[{"prompt": "Bo", "target": "Rome"}])))
    assert request.neighborhood == (Probe("Bo", "Rome", None),)


def test_text_is_normalised_and_unicode_kept(lines):
    (request,) = read_requests(
        lines(
            line(
                subject="Zoë 東京",
                prompt="{} lebt in ",
                target_new=" Köln",
                target_true="  x\u2028y",
            )
        )
    )
    assert (request.subject, request.prompt) == ("Zoë 東京", "{} lebt in")
    assert (request.target_new, request.target_true) == ("Köln", " x\u2028y")


def test_blank_lines_and_a_byte_order_mark_are_passed_over(lines):
    data = lines("\ufeff" + json.dumps(line(1)), "", "  ", line(2))
    assert [r.case_id for r in read_requests(data)] == ["1", "2"]
    assert count_requests(data) == 2


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
    data = Data(None, name="miniature", format="miniature")
    if not module.MINIATURE_FILE.exists():
        pytest.skip("the miniature's requests are not there yet")
    requests = read_requests(data)
    assert len(requests) == count_requests(data) >= 500
    assert all(r.target_true and r.relation and r.paraphrases for r in requests)
    for field in ("neighborhood", "other_facts", "portability"):
        assert sum(bool(getattr(r, field)) for r in requests) >= 500, field


# Refusing

BROKEN = {
    "no subject": (line(subject=...), "subject", "is missing"),
    "empty subject": (line(subject=" "), "subject", "is empty"),
    "null subject": (line(subject=None), "subject", "is null, a string is needed"),
    "empty target": (line(target_new=" "), "target_new", "is empty"),
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


def test_a_json_list_as_json_lines_is_explained(lines):
    with pytest.raises(RequestError, match="one object a line is needed"):
        read_requests(lines("[", json.dumps(line(1)), "]"))


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


@pytest.mark.parametrize("form", ["jsonl", "counterfact"])
def test_a_data_set_without_path_asks_for_one(form):
    with pytest.raises(RequestError, match=r"give dataset\.path=FILE"):
        read_requests(Data(None, name=form, format=form))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "csv"}, "dataset.format=csv: allowed are miniature, jsonl, counterfact"),
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
        ('{"case_id": 1}\n', "is not a JSON list.*dataset=jsonl"),
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


# Cleaning


def ask(case_id, subject, new="Rome", relation="lives_in", prompt="{} lives in", **probes):
    return EditRequest(
        case_id=case_id,
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


def test_writing_a_request_again_supersedes_nothing(lines):
    data = lines(line(1), line(2), repeat=True)
    requests = load_requests(data, 4, seed=0)
    assert len(requests) == 4
    assert superseded(requests) == set()
    assert drop_edited_probes(requests) == (requests, 0)


def test_the_miniature_loses_only_probes_that_the_cell_edits():
    data = Data(None, name="miniature", format="miniature")
    if not module.MINIATURE_FILE.exists():
        pytest.skip("the miniature's requests are not there yet")
    requests = load_requests(data, 300, seed=0)
    kept, dropped = drop_edited_probes(requests)
    edited = {(r.subject, r.relation) for r in requests}
    asked = [(p.subject, p.relation) for r in kept for p in (*r.neighborhood, *r.other_facts)]
    assert 0 < dropped < 0.5 * sum(len(r.neighborhood) + len(r.other_facts) for r in requests)
    assert len(asked) > 1000
    assert not edited & set(asked)
