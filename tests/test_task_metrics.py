"""Metric names, headlines, chance, invalid shares; what cannot be resampled; groups."""

import numpy as np
import pytest

from edit_sweeps.statistics import VALUE_ONLY
from edit_sweeps.task_scores import Bench, EvalSettings, TaskSpec

pytest_plugins = ["tests.task_folder"]


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
    assert (scores["acc"].headline, scores["acc"].chance) == (False, 0.4)


def test_the_chance_of_a_tasks_own_headline_is_not_that_of_another_metric(make, tiny):
    scores = make(margin={"headline": "margin"}).score(tiny).scores["margin"]
    assert (scores["margin"].headline, scores["margin"].chance) == (True, None)
    assert (scores["acc"].headline, scores["acc"].chance) == (False, 0.4)


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
