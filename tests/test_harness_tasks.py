"""`ll8` and the other suites, from a data folder in the hub's layout with the network forbidden."""

import contextlib
import copy
import json
import math
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score

from edit_sweeps import data_root, live_lm
from edit_sweeps.task_files import datasets_of, load_tasks
from edit_sweeps.task_scores import Bench, EvalSettings, TaskSpec
from edit_sweeps.tasks import build_task
from tests.hub_folder import (
    Told,
    no_network,
    options,
    subjects,
    write_hub,
    write_repository,
    write_two_subjects,
)

REAL = Path(__file__).parents[2] / "shared" / "data" / "tasks"
LL8 = [
    "ll_reasoning",
    "ll_nli",
    "ll_open_domain_qa",
    "ll_closed_domain_qa",
    "ll_dialogue",
    "ll_summarization",
    "ll_ner",
    "ll_sentiment",
]
ALPHAEDIT = [f"alphaedit_{name}" for name in ("sst", "mrpc", "cola", "rte", "nli", "mmlu")]
OTHERS = ["hellaswag", "truthfulqa_mc1", "truthfulqa_mc2", "lambada", "wikitext", "perplexity"]


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with no_network(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_hub(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def bench(root):
    """All suites but MMLU, built once."""
    names = ("ll8", "hellaswag", "truthfulqa", "lambada", "wikitext", "perplexity")
    with data_root.using(root):
        built = Bench(options(*names, "glue_alphaedit"), EvalSettings(batch_size=16))
    assert built.errors == {}
    assert list(built.built) == [*LL8, *OTHERS, *ALPHAEDIT]
    return built


def answered(bench, monkeypatch, model, **told):
    """Headline of each task when `Told` answers."""
    tasks = {name: task for built in bench.built.values() for name, task in built.tasks.items()}
    lm = Told(tasks, **told)
    monkeypatch.setattr(live_lm, "live", lambda *_, **__: contextlib.nullcontext(lm))
    monkeypatch.setattr(Bench, "_dead", lambda self, model: False)
    found = bench.score(model)
    assert found.errors == {}
    return {name: headline(scores) for name, scores in found.scores.items()}


def headline(scores):
    (head,) = [score for score in scores.values() if score.headline]
    return head


def test_an_oracle_scores_one_in_every_task(bench, monkeypatch, tiny):
    found = answered(bench, monkeypatch, tiny)
    assert len(found) == 20
    for name, head in found.items():
        best = 0.0 if name in {"wikitext", "perplexity"} else 1.0
        assert (head.value, head.invalid) == (pytest.approx(best), 0.0), name


def test_chance_is_stated(bench, monkeypatch, tiny):
    found = answered(bench, monkeypatch, tiny)
    chance = {name: head.chance for name, head in found.items()}
    half = ["ll_nli", "ll_closed_domain_qa", "ll_sentiment", *ALPHAEDIT[:-1]]
    quarter = ["ll_dialogue", "hellaswag", "alphaedit_mmlu"]
    none = ["truthfulqa_mc2", "wikitext", "perplexity"]
    assert {name for name, c in chance.items() if c == 0.5} == set(half)
    assert {name for name, c in chance.items() if c == 0.25} == set(quarter)
    assert {name for name, c in chance.items() if c is None} == set(none)
    assert chance["truthfulqa_mc1"] == pytest.approx((1 / 3 + 1 / 4 + 1 / 5) / 3)
    assert {chance[n] for n in ("ll_reasoning", "ll_ner", "lambada")} == {0.0}


def test_every_metric_keeps_its_own_chance_when_another_is_the_headline(root, monkeypatch, tiny):
    chances = {"acc": 0.25, "r@2": 0.5, "mrr": pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)}
    for name, found in (("mutual", chances), ("alphaedit_sst", None), ("alphaedit_mmlu", None)):
        folder = "loglikelihood" if found else "glue_alphaedit"
        share = 0.25 if name.endswith("mmlu") else 0.5
        expected = found or dict.fromkeys(("f1", "acc", "released"), share)
        for chosen in expected:
            with data_root.using(root):
                spec = TaskSpec(name, folder=folder, headline=chosen)
                bench = Bench({name: spec}, EvalSettings())
            lm = Told({name: bench.built[name].tasks[name]})
            monkeypatch.setattr(live_lm, "live", lambda *_, lm=lm, **__: contextlib.nullcontext(lm))
            monkeypatch.setattr(Bench, "_dead", lambda self, model: False)
            scores = bench.score(tiny).scores[name]
            assert scores[chosen].headline
            assert {metric: score.chance for metric, score in scores.items()} == expected


def test_a_constant_choice_scores_its_share(bench, monkeypatch, tiny):
    first = answered(bench, monkeypatch, tiny, choice=0, text="")
    last = answered(bench, monkeypatch, tiny, choice=1, text="")
    assert first["ll_nli"].value == pytest.approx(4 / 12)
    assert first["ll_closed_domain_qa"].value == pytest.approx(2 / 10)
    assert first["ll_sentiment"].value == pytest.approx(3 / 12)
    assert first["ll_dialogue"].value == pytest.approx(2 / 8)
    assert first["hellaswag"].value == pytest.approx(4 / 8)
    assert last["ll_nli"].value == pytest.approx(8 / 12)
    assert last["truthfulqa_mc1"].value == 0.0
    assert last["truthfulqa_mc2"].value == pytest.approx(1.0, abs=1e-3)


def test_a_constant_text_scores_its_share(bench, monkeypatch, tiny):
    town = answered(bench, monkeypatch, tiny, text=" Velmora")
    assert town["ll_open_domain_qa"].value == pytest.approx(2 / 8)
    assert (town["ll_ner"].value, town["ll_ner"].invalid) == (0.0, 1.0)
    person = answered(bench, monkeypatch, tiny, text=" Bob (PER); Bob (PER)")
    # 6 of 8 sentences have Ann Bell, Halden ( UK ) Ltd, Bob and a town; one Bob of two is right.
    assert person["ll_ner"].value == pytest.approx(2 * 6 / (2 * 8 + 4 * 6))
    number = answered(bench, monkeypatch, tiny, text=" it is 1,010")
    assert number["ll_reasoning"].value == pytest.approx(1 / 4)
    one = answered(bench, monkeypatch, tiny, text=" positive, Yes, True, A")
    half = [one[name].value for name in ALPHAEDIT[:-1]]
    assert half == [pytest.approx(1 / 3)] * 5
    assert one["alphaedit_mmlu"].value == pytest.approx(0.25 * 2 * 0.25 / 1.25)


def test_a_network_of_nans_gets_nothing(bench, tiny_model):
    model = tiny_model("gpt2", max_position_embeddings=600)
    with torch.no_grad():
        model.network.transformer.ln_f.weight.fill_(math.nan)
    found = bench.score(model)
    assert found.errors == {}
    for name, scores in found.scores.items():
        head = headline(scores)
        worst = None if name in {"wikitext", "perplexity"} else 0.0
        assert (head.value, head.invalid) == (worst, 1.0), name


def test_a_random_network_runs_them_with_the_same_prompts_before_and_after(bench, tiny_model):
    model = tiny_model("gpt2", max_position_embeddings=600)
    before = bench.score(model)
    with torch.no_grad():
        model.network.transformer.wte.weight.mul_(1.1)
    again = copy.copy(bench)  # without the task that writes 256 tokens, for time
    again.built = {name: built for name, built in bench.built.items() if name != "ll_reasoning"}
    after = again.score(model)
    assert before.errors == after.errors == {}
    assert len(after.prompt_hashes) == len(before.prompt_hashes) - 1 == 19
    assert after.prompt_hashes.items() <= before.prompt_hashes.items()
    for name, scores in after.scores.items():
        head = headline(scores)
        assert head.value is not None, name
        assert head.value >= 0, name
        assert (head.value <= 1) or name in {"wikitext", "perplexity"}, name
    assert (
        before.scores["wikitext"]["bits_per_byte"] == before.scores["perplexity"]["bits_per_byte"]
    )
    assert before.scores["wikitext"]["bits_per_byte"] != after.scores["wikitext"]["bits_per_byte"]


def test_the_packaged_mutual_is_right_just_where_the_answer_is_b(root):
    """Why `ll_dialogue` has a file of its own. lm-eval 0.4.13: an oracle scores the share of B."""
    rows = [json.loads(p.read_text()) for p in (root / "files/mutual/dev").iterdir()]
    counts = Counter(row["answers"] for row in rows)
    folder = root / "datasets" / "EleutherAI" / "mutual"
    write_repository(folder, {"mutual": {"train": rows, "validation": rows}})
    with data_root.using(root):
        (task,) = load_tasks("mutual", None).values()
    oracle = [
        [(-1.0 if number == "ABCD".index(doc["answers"]) else -9.0, False) for number in range(4)]
        for doc in task.eval_docs
    ]
    found = [
        float(task.process_results(doc, results)["r@1"])
        for doc, results in zip(task.eval_docs, oracle, strict=True)
    ]
    assert sum(found) / len(found) == counts["B"] / len(rows) == 0.25


def test_prompts_and_answers_are_those_of_lm_eval(root, bench):
    """nq_open and truthfulqa_mc2 have files of ours, which change the number of new tokens and the score."""
    with data_root.using(root):
        for key, name in (("ll_open_domain_qa", "nq_open"), ("truthfulqa_mc2", "truthfulqa_mc2")):
            theirs = build_task(TaskSpec(name), EvalSettings())
            ours = bench.built[key]
            first, second = (
                [tuple(str(a) for a in r.args if not isinstance(a, dict)) for r in built.requests]
                for built in (theirs, ours)
            )
            assert first == second
            assert len(first) > 5
    assert bench.built["ll_open_domain_qa"].requests[0].args[1]["max_gen_toks"] == 32


def test_every_task_says_what_its_prompt_looks_like(bench):
    prompts = {name: built.requests[0].args[0] for name, built in bench.built.items()}
    assert prompts["ll_reasoning"].count("Question:") == 6
    assert prompts["ll_ner"].count("Sentence:") == 5
    assert prompts["ll_summarization"].count("Dialogue:") == 2
    assert prompts["ll_dialogue"] == "f: where is film 0 from?"
    assert prompts["alphaedit_cola"].endswith("\nAnswer: ")
    assert prompts["alphaedit_sst"].startswith("Review :a ")
    assert " entails the Ingrid bakes. True or False? Answer:" in prompts["alphaedit_nli"]


def test_glue_subsets_are_balanced_and_at_most_a_hundred(bench, tmp_path):
    for name, each in (("alphaedit_rte", 4), ("alphaedit_nli", 4), ("alphaedit_mmlu", 3)):
        (task,) = bench.built[name].tasks.values()
        assert set(Counter(doc["answer"] for doc in task.eval_docs).values()) == {each}
    write_repository(tmp_path / "datasets/cais/mmlu", {"all": {"test": list(subjects(333))}})
    with data_root.using(tmp_path):
        (task,) = load_tasks("alphaedit_mmlu", "glue_alphaedit").values()
    assert Counter(doc["answer"] for doc in task.eval_docs) == dict.fromkeys("ABCD", 25)
    assert len({doc["question"] for doc in task.eval_docs}) == 100


def test_weighted_f1_is_scikit_learns(bench):
    (task,) = bench.built["alphaedit_mmlu"].tasks.values()
    weighted_f1 = task.config.metric_list[0]["aggregation"]
    generator = torch.Generator().manual_seed(0)
    gold = torch.randint(0, 4, (50,), generator=generator).tolist()
    predicted = torch.randint(-1, 4, (50,), generator=generator).tolist()
    expected = f1_score(gold, predicted, average="weighted")
    assert weighted_f1(list(zip(gold, predicted, strict=True))) == pytest.approx(expected)


@pytest.fixture
def two_subjects(tmp_path):
    return write_two_subjects(tmp_path)


def test_mmlu_is_pooled_over_the_documents_of_its_subjects(root, two_subjects, monkeypatch, tiny):
    spec = TaskSpec("two", folder=two_subjects, num_fewshot=5, headline="acc", chance=0.25)
    with data_root.using(root):
        bench = Bench({"mmlu": spec}, EvalSettings())
    assert bench.errors == {}
    assert bench.built["mmlu"].requests[0].args[0].count("Answer:") == 6
    right = answered(bench, monkeypatch, tiny)["mmlu"]
    assert (right.value, right.n, right.chance) == (1.0, 12, 0.25)
    constant = answered(bench, monkeypatch, tiny, choice=0)["mmlu"]
    assert constant.value == pytest.approx(3 / 12)
    assert {d.split("/")[0] for d in constant.samples} == {"mmlu_anatomy", "mmlu_astronomy"}


@pytest.mark.slow
def test_all_of_mmlu_is_one_task(tmp_path, monkeypatch, tiny):
    subsets = {data.subset: {} for data in datasets_of("mmlu", None)}
    for number, name in enumerate(subsets):
        subsets[name] = {"dev": list(subjects(5)), "test": list(subjects(2 + number % 3))}
    write_repository(tmp_path / "datasets/cais/mmlu", subsets)
    with data_root.using(tmp_path):
        bench = Bench(options("mmlu"), EvalSettings())
    right = answered(bench, monkeypatch, tiny)["mmlu"]
    assert (right.value, right.n, right.chance) == (1.0, sum(2 + n % 3 for n in range(57)), 0.25)
    constant = answered(bench, monkeypatch, tiny, choice=0)["mmlu"]
    assert constant.value == pytest.approx(57 / right.n)


def test_a_blown_up_model_has_bits_but_no_perplexity(root, monkeypatch, tiny):
    with data_root.using(root):
        bench = Bench(options("wikitext"), EvalSettings())
    answers = Told({})
    answers.loglikelihood_rolling = lambda requests: [-1e7 for _ in requests]
    monkeypatch.setattr(live_lm, "live", lambda *_, **__: contextlib.nullcontext(answers))
    monkeypatch.setattr(Bench, "_dead", lambda self, model: False)
    found = bench.score(tiny)
    assert found.errors == {}
    assert found.scores["wikitext"]["word_perplexity"].value is None
    assert found.scores["wikitext"]["bits_per_byte"].value > 1e5


needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real files of ../shared/data are absent"
)


@needs_real
@pytest.mark.parametrize(
    ("key", "file", "n", "shares"),
    [
        ("ll_closed_domain_qa", "boolq_dev.500.jsonl", 500, {1: 0.630}),
        ("ll_nli", "rte_train.500.tsv", 500, {0: 0.490}),
        ("ll_sentiment", "sst2_dev.tsv", 872, {1: 0.509}),
        ("ll_dialogue", "mutual_dev", 200, {0: 0.260}),
        ("ll_open_domain_qa", "nq_open_dev.jsonl", 100, {}),
        ("ll_reasoning", "gsm8k", 100, {}),
    ],
)
def test_real_files_give_the_known_shares(key, file, n, shares, tmp_path, monkeypatch, tiny):
    path = REAL / file
    if file == "gsm8k":
        path = tmp_path
        shutil.copy(REAL / "gsm8k_train.200.jsonl", path / "train.jsonl")
        shutil.copy(REAL / "gsm8k_test.jsonl", path / "test.jsonl")
    spec = options(key)[key]
    given = TaskSpec(spec.name, folder=spec.folder, headline=spec.headline, data=str(path))
    # Constant choices need the whole file; what is written gets a hundred documents of it, for time.
    bench = Bench({key: given}, EvalSettings(limit=None if shares else n))
    assert bench.errors == {}
    right = answered(bench, monkeypatch, tiny)[key]
    assert (right.value, right.n) == (1.0, n)
    for choice, share in shares.items():
        constant = answered(bench, monkeypatch, tiny, choice=choice)[key]
        assert round(constant.value, 3) == share
