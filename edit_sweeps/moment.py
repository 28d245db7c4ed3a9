"""The second moment of a layer's keys as an eigendecomposition: one serves every method and every weight."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edit_sweeps.later import torch

if TYPE_CHECKING:
    from torch import Tensor


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moment:
    """The second moment C of one layer's keys.

    Attributes:
        eigenvalues: `[d_in]` in float64, ascending.
        eigenvectors: `[d_in, d_in]` in float64, one a column.
        tokens: How many keys C is the mean of; 0 when that is not known.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    tokens: int = 0

    @classmethod
    def identity(cls, d_in: int) -> Moment:
        """C = I: all directions count the same."""
        return cls(torch.ones(d_in, dtype=torch.float64), torch.eye(d_in, dtype=torch.float64))

    @classmethod
    def from_matrix(cls, matrix: Tensor, tokens: int = 0) -> Moment:
        """Decompose a symmetric `[d_in, d_in]` matrix; its two triangles are averaged first."""
        exact = matrix.double()
        values, vectors = torch.linalg.eigh((exact + exact.T) / 2)
        return cls(values, vectors, tokens)

    def matrix(self) -> Tensor:
        """C, `[d_in, d_in]` in float64."""
        return (self.eigenvectors * self.eigenvalues) @ self.eigenvectors.T

    def solve(self, x: Tensor, weight: float = 1.0) -> Tensor:
        """(weight C)^-1 x.

        Where C is singular (fewer tokens than dimensions, or an eigenvalue within rounding of
        zero), every eigenvalue below 1e-6 of their mean is raised to that, and this is logged.

        Args:
            x: `[d_in, n]`.
            weight: Above 0.

        Returns:
            `[d_in, n]` in float64 on the device of `x`.

        Raises:
            ValueError: A weight that is not positive.
        """
        if not weight > 0:
            msg = f"the weight of a second moment must be above 0; got {weight}"
            raise ValueError(msg)
        values = self._invertible() * weight
        inner = self.eigenvectors.T @ x.to(self.eigenvectors)
        return (self.eigenvectors @ (inner / values[:, None])).to(x.device)

    def solve_ridge(self, x: Tensor, weight: float, ridge: float) -> Tensor:
        """(weight C + ridge I)^-1 x, `[d_in, n]` in float64; needs no floor, as `ridge` is above 0."""
        values = self.eigenvalues.clamp(min=0.0) * weight + ridge
        inner = self.eigenvectors.T @ x.to(self.eigenvectors)
        return (self.eigenvectors @ (inner / values[:, None])).to(x.device)

    def project(self, x: Tensor, count: int) -> Tensor:
        """`x` `[d_in, n]` onto the `count` directions in which C is smallest, in float64."""
        small = count <= len(self.eigenvalues) - count
        basis = self.eigenvectors[:, :count] if small else self.eigenvectors[:, count:]
        given = x.to(self.eigenvectors)
        part = basis @ (basis.T @ given)
        return (part if small else given - part).to(x.device)

    def to(self, device: torch.device) -> Moment:
        """The same on another device, which must have float64."""
        return replace(
            self,
            eigenvalues=self.eigenvalues.to(device),
            eigenvectors=self.eigenvectors.to(device),
        )

    def _invertible(self) -> Tensor:
        values, d_in = self.eigenvalues, len(self.eigenvalues)
        rounding = d_in * torch.finfo(values.dtype).eps * values[-1]
        if values[0] > rounding and not 0 < self.tokens < d_in:
            return values
        floor = 1e-6 * values.mean()
        log.warning(
            "second moment (%d dimensions, %d tokens) is singular: %d eigenvalues raised to %.3g",
            d_in,
            self.tokens,
            int((values < floor).sum()),
            floor.item(),
        )
        return values.clamp(min=floor.item())
