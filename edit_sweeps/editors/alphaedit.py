"""AlphaEdit (Fang et al., arXiv 2410.02355): updates confined to directions that ordinary keys do not use.

    P = U_0 U_0^T,  U_0 = eigenvectors of C with small eigenvalues                        (section 3.1)
    Delta^T = (P (K K^T + K_p K_p^T) + L2 I)^-1 P K R^T                                    (eq. 12)

K_p are the keys of everything written before. P is never formed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edit_sweeps.editors.base import Prepared, State, Stores
from edit_sweeps.editors.history import earlier_keys, remember_keys
from edit_sweeps.editors.kernel import solve_keys
from edit_sweeps.editors.spread import SpreadEditor
from edit_sweeps.moment import Moment
from edit_sweeps.requests import EditRequest

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.model import EditableModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AlphaEdit(SpreadEditor):
    """Null-space constrained update of several layers' MLP output matrices.

    Attributes:
        nullspace_threshold: Directions in which C is below this may be written to. Absolute, as
            published: it means something else for every model. None when the energy is given.
        nullspace_energy: Instead: the smallest directions that together hold at most this share of
            the trace of C. Means the same for every model.
        l2: Ridge: the size of an update against its exactness.
    """

    nullspace_threshold: float | None = 0.02
    nullspace_energy: float | None = None
    l2: float = 10.0

    def check(self, n_layers: int) -> None:
        """As `LocatedEditor.check`; also refuse thresholds that cannot be, and both at once."""
        super().check(n_layers)
        given = [v for v in (self.nullspace_threshold, self.nullspace_energy) if v is not None]
        if len(given) != 1 or not given[0] > 0 or (self.nullspace_energy or 0) >= 1:
            msg = (
                f"editor.nullspace_threshold={self.nullspace_threshold} and "
                f"editor.nullspace_energy={self.nullspace_energy}: give exactly one (the other null); "
                "the threshold above 0, the energy above 0 and below 1"
            )
            raise ValueError(msg)
        if not self.l2 > 0:
            msg = f"editor.l2={self.l2} must be above 0"
            raise ValueError(msg)

    def prepare(self, model: EditableModel, stores: Stores) -> Prepared:
        """Contexts and second moments.

        Raises:
            ValueError: No direction of a layer may be written to.
        """
        prepared = super().prepare(model, stores)
        for layer, moment in prepared.moments.items():
            free, d_in = self.free(moment), len(moment.eigenvalues)
            low, high = moment.eigenvalues[0].item(), moment.eigenvalues[-1].item()
            log.info("layer %d: %d of %d directions may be written to", layer, free, d_in)
            if free == 0:
                msg = (
                    f"AlphaEdit could write nothing to layer {layer}: no direction passes "
                    f"editor.nullspace_threshold={self.nullspace_threshold}, "
                    f"editor.nullspace_energy={self.nullspace_energy}; the eigenvalues of C lie between "
                    f"{low:.3g} and {high:.3g}"
                )
                raise ValueError(msg)
            if free == d_in:
                log.warning("layer %d: AlphaEdit protects nothing: C is below %.3g", layer, high)
        return prepared

    def free(self, moment: Moment) -> int:
        """How many of the smallest directions of C may be written to."""
        values = moment.eigenvalues.clamp(min=0.0)
        if self.nullspace_threshold is not None:
            return int((values < self.nullspace_threshold).sum())
        return int((values.cumsum(0) <= (self.nullspace_energy or 0.0) * values.sum()).sum())

    def factor(self, layer: int, keys: Tensor, state: State) -> Tensor:
        """P Z (Z^T P Z + L2 I)^-1 E with Z = [K_p, K]; P = I without a second moment."""
        moment = state.prepared.moments.get(layer)
        free = 0 if moment is None else self.free(moment)
        return solve_keys(
            keys,
            (lambda x: x) if moment is None else (lambda x: moment.project(x, free)),
            ridge=self.l2,
            earlier=earlier_keys(state, layer),
        )

    def remember(self, model: EditableModel, requests: Sequence[EditRequest], state: State) -> None:
        """Keep the keys of this batch."""
        remember_keys(model, requests, self.edited_layers, state.prepared.contexts, state)
