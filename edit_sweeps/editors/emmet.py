"""EMMET (Gupta et al., A Unified Framework for Model Editing, arXiv 2403.14236): ROME's equality for a batch.

    Delta = R (K^T C'^-1 K + lambda_e I)^-1 K^T C'^-1,       C' = w C                     (eq. 8)

The new facts are a constraint, not a least-squares term: with lambda_e = 0 every key is mapped
exactly. With a ridge it is MEMIT's update at lambda = w lambda_e, to the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edit_sweeps.editors.base import State
from edit_sweeps.editors.kernel import inverse_of, solve_keys
from edit_sweeps.editors.spread import SpreadEditor

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Emmet(SpreadEditor):
    """Equality-constrained update; published on one layer.

    Attributes:
        second_moment_weight: w.
        equality_ridge: lambda_e, for batches of more than one edit; a single edit is exact, as in
            the authors' code.
    """

    second_moment_weight: float = 10000.0
    equality_ridge: float = 0.1

    def check(self, n_layers: int) -> None:
        """As `LocatedEditor.check`; also refuse weights that cannot be."""
        super().check(n_layers)
        if not self.second_moment_weight > 0:
            msg = f"editor.second_moment_weight={self.second_moment_weight} must be above 0"
            raise ValueError(msg)
        if not self.equality_ridge >= 0:
            msg = f"editor.equality_ridge={self.equality_ridge} must be 0 or more"
            raise ValueError(msg)

    def factor(self, layer: int, keys: Tensor, state: State) -> Tensor:
        """C^-1 K (K^T C^-1 K + w lambda_e I)^-1."""
        ridge = self.second_moment_weight * self.equality_ridge if keys.shape[1] > 1 else 0.0
        return solve_keys(keys, inverse_of(state.prepared.moments.get(layer)), ridge=ridge)
