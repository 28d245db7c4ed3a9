"""Intervals cover, comparisons pair, and nothing is claimed where nothing is known."""

import math

import numpy as np
import pytest
from scipy import stats

from edit_sweeps.record import Comparison, Score
from edit_sweeps.statistics import (
    VALUE_ONLY,
    compare,
    holm,
    make_score,
    ratio,
    retention,
    summarise,
)


def binary(values):
    return make_score({str(i): [float(v)] for i, v in enumerate(values)}, chance=0.0)


def scored(rows, aggregation="mean"):
    rows = np.asarray(rows, dtype=float).reshape(len(rows), -1)
    return make_score({str(i): row.tolist() for i, row in enumerate(rows)}, aggregation, chance=0.0)


def test_no_documents_and_infinite_values_have_no_score():
    assert summarise({}) == (None, None, None)
    assert summarise({"0": [math.nan], "1": [1.0]}) == (None, None, None)
    assert summarise({"0": [-5000.0]}, "perplexity") == (None, None, None)
    empty = compare(make_score({}), make_score({}))
    assert (empty.n, empty.difference, empty.low, empty.p, empty.retention) == (0, *[None] * 4)


def test_an_interval_holds_its_score_and_is_wilsons_for_0_1():
    value, low, high = summarise({str(i): [float(i < 8)] for i in range(10)})
    assert value == 0.8
    # Wilson 1927 by hand: (p + z2/2n -+ z sqrt(p q / n + z2/4n2)) / (1 + z2/n)
    z2 = stats.norm.ppf(0.975) ** 2
    middle, half = 0.8 + z2 / 20, math.sqrt(z2 * (0.8 * 0.2 / 10 + z2 / 400))
    assert low == pytest.approx((middle - half) / (1 + z2 / 10))
    assert high == pytest.approx((middle + half) / (1 + z2 / 10))
    one, floor, ceiling = summarise({"0": [1.0]})
    assert one == 1.0
    assert floor < 0.3
    assert ceiling == 1.0


def test_a_single_document_that_is_not_0_1_has_no_interval():
    assert summarise({"0": [0.4]}) == (0.4, None, None)
    once = compare(scored([0.9]), scored([0.4]))
    assert once.difference == pytest.approx(-0.5)
    assert (once.low, once.high, once.p) == (None, None, 1.0)


def test_a_bootstrap_interval_of_a_mean_is_as_wide_as_students():
    values = np.random.default_rng(5).normal(0.3, 0.1, 400)
    value, low, high = summarise(scored(values).samples)
    t = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert value == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(t, abs=0.002)


def test_only_common_documents_are_compared():
    before = make_score({"a": [1.0], "b": [1.0], "c": [0.0]})
    after = make_score({"b": [0.0], "c": [0.0], "d": [1.0]})
    seen = compare(before, after)
    assert (seen.n, seen.baseline, seen.difference) == (2, 0.5, -0.5)


def test_mcnemar_is_exact():
    before, after = [1] * 20 + [0] * 10, [0] * 9 + [1] * 11 + [0] * 8 + [1] * 2
    seen = compare(binary(before), binary(after))
    tail = sum(math.comb(11, k) for k in (0, 1, 2)) / 2**11
    assert seen.p == pytest.approx(2 * tail)
    assert seen.difference == pytest.approx(-7 / 30)
    assert seen.low < seen.difference < seen.high < 0.02


def test_one_edit_that_won_claims_little():
    seen = compare(binary([0]), binary([1]))
    assert (seen.baseline, seen.difference, seen.p) == (0.0, 1.0, 1.0)
    assert seen.low < 0 < seen.high <= 1


def test_unchanged_answers_have_difference_zero_inside_a_narrow_interval():
    answers = np.random.default_rng(0).integers(0, 2, 200)
    seen = compare(binary(answers), binary(answers))
    assert (seen.difference, seen.p, seen.retention) == (0.0, 1.0, 1.0)
    assert -0.03 < seen.low < 0 < seen.high < 0.03
    unchanged = compare(scored(answers / 3), scored(answers / 3))
    assert (unchanged.low, unchanged.high, unchanged.p) == (0.0, 0.0, 1.0)


def test_pairing_makes_the_interval_narrower_than_two_separate_ones():
    rng = np.random.default_rng(1)
    before = rng.random(300)
    after = before - 0.05 + 0.02 * rng.normal(size=300)
    seen = compare(scored(before), scored(after))
    alone = summarise(scored(after).samples)
    assert seen.high < 0
    assert seen.high - seen.low < (alone[2] - alone[1]) / 4
    assert seen.p < 0.001


def test_micro_f1_is_compared_by_resampling_documents():
    rng = np.random.default_rng(2)
    before = np.stack([np.full(150, 3), np.zeros(150), np.zeros(150)], axis=1)
    lost = rng.integers(0, 2, 150)
    after = before + np.stack([-lost, lost, lost], axis=1)
    seen = compare(scored(before, "micro_f1"), scored(after, "micro_f1"))
    assert seen.baseline == 1.0
    assert seen.difference == pytest.approx(-lost.sum() / 450)
    assert seen.low < seen.difference < seen.high < 0
    assert seen.p < 0.001


def test_samples_that_json_stored_as_null_leave_no_difference():
    before = make_score({"0": [1.0], "1": [0.5]})
    after = Score(None, 2, samples={"0": [None], "1": [0.5]})
    seen = compare(before, after)
    assert (seen.n, seen.baseline, seen.difference, seen.low) == (2, 0.75, None, None)


def test_scores_without_samples_are_compared_by_value_alone():
    seen = compare(
        Score(0.8, 40, aggregation=VALUE_ONLY), Score(0.6, 40, 0, 1, 0.4, aggregation=VALUE_ONLY)
    )
    assert seen.difference == pytest.approx(-0.2)
    assert seen.retention == pytest.approx(0.5)
    assert (seen.low, seen.high, seen.p, seen.n) == (None, None, None, 40)
    assert compare(Score(0.8, 40), Score(0.6, 30)).difference is None


def test_scores_of_different_aggregation_are_refused():
    with pytest.raises(ValueError, match="micro_f1"):
        compare(binary([1, 0]), scored([[1, 0, 0], [0, 1, 1]], "micro_f1"))


def test_retention_counts_from_chance():
    assert retention(0.9, 0.7, 0.5) == pytest.approx(0.5)
    assert retention(0.9, 0.4, 0.5) == pytest.approx(-0.25)
    assert retention(0.5, 0.5, 0.5) is None
    assert retention(0.4, 0.9, 0.5) is None
    assert retention(0.9, 0.7, None) is None


def test_ratio_is_the_plain_share_of_the_baseline():
    assert ratio(compare(binary([1, 1, 1, 0]), binary([1, 0, 0, 0]))) == pytest.approx(1 / 3)
    assert ratio(compare(binary([0, 0]), binary([1, 0]))) is None
    assert ratio(Comparison(0.5, None, None, None, None, None, 3)) is None


def test_holm_gives_the_adjusted_p_values_of_the_literature():
    # Four tests, two of which stay below .05 (the example of most textbooks; R's p.adjust agrees).
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_false_alarm_at_five_percent():
    p = np.random.default_rng(8).random((4000, 8))
    alarms = np.mean([min(holm(row)) < 0.05 for row in p.tolist()])
    assert 0.04 < alarms < 0.06
    assert np.mean((p < 0.05).any(axis=1)) > 0.3, "without it one in three"


@pytest.mark.parametrize("aggregation", ["macro_recall", "weighted_f1"])
def test_other_aggregations_are_compared_by_resampling_documents(aggregation):
    rng = np.random.default_rng(6)
    gold = rng.integers(0, 3, 120)
    before, after = (np.where(rng.random(120) < kept, gold, -1) for kept in (0.95, 0.6))
    if aggregation == "weighted_f1":
        rows = [np.stack([gold, answer], axis=1) for answer in (before, after)]
    else:
        classes = np.arange(3)
        there = gold[:, None] == classes
        rows = [
            np.stack([there & (answer[:, None] == classes), there], axis=2).reshape(120, 6)
            for answer in (before, after)
        ]
    seen = compare(*(scored(row, aggregation) for row in rows))
    assert seen.low < seen.difference < seen.high < -0.1
    assert seen.p < 0.001


def test_the_same_samples_in_another_order_give_the_same_answer():
    rng = np.random.default_rng(3)
    before, after = rng.random(60), rng.random(60)
    back = [
        make_score(dict(reversed(scored(x).samples.items())), chance=0.0) for x in (before, after)
    ]
    assert compare(scored(before), scored(after)) == compare(*back)
    assert compare(scored(before), scored(after), seed=1) != compare(*back)


def coverage(draw, truth, trials=400):
    """Share of `trials` whose 95 % interval holds `truth`."""
    rng = np.random.default_rng(11)
    intervals = [draw(rng) for _ in range(trials)]
    return np.mean([low <= truth <= high for low, high in intervals])


def pairs(rng, n, lost=0.12, won=0.04):
    """0/1 answers of `n` documents before and after, true difference won - lost."""
    kind = rng.choice(4, n, p=[lost, won, 0.7 - lost, 0.3 - won])
    return np.isin(kind, (0, 2)).astype(float), np.isin(kind, (1, 2)).astype(float)


@pytest.mark.parametrize("n", [30, 200])
def test_intervals_of_0_1_differences_cover(n):
    def draw(rng):
        before, after = pairs(rng, n)
        seen = compare(binary(before), binary(after))
        return seen.low, seen.high

    assert 0.92 <= coverage(draw, 0.04 - 0.12) <= 0.98


@pytest.mark.parametrize("n", [8, 60])
def test_bootstrap_intervals_of_differences_cover(n):
    def draw(rng):
        before = rng.beta(4, 2, n)
        after = before + 0.1 * rng.beta(2, 2, n) - 0.15
        seen = compare(scored(before), scored(after), resamples=500)
        return seen.low, seen.high

    assert 0.92 <= coverage(draw, 0.1 * 0.5 - 0.15) <= 0.98


def test_intervals_of_scores_cover():
    def draw(rng):
        return summarise(binary(rng.random(50) < 0.85).samples)[1:]

    assert 0.92 <= coverage(draw, 0.85) <= 0.98


def test_p_values_are_uniform_when_nothing_changed():
    rng = np.random.default_rng(4)
    p = []
    for _ in range(300):
        a, b = rng.random((2, 25))
        p.append(compare(scored(a), scored(b), resamples=300).p)
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.09
    assert stats.kstest(p, "uniform").pvalue > 0.001
