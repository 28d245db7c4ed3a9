"""The interval over seeds and documents covers, whichever of the two varies, also with two seeds."""

import numpy as np
import pytest

from edit_sweeps.across_seeds import (
    BOTH,
    DOCUMENTS,
    SEEDS,
    DocumentSpread,
    estimate,
    mean_of,
    spread,
    times_drawn,
)

TRUTH = 0.7
SOURCES = {
    "seeds": (0.05, 0.10, 0.10),
    "documents": (0.0, 0.40, 0.10),
    "both": (0.02, 0.40, 0.20),
    "interaction": (0.0, 0.10, 0.40),
}
"""Standard deviations of seeds, documents and their interaction."""


def table(rng, seeds, n, source):
    """What each seed scores on each document, `[seeds, n]`."""
    a, b, e = SOURCES[source]
    shared = a * rng.normal(size=(seeds, 1)) + b * rng.normal(size=(1, n))
    return TRUTH + shared + e * rng.normal(size=(seeds, n))


def interval(scores, times):
    drawn = times @ scores.T / scores.shape[1]
    return estimate(scores.mean(axis=1), spread(drawn, scores.shape[1]))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_it_covers(seeds, source):
    rng, n, trials = np.random.default_rng([seeds, len(source)]), 100, 600
    times = times_drawn(n, draws=300)
    found = [interval(table(rng, seeds, n, source), times) for _ in range(trials)]
    assert np.mean([one.low <= TRUTH <= one.high for one in found]) >= 0.925


def test_a_bootstrap_of_the_seeds_would_not():
    """Why the seeds are not drawn with replacement: of two that differ, such an interval covers half."""
    rng, covered = np.random.default_rng(7), []
    for _ in range(300):
        scores = table(rng, 2, 100, "seeds").mean(axis=1)
        low, high = np.quantile(rng.choice(scores, (500, 2)).mean(axis=1), [0.025, 0.975])
        covered.append(low <= TRUTH <= high)
    assert np.mean(covered) < 0.6


def test_the_interval_of_one_seed_says_that_it_is_over_documents_only():
    rng = np.random.default_rng(0)
    scores = table(rng, 1, 400, "documents")
    found = interval(scores, times_drawn(400))
    assert found.covers == DOCUMENTS
    half = 1.966 * scores.std(ddof=1) / 20
    assert (found.low, found.high) == pytest.approx(
        (found.value - half, found.value + half), rel=0.01
    )
    assert estimate([0.5], None).low is None


def test_without_documents_it_is_students_interval_of_the_seeds():
    found = estimate([0.5, 0.6, 0.7], None)
    assert found.covers == SEEDS
    assert (found.low, found.high) == pytest.approx(
        (0.6 - 4.3027 * 0.1 / 3**0.5, 0.6 + 0.24841), rel=1e-3
    )


def test_documents_widen_it_and_what_only_some_seeds_see_is_counted_once():
    shared = DocumentSpread(0.01, 0.01, 1000)
    apart = DocumentSpread(0.01 / 4, 0.01, 1000)
    same = [0.6, 0.6, 0.6, 0.6]
    assert estimate(same, shared).covers == BOTH
    assert estimate(same, shared).high - 0.6 == pytest.approx(1.962 * 0.1, rel=1e-3)
    assert estimate(same, apart).high == pytest.approx(0.6), (
        "seeds that answer alone: all interaction"
    )


def test_tasks_have_documents_of_their_own():
    one = DocumentSpread(0.04, 0.08, 50)
    assert mean_of([one, one]) == DocumentSpread(0.02, 0.04, 50)
    assert mean_of([one, None]) is None
    assert mean_of([]) is None


def test_what_is_not_finite_has_no_spread_and_bounds_hold():
    assert spread(np.full((10, 2), np.nan), 10) is None
    assert spread(np.ones((10, 2)), 1) is None
    assert estimate([0.9, 1.0], None).within(0.0, 1.0).high == 1.0


def test_draws_are_the_same_each_time_and_hold_as_many_documents():
    assert (times_drawn(30) == times_drawn(30)).all()
    assert (times_drawn(30).sum(axis=1) == 30).all()
    assert (times_drawn(30, seed=1) != times_drawn(30)).any()


def test_the_spread_of_fewer_seeds_is_that_of_their_own_mean():
    rng, n = np.random.default_rng(5), 400
    scores = table(rng, 6, n, "interaction")
    times = times_drawn(n)
    every, two = (spread(times @ part.T / n, n) for part in (scores, scores[:2]))
    assert every.together < 0.6 * two.together
    assert every.among(6, 2).together == pytest.approx(two.together, rel=0.15)
    assert every.among(6, 6).together == pytest.approx(every.together)
    assert every.among(6, 1).together == pytest.approx(every.alone)
