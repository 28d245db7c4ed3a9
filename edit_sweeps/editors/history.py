"""Keys of everything written before, which an update must leave alone (MEMIT in sequence, AlphaEdit, ENCORE).

Only the sum of k k^T enters the methods' formulas, so that any matrix F with F F^T equal to it stands
for the keys. F is the keys themselves until there are more of them than dimensions, then as many
columns as dimensions: the cost of an edit stays bounded however long the sequence is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edit_sweeps.editors.base import State
from edit_sweeps.editors.contexts import Groups
from edit_sweeps.editors.reading import read_keys
from edit_sweeps.later import torch
from edit_sweeps.requests import EditRequest

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.model import EditableModel

SLACK = 1.25
"""Columns over dimensions at which F is made square again."""


def earlier_keys(state: State, layer: int) -> Tensor | None:
    """`[d_in, n]` F of a layer; None before the first batch."""
    return state.tensors.get(f"keys.{layer}")


def remember_keys(
    model: EditableModel,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    contexts: Groups,
    state: State,
) -> None:
    """Add the keys of a batch to the state, as the model with the batch written computes them.

    They are those of the batch's solve: a key sees only layers below its own, and these were written
    before it was read. Stored in float32 unless the model is float64. Mutates `state.tensors`.
    """
    precision = torch.float64 if model.dtype == torch.float64 else torch.float32
    for layer in layers:
        keys = read_keys(model, requests, contexts, layer).cpu()
        before = earlier_keys(state, layer)
        every = keys if before is None else torch.cat([before.double(), keys], 1)
        if every.shape[1] > SLACK * len(every) and every.isfinite().all():
            every = squared(every)
        state.tensors[f"keys.{layer}"] = every.to(precision)


def squared(factor: Tensor) -> Tensor:
    """`[d, d]` with the same F F^T as `factor` `[d, n]`."""
    values, vectors = torch.linalg.eigh(factor @ factor.T)
    return vectors * values.clamp(min=0.0).sqrt()
