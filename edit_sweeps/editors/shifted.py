"""The model with a shift added to a module's output at the subject's last token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edit_sweeps.hooks import replace_output
from edit_sweeps.later import torch
from edit_sweeps.tokens import Rows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edit_sweeps.model import EditableModel


@dataclass(frozen=True)
class Kept:
    """The columns of laid-out rows at which predictions are asked for, and what is asked there.

    Attributes:
        columns: Numbers and no tensor, which accelerate would move to the first device of a model on
            several, where the last one cannot index with it.
        labels: `[edits, rows_per_edit, kept]`, target ids to be predicted, or `IGNORE`.
        kl_column: `[edits]`, which of the kept columns is the lookup token of an edit's last row.
    """

    columns: list[int]
    labels: Tensor
    kl_column: Tensor


class Shifted(ABC):
    """Logits of laid-out rows under a shift.

    Every edit has the same number of rows; its last one asks for the next token at its lookup
    token.

    Attributes:
        kept: Where logits are given, and what is asked there.
    """

    kept: Kept

    @abstractmethod
    def logits(self, edits: Tensor, shift: Tensor) -> Tensor:
        """Run the rows of some edits.

        Args:
            edits: `[n]`, which edits.
            shift: `[n, modules * d_out]`, added at the lookup token of each of their rows.

        Returns:
            `[n, rows_per_edit, kept, vocab]`.
        """


class Whole(Shifted):
    """The plain way: the whole text of every row each time.

    Args:
        model: Not changed.
        modules: Whose outputs are shifted; each takes its share of a shift, in this order.
        rows: `edits * rows_per_edit` rows.
        rows_per_edit: Contexts plus one.
    """

    def __init__(
        self, model: EditableModel, modules: Sequence[nn.Module], rows: Rows, rows_per_edit: int
    ) -> None:
        self.kept = keep(rows, rows_per_edit)
        self._model, self._modules, self._rows = model, modules, rows
        self._rows_per_edit = rows_per_edit

    def logits(self, edits: Tensor, shift: Tensor) -> Tensor:
        """As `Shifted.logits`."""
        rows = rows_of(edits.to(self._rows.ids.device), self._rows_per_edit)
        with shift_at(self._modules, self._rows.lookup[rows], shift):
            out = self._model.network(
                input_ids=self._rows.ids[rows],
                attention_mask=self._rows.mask[rows],
                use_cache=False,
                logits_to_keep=self.kept.columns,
            )
        return out.logits.unflatten(0, (len(edits), -1))


def keep(rows: Rows, rows_per_edit: int) -> Kept:
    """The columns where a row has a label, or the last row of an edit its lookup token."""
    lookup = rows.lookup.unflatten(0, (-1, rows_per_edit))[:, -1]
    needed = rows.target_mask.any(0)
    needed[lookup] = True
    columns = needed.nonzero()[:, 0]
    return Kept(
        columns=columns.tolist(),
        labels=rows.labels[:, columns].unflatten(0, (-1, rows_per_edit)),
        kl_column=torch.searchsorted(columns, lookup.contiguous()),
    )


def rows_of(edits: Tensor, rows_per_edit: int) -> Tensor:
    """`[n * rows_per_edit]`, the rows of edits `[n]`."""
    within = torch.arange(rows_per_edit, device=edits.device)
    return (edits[:, None] * rows_per_edit + within).flatten()


@contextmanager
def shift_at(modules: Sequence[nn.Module], lookup: Tensor, shift: Tensor) -> Iterator[None]:
    """Add each edit's shift to the modules' outputs at its rows' lookup tokens.

    Args:
        modules: Each takes its share of the shift, in this order.
        lookup: `[rows]`, columns.
        shift: `[edits, modules * d_out]`; an edit's rows follow one another.
    """

    def adding(share: Tensor) -> Callable[[Tensor], Tensor]:
        def add(hidden: Tensor) -> Tensor:
            rows = torch.arange(len(hidden), device=hidden.device)
            each = share.to(hidden).repeat_interleave(len(hidden) // len(share), 0)
            return hidden.index_put((rows, lookup.to(hidden.device)), each, accumulate=True)

        return add

    with ExitStack() as hooks:
        for module, share in zip(modules, shift.chunk(len(modules), -1), strict=True):
            hooks.enter_context(replace_output(module, adding(share), rows=len(lookup)))
        yield
