"""The interval of a mean over several draws of edits, whose models all answered the same documents.

Two things were drawn: the edits (the seeds) and the documents, crossed. With few seeds a bootstrap
that draws both with replacement is too narrow (of five equal draws it sees four fifths of the
variance, and it knows no Student), and with many it counts the interaction of the two three times
(Owen 2007, Ann. Appl. Stat. 1, 386). So each source is measured by what suits it:

- the seeds, interaction included, by the variance of their values and Student's t on seeds - 1
  degrees of freedom;
- the documents, by a bootstrap that draws the same documents for all seeds; the interaction, which
  the seeds already hold, is taken off.

The two half widths are added in quadrature (Howe 1974, J. Am. Stat. Assoc. 69, 789), which errs on
the wide side. How well it covers is simulated in the tests; docs/statistics.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

DOCUMENTS = "documents"
SEEDS = "seeds"
BOTH = "seeds and documents"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        value: The mean.
        low: Lower end of the 95 % interval; None where there is none.
        high: Upper end of it.
        covers: What was drawn at random as far as the interval knows: `documents` (a single seed),
            `seeds` (documents unknown, or each seed has its own), `seeds and documents`, or
            nothing, where there is no interval.
    """

    value: float
    low: float | None = None
    high: float | None = None
    covers: str = ""

    def within(self, bottom: float, top: float) -> Estimate:
        """The same with an interval that stays where values can be."""
        if self.low is None or self.high is None:
            return self
        return Estimate(self.value, max(bottom, self.low), min(top, self.high), self.covers)


@dataclass(frozen=True)
class DocumentSpread:
    """What other documents would change.

    Attributes:
        together: Variance of the mean over seeds when documents are drawn anew for all of them.
        alone: Mean over the seeds of the variance of one.
        n: Number of documents.
    """

    together: float
    alone: float
    n: int

    def among(self, seeds: int, fewer: int) -> DocumentSpread:
        """That of the mean over `fewer` of the `seeds`, by their number: the interaction shrinks with it."""
        interaction = max(0.0, self.alone - self.together) * seeds / max(1, seeds - 1)
        together = self.together + interaction * (1 / fewer - 1 / seeds)
        return DocumentSpread(together, self.alone, self.n)

    def half(self, seeds: int) -> float:
        """Half the width of the 95 % interval that is the documents' own, without interaction."""
        own = self.together
        if seeds > 1:
            own -= max(0.0, self.alone - self.together) / (seeds - 1)
        return math.sqrt(max(0.0, own)) * float(stats.t.ppf(0.975, max(1, self.n - 1)))


def times_drawn(n: int, *, draws: int = 1000, seed: int = 0) -> Array:
    """How often each bootstrap draw of `n` out of `n` documents holds each: `[draws, n]`."""
    rng = np.random.default_rng([seed, n])
    return rng.multinomial(n, np.full(n, 1 / n), draws).astype(np.float64)


def spread(drawn: Array, n: int) -> DocumentSpread | None:
    """From a quantity of each seed in each draw, `[draws, seeds]`; None where it is not finite.

    The bootstrap's variance of a mean is (n - 1) / n of what it should be.
    """
    if n < 2 or not np.isfinite(drawn).all():
        return None
    scale = n / (n - 1)
    return DocumentSpread(
        float(drawn.mean(axis=1).var() * scale), float(drawn.var(axis=0).mean() * scale), n
    )


def mean_of(spreads: Sequence[DocumentSpread | None]) -> DocumentSpread | None:
    """Spread of the mean over tasks, whose documents are not the same; None where one is unknown."""
    known = [one for one in spreads if one is not None]
    if not known or len(known) < len(spreads):
        return None
    square = len(known) ** 2
    return DocumentSpread(
        sum(one.together for one in known) / square,
        sum(one.alone for one in known) / square,
        min(one.n for one in known),
    )


def estimate(values: Iterable[float], documents: DocumentSpread | None) -> Estimate:
    """The mean of the seeds' `values` and its 95 % interval.

    Args:
        values: One for each seed, at least one.
        documents: Spread over documents that all seeds share; None where it is unknown.
    """
    found = np.fromiter(values, dtype=np.float64)
    value, seeds = float(found.mean()), len(found)
    by_documents = 0.0 if documents is None else documents.half(seeds)
    if seeds == 1:
        if documents is None:
            return Estimate(value)
        return Estimate(value, value - by_documents, value + by_documents, DOCUMENTS)
    by_seeds = float(stats.t.ppf(0.975, seeds - 1) * found.std(ddof=1)) / math.sqrt(seeds)
    half = math.hypot(by_seeds, by_documents)
    return Estimate(value, value - half, value + half, SEEDS if documents is None else BOTH)
