"""PMET (Li et al., Precise Model Editing in a Transformer, arXiv 2308.08742).

MEMIT with the wanted output found at the MLP alone: two shifts, of the attention's and of the MLP's
output of the last layer, are optimised together, and only the MLP's is written (section 4.2). The
residual is divided by the square root of the layers left (section 4.3). The published code optimises
under its own loss (`value.CalmValueSettings`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edit_sweeps.editors.base import State
from edit_sweeps.editors.contexts import flatten
from edit_sweeps.editors.kernel import inverse_of, solve_keys
from edit_sweeps.editors.reading import BothSite, Site
from edit_sweeps.editors.spread import SpreadEditor
from edit_sweeps.editors.value import CalmValueSettings, Values, ValueSettings, optimise_values
from edit_sweeps.requests import EditRequest

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.model import EditableModel


@dataclass(frozen=True, kw_only=True)
class Pmet(SpreadEditor):
    """Least-squares update for the MLP's share of the wanted change.

    Attributes:
        second_moment_weight: lambda: how many remembered keys the second moment stands for.
    """

    second_moment_weight: float = 6000.0
    value: ValueSettings = field(
        default_factory=lambda: CalmValueSettings(lr=0.2, steps=30, clamp=0.75, kl_factor=1.0)
    )

    def check(self, n_layers: int) -> None:
        """As `LocatedEditor.check`; also refuse a negative weight."""
        super().check(n_layers)
        if not self.second_moment_weight >= 0:
            msg = f"editor.second_moment_weight={self.second_moment_weight} must be 0 or more"
            raise ValueError(msg)

    def site(self) -> Site:
        """The down projection of the last layer."""
        return Site(self.edited_layers[-1], block=False)

    def optimise(
        self, model: EditableModel, requests: Sequence[EditRequest], state: State
    ) -> Values:
        """Both shifts together; of the result only the MLP's half."""
        both = BothSite(self.edited_layers[-1])
        values = optimise_values(
            model, requests, flatten(state.prepared.contexts), both, self.value
        )
        return replace(
            values, start=values.start.chunk(2, -1)[1], shift=values.shift.chunk(2, -1)[1]
        )

    def share(self, remaining: int) -> float:
        """The square root of the layers left."""
        return math.sqrt(remaining)

    def factor(self, layer: int, keys: Tensor, state: State) -> Tensor:
        """(lambda C + K K^T)^-1 K."""
        moment = state.prepared.moments.get(layer)
        return solve_keys(keys, inverse_of(moment), ridge=self.second_moment_weight)
