"""The module that WISE attaches: one matrix, side copies of it, and the router between them.

A side copy is kept as what it adds to the matrix, W' - W, in at least float32: bfloat16 would lose
most of it, where it is 0 the outputs are equal bit for bit, and the score needs nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edit_sweeps.editors.base import State

PARTS = ("changes", "thresholds")


class SideMemories(nn.Module):
    """A matrix W with side copies W'_i.

    A token with key k takes W'_i k in place of W k for the memory with the largest score
    ||(W'_i - W) k||, of those whose score is above their own threshold; W k where there is none.

    Args:
        inner: The module it stands for; its bias, where it has one, is added in every case.

    Attributes:
        changes: `[memories, d_out, d_in]`, W'_i - W.
        thresholds: `[memories]`.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.changes: Tensor | None = None
        self.thresholds: Tensor | None = None

    def fill(self, state: State, device: torch.device) -> None:
        """Take over the memories of `state`."""
        if "changes" in state.tensors:
            self.changes, self.thresholds = (state.tensors[part].to(device) for part in PARTS)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_in]` to `[..., d_out]`."""
        out: Tensor = self.inner(x)
        if self.changes is None or self.thresholds is None:
            return out
        keys, plain = x.flatten(0, -2).to(self.changes), out.flatten(0, -2)
        routed, best = plain, keys.new_zeros(len(keys))
        for change, threshold in zip(self.changes, self.thresholds, strict=True):
            shift = keys @ change.T
            score = shift.norm(dim=-1)
            wins = (score > threshold) & (score > best)
            routed = torch.where(wins[:, None], (plain.to(shift) + shift).to(out), routed)
            best = torch.where(wins, score, best)
        return routed.reshape(out.shape)


def shard_mask(shape: Sequence[int], ratio: float, seed: int, shard: int) -> Tensor:
    """Which entries a shard may change: a share `ratio`, by chance; bool, equal on every device."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + shard)
    return torch.rand(tuple(shape), generator=generator) < ratio


def ties(changes: Tensor, density: float) -> Tensor:
    """Several changes as one (TIES, Yadav et al., arXiv 2306.01708, algorithm 1).

    Trim each to its largest entries; elect at every entry the sign of the sum; take the mean of
    those that have it.

    Args:
        changes: `[shards, d_out, d_in]`.
        density: Share of all entries of each that is kept.

    Returns:
        `[d_out, d_in]`; 0 where nothing is left or the signs balance.
    """
    kept = torch.stack([_trim(change, density) for change in changes])
    agrees = (kept.sign() == kept.sum(0).sign()) & (kept != 0)
    return (kept * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def _trim(change: Tensor, density: float) -> Tensor:
    flat = change.flatten()
    largest = flat.abs().topk(int(density * len(flat))).indices
    return torch.zeros_like(flat).index_put((largest,), flat[largest]).reshape(change.shape)
