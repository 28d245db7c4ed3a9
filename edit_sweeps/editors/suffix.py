"""The same logits as `shifted.ShiftedModel` from the tokens at and behind the shift alone.

Attention is causal: nothing before the subject's last token can see the shift. Those tokens go through the
model once, their keys and values stay in a cache, and every step of the optimisation runs only the rest.
Rows are aligned on the column of the shift: padded on the left before it, on the right behind it.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from edit_sweeps.editors.shifted import ShiftedModel, shift_at
from edit_sweeps.hooks import replace_output
from edit_sweeps.model import EditableModel
from edit_sweeps.tokens import IGNORE, Rows


class SuffixModel(ShiftedModel):
    """`ShiftedModel` that keeps what stands before the shift in a cache; equal up to rounding."""

    def __init__(
        self, model: EditableModel, module: nn.Module, rows: Rows, rows_per_edit: int
    ) -> None:
        rows, prefix = _align(rows)
        super().__init__(model, module, _cut(rows, prefix), rows_per_edit)
        self._rows, self._prefix, self._rows_per_edit = rows, prefix, rows_per_edit
        self._places = "position_ids" in inspect.signature(model.network.forward).parameters
        self._cache = DynamicCache(config=model.network.config)
        if prefix:
            self._fill()

    def logits(self, edits: Tensor, shift: Tensor) -> Tensor:
        """As `ShiftedModel.logits`."""
        rows = torch.arange(self._rows_per_edit, device=edits.device)
        rows = (edits[:, None] * self._rows_per_edit + rows).flatten()
        ids = self._rows.ids[rows]
        with replace_output(
            self._module, shift_at(self._lookup[edits].flatten(), shift), rows=len(ids)
        ):
            out = self._model.network(
                input_ids=ids[:, self._prefix :],
                attention_mask=self._rows.mask[rows],
                past_key_values=self._cache_of(rows),
                use_cache=True,
                logits_to_keep=self._columns,
                **self._positions(rows, slice(self._prefix, None)),
            )
        return out.logits.unflatten(0, (len(edits), -1))

    @torch.no_grad()
    def _fill(self) -> None:
        rows, before = self._rows, slice(0, self._prefix)
        self._model.network(
            input_ids=rows.ids[:, before],
            attention_mask=rows.mask[:, before],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **self._positions(torch.arange(len(rows.ids), device=rows.ids.device), before),
        )

    def _positions(self, rows: Tensor, columns: slice) -> dict[str, Tensor]:
        """Positions that do not count padding, for models that take them (not alibi)."""
        return {"position_ids": self._rows.positions[rows, columns]} if self._places else {}

    def _cache_of(self, rows: Tensor) -> DynamicCache:
        """A cache with the prefixes of some rows that the model may add to; ours stays as it is."""
        twin = copy.copy(self._cache)
        twin.layers = [_layer_of(layer, rows) for layer in self._cache.layers]
        return twin


def _layer_of(layer: Any, rows: Tensor) -> Any:
    twin = copy.copy(layer)
    if layer.is_initialized:
        index = rows.to(layer.keys.device)
        twin.keys, twin.values = layer.keys[index], layer.values[index]
    return twin


def _align(rows: Rows) -> tuple[Rows, int]:
    """The rows with their lookup tokens in one column, and that column."""
    length = rows.mask.sum(1)
    prefix, width = int(rows.lookup.max()), rows.ids.shape[1]
    columns = torch.arange(prefix + int((length - rows.lookup).max()), device=rows.ids.device)
    source = columns - (prefix - rows.lookup)[:, None]
    inside = (source >= 0) & (source < length[:, None])
    source = source.clamp(0, width - 1)
    ids, labels = rows.ids.gather(1, source), rows.labels.gather(1, source)
    return Rows(
        ids=ids,
        mask=inside.to(rows.mask.dtype),
        lookup=torch.full_like(rows.lookup, prefix),
        labels=labels.where(inside, IGNORE),
    ), prefix


def _cut(rows: Rows, prefix: int) -> Rows:
    """The columns from the lookup token on."""
    return Rows(
        ids=rows.ids[:, prefix:],
        mask=rows.mask[:, prefix:],
        lookup=rows.lookup - prefix,
        labels=rows.labels[:, prefix:],
    )
