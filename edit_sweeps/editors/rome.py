"""ROME (arXiv 2202.05262) and r-ROME (arXiv 2403.07175): one fact into one matrix.

    u = C^-1 k*,   Delta = (v* - W k) u^T / (k^T u)                  (Meng et al., eq. 2 and 3)

k* is the mean of the key over contexts, v* the optimised output of the matrix for the bare prompt.
ROME's published code takes the *bare* prompt's key for k and W k, which can leave k^T u small and
the update enormous; r-ROME (Gupta et al.) takes k* there too. Biases stand on both sides and
cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edit_sweeps.editors.base import State, Trace
from edit_sweeps.editors.contexts import BARE, flatten
from edit_sweeps.editors.kernel import inverse_of, solve_keys, update_norms
from edit_sweeps.editors.located import LocatedEditor
from edit_sweeps.editors.reading import Site, read_keys
from edit_sweeps.editors.settings import the_only
from edit_sweeps.editors.value import optimise_values
from edit_sweeps.ledger import Ledger, LowRank
from edit_sweeps.requests import EditRequest

if TYPE_CHECKING:
    from edit_sweeps.model import EditableModel


@dataclass(frozen=True, kw_only=True)
class Rome(LocatedEditor):
    """Rank-one update of one layer's MLP output matrix.

    Attributes:
        layer: The block.
        uniform_key: Whether the mean key stands everywhere (r-ROME), or the bare prompt's where the
            published code has it (ROME).
    """

    layer: int
    uniform_key: bool = False

    one_at_a_time: ClassVar[bool] = True

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """The one layer."""
        return (self.layer,)

    def edit(
        self, model: EditableModel, requests: Sequence[EditRequest], ledger: Ledger, state: State
    ) -> list[Trace]:
        """Write one request.

        Raises:
            ValueError: Not exactly one request.
        """
        the_only(requests, "ROME")
        contexts = state.prepared.contexts
        values = optimise_values(
            model, requests, flatten(contexts), Site(self.layer, block=False), self.value
        )
        mean_key = read_keys(model, requests, contexts, self.layer)
        bare_key = read_keys(model, requests, ((BARE,),), self.layer)
        factor = solve_keys(mean_key, inverse_of(state.prepared.moments.get(self.layer)))
        matrix = model.matrix(self.layer)
        output = values.start.to(factor).T
        if self.uniform_key:
            output = output + matrix.to(factor) @ (mean_key - bare_key)
        agreement = (mean_key if self.uniform_key else bare_key).T @ factor
        update = LowRank(left=(values.value.to(factor).T - output) / agreement, right=factor)
        size = update_norms(update)
        relative = size / matrix.float().norm().item()
        ledger.write(model.parameter_name(self.layer), update)
        state.edits_done += 1
        return values.traces(
            requests,
            update_norm=size,
            update_norm_relative=relative,
            key_agreement=agreement[0],
        )
