"""Regularizers of the update: what happens to a change between the editor and the weight.

All but PRUNE act on every update before it is written; PRUNE acts once, on the sum. None knows the editor.
"""

from __future__ import annotations

import logging
import math
from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edit_sweeps.later import torch
from edit_sweeps.updates import Dense, LowRank, Update, to_dense

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

REFERENCES = ("original", "current")
FORMS = ("log", "linear")


class Regularizer(ABC):  # noqa: B024  # each rule overrides the one method it needs
    """A rule that the ledger applies to updates; both methods return them unchanged here."""

    dense: ClassVar[bool] = False
    """Whether a low-rank update is of full rank afterwards; `save=adapter` refuses such a rule."""

    def on_write(
        self,
        update: Update,
        original: Tensor,  # noqa: ARG002
        current: Tensor,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> Update:
        """Change one update before it is written.

        Args:
            update: Of one matrix; not mutated.
            original: `[d_out, d_in]` unedited matrix in the ledger's precision; not to be written
                into.
            current: `[d_out, d_in]` matrix with all earlier updates; not to be written into.
            generator: For rules that draw; seeded by the number of the write, on the CPU.

        Returns:
            What is written in its place.
        """
        return update

    def on_finish(self, total: Tensor, original: Tensor) -> Tensor:  # noqa: ARG002
        """Change the sum of all updates of a matrix, once, after the last.

        Args:
            total: `[d_out, d_in]` sum; not to be written into.
            original: `[d_out, d_in]` unedited matrix.

        Returns:
            The sum that takes its place; `total` itself when nothing is to change.
        """
        return total


@dataclass(frozen=True, kw_only=True)
class Rect(Regularizer):
    """RECT (Gu et al., arXiv 2401.04700, section 5): only the largest *relative* changes are written.

    Attributes:
        keep: Share of the elements of a matrix that keep their change; the rest keep their value.
        reference: Relative to which matrix: `original` (unedited) or `current` (with earlier edits,
            as in AlphaEdit's code).
        eps: Added to |W|, so that an element of zero is not infinitely changed.
    """

    dense: ClassVar[bool] = True

    keep: float = 0.4
    reference: str = "original"
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check_share("keep", self.keep)
        if self.reference not in REFERENCES:
            msg = f"regularizer.reference={self.reference}: one of {', '.join(REFERENCES)}"
            raise ValueError(msg)

    def on_write(
        self,
        update: Update,
        original: Tensor,
        current: Tensor,
        generator: torch.Generator,  # noqa: ARG002
    ) -> Update:
        """Zero all but the `keep` share of |Delta| / (|W| + eps)."""
        change = to_dense(update).to(original)
        if self.keep == 1 or not change.isfinite().all():
            return update
        weight = original if self.reference == "original" else current
        return Dense(change * largest(change.abs() / (weight.abs() + self.eps), self.keep))


@dataclass(frozen=True, kw_only=True)
class NormMatch(Rect):
    """The control that RECT lacks: the plain update, scaled to the Frobenius norm RECT would leave it.

    What RECT does beyond this is due to *which* elements it keeps, and not to a smaller step.
    """

    dense: ClassVar[bool] = False

    def on_write(
        self, update: Update, original: Tensor, current: Tensor, generator: torch.Generator
    ) -> Update:
        """Scale; a low-rank update stays one."""
        kept = super().on_write(update, original, current, generator)
        if kept is update:
            return update
        whole = to_dense(update).to(original).norm()
        share = (to_dense(kept).norm() / whole).item() if whole > 0 else 1.0
        if isinstance(update, LowRank):
            return LowRank(update.left * share, update.right)
        return Dense(update.matrix * share)


@dataclass(frozen=True, kw_only=True)
class RandomKeep(Regularizer):
    """The paper's random control (arXiv 2401.04700, section 5): a random share of the elements is written.

    Attributes:
        keep: Share of the elements of a matrix that keep their change; drawn anew for every update
            from the cell's seed.
    """

    dense: ClassVar[bool] = True

    keep: float = 0.4

    def __post_init__(self) -> None:
        _check_share("keep", self.keep)

    def on_write(
        self,
        update: Update,
        original: Tensor,
        current: Tensor,  # noqa: ARG002
        generator: torch.Generator,
    ) -> Update:
        """Zero all but a random `keep` share."""
        change = to_dense(update).to(original)
        if self.keep == 1:
            return update
        drawn = torch.rand(change.shape, generator=generator).to(change.device)
        return Dense(change * largest(drawn, self.keep))


@dataclass(frozen=True, kw_only=True)
class Truncate(Regularizer):
    """The best approximation of rank `rank` of every update (the paper's PCA control).

    Attributes:
        rank: Singular values kept.
    """

    rank: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            msg = f"regularizer.rank={self.rank}: a whole number of at least 1"
            raise ValueError(msg)

    def on_write(
        self,
        update: Update,
        original: Tensor,  # noqa: ARG002
        current: Tensor,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> Update:
        """Cut the singular values behind the first `rank`."""
        change = update.left if isinstance(update, LowRank) else update.matrix
        full = change.shape[1] if isinstance(update, LowRank) else min(change.shape)
        if self.rank >= full or not change.isfinite().all():
            return update
        left, values, right = singular_values(update)
        return LowRank(left[:, : self.rank] * values[: self.rank], right[:, : self.rank])


@dataclass(frozen=True, kw_only=True)
class Prune(Regularizer):
    """PRUNE (Ma et al., arXiv 2405.16821): singular values of the *sum* of all edits are bounded.

    Those above the largest singular value s of the unedited matrix are compressed,

        log:     sigma' = log_alpha(sigma) - log_alpha(s) + s                        (eq. 9)
        linear:  sigma' = slope (sigma - s) + s,

    the others stay. Applied once, after the last edit; the edits before it see each other unpruned.

    Attributes:
        form: `log` or `linear`.
        alpha: Base of the logarithm, above 1; the paper's is e.
        slope: Of the linear form, 0 to 1.
    """

    form: str = "log"
    alpha: float = math.e
    slope: float = 0.5

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            msg = f"regularizer.form={self.form}: one of {', '.join(FORMS)}"
            raise ValueError(msg)
        if not self.alpha > 1:
            msg = f"regularizer.alpha={self.alpha}: the base of the logarithm must be above 1"
            raise ValueError(msg)
        if not 0 <= self.slope <= 1:
            msg = f"regularizer.slope={self.slope}: 0 to 1"
            raise ValueError(msg)

    def on_finish(self, total: Tensor, original: Tensor) -> Tensor:
        """Compress what is above the bound; `total` itself when nothing is."""
        if not total.isfinite().all():
            log.warning("the sum of the edits is not finite: nothing to prune")
            return total
        bound = torch.linalg.matrix_norm(original.double(), 2)
        left, values, right = torch.linalg.svd(total.double(), full_matrices=False)
        over = values > bound
        if not over.any():
            return total
        if self.form == "log":
            small = (values.log() - bound.log()) / math.log(self.alpha) + bound
        else:
            small = self.slope * (values - bound) + bound
        log.info("PRUNE: %d of %d singular values above %.4g", int(over.sum()), len(over), bound)
        if (small > values)[over].any():
            # The paper's formula, where s is below 1 / ln(alpha).
            log.warning("PRUNE with alpha=%.3g makes values above %.3g larger", self.alpha, bound)
        final = torch.where(over, small, values)
        return ((left * final) @ right).to(total)


def largest(scores: Tensor, keep: float) -> Tensor:
    """0/1 of the shape of `scores`: exactly `round(keep * numel)` ones, at the largest scores.

    Of equal scores at the edge those that come first are taken.
    """
    flat = scores.reshape(-1)
    count = round(keep * flat.numel())
    chosen = torch.zeros_like(flat)
    if count:
        edge = flat.kthvalue(flat.numel() - count + 1).values
        chosen[flat > edge] = 1
        missing = count - int(chosen.sum())
        chosen[(flat == edge).nonzero()[:missing, 0]] = 1
    return chosen.reshape(scores.shape)


def singular_values(update: Update) -> tuple[Tensor, Tensor, Tensor]:
    """U `[d_out, r]`, S `[r]`, V `[d_in, r]` of an update, in float64; exact and cheap for a low-rank one."""
    if isinstance(update, Dense):
        left, values, right = torch.linalg.svd(update.matrix.double(), full_matrices=False)
        return left, values, right.T
    left, left_core = torch.linalg.qr(update.left.double())
    right, right_core = torch.linalg.qr(update.right.double())
    inner, values, outer = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    return left @ inner, values, right @ outer.T


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        msg = f"regularizer.{name}={value}: a share above 0, at most 1"
        raise ValueError(msg)
