"""MEMIT (Meng et al., arXiv 2210.07229): many facts at once, spread over several layers.

    for the j-th of L layers:   R = (Z - H) / (L - j + 1),                       (section 4.3)
                                Delta = R K^T (lambda C + K K^T)^-1               (eq. 14)

Z are the values optimised at the output of the last of the layers before anything is written, H
what that block puts out by now and K the layer's keys by now, the mean over contexts.
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
class Memit(SpreadEditor):
    """Least-squares update of several layers' MLP output matrices.

    Attributes:
        second_moment_weight: lambda: how many remembered keys the second moment stands for. With 0
            the new facts are written whatever it does to the rest.
    """

    second_moment_weight: float = 15000.0

    def check(self, n_layers: int) -> None:
        """As `LocatedEditor.check`; also refuse a negative weight."""
        super().check(n_layers)
        if not self.second_moment_weight >= 0:
            msg = f"editor.second_moment_weight={self.second_moment_weight} must be 0 or more"
            raise ValueError(msg)

    def factor(self, layer: int, keys: Tensor, state: State) -> Tensor:
        """C^-1 K (K^T C^-1 K + lambda I)^-1, which is (lambda C + K K^T)^-1 K."""
        moment = state.prepared.moments.get(layer)
        return solve_keys(keys, inverse_of(moment), ridge=self.second_moment_weight)
