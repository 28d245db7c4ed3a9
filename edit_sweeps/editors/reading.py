"""Reading keys and outputs of the model as it stands, at the subject's last token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edit_sweeps.editors.contexts import Groups, flatten, weights
from edit_sweeps.editors.kernel import exact
from edit_sweeps.hooks import capture
from edit_sweeps.later import no_grad, torch
from edit_sweeps.requests import EditRequest
from edit_sweeps.tokens import Line, Rows, lay_out

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edit_sweeps.model import EditableModel

ROWS = 256
"""Rows in one forward pass when reading: no gradients, and the pass ends early."""


@dataclass(frozen=True)
class Site:
    """A module whose output at the subject's last token is read or shifted.

    Attributes:
        layer: Of the block.
        block: The block itself (MEMIT), or else its down projection (ROME).
    """

    layer: int
    block: bool

    def modules(self, model: EditableModel) -> list[nn.Module]:
        """The one module in `model`."""
        return [model.block(self.layer) if self.block else model.mlp_out(self.layer)]


@dataclass(frozen=True)
class BothSite(Site):
    """The attention's and the MLP's output of a layer side by side (PMET): two shifts at once."""

    block: bool = False

    def modules(self, model: EditableModel) -> list[nn.Module]:
        """The attention, then the down projection."""
        attention = model.block(self.layer).get_submodule(model.architecture.attention)
        return [attention, model.mlp_out(self.layer)]


def read_keys(
    model: EditableModel, requests: Sequence[EditRequest], contexts: Groups, layer: int
) -> Tensor:
    """The keys of requests: inputs of a layer's down projection, the mean over contexts.

    Returns:
        `[d_in, requests]` in float64, on the layer's device where that has float64.
    """
    lines = [
        Line(r.prompt, r.subject, context=text) for r in requests for text in flatten(contexts)
    ]
    found = _read(model, lines, model.mlp_out(layer), inputs=True)
    share = weights(contexts).to(found.device)
    return torch.einsum("rcd,c->dr", found.unflatten(0, (len(requests), -1)), share)


def read_outputs(model: EditableModel, requests: Sequence[EditRequest], site: Site) -> Tensor:
    """Outputs of a site's module for the bare prompts, bias included; of several, one below the other.

    Returns:
        `[modules * d_out, requests]` in float64, on the module's device where that has float64.
    """
    lines = [Line(r.prompt, r.subject) for r in requests]
    found = [_read(model, lines, module, inputs=False).T for module in site.modules(model)]
    return torch.cat([part.to(found[-1].device) for part in found])


def keys_at_first_token(model: EditableModel, requests: Sequence[EditRequest]) -> int:
    """How many requests have their subject's last token as the first token of the text.

    Their bare key has seen nothing but itself: the outliers of C-ROME (arXiv 2406.11263).
    """
    lines = [Line(r.prompt, r.subject) for r in requests]
    chunks = (lines[start : start + ROWS] for start in range(0, len(lines), ROWS))
    rows = (lay_out(model.tokenizer, chunk, model.device) for chunk in chunks)
    return sum(int((r.mask.cumsum(1).gather(1, r.lookup[:, None]) == 1).sum()) for r in rows)


def rows_for(model: EditableModel, lines: Sequence[Line]) -> Rows:
    """Lines as rows on the model's device.

    Raises:
        ValueError: A line that the model cannot take in one piece.
    """
    rows = lay_out(model.tokenizer, lines, model.device)
    if rows.ids.shape[1] > model.max_length:
        msg = (
            f"an edit's prompt with its context and target needs {rows.ids.shape[1]} tokens and the "
            f"model takes {model.max_length}; shorten the prompt or the contexts (editor.contexts)"
        )
        raise ValueError(msg)
    return rows


@no_grad
def _read(model: EditableModel, lines: list[Line], module: nn.Module, *, inputs: bool) -> Tensor:
    """`[lines, width]` of a module's input or output; text behind the subject is cut off."""
    parts = []
    for start in range(0, len(lines), ROWS):
        rows = rows_for(model, lines[start : start + ROWS])
        n_rows, length = len(rows.ids), int(rows.lookup.max()) + 1
        with capture({0: module}, inputs=inputs, rows=n_rows, stop_after=module) as seen:
            model.network(
                input_ids=rows.ids[:, :length],
                attention_mask=rows.mask[:, :length],
                use_cache=False,
            )
        hidden = seen[0]
        index = torch.arange(n_rows, device=hidden.device)
        parts.append(exact(hidden[index, rows.lookup.to(hidden.device)]))
    return torch.cat(parts)
