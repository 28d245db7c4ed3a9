"""The change of one matrix, `[d_out, d_in]` in mathematical orientation: low rank where it can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """The update `left @ right.T`.

    Attributes:
        left: `[d_out, r]`.
        right: `[d_in, r]`.
    """

    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class Dense:
    """The update itself.

    Attributes:
        matrix: `[d_out, d_in]`.
    """

    matrix: Tensor


Update = LowRank | Dense


def to_dense(update: Update) -> Tensor:
    """`[d_out, d_in]` in the update's own precision."""
    return update.left @ update.right.T if isinstance(update, LowRank) else update.matrix
