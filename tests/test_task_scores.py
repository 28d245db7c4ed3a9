"""lm-eval on a live model: the harness's own numbers, no cache, no trace, and NaN is wrong."""

import contextlib
import json
import logging
import math
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from lm_eval import evaluator
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from submitit.core.utils import UncompletedJobError

from edit_sweeps import live_lm, task_files
from edit_sweeps.statistics import VALUE_ONLY, compare
from edit_sweeps.task_files import check_task, find_file
from edit_sweeps.task_scores import Bench, EvalSettings, TaskSpec, health, task_names_exist
from edit_sweeps.tasks import draw

CONF = Path(__file__).parent.parent / "conf"
PEOPLE = ["Marlow", "Ingrid", "Danielle", "Halden", "Ostravia", "Léon", "Paris", "Velmora"]
PLACES = ["Brackenford", "Velmora", "London", "the river", "Rome"]

METRICS = '''
import random

import numpy as np
import torch


def margin(doc, results):
    """How much likelier the right choice is, in nats; and the draws that tasks like to make."""
    random.random(), np.random.rand(), torch.rand(1)
    scores = [ll for ll, _ in results]
    other = max(s for i, s in enumerate(scores) if i != doc["label"])
    right = float(scores[doc["label"]] > other)
    return {"margin": scores[doc["label"]] - other, "acc": right}


def spans(doc, results):
    """Words in common; invalid when there is no answer."""
    found, gold = set(results[0].split()), set(doc["answer"].split())
    hits = len(found & gold)
    return {"f1": (hits, len(found) - hits, len(gold) - hits), "invalid": float(not found)}


def micro_f1(counts):
    tp, fp, fn = (sum(column) for column in zip(*counts))
    return 2 * tp / (2 * tp + fp + fn)


def fails(doc, results):
    if doc["number"] == 3:
        raise FAILURE
    return {"acc": 1.0}


FAILURE = ValueError("document 3 is bad")
'''

SHARED = """
dataset_path: json
dataset_kwargs: {{data_files: {{train: {train}, test: {test}}}, cache_dir: {cache}}}
training_split: train
test_split: test
fewshot_split: train
doc_to_text: prompt
doc_to_target: answer
metadata: {{version: 1.0}}
"""
CHOICE = "include: _shared.yaml\noutput_type: multiple_choice\ndoc_to_target: label\ndoc_to_choice: choices\n"
WRITE = "include: _shared.yaml\noutput_type: generate_until\n"
TASKS = {
    "choice": CHOICE,
    "shots": CHOICE + "num_fewshot: 2\n",
    "margin": CHOICE
    + """
process_results: !function metrics.margin
metric_list:
  - {metric: margin, aggregation: mean, higher_is_better: true}
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata: {headline: acc, chance: 0.4}
""",
    "pairs": CHOICE
    + "tag: both\nmetric_list: [{metric: mcc}, {metric: acc, aggregation: mean, higher_is_better: true}]\n",
    "writing": WRITE
    + """
tag: both
generation_kwargs: {until: ["e", " "], max_gen_toks: 12, do_sample: true, temperature: 2.0}
process_results: !function metrics.spans
metric_list:
  - {metric: f1, aggregation: !function metrics.micro_f1, higher_is_better: true}
  - {metric: invalid, aggregation: mean, higher_is_better: false}
""",
    "filtered": WRITE
    + """
generation_kwargs: {until: ["."], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - {name: strict-match, filter: [{function: regex, regex_pattern: "^(Brack)$"}, {function: take_first}]}
  - {name: flexible-extract, filter: [{function: take_first}]}
""",
    "prose": """include: _shared.yaml
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: prompt
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
    "broken": CHOICE
    + "process_results: !function metrics.fails\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
}


def documents(n, seed):
    rng = random.Random(seed)
    for number in range(n):
        choices = rng.sample(PLACES, 2 + number % 2)
        label = rng.randrange(len(choices))
        name = f"{rng.choice(PEOPLE)} {rng.choice(PEOPLE)}"
        tail = " in the morning" * rng.randrange(3)
        yield {
            "number": number,
            "prompt": f"{number}: {name} lives{tail} near",
            "choices": choices,
            "label": label,
            "answer": choices[label],
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of lm-eval tasks over two JSONL files."""
    root = tmp_path_factory.mktemp("tasks")
    for split, n in (("train", 8), ("test", 20)):
        lines = [json.dumps(doc) for doc in documents(n, split)]
        (root / f"{split}.jsonl").write_text("\n".join(lines))
    (root / "metrics.py").write_text(METRICS)
    places = {"train": root / "train.jsonl", "test": root / "test.jsonl", "cache": root / "cache"}
    (root / "_shared.yaml").write_text(SHARED.format(**places))
    for name, text in TASKS.items():
        (root / f"{name}.yaml").write_text(f"task: {name}\n{text}")
    return root


@pytest.fixture(scope="module")
def make(folder):
    """Factory of benches: `make("choice", shots={"limit": 4}, batch_size=3)`."""

    def build(*names, settings=None, **specs):
        tasks = dict.fromkeys(names, {}) | specs
        return Bench(
            {
                key: TaskSpec(**{"name": key, "folder": str(folder), **spec})
                for key, spec in tasks.items()
            },
            EvalSettings(**(settings or {"batch_size": 3})),
        )

    return build


@pytest.fixture(scope="module")
def everything(make):
    """All tasks that work, built once; scored by several tests, which is what a bench is for."""
    return make("choice", "shots", "margin", "pairs", "writing", "filtered", "prose")


def harness(model, folder, names, monkeypatch, **options):
    """What lm-eval itself says, with the tasks read anew."""
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)
    monkeypatch.setattr(HFLM, "_model_generate", greedy_generate)
    with live_lm.quiet():
        return evaluator.simple_evaluate(
            HFLM(model.network, tokenizer=model.tokenizer, batch_size=3, softmax_dtype="float32"),
            tasks=list(names),
            task_manager=TaskManager(include_path=[folder], include_defaults=False),
            bootstrap_iters=0,
            **options,
        )


GENERATE = HFLM._model_generate


def greedy_generate(self, context, max_length, stop, **options):
    """HFLM's own batches and stop criterion, but greedy, as everything here is."""
    options |= {"do_sample": False, "temperature": 0.0}
    return GENERATE(self, context, max_length, stop, **options)


def rows_of(results, task):
    return sorted(results["samples"][task], key=lambda row: (row["filter"], row["doc_id"]))


def test_scores_are_those_of_the_harness(everything, tiny, folder, monkeypatch):
    mine = everything.score(tiny)
    assert mine.errors == {}
    theirs = harness(tiny, folder, TASKS.keys() - {"broken"}, monkeypatch)
    compared = 0
    for task, metrics in mine.scores.items():
        filters = {"filtered": ["strict-match", "flexible-extract"]}.get(task, ["none"])
        for metric in theirs["results"][task]:
            base, _, filter_name = metric.partition(",")
            if filter_name not in filters or "_stderr" in metric or base == "invalid":
                continue
            name = base if filter_name == "none" else f"{base}_{filter_name.replace('-', '_')}"
            assert metrics[name].value == pytest.approx(
                theirs["results"][task][metric], rel=1e-12
            ), name
            assert metrics[name].n == 20
            compared += 1
            rows = [r for r in rows_of(theirs, task) if r["filter"] == filter_name]
            for row in rows if metrics[name].samples else []:
                value = row[base] if isinstance(row[base], tuple) else (row[base],)
                assert metrics[name].samples[str(row["doc_id"])] == [float(x) for x in value]
    assert compared == 12


def test_log_likelihoods_are_those_of_the_harness_bit_for_bit(everything, tiny):
    requests = everything.built["shots"].requests
    theirs = HFLM(tiny.network, tokenizer=tiny.tokenizer, batch_size=3, softmax_dtype="float32")
    with live_lm.live(tiny, batch_size=3, max_length=128) as lm:
        mine = lm.loglikelihood(requests)
    assert mine == theirs.loglikelihood(requests, disable_tqdm=True)
    assert len({ll for ll, _ in mine}) > 15


def test_scoring_twice_gives_the_same_and_an_edit_shows(everything, tiny):
    first = everything.score(tiny)
    assert everything.score(tiny).scores == first.scores
    weight = tiny.parameter(tiny.parameter_name(1))
    kept = weight.clone()
    weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    edited = everything.score(tiny)
    before, after = (r.scores["margin"]["margin"].samples for r in (first, edited))
    assert before.keys() == after.keys()
    assert all(before[d] != after[d] for d in before)
    assert edited.prompt_hashes == first.prompt_hashes
    weight.copy_(kept)
    assert everything.score(tiny).scores == first.scores


def test_a_bench_serves_models_of_other_families(everything, tiny_model):
    for name in ("llama", "gpt_neox"):
        scores = everything.score(tiny_model(name)).scores
        assert set(scores) == set(everything.built)
        assert all(s.value is not None for s in scores["margin"].values())


def test_few_shot_examples_differ_between_documents_and_stay_for_all_models(everything, make):
    prompts = [r.args[0] for r in everything.built["shots"].requests]
    assert len({p.rpartition("\n\n")[0] for p in prompts}) > 10
    again = make("shots", settings={"batch_size": 3})
    assert again.built["shots"].prompt_hash == everything.built["shots"].prompt_hash
    other = make("shots", settings={"batch_size": 3, "seed": 1})
    assert other.built["shots"].prompt_hash != everything.built["shots"].prompt_hash
    none = make(shots={"num_fewshot": 0})
    assert none.built["shots"].prompt_hash == everything.built["choice"].prompt_hash


def test_a_limit_draws_nested_subsets_and_scores_them_as_the_whole_does(make, everything, tiny):
    four, eight = (
        make("margin", settings={"batch_size": 3, "limit": n}).score(tiny).scores["margin"]["acc"]
        for n in (4, 8)
    )
    whole = everything.score(tiny).scores["margin"]["acc"].samples
    assert set(four.samples) < set(eight.samples) < set(whole)
    assert (four.n, eight.n) == (4, 8)
    assert list(map(int, eight.samples)) == sorted(map(int, eight.samples)) != list(range(8))
    assert all(whole[d] == value for d, value in eight.samples.items())


def test_draws_are_nested_sorted_and_bounded():
    assert draw(10, None, 0) is draw(10, 10, 0) is draw(10, 99, 0) is None
    assert draw(10, 0.25, 0) == draw(10, 3, 0)
    assert draw(1000, 50, 0) != draw(1000, 50, 1)
    for small, large in ((1, 2), (7, 40), (40, 900)):
        assert set(draw(1000, small, 3)) < set(draw(1000, large, 3))
        assert draw(1000, large, 3) == sorted(draw(1000, large, 3))


def test_a_tasks_own_limit_goes_before_the_common_one(make):
    bench = make("choice", margin={"limit": 0.1}, settings={"limit": 5})
    counts = {name: len({r.doc_id for r in b.requests}) for name, b in bench.built.items()}
    assert counts == {"choice": 5, "margin": 2}


@pytest.mark.parametrize("limit", [0, -1, 1.0, 2.5, "10", True])
def test_impossible_limits_are_refused(limit):
    with pytest.raises(ValueError, match="between 0 and 1"):
        EvalSettings(limit=limit)
    with pytest.raises(ValueError, match="limit of task x"):
        TaskSpec("x", limit=limit)


@pytest.mark.parametrize("size", ["auto", 0, 1.5, True])
def test_impossible_batch_sizes_are_refused(size):
    with pytest.raises(ValueError, match=r"eval\.batch_size"):
        EvalSettings(batch_size=size)


def test_a_generation_row_stops_on_its_own_and_answers_as_if_alone(everything, tiny):
    requests = everything.built["writing"].requests
    answers, steps = {}, {}
    for size in (1, 20):
        with live_lm.live(tiny, batch_size=size, max_length=128) as lm:
            calls = []
            with tiny.network.register_forward_hook(lambda *_: calls.append(1)) as _:
                answers[size] = lm.generate_until(requests)
            steps[size] = len(calls)
    assert answers[1] == answers[20]
    assert len({len(a) for a in answers[1]}) > 3
    lengths = [len(tiny.tokenizer.encode(a)) for a in answers[1]]
    assert steps[20] <= max(lengths) + 2
    assert steps[1] <= sum(lengths) + 2 * len(requests)


class Oracle(LM):
    """Knows the answer: the right choice is likely, what is written is the answer."""

    def __init__(self):
        super().__init__()
        self.broken, self.cut = frozenset(), 0

    def watch(self, bar):
        pass

    def loglikelihood(self, requests):
        return [(-float(r.idx != r.doc["label"]), r.idx == r.doc["label"]) for r in requests]

    def generate_until(self, requests):
        return [r.doc["answer"] for r in requests]

    def loglikelihood_rolling(self, requests):
        return [0.0 for _ in requests]


@contextlib.contextmanager
def oracle(*_, **__):
    yield Oracle()


def test_an_oracle_scores_one(everything, tiny, monkeypatch):
    monkeypatch.setattr(live_lm, "live", oracle)
    scores = everything.score(tiny).scores
    found = {(t, m): s.value for t, metrics in scores.items() for m, s in metrics.items()}
    perfect = {key for key, value in found.items() if value == 1.0}
    assert found.keys() - perfect == {
        ("filtered", "exact_match_strict_match"),
        ("prose", "bits_per_byte"),
    }


def test_a_model_of_nans_is_wrong_invalid_and_collapsed(everything, tiny):
    before = everything.score(tiny)
    tiny.parameter(tiny.parameter_name(0)).view(-1)[0] = math.nan
    after = everything.score(tiny)
    assert after.errors == {}
    seen = 0
    for task, metrics in after.scores.items():
        for name, score in metrics.items():
            assert score.invalid == 1.0
            if (task, name) in {
                ("pairs", "mcc"),
                ("prose", "word_perplexity"),
                ("prose", "bits_per_byte"),
            }:
                continue
            assert (score.value, score.low) == (0.0, 0.0 if score.n else None), (task, name)
            seen += 1
    assert seen == 7
    assert after.scores["prose"]["word_perplexity"].value is None
    lost = compare(before.scores["margin"]["acc"], after.scores["margin"]["acc"])
    assert lost.difference == -before.scores["margin"]["acc"].value < 0
    facts = health(tiny, PLACES)
    assert facts["collapsed"]
    assert not facts["finite_weights"]
    assert not facts["finite_logits"]


def test_only_documents_that_meet_a_nan_are_invalid(everything, tiny_model):
    model = tiny_model("llama")
    victim = everything.built["margin"].requests[5]
    (token,) = model.tokenizer.encode("7", add_special_tokens=False)
    model.network.get_input_embeddings().weight[token] = math.nan
    hit = {str(r.doc_id) for r in everything.built["margin"].requests if "7" in r.args[0]}
    assert 0 < len(hit) < 5
    assert "7" not in victim.args[0]
    scores = everything.score(model).scores
    acc, f1 = scores["margin"]["acc"], scores["writing"]["f1"]
    assert acc.invalid == len(hit) / 20
    assert all(acc.samples[d] == [0.0] for d in hit)
    assert any(acc.samples[d] == [1.0] for d in acc.samples)
    assert all(f1.samples[d][:2] == [0.0, 0.0] for d in hit)
    assert f1.invalid >= len(hit) / 20
    assert any(sum(f1.samples[d][:2]) > 0 for d in f1.samples)


def test_an_exploded_model_leaves_the_other_metrics(everything, tiny_model):
    model = tiny_model("llama")
    model.network.get_output_embeddings().weight *= 1e4
    scores = everything.score(model)
    assert scores.errors == {}
    assert scores.scores["prose"]["word_perplexity"].value is None
    assert math.isfinite(scores.scores["prose"]["bits_per_byte"].value)
    facts = health(model, PLACES)
    assert (facts["finite_weights"], facts["finite_logits"], facts["collapsed"]) == (
        True,
        True,
        True,
    )


def test_a_working_model_is_healthy_and_an_infinity_that_nothing_reads_is_told(tiny_model):
    model = tiny_model("gpt2")
    facts = health(model, PLACES)
    assert (facts["finite_weights"], facts["finite_logits"], facts["collapsed"]) == (
        True,
        True,
        False,
    )
    assert facts["nll"] < math.log(len(model.tokenizer)) + 2
    model.network.transformer.wpe.weight[-1] = math.inf
    facts = health(model, PLACES)
    assert (facts["finite_weights"], facts["finite_logits"], facts["collapsed"]) == (
        False,
        True,
        True,
    )
    with pytest.raises(ValueError, match="two tokens"):
        health(model, ["a"])


def test_health_is_the_mean_loss_of_the_texts_tokens(tiny):
    total, count = 0.0, 0
    for text in PLACES:
        ids = tiny.tokenizer(text, return_tensors="pt")["input_ids"]
        total += float(tiny.network(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert health(tiny, PLACES)["nll"] == pytest.approx(total / count, rel=1e-5)


def test_scoring_leaves_no_trace(everything, tiny_model):
    model = tiny_model("gpt2")
    network, tokenizer = model.network, model.tokenizer
    network.lm_head.weight = torch.nn.Parameter(network.lm_head.weight.detach() * 2)
    assert network.config.tie_word_embeddings
    network.transformer.h[0].train()
    weights = {name: p.clone() for name, p in network.named_parameters()}
    padding, tokenizer.padding_side = (tokenizer.pad_token, tokenizer.padding_side), "right"
    tokenizer.pad_token = None
    try:
        torch.manual_seed(7), random.seed(7), np.random.seed(7)
        expected = torch.rand(3).tolist(), random.random(), np.random.rand()
        torch.manual_seed(7), random.seed(7), np.random.seed(7)
        assert everything.score(model).errors == {}
        assert (torch.rand(3).tolist(), random.random(), np.random.rand()) == expected
        assert (tokenizer.pad_token, tokenizer.padding_side) == (None, "right")
        assert len(tokenizer) == network.config.vocab_size
    finally:
        tokenizer.pad_token, tokenizer.padding_side = padding
    assert {n: m.training for n, m in network.transformer.h.named_children()} == {
        str(i): i == 0 for i in range(4)
    }
    assert not network.training
    now = dict(network.named_parameters())
    assert now.keys() == weights.keys()
    assert "lm_head.weight" in now
    assert all(torch.equal(now[name], weight) for name, weight in weights.items())
    assert "tie_weights" not in vars(network)


def test_nothing_is_said_where_there_is_no_terminal(everything, tiny, capfd):
    logging.getLogger("lm_eval").setLevel(logging.INFO)
    everything.score(tiny)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("lm_eval").level == logging.INFO


def test_a_failing_task_leaves_the_others(make, tiny, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "tasks")
    missing = TASKS["choice"].replace("_shared", "_gone")
    gone = (folder / "_shared.yaml").read_text().replace("test.jsonl", "nowhere.jsonl")
    (tmp_path / "tasks" / "_gone.yaml").write_text(gone)
    (tmp_path / "tasks" / "absent.yaml").write_text(f"task: absent\n{missing}")
    bench = make(
        "choice",
        "broken",
        absent={"folder": str(tmp_path / "tasks")},
        margin={"headline": "accuracy"},
    )
    found = bench.score(tiny)
    assert set(found.scores) == {"choice"}
    assert found.errors["broken"] == "ValueError: document 3 is bad"
    assert found.errors["absent"].startswith("FileNotFoundError")
    assert "it has margin, acc" in found.errors["margin"]
    assert set(found.seconds) == {"choice", "broken", "margin"}
    assert bench.score(tiny).scores == found.scores


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, UncompletedJobError])
def test_what_is_not_the_tasks_fault_is_not_kept_as_its_error(make, tiny, kind):
    bench = make("broken")
    process = bench.built["broken"].tasks["broken"].config.process_results
    process.__globals__["FAILURE"] = kind("stop")
    with pytest.raises(kind):
        bench.score(tiny)
    assert not tiny.network.training
    assert "tie_weights" not in vars(tiny.network)


def test_headlines_chances_and_invalid_shares(everything, tiny):
    scores = everything.score(tiny).scores
    heads = {
        task: [m for m, s in metrics.items() if s.headline] for task, metrics in scores.items()
    }
    assert heads == {
        "choice": ["acc"],
        "shots": ["acc"],
        "margin": ["acc"],
        "pairs": ["mcc"],
        "writing": ["f1"],
        "filtered": ["exact_match_strict_match"],
        "prose": ["word_perplexity"],
    }
    assert scores["margin"]["acc"].chance == 0.4
    assert scores["margin"]["margin"].chance is None
    assert scores["choice"]["acc"].chance == pytest.approx((10 / 2 + 10 / 3) / 20)
    assert scores["writing"]["f1"].chance == 0.0
    assert scores["prose"]["bits_per_byte"].chance is None
    assert "invalid" not in scores["writing"]
    texts = everything.built["writing"].requests
    assert scores["writing"]["f1"].invalid == np.mean([not r.resps[0].split() for r in texts])
    assert scores["choice"]["acc"].invalid == 0.0


def test_a_specs_headline_and_chance_go_before_the_tasks_own(make, tiny):
    bench = make(margin={"headline": "margin", "chance": -2.0})
    scores = bench.score(tiny).scores["margin"]
    assert (scores["margin"].headline, scores["margin"].chance) == (True, -2.0)
    assert (scores["acc"].headline, scores["acc"].chance) == (False, pytest.approx(5 / 12))


def test_a_metric_that_cannot_be_resampled_has_its_value_alone(everything, tiny):
    score = everything.score(tiny).scores["pairs"]["mcc"]
    assert -1 < score.value < 1
    assert (score.aggregation, score.samples, score.low, score.n) == (VALUE_ONLY, {}, None, 20)


def test_a_tag_is_one_task_over_all_documents(make, folder, tiny):
    bench = Bench(
        {"custom": TaskSpec("both", folder=str(folder), headline="acc")}, EvalSettings(batch_size=3)
    )
    scores = bench.score(tiny).scores
    assert list(scores) == ["both"]
    acc = scores["both"]["acc"]
    assert (acc.n, acc.headline) == (20, True)
    assert set(acc.samples) == {f"pairs/{i}" for i in range(20)}
    assert set(scores["both"]["f1"].samples) == {f"writing/{i}" for i in range(20)}
    alone = make("pairs").score(tiny).scores["pairs"]["acc"]
    assert acc.value == alone.value


def test_prompts_that_are_too_long_are_counted(make, tiny):
    bench = make("choice", "writing", settings={"batch_size": 3, "max_length": 24})
    found = bench.score(tiny)
    assert found.errors == {}
    lengths = [len(tiny.tokenizer.encode(r.args[0])) for r in bench.built["writing"].requests]
    assert found.cut["writing"] == sum(n > 24 - 12 for n in lengths) > 0
    assert 0 < found.cut["choice"] < len(bench.built["choice"].requests)


def test_unknown_names_are_refused_before_anything_is_built(folder):
    with pytest.raises(LookupError, match="did you mean choice"):
        task_names_exist({"x": TaskSpec("choise", folder=str(folder))})
    with pytest.raises(LookupError, match="did you mean mini_nli"):
        task_names_exist({"x": TaskSpec("mini_nil", folder="miniature")})
    with pytest.raises(ValueError, match="shipped .*miniature"):
        task_names_exist({"x": TaskSpec("choice", folder="minature")})
    check_task("both", str(folder))


def test_lm_evals_own_tasks_are_found_without_its_index(monkeypatch):
    def no_index(folder):
        pytest.fail("the index takes 20 seconds")

    monkeypatch.setattr(task_files, "_manager", no_index)
    check_task("arc_easy", None)
    assert find_file("arc_easy", None).name == "arc_easy.yaml"
    assert find_file("arc_", None) is None


@pytest.mark.slow
def test_lm_evals_index_knows_groups_and_names_that_are_alike():
    check_task("mmlu", None)
    with pytest.raises(LookupError, match="did you mean .*gsm8k"):
        check_task("gsm9k", None)


MINIATURE = [
    "mini_reasoning",
    "mini_nli",
    "mini_open_domain_qa",
    "mini_closed_domain_qa",
    "mini_dialogue",
    "mini_summarization",
    "mini_ner",
    "mini_sentiment",
]


@pytest.fixture
def composed(tmp_path):
    """`composed("task=[a,b]")`: the task group in a configuration that has nothing else."""
    shutil.copytree(CONF / "task", tmp_path / "task")
    (tmp_path / "config.yaml").write_text("defaults: [{task: miniature}, _self_]\n")

    def run(*overrides):
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            return compose("config", overrides=list(overrides)).get("task") or {}

    return run


def test_task_options_compose_into_one_cell(composed):
    assert list(composed()) == MINIATURE
    assert list(composed("task=[mini_nli,mini_ner]")) == ["mini_nli", "mini_ner"]
    assert list(composed("task=none")) == []
    bundle = composed("task.mini_nli.limit=50", "task.mini_ner.num_fewshot=1")
    assert bundle.mini_nli.limit == 50
    assert bundle.mini_ner.num_fewshot == 1
    assert bundle.mini_sentiment.limit is None
    both = composed("task=[custom,mini_nli]", "task.custom.name=arc_easy", "task.custom.limit=0.5")
    specs = {key: TaskSpec(**spec) for key, spec in both.items()}
    assert specs["custom"] == TaskSpec("arc_easy", limit=0.5)
    assert specs["mini_nli"].folder == "miniature"


def test_a_comma_makes_two_cells_and_brackets_one():
    two, one = OverridesParser.create().parse_overrides(
        ["task=mini_nli,mini_ner", "task=[mini_nli,mini_ner]"]
    )
    assert two.is_sweep_override()
    assert not one.is_sweep_override()


def test_every_option_is_a_task_that_exists(composed):
    options = {file.stem for file in (CONF / "task").glob("*.yaml")}
    assert options == {*MINIATURE, "miniature", "none", "custom"}
    task_names_exist({key: TaskSpec(**spec) for key, spec in composed().items()})
    for option in MINIATURE:
        assert list(composed(f"task={option}")) == [option]
        assert composed(f"task={option}")[option].name == option


def test_an_oracle_scores_one_in_every_miniature_task(composed, tiny, monkeypatch):
    specs = {key: TaskSpec(**spec) for key, spec in composed().items()}
    bench = Bench(specs, EvalSettings(limit=12))
    monkeypatch.setattr(live_lm, "live", oracle)
    monkeypatch.setattr(Bench, "_dead", lambda self, model: False)
    found = bench.score(tiny)
    assert found.errors == {}
    assert list(found.scores) == MINIATURE
    for task, metrics in found.scores.items():
        (head,) = [s for s in metrics.values() if s.headline]
        assert (head.value, head.n, head.invalid) == (1.0, 12, 0.0), task
        assert head.chance is not None
        assert all(s.value == 1.0 for s in metrics.values()), task
