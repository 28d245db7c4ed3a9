"""The paper's eight tasks: its prompts, its decoding, and scores that an oracle and a constant answer must get."""

import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from edit_sweeps import config as schema
from edit_sweeps.task_scores import Bench, EvalSettings
from edit_sweeps.tasks import TaskSpec, task_names_exist
from tests.paper_documents import SOUND, SOURCES, bench_of

pytest_plugins = ["tests.paper_bench"]

CONF = Path(__file__).parents[1] / "conf"
EIGHT = ["reasoning", "nli", "open_domain_qa", "closed_domain_qa", "dialogue", "summarization", "ner", "sentiment"]  # fmt: skip

PROMPTS = {
    "reasoning": "Q: Ann has 3 pens and buys 15. How many? A:Let's think step by step. 3 + 15 = <<3+15=18>>18 pens.\n"
    " Therefore, the answer (arabic numerals) is:",
    "reasoning_cot": "Q: Ann has 3 pens and buys 15. How many? A:Let's think step by step.",
    "nli": '"We won," said Ingrid Thistledown of Oslo. entails the Ingrid Thistledown is from Oslo.. True or False? answer:',
    "open_domain_qa": "Refer to the passage below and answer the following question. Passage: \n\nThe Tide, a novel, is by "
    "Moor. Moor was born in Oslo. Question: who wrote the tide?",
    "open_domain_qa_closed_book": "Answer the following question. Question: who wrote the tide? Answer:",
    "closed_domain_qa": "Please answer the given question based on the passage. The answer should be exact 'yes' or 'no'. "
    "passage: Oslo is a port. question: is oslo a port. answer:",
    "dialogue": "Q: m : shall we go ? Which choice is correct? Answer Chioces: (A)m : yes .(B)m : no .(C)m : perhaps ."
    "(D)m : why ? A: Among A through D, the answer is",
    "summarization": "Ann: I'll bring cake.\r\nBo: Great!\nTL;DR:",
    "ner": "Please identify Person Entity from the given text. Text: Marlow Quill visited Oslo Entity:",
    "sentiment": "For each snippet of text,label the sentiment of the text as positive or negative.The answer should be "
    "exact 'positive' or 'negative'. text: a warm and quiet film .  answer:",
}
TOKENS = {
    "reasoning": 5, "reasoning_cot": 256, "nli": 1, "open_domain_qa": 20, "open_domain_qa_closed_book": 20,
    "closed_domain_qa": 1, "dialogue": 1, "summarization": 25, "ner": 10, "sentiment": 1,
}  # fmt: skip


@pytest.fixture(scope="session")
def knowing(paper):
    """Answers of a model that knows everything."""
    tasks = {f"paper_{key}": built.tasks[f"paper_{key}"] for key, built in paper.built.items()}
    return lambda request: f" {tasks[request.metadata[0]].doc_to_target(request.doc)}"


@pytest.mark.parametrize("task", PROMPTS)
def test_the_prompt_is_the_papers_word_for_word(paper, task):
    assert paper.built[task].requests[0].args[0] == PROMPTS[task]


def test_every_type_of_entity_is_asked_for_and_commas_and_stops_stay_with_their_word(paper):
    prompts = [request.args[0] for request in paper.built["ner"].requests]
    assert len(prompts) == 3 * 4
    assert prompts[7] == (
        "Please identify Miscellaneous Entity from the given text. "
        "Text: Trinidad and Tobago beat Halden Ostravia, 2-0. Entity:"
    )
    kinds = [prompt.split(" ")[2] for prompt in prompts[:4]]
    assert kinds == ["Person", "Location", "Organization", "Miscellaneous"]


def test_decoding_is_greedy_as_long_as_the_papers_and_without_a_stop_string(paper):
    found = {key: built.requests[0].args[1] for key, built in paper.built.items()}
    assert {key: options["max_gen_toks"] for key, options in found.items()} == TOKENS
    assert not any(options["do_sample"] for options in found.values())
    stops = {key: options["until"] for key, options in found.items() if options["until"]}
    assert stops == {"reasoning_cot": ["Q:"]}


def test_an_oracle_scores_one_on_every_sound_metric_and_is_never_invalid(paper, written, knowing):
    scores = written(paper, knowing)
    assert set(scores) == set(SOUND)
    for task, metric in SOUND.items():
        score = scores[task][metric]
        assert (score.value, score.invalid, score.headline) == (1.0, 0.0, True), task
        assert set(scores[task]) == {metric, "released"} | ({"f1"} & set(scores[task]))
    assert scores["open_domain_qa"]["f1"].value == 1.0


def test_chance_and_number_of_documents_are_told(paper, written):
    scores = written(paper, lambda request: "")
    facts = {task: (scores[task][m].chance, scores[task][m].n) for task, m in SOUND.items()}
    assert facts == {
        "reasoning": (0.0, 4), "reasoning_cot": (0.0, 4), "nli": (0.5, 4), "open_domain_qa": (0.0, 4),
        "open_domain_qa_closed_book": (0.0, 3), "closed_domain_qa": (0.5, 4), "dialogue": (0.25, 4),
        "summarization": (0.0, 3), "ner": (0.0, 12), "sentiment": (0.5, 3),
    }  # fmt: skip
    guessed = {task: metrics["released"].chance for task, metrics in scores.items()}
    assert guessed["open_domain_qa"] is None, "its score is not a share of documents"
    right = {"nli": 0.5, "closed_domain_qa": 0.5, "dialogue": 0.25, "sentiment": 0.5}
    assert {task: guessed[task] for task in right} == right


def test_the_released_score_of_open_qa_has_no_chance_as_the_headline_either(files, written):
    data = str(files["nq_open_passages"])
    spec = TaskSpec("paper_open_domain_qa", folder="paper", data=data, headline="released")
    found = written(Bench({"qa": spec}, EvalSettings()), lambda request: "")["qa"]
    assert (found["released"].headline, found["released"].chance) == (True, None)
    assert (found["exact_match"].headline, found["exact_match"].chance) == (False, 0.0)
    # It is not 0 without an answer.
    assert found["released"].value > 0


@pytest.mark.parametrize(
    ("answer", "shares"),
    [
        (" True", {"nli": 2 / 4}),
        (" positive", {"sentiment": 2 / 3}),
        (" yes", {"closed_domain_qa": 2 / 4}),
        (" A", {"dialogue": 1 / 4}),
        (" 18", {"reasoning": 1 / 4, "reasoning_cot": 1 / 4}),
        (" Oslo", {"open_domain_qa": 1 / 4, "open_domain_qa_closed_book": 1 / 3}),
        # One of the five names, and 11 prompts that do not ask for it: 2 / (2 + 11 + 4).
        (" Oslo\n", {"ner": 2 / 17}),
    ],
)
def test_a_constant_answer_scores_its_share(paper, written, answer, shares):
    scores = written(paper, lambda request: answer)
    assert {task: scores[task][SOUND[task]].value for task in shares} == pytest.approx(shares)


@pytest.fixture
def roomy(tiny_model):
    """A tiny random GPT-2 that has room for 256 new tokens."""
    return tiny_model("gpt2", max_position_embeddings=512)


def test_a_random_model_is_scored_on_all_tasks(paper, roomy):
    results = paper.score(roomy)
    assert results.errors == {}
    assert set(results.scores) == set(SOUND)
    for task, metrics in results.scores.items():
        for score in metrics.values():
            assert 0 <= score.value <= 1, task
            assert 0 <= score.invalid <= 1
    assert len(set(results.prompt_hashes.values())) == 10


def test_prompts_do_not_change_with_an_edit_and_answers_do(files, roomy):
    keys = ("summarization", "open_domain_qa", "ner")
    bench = bench_of({key: files[SOURCES[key]] for key in keys})
    before = bench.score(roomy)
    wrote = [request.resps[0] for key in keys for request in bench.built[key].requests]
    weight = roomy.parameter(roomy.parameter_name(1))
    weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    after = bench.score(roomy)
    assert after.prompt_hashes == before.prompt_hashes
    assert wrote != [request.resps[0] for key in keys for request in bench.built[key].requests]


def test_a_model_of_nans_scores_zero_and_is_invalid(paper, roomy):
    roomy.parameter(roomy.parameter_name(0)).view(-1)[0] = math.nan
    results = paper.score(roomy)
    assert results.errors == {}
    for task, metrics in results.scores.items():
        assert metrics[SOUND[task]].value == 0.0, task
        assert {score.invalid for score in metrics.values()} == {1.0}
    released = {task: metrics["released"].value for task, metrics in results.scores.items()}
    # Two released scorers find something in no answer at all. Open QA searches the passages: "Moor"
    # twice in the first, "Ada Moor" in the second, nothing once the flag is up: 3 / 4. NER finds the
    # empty name that it made of "Oslo" at the end of a sentence: 1 of 3 locations, (1 / 3) / 4.
    assert {task: value for task, value in released.items() if value} == pytest.approx(
        {"open_domain_qa": 3 / 4, "ner": 1 / 12}
    )


def test_a_smaller_draw_is_part_of_a_larger_one_and_not_the_first(files):
    data = {key: files[SOURCES[key]] for key in ("reasoning", "ner")}
    drawn = [bench_of(data, limit=n).built for n in (1, 2, 3)]
    for task in data:
        one, two, three = (set(*built[task].documents.values()) for built in drawn)
        assert one < two < three
    assert drawn[2]["ner"].documents != {"paper_ner": [0, 1, 2]}


def test_the_bundle_composes_and_each_task_alone_is_one_that_exists():
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert list(compose("config", overrides=["task=paper8"]).task) == EIGHT
    options = {key: OmegaConf.load(CONF / "task" / f"{key}.yaml") for key in SOUND}
    assert {key: list(option) for key, option in options.items()} == {key: [key] for key in SOUND}
    specs = {key: TaskSpec(**option[key]) for key, option in options.items()}
    task_names_exist(specs)
    assert {(spec.folder, spec.data) for spec in specs.values()} == {("paper", None)}
