"""ENCORE (Gupta et al., Lifelong Sequential Knowledge Editing without Model Degradation, arXiv 2502.01636).

    Delta = R K^T (w C + mu I + K_p K_p^T + K K^T)^-1

MEMIT in sequence with a bound on the norm of the update (mu), and values whose optimisation stops a
few steps after the new target has become the most probable one (`SaidValueSettings`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edit_sweeps.editors.base import State
from edit_sweeps.editors.history import earlier_keys, remember_keys
from edit_sweeps.editors.kernel import solve_keys
from edit_sweeps.editors.spread import SpreadEditor
from edit_sweeps.editors.value import SaidValueSettings, ValueSettings
from edit_sweeps.requests import EditRequest

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.model import EditableModel


@dataclass(frozen=True, kw_only=True)
class Encore(SpreadEditor):
    """Norm-constrained least-squares update that remembers earlier keys.

    Attributes:
        second_moment_weight: w: how many remembered keys the second moment stands for.
        norm_weight: mu: ridge on the Frobenius norm of the update.
    """

    second_moment_weight: float = 15000.0
    norm_weight: float = 10.0
    value: ValueSettings = field(default_factory=lambda: SaidValueSettings(steps=25, clamp=0.75))

    def check(self, n_layers: int) -> None:
        """As `LocatedEditor.check`; also refuse weights that cannot be."""
        super().check(n_layers)
        if not self.second_moment_weight >= 0:
            msg = f"editor.second_moment_weight={self.second_moment_weight} must be 0 or more"
            raise ValueError(msg)
        if not self.norm_weight > 0:
            msg = f"editor.norm_weight={self.norm_weight} must be above 0"
            raise ValueError(msg)

    def factor(self, layer: int, keys: Tensor, state: State) -> Tensor:
        """(w C + mu I + K_p K_p^T + K K^T)^-1 K; C = I without a second moment."""
        moment, weight, mu = (
            state.prepared.moments.get(layer),
            self.second_moment_weight,
            self.norm_weight,
        )

        def multiply(x: Tensor) -> Tensor:
            if moment is None:
                return x / (weight + mu)
            return moment.solve_ridge(x, weight, mu)

        return solve_keys(keys, multiply, ridge=1.0, earlier=earlier_keys(state, layer))

    def remember(self, model: EditableModel, requests: Sequence[EditRequest], state: State) -> None:
        """Keep the keys of this batch."""
        remember_keys(model, requests, self.edited_layers, state.prepared.contexts, state)
