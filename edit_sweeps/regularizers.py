"""Regularizers of the update: what happens to a change between the editor and the weight."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from edit_sweeps.ledger import Update


class Regularizer(ABC):  # noqa: B024  # each rule overrides the one method it needs
    """A rule that the ledger applies to updates; both methods return them unchanged here."""

    def on_write(
        self,
        update: Update,
        original: Tensor,  # noqa: ARG002
        current: Tensor,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> Update:
        """Change one update before it is written.

        Args:
            update: Of one matrix; not mutated.
            original: `[d_out, d_in]` unedited matrix in the ledger's precision; not to be written
                into.
            current: `[d_out, d_in]` matrix with all earlier updates; not to be written into.
            generator: For rules that draw; seeded by the number of the write, on the CPU.

        Returns:
            What is written in its place.
        """
        return update

    def on_finish(self, total: Tensor, original: Tensor) -> Tensor:  # noqa: ARG002
        """Change the sum of all updates of a matrix, once, after the last.

        Args:
            total: `[d_out, d_in]` sum; not to be written into.
            original: `[d_out, d_in]` unedited matrix.

        Returns:
            The sum that takes its place; `total` itself when nothing is to change.
        """
        return total
