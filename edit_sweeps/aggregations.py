"""How documents become a score: sums over the documents, and what is made of the sums.

Everything is vectorised over leading axes, so that a bootstrap aggregates all its draws at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _as_given(samples: Array) -> Array:
    return samples


@dataclass(frozen=True)
class Aggregation:
    """A score that depends on the documents through sums over them only.

    Attributes:
        formula: Sums over the documents `[..., m]` and number of documents -> score `[...]`.
        counted: Statistic of the documents `[..., docs, k]` -> what is summed, `[..., docs, m]`.
    """

    formula: Callable[[Array, int], Array]
    counted: Callable[[Array], Array] = _as_given

    def __call__(self, samples: Array) -> Array:
        """The score of `samples` `[..., docs, k]`, `[...]`."""
        return self.of_counted(self.counted(samples))

    def of_counted(self, counted: Array) -> Array:
        """The score of what `counted` gave, `[..., docs, m] -> [...]`."""
        return np.asarray(self.formula(counted.sum(axis=-2), counted.shape[-2]))

    def of_draws(self, samples: Array, times: Array) -> Array:
        """The score of each draw of a bootstrap.

        Args:
            samples: `[docs, k]`.
            times: How often each draw holds each document, `[draws, docs]`.

        Returns:
            `[draws]`.
        """
        return np.asarray(self.formula(times @ self.counted(samples), len(samples)))


def _mean(sums: Array, n: int) -> Array:
    return sums[..., 0] / n


def _micro_f1(sums: Array, n: int) -> Array:  # noqa: ARG001
    """2 tp / (2 tp + fp + fn); 0 where nothing was to be found and nothing was."""
    tp, fp, fn = np.moveaxis(sums, -1, 0)
    return _share(2 * tp, 2 * tp + fp + fn)


def _macro_recall(sums: Array, n: int) -> Array:  # noqa: ARG001
    """Mean over the kinds that occur of found / there; 0 where none occurs."""
    found, there = sums[..., 0::2], sums[..., 1::2]
    return _share(_share(found, there).sum(axis=-1), (there > 0).sum(axis=-1))


def _by_class(samples: Array) -> Array:
    """`[gold, predicted]` -> for each gold class of the documents: hit, there, predicted."""
    classes = np.unique(samples[..., 0])
    there, predicted = (samples[..., i, None] == classes for i in (0, 1))
    return np.concatenate([there & predicted, there, predicted], axis=-1).astype(np.float64)


def _weighted_f1(sums: Array, n: int) -> Array:
    """F1 of each class, weighted by how often it is the right one."""
    hits, there, predicted = np.split(sums, 3, axis=-1)
    return (there * _share(2 * hits, there + predicted)).sum(axis=-1) / n


def _perplexity(sums: Array, n: int) -> Array:
    return np.exp(-_mean(sums, n))


def _bits_per_byte(sums: Array, n: int) -> Array:  # noqa: ARG001
    return -sums[..., 0] / sums[..., 1] / math.log(2)


def _weighted_perplexity(sums: Array, n: int) -> Array:
    return np.exp2(_bits_per_byte(sums, n))


def _share(part: Array, whole: Array) -> Array:
    """`part / whole`, 0 where `whole` is."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) != 0)


AGGREGATIONS: Mapping[str, Aggregation] = {
    "mean": Aggregation(_mean),
    "micro_f1": Aggregation(_micro_f1),
    "macro_recall": Aggregation(_macro_recall),
    "weighted_f1": Aggregation(_weighted_f1, _by_class),
    "perplexity": Aggregation(_perplexity),
    "weighted_perplexity": Aggregation(_weighted_perplexity),
    "bits_per_byte": Aggregation(_bits_per_byte),
}
"""`[..., docs, k] -> [...]`. A document holds

- `[value]` (mean) or `[log-likelihood]` in nats (perplexity);
- `[log-likelihood, length]` (weighted_perplexity, bits_per_byte);
- `[true positives, false positives, false negatives]` (micro_f1);
- `[found, there]` of the first kind, of the second ... (macro_recall);
- `[gold class, predicted class]` (weighted_f1): classes are numbers, an answer that names none is
  -1. The value is scikit-learn's `f1_score(average="weighted")`.
"""

LOWER_IS_BETTER = frozenset({"perplexity", "weighted_perplexity", "bits_per_byte"})
"""Aggregations where a rise is a loss."""
