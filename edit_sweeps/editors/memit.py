"""MEMIT (Meng et al., arXiv 2210.07229): many facts at once, spread over several layers.

    for the j-th of L layers:   R = (Z - H) / (L - j + 1),                       (section 4.3)
                                Delta = R K^T (lambda C + K K^T)^-1               (eq. 14)

Z are the values optimised at the output of the last of the layers before anything is written, H
what that block puts out by now and K the layer's keys by now, the mean over contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from edit_sweeps.editors.base import State, Trace
from edit_sweeps.editors.contexts import flatten
from edit_sweeps.editors.kernel import inverse_of, solve_keys, update_norms
from edit_sweeps.editors.located import LocatedEditor
from edit_sweeps.editors.reading import Site, read_keys, read_outputs
from edit_sweeps.editors.value import ValueSettings, optimise_values
from edit_sweeps.ledger import Ledger, LowRank
from edit_sweeps.model import EditableModel
from edit_sweeps.requests import EditRequest


@dataclass(frozen=True, kw_only=True)
class Memit(LocatedEditor):
    """Least-squares update of several layers' MLP output matrices.

    Attributes:
        layers: The blocks; written in ascending order.
        second_moment_weight: lambda: how many remembered keys the second moment stands for. With 0
            the new facts are written whatever it does to the rest.
    """

    layers: Sequence[int]
    second_moment_weight: float = 15000.0
    value: ValueSettings = field(default_factory=lambda: ValueSettings(steps=25, clamp=0.75))
    context_starts: Sequence[str] = ("The", "Therefore", "Because", "I", "You")
    context_lengths: Sequence[Sequence[int]] = ((10, 1),)

    grouped_contexts: ClassVar[bool] = True

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """In ascending order."""
        return tuple(sorted(self.layers))

    def check(self, n_layers: int) -> None:
        """As `LocatedEditor.check`; also refuse a negative weight."""
        super().check(n_layers)
        if not self.second_moment_weight >= 0:
            msg = f"editor.second_moment_weight={self.second_moment_weight} must be 0 or more"
            raise ValueError(msg)

    def edit(
        self, model: EditableModel, requests: Sequence[EditRequest], ledger: Ledger, state: State
    ) -> list[Trace]:
        """Write requests as one batch."""
        layers, contexts = self.edited_layers, state.prepared.contexts
        site = Site(layers[-1], block=True)
        values = optimise_values(model, requests, flatten(contexts), site, self.value)
        squares, weights = torch.zeros(len(requests), dtype=torch.float64), 0.0
        for index, layer in enumerate(layers):
            keys = read_keys(model, requests, contexts, layer)
            output = read_outputs(model, requests, site).to(keys.device)
            residuals = (values.value.to(keys).T - output) / (len(layers) - index)
            factor = solve_keys(
                keys,
                inverse_of(state.prepared.moments.get(layer)),
                ridge=self.second_moment_weight,
            )
            update = LowRank(left=residuals, right=factor)
            squares += update_norms(update).cpu() ** 2
            weights += model.matrix(layer).float().square().sum().item()
            ledger.write(model.parameter_name(layer), update)
        state.edits_done += len(requests)
        return values.traces(
            requests,
            update_norm=squares.sqrt(),
            update_norm_relative=(squares / weights).sqrt(),
        )
