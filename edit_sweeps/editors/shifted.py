"""The model with a shift added to a module's output at the subject's last token: the plain way, in full."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edit_sweeps.hooks import replace_output
from edit_sweeps.model import EditableModel
from edit_sweeps.tokens import Rows


class ShiftedModel:
    """Logits of laid-out rows under a shift; every edit has the same number of rows, the last one for KL.

    Args:
        model: Not changed.
        module: Whose output is shifted, in every row at its lookup token.
        rows: `edits * rows_per_edit` rows.
        rows_per_edit: Contexts plus one.

    Attributes:
        labels: `[edits, rows_per_edit, kept]`, target ids to be predicted at the columns kept, or `IGNORE`.
        kl_column: `[edits]`, which of the columns kept is the lookup token of an edit's last row.
    """

    def __init__(
        self, model: EditableModel, module: nn.Module, rows: Rows, rows_per_edit: int
    ) -> None:
        self._model, self._module = model, module
        self._ids, self._mask, self._lookup, labels = (
            x.unflatten(0, (-1, rows_per_edit))
            for x in (rows.ids, rows.mask, rows.lookup, rows.labels)
        )
        kl_lookup = self._lookup[:, -1].contiguous()
        needed = rows.target_mask.any(0)
        needed[kl_lookup] = True
        self._columns = needed.nonzero()[:, 0].cpu()
        self.labels = labels[..., self._columns]
        self.kl_column = torch.searchsorted(self._columns, kl_lookup.cpu()).to(kl_lookup.device)

    def logits(self, edits: Tensor, shift: Tensor) -> Tensor:
        """Run the rows of some edits.

        Args:
            edits: `[n]`, which edits.
            shift: `[n, d_out]`.

        Returns:
            `[n, rows_per_edit, kept, vocab]`.
        """
        ids, mask = self._ids[edits].flatten(0, 1), self._mask[edits].flatten(0, 1)
        with replace_output(
            self._module, shift_at(self._lookup[edits].flatten(), shift), rows=len(ids)
        ):
            out = self._model.network(
                input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=self._columns
            )
        return out.logits.unflatten(0, (len(edits), -1))


def shift_at(lookup: Tensor, shift: Tensor) -> Callable[[Tensor], Tensor]:
    """A change of hidden states `[rows, tokens, d_out]` that adds each edit's shift at its rows' lookup tokens.

    Args:
        lookup: `[rows]`, columns.
        shift: `[edits, d_out]`; an edit's rows follow one another.
    """

    def add(hidden: Tensor) -> Tensor:
        rows = torch.arange(len(hidden), device=hidden.device)
        each = shift.to(hidden).repeat_interleave(len(hidden) // len(shift), 0)
        return hidden.index_put((rows, lookup.to(hidden.device)), each, accumulate=True)

    return add
