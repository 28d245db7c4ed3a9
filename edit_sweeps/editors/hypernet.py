"""The network of MEND: it turns the factors of an edit's gradient into those of a better update.

Mitchell et al., Fast Model Editing at Scale (arXiv 2110.11309), section 3 and equations 3a and 3b.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edit_sweeps.editors.gradients import Pairs

TINY = 1e-7
"""Added to standard deviations before dividing, as in the authors' code."""


class HyperNetwork(nn.Module):
    """One network for each shape of matrix, shared by all matrices of that shape.

    For every token, `(x, delta) -> (x~, delta~)`; a matrix changes by `alpha sum_t delta~_t x~_t^T`, which
    is ADDED: an untrained network with a positive alpha climbs the loss, and training learns the
    sign.

    Args:
        shapes: Full name of a weight -> its (d_out, d_in).
        rank: Of the low-rank layers, bounded by the width d_in + d_out.
        step_size: What every alpha starts from.
        seed: Of the starting values.

    Attributes:
        shapes: As given.
        step_sizes: `[weights]`, alpha of each weight.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, int]], rank: int, step_size: float, seed: int
    ) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        generator = torch.Generator().manual_seed(seed)
        alike: dict[tuple[int, int], list[str]] = {}
        for name, shape in self.shapes.items():
            alike.setdefault(shape, []).append(name)
        self.groups = nn.ModuleDict(
            {_key(s): FactorNetwork(s, len(names), rank, generator) for s, names in alike.items()}
        )
        self._place = {name: i for names in alike.values() for i, name in enumerate(names)}
        self.step_sizes = nn.Parameter(torch.full((len(self.shapes),), step_size))

    @torch.no_grad()
    def observe(self, pairs: Mapping[str, Pairs]) -> None:
        """Take pairs into the running means and deviations; training only. Mutates the buffers."""
        for name, pair in pairs.items():
            self._group(name).observe(*self._moved(pair))

    def forward(self, pairs: Mapping[str, Pairs]) -> dict[str, Pairs]:
        """The factors of each weight's update, alpha included in `deltas`.

        Args:
            pairs: Weight -> pairs of an edit.

        Returns:
            Weight -> pairs with as many tokens, on the network's device; `Pairs.dense` is the
            update. A token without input or without gradient stays without: all its entries are 0.
        """
        found = {}
        for index, name in enumerate(self.shapes):
            x, delta = self._moved(pairs[name])
            new_x, new_delta = self._group(name)(x, delta, self._place[name])
            found[name] = Pairs(new_x, self.step_sizes[index] * new_delta)
        return found

    def _group(self, name: str) -> FactorNetwork:
        group = self.groups[_key(self.shapes[name])]
        assert isinstance(group, FactorNetwork)
        return group

    def _moved(self, pair: Pairs) -> tuple[Tensor, Tensor]:
        return pair.inputs.to(self.step_sizes), pair.deltas.to(self.step_sizes)


class FactorNetwork(nn.Module):
    """Normalisation and two residual low-rank layers for the pairs of matrices of one shape.

    Args:
        shape: (d_out, d_in).
        n_weights: Matrices that share it; each has its own scale and shift.
        rank: Of the layers.
        generator: Draws the starting values.
    """

    def __init__(
        self, shape: tuple[int, int], n_weights: int, rank: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.d_out, self.d_in = shape
        width = self.d_in + self.d_out
        self.layers = nn.ModuleList(
            LowRankLayer(width, min(rank, width), n_weights, generator) for _ in range(2)
        )
        # Of [x, delta] side by side: running mean, and sum of squared deviations from it.
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("squares", torch.zeros(width))
        self.count: Tensor
        self.mean: Tensor
        self.squares: Tensor

    def observe(self, x: Tensor, delta: Tensor) -> None:
        """Welford's running moments, a batch of tokens at once; tokens without gradient aside."""
        new = torch.cat([x, delta], 1)[_kept(x, delta)]
        if not len(new):
            return
        total = self.count + len(new)
        gap = new.mean(0) - self.mean
        self.squares += (new - new.mean(0)).square().sum(0)
        self.squares += gap.square() * self.count * len(new) / total
        self.mean += gap * len(new) / total
        self.count.copy_(total)

    def forward(self, x: Tensor, delta: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """`[tokens, d_in]` and `[tokens, d_out]` to the same; `index` is of the matrix."""
        kept = _kept(x, delta)
        hidden = (torch.cat([x, delta], 1)[kept] - self.mean) / self._deviation()
        for layer in self.layers:
            hidden = layer(hidden, index)
        out = hidden.new_zeros(len(x), hidden.shape[1]).index_put((kept,), hidden)
        new_x, new_delta = out.split([self.d_in, self.d_out], 1)
        return new_x, new_delta

    def _deviation(self) -> Tensor:
        """A coordinate that never varied is not scaled: 1 / 1e-7 would blow up its first change."""
        deviation = (self.squares / (self.count - 1).clamp(min=1)).sqrt()
        return torch.where(deviation > 0, deviation, 1.0) + TINY


class LowRankLayer(nn.Module):
    """`h + max(0, scale (U V h + b) + shift)`; the identity at the start, where U = 0.

    Args:
        width: Of h.
        rank: Of U V.
        n_weights: Rows of `scale` and `shift`, one for each matrix.
        generator: Draws V.
    """

    def __init__(self, width: int, rank: int, n_weights: int, generator: torch.Generator) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(width, rank))
        self.down = nn.Parameter(torch.randn(rank, width, generator=generator))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(n_weights, width))
        self.shift = nn.Parameter(torch.zeros(n_weights, width))

    def forward(self, hidden: Tensor, index: int) -> Tensor:
        """`[tokens, width]` to the same."""
        inner = hidden @ self.down.T @ self.up.T + self.bias
        # Not relu: at 0, where all begins, clamp lets the gradient through.
        return hidden + (inner * self.scale[index] + self.shift[index]).clamp(min=0)


def _kept(x: Tensor, delta: Tensor) -> Tensor:
    return (x != 0).any(1) & (delta != 0).any(1)


def _key(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
