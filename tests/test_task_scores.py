"""lm-eval on a live model: the harness's own numbers, no cache, and NaN is wrong."""

import errno
import math
import shutil

import pytest
import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from submitit.core.utils import UncompletedJobError

from edit_sweeps import live_lm, task_scores, tasks
from edit_sweeps.statistics import compare
from edit_sweeps.task_scores import health

pytest_plugins = ["tests.task_folder"]

TEXTS = ["Brackenford", "Velmora", "London", "the river", "Rome"]


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
    theirs = harness(tiny, folder, everything.built, monkeypatch)
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
    assert compared == 13


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


def test_an_oracle_scores_one(everything, tiny, oracle):
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
    assert seen == 10
    assert after.scores["prose"]["word_perplexity"].value is None
    lost = compare(before.scores["margin"]["acc"], after.scores["margin"]["acc"])
    assert lost.difference == -before.scores["margin"]["acc"].value < 0
    facts = health(tiny, TEXTS)
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
    facts = health(model, TEXTS)
    assert (facts["finite_weights"], facts["finite_logits"], facts["collapsed"]) == (
        True,
        True,
        True,
    )


def test_a_working_model_is_healthy_and_an_infinity_that_nothing_reads_is_told(tiny_model):
    model = tiny_model("gpt2")
    facts = health(model, TEXTS)
    assert (facts["finite_weights"], facts["finite_logits"], facts["collapsed"]) == (
        True,
        True,
        False,
    )
    assert facts["nll"] < math.log(len(model.tokenizer)) + 2
    model.network.transformer.wpe.weight[-1] = math.inf
    facts = health(model, TEXTS)
    assert (facts["finite_weights"], facts["finite_logits"], facts["collapsed"]) == (
        False,
        True,
        True,
    )
    with pytest.raises(ValueError, match="two tokens"):
        health(model, ["a"])


def test_health_is_the_mean_loss_of_the_texts_tokens(tiny):
    total, count = 0.0, 0
    for text in TEXTS:
        ids = tiny.tokenizer(text, return_tensors="pt")["input_ids"]
        total += float(tiny.network(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert health(tiny, TEXTS)["nll"] == pytest.approx(total / count, rel=1e-5)


def test_a_failing_task_leaves_the_others(make, tiny, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "tasks")
    missing = (folder / "choice.yaml").read_text().replace("_shared", "_gone")
    gone = (folder / "_shared.yaml").read_text().replace("test.jsonl", "nowhere.jsonl")
    (tmp_path / "tasks" / "_gone.yaml").write_text(gone)
    (tmp_path / "tasks" / "absent.yaml").write_text(missing.replace("choice", "absent", 1))
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


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt("stop"),
        SystemExit("stop"),
        UncompletedJobError("stop"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_the_tasks_fault_is_not_kept_as_its_error(make, tiny, error, monkeypatch):
    bench = make("broken")
    process = bench.built["broken"].tasks["broken"].config.process_results
    monkeypatch.setitem(process.__globals__, "FAILURE", error)
    with pytest.raises(type(error)):
        bench.score(tiny)
    assert not tiny.network.training
    assert "tie_weights" not in vars(tiny.network)


def test_three_weight_states_cost_one_building_and_one_tokenising(make, tiny_model, monkeypatch):
    model = tiny_model("gpt2")
    built, tokenised = [], []
    whole = tasks.build_task

    def build(*args):
        built.append(args)
        return whole(*args)

    def encode(self, string, *args, **options):
        tokenised.append(string)
        return plainly(self, string, *args, **options)

    plainly = HFLM.tok_encode
    monkeypatch.setattr(task_scores, "build_task", build)
    monkeypatch.setattr(HFLM, "tok_encode", encode)
    bench = make("choice", "writing", "prose")
    found = []
    for state in range(3):
        with torch.no_grad():
            model.parameter(model.parameter_name(0)).mul_(1 + state)
        results = bench.score(model, progress=False)
        found.append({task: score.samples for task, score in flat(results.scores).items()})
        seen = len(tokenised)
        assert seen == len(set(tokenised)) > 30, "no string is tokenised twice"
    assert len(built) == 3
    assert found[0] != found[1] != found[2]
    fresh = make("choice", "writing", "prose").score(model, progress=False)
    assert found[2] == {task: score.samples for task, score in flat(fresh.scores).items()}


def flat(scores):
    return {(task, m): score for task, metrics in scores.items() for m, score in metrics.items()}
