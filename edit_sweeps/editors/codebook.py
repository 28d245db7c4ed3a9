"""The module that GRACE attaches: one matrix and a codebook of exceptions from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edit_sweeps.editors.base import State

PARTS = ("keys", "values", "radii", "targets")


class Codebook(nn.Module):
    """A matrix with exceptions.

    Args:
        inner: The module it stands for.

    Attributes:
        keys: `[entries, d_in]`.
        values: `[entries, d_out]`.
        radii: `[entries]`, Euclidean.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.radii: Tensor | None = None

    def fill(self, state: State, device: torch.device) -> None:
        """Take over the entries of `state` that have a value by now."""
        if "values" in state.tensors:
            entries = len(state.tensors["values"])
            self.keys, self.values, self.radii = (
                state.tensors[part][:entries].to(device) for part in PARTS[:3]
            )

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_in]` to `[..., d_out]`."""
        out: Tensor = self.inner(x)
        if self.keys is None or self.values is None or self.radii is None:
            return out
        nearest, distance = lookup(x.flatten(0, -2), self.keys)
        inside = distance <= self.radii[nearest]
        values = self.values[nearest].to(out)
        return torch.where(inside[:, None], values, out.flatten(0, -2)).reshape(out.shape)


def lookup(x: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of `[entries, d_in]` to each of `[tokens, d_in]`, and how far it is."""
    # The expanded form of the distance would lose digits just where it is small.
    distances = torch.cdist(x.to(keys), keys, compute_mode="donot_use_mm_for_euclid_dist")
    distance, nearest = distances.min(1)
    return nearest, distance
