"""The procedure of MEMIT (arXiv 2210.07229, algorithm 1) that its kin share: one batch over several layers.

    Z = the wanted outputs of the last of L layers, found before anything is written
    for the j-th layer:   R = (Z - H) / share(L - j + 1),   Delta = R A^T

H is what the last layer puts out by now and A the factor of this layer's keys by now. A method is a
choice of A, of the site of Z, and of how a residual is shared out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from edit_sweeps.editors.base import State, Trace
from edit_sweeps.editors.contexts import flatten
from edit_sweeps.editors.kernel import update_norms
from edit_sweeps.editors.located import LocatedEditor
from edit_sweeps.editors.reading import Site, read_keys, read_outputs
from edit_sweeps.editors.value import Values, ValueSettings, optimise_values
from edit_sweeps.later import torch
from edit_sweeps.ledger import Ledger, LowRank
from edit_sweeps.requests import EditRequest

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.model import EditableModel


@dataclass(frozen=True, kw_only=True)
class SpreadEditor(LocatedEditor):
    """A batch of edits written into several layers' MLP output matrices.

    Attributes:
        layers: The blocks; written in ascending order.
    """

    layers: Sequence[int]
    value: ValueSettings = field(default_factory=lambda: ValueSettings(steps=25, clamp=0.75))
    context_starts: Sequence[str] = ("The", "Therefore", "Because", "I", "You")
    context_lengths: Sequence[Sequence[int]] = ((10, 1),)

    grouped_contexts: ClassVar[bool] = True

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """In ascending order."""
        return tuple(sorted(self.layers))

    @abstractmethod
    def factor(self, layer: int, keys: Tensor, state: State) -> Tensor:
        """A of one layer.

        Args:
            layer: The block.
            keys: `[d_in, edits]` in float64.
            state: Not mutated.

        Returns:
            `[d_in, edits]` in float64; the update is `residuals @ A.T`.
        """

    def site(self) -> Site:
        """Where the value is wanted: the output of the last of the layers."""
        return Site(self.edited_layers[-1], block=True)

    def optimise(
        self, model: EditableModel, requests: Sequence[EditRequest], state: State
    ) -> Values:
        """The wanted outputs at `site`, on the model as it stands."""
        return optimise_values(
            model, requests, flatten(state.prepared.contexts), self.site(), self.value
        )

    def share(self, remaining: int) -> float:
        """What a residual is divided by when so many layers are still to be written."""
        return float(remaining)

    def edit(
        self, model: EditableModel, requests: Sequence[EditRequest], ledger: Ledger, state: State
    ) -> list[Trace]:
        """Write requests as one batch."""
        layers, contexts, site = self.edited_layers, state.prepared.contexts, self.site()
        values = self.optimise(model, requests, state)
        squares, weights = torch.zeros(len(requests), dtype=torch.float64), 0.0
        for index, layer in enumerate(layers):
            keys = read_keys(model, requests, contexts, layer)
            output = read_outputs(model, requests, site).to(keys.device)
            residuals = (values.value.to(keys).T - output) / self.share(len(layers) - index)
            update = LowRank(left=residuals, right=self.factor(layer, keys, state))
            squares += update_norms(update).cpu() ** 2
            weights += model.matrix(layer).float().square().sum().item()
            ledger.write(model.parameter_name(layer), update)
        self.remember(model, requests, state)
        state.edits_done += len(requests)
        return values.traces(
            requests,
            update_norm=squares.sqrt(),
            update_norm_relative=(squares / weights).sqrt(),
        )

    def remember(self, model: EditableModel, requests: Sequence[EditRequest], state: State) -> None:
        """What later batches must know of this one; nothing here. May mutate `state`."""
