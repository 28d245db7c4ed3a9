"""MEMIT for sequences of batches: an update also leaves the keys of earlier batches alone.

    Delta = R K^T (lambda C + K_p K_p^T + K K^T)^-1

K_p are the keys of everything written before. The baseline "MEMIT" of AlphaEdit's code (arXiv
2410.02355); plain MEMIT forgets its earlier batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edit_sweeps.editors.base import State
from edit_sweeps.editors.history import earlier_keys, remember_keys
from edit_sweeps.editors.kernel import inverse_of, solve_keys
from edit_sweeps.editors.spread import SpreadEditor
from edit_sweeps.requests import EditRequest

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.model import EditableModel


@dataclass(frozen=True, kw_only=True)
class MemitSeq(SpreadEditor):
    """MEMIT that remembers the keys of earlier batches.

    Attributes:
        second_moment_weight: lambda: how many remembered keys the second moment stands for.
    """

    second_moment_weight: float = 15000.0

    def check(self, n_layers: int) -> None:
        """As `LocatedEditor.check`; also refuse a negative weight."""
        super().check(n_layers)
        if not self.second_moment_weight >= 0:
            msg = f"editor.second_moment_weight={self.second_moment_weight} must be 0 or more"
            raise ValueError(msg)

    def factor(self, layer: int, keys: Tensor, state: State) -> Tensor:
        """(lambda C + K_p K_p^T + K K^T)^-1 K."""
        return solve_keys(
            keys,
            inverse_of(state.prepared.moments.get(layer)),
            ridge=self.second_moment_weight,
            earlier=earlier_keys(state, layer),
        )

    def remember(self, model: EditableModel, requests: Sequence[EditRequest], state: State) -> None:
        """Keep the keys of this batch."""
        remember_keys(model, requests, self.edited_layers, state.prepared.contexts, state)
