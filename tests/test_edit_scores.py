"""Edit metrics against numbers worked out by hand, a naive loop over a tiny model, and broken models."""

import math
from dataclasses import replace

import pytest
import torch

from edit_sweeps import edit_scores
from edit_sweeps.edit_scores import (
    METRICS,
    EditScoreSettings,
    contains_answer,
    ngram_entropy,
    score_edits,
)
from edit_sweeps.requests import EditRequest, Probe
from edit_sweeps.statistics import compare
from edit_sweeps.tokens import TargetScore

SETTINGS = EditScoreSettings(max_new_tokens=5, batch_size=3)


class Script:
    """Stands in for the model: (prompt, answer) -> log-probabilities and hits, prompt -> text."""

    def __init__(self, monkeypatch, scores, texts, default=None):
        self.scores, self.texts, self.default = scores, texts, default
        self.pairs, self.prompts = [], []
        monkeypatch.setattr(edit_scores, "score_targets", self.score_targets)
        monkeypatch.setattr(edit_scores, "greedy", self.greedy)

    def score_targets(self, model, pairs, batch_size):
        self.pairs += pairs
        return [self.scores.get(p, self.default) or self.scores[p] for p in pairs]

    def greedy(self, model, prompts, max_new_tokens, batch_size):
        self.prompts += prompts
        return [self.texts.get(p, " ") for p in prompts]


def said(*logprobs, hits=None):
    return TargetScore(list(logprobs), list(hits or [False] * len(logprobs)))


def request(case_id="a", subject="Anna", **changes):
    fields = {"prompt": "{} lives in", "target_new": "New York", "target_true": "Rome"} | changes
    return EditRequest(case_id=case_id, subject=subject, **fields)


ANNA = request(
    paraphrases=(
        Probe("Anna's home:", "New York", "Rome"),
        Probe("Home of Anna:", "New York", "Rome"),
    ),
    neighborhood=(Probe("Bo lives in", "Rome", "New York"),),
    other_facts=(Probe("Anna is a", "cook", "spy"), Probe("Anna likes", "tea")),
    portability=(Probe("Anna pays in", "dollars", "euros"),),
)
ANNA_SCORES = {
    ("Anna lives in", "New York"): said(-1.0, -0.2, hits=[True, False]),  # mean .6
    ("Anna lives in", "Rome"): said(-0.7),
    ("Anna's home:", "New York"): said(-3.0, -0.2, hits=[False, False]),  # mean 1.6
    ("Anna's home:", "Rome"): said(-0.5),
    ("Home of Anna:", "New York"): said(-0.1, -0.1, hits=[True, True]),
    ("Home of Anna:", "Rome"): said(-2.0),
    ("Bo lives in", "Rome"): said(-0.4, hits=[True]),
    ("Bo lives in", "New York"): said(-1.0, -5.0),
    ("Anna is a", "cook"): said(-2.0),
    ("Anna is a", "spy"): said(-1.0),
    ("Anna likes", "tea"): said(-2.0),
    ("Anna pays in", "dollars"): said(-1.0),
    ("Anna pays in", "euros"): said(-1.0),
}
ANNA_TEXTS = {
    "Anna lives in": " New York, she said",
    "Anna's home:": " in Newark",
    "Home of Anna:": " a house in new\nyork",
    "Bo lives in": " Milan",
    "Anna is a": " cook and a cook",
    "Anna likes": " teapots",
    "Anna pays in": " dollars.",
}


def test_each_metric_is_what_its_definition_gives_by_hand(monkeypatch):
    Script(monkeypatch, ANNA_SCORES, ANNA_TEXTS)
    scores = score_edits(None, [ANNA], SETTINGS)
    e = math.exp
    expected = {
        "efficacy": 1.0,
        "efficacy_magnitude": e(-0.6) - e(-0.7),
        "efficacy_accuracy": 0.5,
        "efficacy_generated": 1.0,
        "paraphrase": 0.5,
        "paraphrase_magnitude": (e(-1.6) - e(-0.5) + e(-0.1) - e(-2.0)) / 2,
        "paraphrase_accuracy": 0.5,
        "paraphrase_generated": 0.5,
        "neighborhood": 1.0,
        "neighborhood_magnitude": e(-0.4) - e(-3.0),
        "neighborhood_accuracy": 1.0,
        "neighborhood_generated": 0.0,
        "other_facts": 0.5,
        "other_facts_probability": 0.0,
        "portability": 1.0,
        "portability_probability": 0.0,
        "score": 3 / (1 / 1 + 1 / 0.5 + 1 / 1),
    }
    values = {name: score.value for name, score in scores.items()}
    entropy = values.pop("entropy")
    assert values == pytest.approx(expected)
    wordings = ("Anna lives in", "Anna's home:", "Home of Anna:")
    assert entropy == pytest.approx(sum(ngram_entropy(ANNA_TEXTS[w]) for w in wordings) / 3)
    assert {*expected, "entropy"} == {*METRICS, "score"}
    assert all(score.invalid == 0 and score.n == 1 for score in scores.values())


def test_each_kind_of_portability_gets_a_score_of_its_own(monkeypatch):
    kinds = {"multi_hop": ("Anna pays in", "Anna's road:"), "subject_aliasing": ("Ann lives in",)}
    probes = [Probe(p, "dollars", kind=kind) for kind, ps in kinds.items() for p in ps]
    anna = request(portability=(*probes, Probe("Anna votes in", "dollars")))
    bo = request("b", "Bo", portability=(Probe("Bo pays in", "dollars", kind="multi_hop"),))
    texts = {"Anna pays in": " dollars", "Ann lives in": " dollars", "Bo pays in": " dollars"}
    Script(monkeypatch, {}, texts, default=said(-1.0))
    scores = score_edits(None, [anna, bo], SETTINGS)
    assert scores["portability"].samples == {"a": [0.5], "b": [1.0]}
    assert scores["portability_multi_hop"].samples == {"a": [0.5], "b": [1.0]}
    assert scores["portability_subject_aliasing"].samples == {"a": [1.0]}
    named = {name for name in scores if name.startswith("portability_")}
    assert named == {"portability_multi_hop", "portability_subject_aliasing"}


def test_a_sample_is_the_mean_over_a_requests_probes_and_the_value_the_mean_over_requests(
    monkeypatch,
):
    bo = request("b", "Bo", paraphrases=(Probe("Bo's home:", "New York", "Rome"),))
    script = Script(monkeypatch, ANNA_SCORES, ANNA_TEXTS, default=said(-1.0))
    script.scores = ANNA_SCORES | {("Bo's home:", "New York"): said(-0.1)}
    scores = score_edits(None, [ANNA, bo], SETTINGS)
    assert scores["paraphrase"].samples == {"a": [0.5], "b": [1.0]}
    assert (scores["paraphrase"].value, scores["paraphrase"].n) == (0.75, 2)
    assert scores["paraphrase"].low < 0.75 < scores["paraphrase"].high
    assert scores["efficacy"].samples == {"a": [1.0], "b": [0.0]}
    assert scores["neighborhood"].samples == {"a": [1.0]}
    assert scores["neighborhood"].n == 1
    assert [name for name, score in scores.items() if score.headline] == ["efficacy"]
    assert scores["score"].samples == {}
    assert scores["score"].value == pytest.approx(3 / (1 / 0.5 + 1 / 0.75 + 1))


def test_every_score_can_be_compared_with_its_baseline(monkeypatch):
    Script(monkeypatch, ANNA_SCORES, ANNA_TEXTS)
    after = score_edits(None, [ANNA], SETTINGS)
    Script(monkeypatch, {}, {}, default=said(-1.0))
    before = score_edits(None, [ANNA], SETTINGS)
    assert before.keys() - {"score"} == after.keys() - {"score"}
    for name in before:
        result = compare(before[name], after[name])
        assert result.difference == pytest.approx(after[name].value - before[name].value), name


def test_without_true_target_only_accuracy_and_generation_are_judged(monkeypatch):
    Script(monkeypatch, {}, {"Bo lives in": " New York"}, default=said(-1.0, hits=[True]))
    scores = score_edits(None, [request("b", "Bo", target_true=None)], SETTINGS)
    assert scores.keys() == {"efficacy_accuracy", "efficacy_generated", "entropy"}
    mixed = score_edits(None, [request("b", "Bo", target_true=None), request()], SETTINGS)
    assert (mixed["efficacy"].n, mixed["efficacy_accuracy"].n) == (1, 2)


def test_a_tie_is_no_success(monkeypatch):
    Script(monkeypatch, {}, {}, default=said(-1.0))
    scores = score_edits(None, [ANNA], SETTINGS)
    assert scores["efficacy"].value == scores["neighborhood"].value == 0
    assert scores["score"].value == 0


def test_no_question_is_put_twice(monkeypatch):
    script = Script(monkeypatch, {}, {}, default=said(-1.0))
    score_edits(None, [ANNA, replace(ANNA, case_id="b"), replace(ANNA, case_id="c")], SETTINGS)
    assert len(script.pairs) == len(set(script.pairs)) == len(ANNA_SCORES)
    assert len(script.prompts) == len(set(script.prompts)) == len(ANNA_TEXTS)


def test_an_empty_cell_has_no_scores_and_asks_nothing(monkeypatch):
    script = Script(monkeypatch, {}, {})
    assert score_edits(None, [], SETTINGS) == {}
    assert not script.pairs


def test_a_superseded_request_is_not_expected_to_hold(monkeypatch):
    Script(monkeypatch, {}, {}, default=said(-1.0))
    again = request("z", target_new="Oslo")
    scores = score_edits(None, [ANNA, again], SETTINGS)
    for name in ("efficacy", "efficacy_generated", "efficacy_accuracy"):
        assert set(scores[name].samples) == {"z"}
    assert "paraphrase" not in scores
    assert "portability" not in scores
    assert set(scores["neighborhood"].samples) == set(scores["other_facts"].samples) == {"a"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_log_probabilities_that_are_not_finite_count_as_failures(monkeypatch, bad):
    broken = {("Anna lives in", "New York"): said(-0.1, bad, hits=[True, True])}
    Script(monkeypatch, ANNA_SCORES | broken, ANNA_TEXTS)
    scores = score_edits(None, [ANNA], SETTINGS)
    for name in ("efficacy", "efficacy_magnitude", "efficacy_accuracy", "efficacy_generated"):
        assert (scores[name].value, scores[name].invalid) == (0, 1), name
    assert scores["score"].value == 0
    assert scores["paraphrase"].invalid == 0


def test_one_broken_probe_of_two_makes_half_a_request_invalid(monkeypatch):
    Script(monkeypatch, ANNA_SCORES | {("Anna's home:", "Rome"): said(math.nan)}, ANNA_TEXTS)
    scores = score_edits(None, [ANNA], SETTINGS)
    assert (scores["paraphrase"].value, scores["paraphrase"].invalid) == (0.5, 0.5)
    assert scores["paraphrase_generated"].invalid == 0


def test_an_empty_continuation_is_an_invalid_answer(monkeypatch):
    Script(monkeypatch, ANNA_SCORES, ANNA_TEXTS | {"Anna lives in": " \n"})
    scores = score_edits(None, [ANNA], SETTINGS)
    assert (scores["efficacy_generated"].value, scores["efficacy_generated"].invalid) == (0, 1)
    assert (scores["efficacy"].value, scores["efficacy"].invalid) == (1, 0)
    assert scores["entropy"].invalid == pytest.approx(1 / 3)


def test_targets_too_long_to_be_generated_are_counted_aloud(monkeypatch, caplog):
    Script(monkeypatch, ANNA_SCORES, ANNA_TEXTS)
    score_edits(None, [ANNA], SETTINGS)
    assert not caplog.records
    score_edits(None, [ANNA], replace(SETTINGS, max_new_tokens=1))
    assert "3 of 7 targets" in caplog.text
    assert "max_new_tokens=1" in caplog.text


# Which requests


def many(n):
    return [request(f"case-{i}", f"Person {i}") for i in range(n)]


def scored(monkeypatch, requests, limit, seed=0):
    Script(monkeypatch, {}, {}, default=said(-1.0))
    settings = EditScoreSettings(limit=limit, seed=seed)
    return list(score_edits(None, requests, settings)["efficacy"].samples)


def test_a_limit_takes_a_seeded_part_in_the_order_of_the_cell(monkeypatch):
    requests = many(60)
    chosen = scored(monkeypatch, requests, 20)
    assert len(chosen) == 20
    assert chosen == [r.case_id for r in requests if r.case_id in chosen]
    late = sum(int(c.removeprefix("case-")) >= 30 for c in chosen)
    assert 4 <= late <= 16
    assert chosen != scored(monkeypatch, requests, 20, seed=1)
    assert set(chosen) < set(scored(monkeypatch, requests, 25))
    assert scored(monkeypatch, requests, 60) == scored(monkeypatch, requests, None)


def test_what_is_scored_of_many_edits_is_scored_of_fewer(monkeypatch):
    requests = many(100)
    of_all = set(scored(monkeypatch, requests, 20))
    for n in (10, 30, 70):
        first = {r.case_id for r in requests[:n]}
        assert of_all & first <= set(scored(monkeypatch, requests[:n], 20))


def test_samples_of_fewer_edits_are_those_of_more(monkeypatch):
    Script(monkeypatch, ANNA_SCORES, ANNA_TEXTS, default=said(-1.0))
    requests = [ANNA, *many(9)]
    few, all_ = (score_edits(None, requests[:n], SETTINGS) for n in (4, 10))
    for name in few.keys() - {"score"}:
        assert few[name].samples.items() <= all_[name].samples.items(), name


@pytest.mark.parametrize("name", ["limit", "max_new_tokens", "batch_size"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(ValueError, match=rf"edit_scores\.{name}=0"):
        EditScoreSettings(**{name: 0})


# Real models


def naive(model, prompt, answer):
    """Log-probabilities and hits of `answer`, one forward pass for each token, no batch, no padding."""
    ids = model.tokenizer(f"{prompt} {answer}")["input_ids"]
    start = len(model.tokenizer(prompt)["input_ids"])
    logprobs, hits = [], []
    for i in range(start, len(ids)):
        logits = model.network(torch.tensor([ids[:i]])).logits[0, -1].double()
        logprobs.append(float(logits.log_softmax(-1)[ids[i]]))
        hits.append(int(logits.argmax()) == ids[i])
    return logprobs, hits


def naive_greedy(model, prompt, n):
    ids = model.tokenizer(prompt)["input_ids"]
    start = len(ids)
    while len(ids) < start + n:
        ids.append(int(model.network(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == model.tokenizer.eos_token_id:
            break
    return model.tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_tiny_model_gets_the_scores_of_a_naive_loop(tiny_model, requests, name):
    model = tiny_model(name)
    scores = score_edits(model, requests, SETTINGS)
    kinds = {
        "efficacy": lambda r: [Probe(r.text, r.target_new, r.target_true)],
        "paraphrase": lambda r: r.paraphrases,
        "neighborhood": lambda r: r.neighborhood,
    }
    checked = 0
    for kind, probes in kinds.items():
        for r in requests:
            for p in probes(r):
                new, hits = naive(model, p.prompt, p.target)
                old, _ = naive(model, p.prompt, p.alternative)
                p_new, p_old = (math.exp(sum(x) / len(x)) for x in (new, old))
                text = naive_greedy(model, p.prompt, SETTINGS.max_new_tokens)
                expected = {
                    "": float(p_new > p_old),
                    "_magnitude": pytest.approx(p_new - p_old, abs=1e-6),
                    "_accuracy": sum(hits) / len(hits),
                    "_generated": float(contains_answer(text, p.target)),
                }
                for suffix, value in expected.items():
                    assert scores[kind + suffix].samples[r.case_id] == [value]
                    checked += 1
    assert checked == 36
    one_by_one = score_edits(model, requests, replace(SETTINGS, batch_size=1))
    assert one_by_one["efficacy_magnitude"].value == pytest.approx(
        scores["efficacy_magnitude"].value, abs=1e-6
    )


def test_a_model_that_knows_the_answers_scores_one(monkeypatch, requests):
    wanted = {}
    for r in requests:
        own = Probe(r.text, r.target_new)
        for p in (own, *r.paraphrases, *r.neighborhood, *r.other_facts, *r.portability):
            wanted[p.prompt] = p.target
    script = Script(monkeypatch, {}, {p: f" {t}." for p, t in wanted.items()})
    script.scores = {(p, t): said(-0.1, hits=[True]) for p, t in wanted.items()}
    script.default = said(-4.0, hits=[False])
    scores = score_edits(None, requests, SETTINGS)
    for name, score in scores.items():
        if name != "entropy":
            high = math.exp(-0.1) - math.exp(-4.0) if name.endswith("magnitude") else 1.0
            assert score.value == pytest.approx(high), name
    assert {"efficacy", "other_facts", "portability", "score"} <= scores.keys()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_model_is_scored_and_not_an_exception(tiny_model, requests, bad):
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.mlp_out(1).weight.fill_(bad)
    scores = score_edits(model, requests, SETTINGS)
    assert len(scores) >= 15
    for name, score in scores.items():
        assert score.value is not None
        if name != "entropy":
            assert (score.value, score.invalid) == (0, 1), name


def test_scoring_changes_neither_model_nor_randomness(tiny, requests):
    before = {k: v.clone() for k, v in tiny.network.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = score_edits(tiny, requests, SETTINGS)
    assert torch.rand(1) == expected
    assert all(torch.equal(v, before[k]) for k, v in tiny.network.state_dict().items())
    assert score_edits(tiny, requests, SETTINGS) == first
