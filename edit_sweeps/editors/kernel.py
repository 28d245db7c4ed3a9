"""The closed form that the locate-then-edit family shares.

Every method of the family writes `Delta = R A^T` with

    A = M Z (Z^T M Z + ridge I)^-1 E,        Z = [earlier keys, keys],  E = the last columns of I

and differs in M and the ridge: ROME M = C^-1, ridge 0 (arXiv 2202.05262, eq. 2); MEMIT M = C^-1,
ridge lambda (arXiv 2210.07229, eq. 14), which is `R K^T (lambda C + K K^T)^-1` by the push-through
identity; EMMET M = C^-1, ridge weight x lambda_e (arXiv 2403.14236). Only a system as large as the
number of keys is solved, never one of `d_in`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from edit_sweeps.later import torch
from edit_sweeps.ledger import LowRank
from edit_sweeps.moment import Moment

if TYPE_CHECKING:
    from torch import Tensor

    Multiply = Callable[[Tensor], Tensor]

logger = logging.getLogger(__name__)

"""`[d_in, n]` -> M times it; M symmetric and positive semi-definite."""

SMALLEST_PIVOT = 1e-7
"""Share of the largest pivot below which one is rounding: its square is float64's precision."""


def solve_keys(
    keys: Tensor, multiply: Multiply, *, ridge: float = 0.0, earlier: Tensor | None = None
) -> Tensor:
    """The right factor of an update: what each key's residual is spread over.

    With `ridge=0` and no earlier keys, `A^T keys = I`: the update maps every key exactly.

    Args:
        keys: `[d_in, edits]`, one column for each edit.
        multiply: Applies M to `[d_in, n]` in float64.
        ridge: Added to the diagonal; trades exactness at the keys for a small update elsewhere.
        earlier: `[d_in, n]`, keys of edits that the update must leave alone.

    Returns:
        A `[d_in, edits]` in float64, so that the update is `residuals @ A.T`. All NaN when a key is
        not finite (the model had collapsed before), which is logged.

    Raises:
        ValueError: A negative ridge.
    """
    if not ridge >= 0:
        msg = f"the ridge of the update (second_moment_weight) is {ridge}; it must be 0 or more"
        raise ValueError(msg)
    keys = exact(keys)
    every = keys if earlier is None else torch.cat([exact(earlier).to(keys.device), keys], 1)
    spread = multiply(every).to(keys)
    gram = every.T @ spread
    gram = (gram + gram.T) / 2
    gram.diagonal().add_(ridge)
    chosen = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)[:, -keys.shape[1] :]
    return spread @ _solve(gram, chosen)


def inverse_of(moment: Moment | None) -> Multiply:
    """M = C^-1; the identity without a second moment."""
    return (lambda keys: keys) if moment is None else moment.solve


def update_norms(update: LowRank) -> Tensor:
    """`[edits]`, Frobenius norm of what each edit's own rank-one part writes."""
    return update.left.norm(dim=0) * update.right.norm(dim=0)


def exact(x: Tensor) -> Tensor:
    """`x` in float64; on the CPU where its own device has no float64."""
    try:
        return x.double()
    except TypeError:
        return x.cpu().double()


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    """gram^-1 right; by the pseudo-inverse when keys repeat and no ridge tells them apart."""
    if not gram.isfinite().all():
        logger.warning("keys are not finite: the model had collapsed; the update is NaN")
        return torch.full_like(right, torch.nan)
    factor, failed = torch.linalg.cholesky_ex(gram)
    pivots = factor.diagonal()
    if not failed.item() and pivots.min() > SMALLEST_PIVOT * pivots.max():
        return torch.cholesky_solve(right, factor)
    logger.warning("the keys of this batch are linearly dependent: solved by the pseudo-inverse")
    return torch.linalg.pinv(gram, hermitian=True) @ right
