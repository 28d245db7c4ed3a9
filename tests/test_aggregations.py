"""Sums first, then the formula: the aggregations are those of lm-eval and scikit-learn, for all draws at once."""

import numpy as np
import pytest

from edit_sweeps.aggregations import AGGREGATIONS


def test_aggregations_are_vectorised_over_leading_axes():
    rng = np.random.default_rng(0)
    width = {"micro_f1": 3, "macro_recall": 8, "weighted_f1": 2}
    width |= {"weighted_perplexity": 2, "bits_per_byte": 2}
    for name, aggregate in AGGREGATIONS.items():
        samples = rng.integers(1, 9, (4, 5, 7, width.get(name, 1))).astype(float)
        one_by_one = [[float(aggregate(samples[i, j])) for j in range(5)] for i in range(4)]
        np.testing.assert_allclose(aggregate(samples), one_by_one, rtol=1e-12)
    assert set(width) <= set(AGGREGATIONS)


def test_micro_f1_sums_before_dividing():
    counts = np.array([[3.0, 1, 0], [0, 0, 2], [1, 4, 1]])
    assert float(AGGREGATIONS["micro_f1"](counts)) == pytest.approx(2 * 4 / (2 * 4 + 5 + 3))
    assert float(AGGREGATIONS["micro_f1"](np.zeros((2, 3)))) == 0.0


def test_perplexities_are_those_of_lm_eval():
    from lm_eval.api import metrics

    pairs = [(-12.5, 4), (-3.25, 2), (-40.0, 9)]
    mine = {n: float(AGGREGATIONS[n](np.array(pairs, float))) for n in AGGREGATIONS if n[0] in "wb"}
    assert mine["weighted_perplexity"] == pytest.approx(metrics.weighted_perplexity(pairs))
    assert mine["bits_per_byte"] == pytest.approx(metrics.bits_per_byte(pairs))
    alone = [ll for ll, _ in pairs]
    perplexity = float(AGGREGATIONS["perplexity"](np.array(alone)[:, None]))
    assert perplexity == pytest.approx(metrics.perplexity(alone))


def test_draws_of_a_bootstrap_are_what_aggregating_them_one_by_one_gives():
    rng = np.random.default_rng(1)
    width = {"micro_f1": 3, "macro_recall": 6, "weighted_f1": 2}
    width |= {"weighted_perplexity": 2, "bits_per_byte": 2}
    draws = rng.integers(0, 12, (20, 12))
    times = np.stack([np.bincount(draw, minlength=12) for draw in draws]).astype(float)
    for name, aggregate in AGGREGATIONS.items():
        samples = rng.integers(0, 4, (12, width.get(name, 1))).astype(float) + (name[0] in "wb")
        one_by_one = [float(aggregate(samples[draw])) for draw in draws]
        np.testing.assert_allclose(aggregate.of_draws(samples, times), one_by_one, rtol=1e-12)


def test_weighted_f1_is_scikit_learns_and_an_invalid_answer_is_no_class():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(2)
    for _ in range(20):
        gold, answers = rng.integers(0, 4, 30), rng.integers(-1, 4, 30)
        mine = float(AGGREGATIONS["weighted_f1"](np.stack([gold, answers], axis=1).astype(float)))
        theirs = f1_score(gold, answers, average="weighted", zero_division=0)
        assert mine == pytest.approx(theirs)
    nothing = np.array([[0.0, -1], [1, -1]])
    assert float(AGGREGATIONS["weighted_f1"](nothing)) == 0.0


def test_macro_recall_is_the_mean_over_the_kinds_that_occur():
    # Two kinds occur: 3 of 4 and 0 of 2 found; the third never does and does not count.
    documents = np.array([[1.0, 2, 0, 1, 0, 0], [2, 2, 0, 1, 0, 0]])
    assert float(AGGREGATIONS["macro_recall"](documents)) == pytest.approx((3 / 4 + 0) / 2)
    assert float(AGGREGATIONS["macro_recall"](np.zeros((3, 6)))) == 0.0
