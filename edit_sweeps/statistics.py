"""How sure a score is and what an edit cost: intervals, paired differences, tests, retention, Holm.

Every function is deterministic: what resamples takes a seed and goes through the documents in the
order of their ids.

Methods:
    0/1 samples: Wilson's interval for a score (1927), Bonett and Price's adjusted Wald interval for
    a paired difference (2012, J. Educ. Behav. Stat. 37, 479), McNemar's exact test.
    Everything else: percentile bootstrap over documents, widened for few documents as Hesterberg
    proposes (2015, Am. Stat. 69, 371), and a paired permutation test.
    Several tests: Holm's adjusted p values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from edit_sweeps.aggregations import AGGREGATIONS, Aggregation
from edit_sweeps.record import Comparison, Score

Array = NDArray[np.float64]
Samples = Mapping[str, Sequence[float]]
"""Document id -> statistic of that document, `[k]` numbers."""

VALUE_ONLY = "value"
"""`Score.aggregation` of a metric whose documents cannot be aggregated again; it has no samples."""

Interval = tuple[float | None, float | None, float]
"""Low, high, p."""

CHUNK = 2**20
"""Numbers that a resampling step holds in memory at a time."""


def make_score(
    samples: Samples,
    aggregation: str = "mean",
    *,
    chance: float | None = None,
    invalid: float | None = None,
    headline: bool = False,
) -> Score:
    """A `Score` with its 95 % interval; `value` is None without documents or when not finite."""
    value, low, high = summarise(samples, aggregation)
    kept = {document: [float(x) for x in values] for document, values in samples.items()}
    return Score(value, len(kept), low, high, chance, invalid, headline, aggregation, kept)


def summarise(
    samples: Samples, aggregation: str = "mean", *, seed: int = 0, resamples: int = 2000
) -> tuple[float | None, float | None, float | None]:
    """The score over `samples` and its 95 % interval.

    Args:
        samples: Document id -> statistic of that document.
        aggregation: Key of `AGGREGATIONS`.
        seed: Of the bootstrap.
        resamples: Of the bootstrap.

    Returns:
        value, low, high. All None without documents or when the value is not finite; the interval
        is None for a single document that is not 0/1.
    """
    if not samples:
        return None, None, None
    values = _table(samples, sorted(samples))
    aggregate = AGGREGATIONS[aggregation]
    with np.errstate(over="ignore", invalid="ignore"):
        value = float(aggregate(values))
        if not math.isfinite(value):
            return None, None, None
        if aggregation == "mean" and _is_binary(values):
            return value, *_wilson(int(values.sum()), len(values))
        counted = aggregate.counted(values)
        return value, *_bootstrap(
            lambda draw: aggregate.of_counted(counted[draw]), len(values), seed, resamples
        )


def compare(baseline: Score, edited: Score, *, seed: int = 0, resamples: int = 2000) -> Comparison:
    """`edited` against `baseline` on the documents that both hold.

    Scores without samples (metrics whose documents cannot be aggregated again) are compared by
    value when they count the same number of documents; they get neither interval nor test.

    Args:
        baseline: The unedited model's score, with samples.
        edited: The edited model's score of the same metric, with samples.
        seed: Of bootstrap and permutations.
        resamples: Of each.

    Returns:
        The comparison; all None where there is no common document or a score is not finite.

    Raises:
        ValueError: The two scores were aggregated in different ways.
    """
    if baseline.aggregation != edited.aggregation:
        msg = (
            f"cannot compare a score aggregated by {baseline.aggregation} with one aggregated by "
            f"{edited.aggregation}; they are not of the same metric"
        )
        raise ValueError(msg)
    if not baseline.samples and not edited.samples and baseline.n == edited.n:
        return _compare_values(baseline, edited)
    ids = sorted(baseline.samples.keys() & edited.samples.keys())
    if not ids:
        return Comparison(None, None, None, None, None, None, 0)
    before, after = _table(baseline.samples, ids), _table(edited.samples, ids)
    aggregate = AGGREGATIONS[edited.aggregation]
    with np.errstate(over="ignore", invalid="ignore"):
        old, new = float(aggregate(before)), float(aggregate(after))
        if not math.isfinite(old - new):
            known = old if math.isfinite(old) else None
            return Comparison(known, None, None, None, None, None, len(ids))
        if edited.aggregation == "mean" and _is_binary(before) and _is_binary(after):
            test = _compare_binary(before[:, 0], after[:, 0])
        else:
            test = _compare_resampled(before, after, aggregate, seed, resamples)
    return Comparison(old, new - old, *test, retention(old, new, edited.chance), len(ids))


def retention(baseline: float, edited: float, chance: float | None) -> float | None:
    """(edited - chance) / (baseline - chance).

    None when chance is unknown or the baseline is not above it.
    """
    if chance is None or baseline <= chance:
        return None
    return (edited - chance) / (baseline - chance)


def ratio(compared: Comparison) -> float | None:
    """The edited score over the unedited one: the paper's own measure; None where that is 0 or unknown."""
    if compared.difference is None or not compared.baseline:
        return None
    return (compared.baseline + compared.difference) / compared.baseline


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order of `p` (Holm 1979, Scand. J. Stat. 6, 65).

    The probability that any of several true null hypotheses has one below .05 is at most .05,
    however the tests hang together.
    """
    order = np.argsort(p, kind="stable")
    raised = np.asarray(p, dtype=np.float64)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(raised))
    return [float(value) for value in adjusted]


def _compare_values(baseline: Score, edited: Score) -> Comparison:
    """Without samples: the difference of the two values and the retention."""
    if baseline.value is None or edited.value is None:
        return Comparison(baseline.value, None, None, None, None, None, edited.n)
    kept = retention(baseline.value, edited.value, edited.chance)
    difference = edited.value - baseline.value
    return Comparison(baseline.value, difference, None, None, None, kept, edited.n)


def _table(samples: Samples, ids: Sequence[str]) -> Array:
    """`[docs, k]` in the order of `ids`; what JSON had to store as null is NaN."""
    return np.array([samples[i] for i in ids], dtype=np.float64).reshape(len(ids), -1)


def _is_binary(values: Array) -> bool:
    return values.shape[1] == 1 and bool(np.isin(values, (0.0, 1.0)).all())


def _wilson(hits: int, n: int) -> tuple[float, float]:
    interval = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def _compare_binary(before: Array, after: Array) -> Interval:
    """Interval of the difference of paired 0/1 samples `[docs]`; p value of McNemar's exact test.

    Bonett and Price add one document that was lost and one that was won; so a single document, or
    documents whose answers all stayed, have an interval of positive width too.
    """
    n = len(before)
    won, lost = int((after > before).sum()), int((after < before).sum())
    gain, loss = (won + 1) / (n + 2), (lost + 1) / (n + 2)
    half = float(stats.norm.ppf(0.975)) * math.sqrt((gain + loss - (gain - loss) ** 2) / (n + 2))
    p = float(stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0
    return max(-1.0, gain - loss - half), min(1.0, gain - loss + half), p


def _compare_resampled(
    before: Array, after: Array, aggregation: Aggregation, seed: int, resamples: int
) -> Interval:
    """Bootstrap interval of the difference of paired samples `[docs, k]`; a permutation test's p.

    Under the null hypothesis the two answers to a document can be exchanged: each permutation
    exchanges those of a random half. The observed arrangement counts as one, so p is never 0.
    """
    n, aggregate = len(before), aggregation.of_counted
    before, after = aggregation.counted(before), aggregation.counted(after)
    low, high = _bootstrap(
        lambda draw: aggregate(after[draw]) - aggregate(before[draw]), n, seed, resamples
    )
    observed = abs(float(aggregate(after) - aggregate(before)))
    rng, extreme = np.random.default_rng([seed, 1]), 1
    for size in _chunks(n, resamples):
        swap = rng.random((size, n, 1)) < 0.5
        new = aggregate(np.where(swap, before, after))
        old = aggregate(np.where(swap, after, before))
        extreme += int((np.abs(new - old) >= observed - 1e-12).sum())
    return low, high, extreme / (resamples + 1)


def _bootstrap(
    statistic: Callable[[NDArray[np.int64]], Array], n: int, seed: int, resamples: int
) -> tuple[float | None, float | None]:
    """95 % percentile interval of `statistic` over draws `[resamples, n]` of document numbers.

    The percentiles are those that make the interval of a mean as wide as Student's (Hesterberg
    2015, "expanded percentile interval"); with many documents they are 2.5 and 97.5.
    """
    if n < 2:
        return None, None
    rng = np.random.default_rng(seed)
    values = np.concatenate(
        [statistic(rng.integers(0, n, (size, n))) for size in _chunks(n, resamples)]
    )
    if not np.isfinite(values).all():
        return None, None
    tail = float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1)))
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _chunks(n: int, resamples: int) -> list[int]:
    """`resamples` dealt out so that a chunk times `n` documents stays small."""
    size = max(1, CHUNK // n)
    return [min(size, resamples - start) for start in range(0, resamples, size)]
