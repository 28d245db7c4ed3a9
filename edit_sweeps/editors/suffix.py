"""The logits of `shifted.Whole` from the tokens at and behind the shift alone.

Attention is causal: nothing before the subject's last token can see the shift. Those tokens go
through the model once, their keys and values stay in a cache, and every step of the optimisation
runs only the rest. Rows are aligned on the column of the shift: padded on the left before it, on
the right behind it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edit_sweeps.editors.shifted import Shifted, keep, rows_of, shift_at
from edit_sweeps.later import no_grad, torch, transformers
from edit_sweeps.tokens import IGNORE, Rows

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import DynamicCache

    from edit_sweeps.model import EditableModel


def can_be_cut(model: EditableModel, rows: Rows) -> bool:
    """Whether padding on the left is harmless, and the aligned rows fit the model.

    Eager attention takes its softmax in float32; the finite float64 that stands for minus infinity
    in masks is infinite there, and a row of nothing else is NaN.
    """
    eager = model.network.config._attn_implementation == "eager"  # noqa: SLF001  # has no public name
    behind = int((rows.mask.sum(1) - rows.lookup).max())
    fits = int(rows.lookup.max()) + behind <= model.max_length
    return fits and not (eager and model.dtype == torch.float64)


class Suffix(Shifted):
    """Keeps what stands before the shift in a cache; arguments as `shifted.Whole`."""

    def __init__(
        self, model: EditableModel, modules: Sequence[nn.Module], rows: Rows, rows_per_edit: int
    ) -> None:
        self._model, self._modules, self._rows_per_edit = model, modules, rows_per_edit
        self._rows, self._prefix = _align(rows)
        self.kept = keep(_from(self._rows, self._prefix), rows_per_edit)
        self._places = "position_ids" in inspect.signature(model.network.forward).parameters
        self._cache = transformers.DynamicCache(config=model.network.config)
        if self._prefix:
            self._fill()

    def logits(self, edits: Tensor, shift: Tensor) -> Tensor:
        """As `Shifted.logits`."""
        rows = rows_of(edits.to(self._rows.ids.device), self._rows_per_edit)
        with shift_at(self._modules, torch.zeros_like(rows), shift):
            out = self._model.network(
                input_ids=self._rows.ids[rows, self._prefix :],
                attention_mask=self._rows.mask[rows],
                past_key_values=_cache_of(self._cache, rows),
                use_cache=True,
                logits_to_keep=self.kept.columns,
                **self._positions(rows, slice(self._prefix, None)),
            )
        return out.logits.unflatten(0, (len(edits), -1))

    @no_grad
    def _fill(self) -> None:
        before = slice(0, self._prefix)
        self._model.network(
            input_ids=self._rows.ids[:, before],
            attention_mask=self._rows.mask[:, before],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **self._positions(slice(None), before),
        )

    def _positions(self, rows: Tensor | slice, columns: slice) -> dict[str, Tensor]:
        """Positions that do not count padding, for models that take them (alibi does not)."""
        return {"position_ids": self._rows.positions[rows, columns]} if self._places else {}


def _cache_of(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """The prefixes of some rows, in a cache that the model may add to."""
    twin = copy.copy(cache)
    twin.layers = [_layer_of(layer, rows) for layer in cache.layers]
    return twin


def _layer_of(layer: Any, rows: Tensor) -> Any:
    twin = copy.copy(layer)
    if layer.is_initialized:
        index = rows.to(layer.keys.device)
        twin.keys, twin.values = layer.keys[index], layer.values[index]
    return twin


def _align(rows: Rows) -> tuple[Rows, int]:
    """The rows with all lookup tokens in one column, and that column."""
    length = rows.mask.sum(1)
    prefix, width = int(rows.lookup.max()), rows.ids.shape[1]
    columns = torch.arange(prefix + int((length - rows.lookup).max()), device=rows.ids.device)
    source = columns - (prefix - rows.lookup)[:, None]
    inside = (source >= 0) & (source < length[:, None])
    source = source.clamp(0, width - 1)
    aligned = Rows(
        ids=rows.ids.gather(1, source),
        mask=inside.to(rows.mask.dtype),
        lookup=torch.full_like(rows.lookup, prefix),
        labels=rows.labels.gather(1, source).where(inside, IGNORE),
    )
    return aligned, prefix


def _from(rows: Rows, column: int) -> Rows:
    """The rows from a column on."""
    return Rows(
        ids=rows.ids[:, column:],
        mask=rows.mask[:, column:],
        lookup=rows.lookup - column,
        labels=rows.labels[:, column:],
    )
