"""Muon: momentum whose matrices are made orthogonal before the step (Jordan et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

# Quintic Newton-Schulz coefficients of the reference implementation.
A, B, C = 3.4445, -4.7750, 2.0315


class Muon(Optimizer):
    """Muon for matrices; AdamW alone learns facts many times slower.

    A parameter group may hold ``chunks``: the number of matrices packed side by side into each
    parameter (three in GPT-2's ``c_attn``), which are then made orthogonal one by one.
    """

    def __init__(
        self,
        groups: list[dict[str, object]],
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
    ) -> None:
        """Takes parameter groups as every torch optimizer does."""
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "chunks": 1}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Makes one step; matrices of one shape are treated together."""
        if closure is not None:
            msg = "Muon takes no closure."
            raise ValueError(msg)
        for group in self.param_groups:
            pieces: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = self._nesterov(parameter, group["momentum"])
                sides = zip(
                    parameter.chunk(group["chunks"], dim=1),
                    update.chunk(group["chunks"], dim=1),
                    strict=True,
                )
                for weight, piece in sides:
                    pieces.setdefault(piece.shape, []).append((weight, piece))
            for shape, pairs in pieces.items():
                directions = orthogonalized(torch.stack([piece for _, piece in pairs]))
                scale = max(1.0, max(shape) / min(shape)) ** 0.5
                for (weight, _), direction in zip(pairs, directions, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(direction, alpha=-group["lr"] * scale)

    def _nesterov(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum"]
        average.mul_(momentum).add_(parameter.grad)
        return parameter.grad + momentum * average


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest orthogonal matrices, roughly; ``matrices``: `[n, rows, columns]`."""
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(steps):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.mT if tall else x
