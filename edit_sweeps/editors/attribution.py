"""Integrated gradients of an answer's probability in one layer's keys (Dai et al., arXiv 2104.08696, eq. 3).

Where a norm stands behind the MLP (Gemma 2 and 3, OLMo 2) the output does not depend on the size of the
key, so that the path from zero has its whole rise at its first point: attributions do not add up to the
difference in probability there, and rank neurons by little more than the gradient.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edit_sweeps.hooks import capture, replace_input, replace_output
from edit_sweeps.later import enable_grad, no_grad, torch

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.model import EditableModel

CHUNK = 32
"""Steps of one integral that go through the model together."""


@dataclass(frozen=True)
class Asked:
    """A text and the token that is asked for behind it.

    Attributes:
        ids: Token ids of the text.
        answer: Token id.
    """

    ids: list[int]
    answer: int


def path(steps: int, *, closed: bool) -> Tensor:
    """`[steps]` shares of the key at which gradients are taken.

    `closed=False`: 0, 1/steps, ... (left sums); `closed=True`: from 0 to 1 with both ends, as the GPT
    port has it, which for one step is 0 alone.
    """
    if closed:
        return torch.linspace(0, 1, steps, dtype=torch.float64)
    return torch.arange(steps, dtype=torch.float64) / steps


@enable_grad
def attribute(
    model: EditableModel, asked: Asked, layer: int, shares: Tensor, *, preactivation: bool = False
) -> Tensor:
    """How much each neuron of a layer contributes to an answer's probability.

    a_i = k_i mean_s dP(answer | k = share_s k) / dk_i, k at the last token, all else running free.

    Args:
        model: As it stands; not changed.
        asked: Text and answer.
        layer: Whose neurons.
        shares: `[steps]`, of `path`.
        preactivation: Scale what goes *into* the activation (of a gated MLP: into the gate), as the
            GPT port does, not what comes out of it.

    Returns:
        `[d_in]` in float32 (float64 of such a model), on the CPU.
    """
    full = _site_value(model, asked, layer, preactivation=preactivation)
    total = torch.zeros_like(full)
    for share in shares.split(CHUNK):
        scaled = (share.to(full)[:, None] * full).requires_grad_()
        ids = torch.tensor([asked.ids] * len(share), device=model.device)
        with _with_key(model, layer, scaled, preactivation=preactivation):
            logits = model.network(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        exact = logits.double() if logits.dtype == torch.float64 else logits.float()
        probability = exact.softmax(-1)[:, asked.answer]
        (gradient,) = torch.autograd.grad(probability.sum(), scaled)
        total += gradient.to(total).sum(0)
    return (full * total / len(shares)).cpu()


@no_grad
def _site_value(model: EditableModel, asked: Asked, layer: int, *, preactivation: bool) -> Tensor:
    """`[d_in]`, the unscaled key (or what the gate gets) at the last token."""
    module = _gate(model, layer) if preactivation else model.mlp_out(layer)
    ids = torch.tensor([asked.ids], device=model.device)
    with capture({0: module}, inputs=not preactivation, rows=1, stop_after=module) as seen:
        model.network(input_ids=ids, use_cache=False)
    value = seen[0][0, -1, : model.d_in(layer)]
    return value.double() if value.dtype == torch.float64 else value.float()


def _with_key(
    model: EditableModel, layer: int, keys: Tensor, *, preactivation: bool
) -> AbstractContextManager[None]:
    """Put `[rows, d_in]` in place of the last token's key while the model runs."""
    width = model.d_in(layer)

    def change(hidden: Tensor) -> Tensor:
        last = torch.cat([keys.to(hidden), hidden[:, -1, width:]], -1)
        return torch.cat([hidden[:, :-1], last[:, None]], 1)

    if preactivation:
        return replace_output(_gate(model, layer), change, rows=len(keys))
    return replace_input(model.mlp_out(layer), change, rows=len(keys))


def _gate(model: EditableModel, layer: int) -> torch.nn.Module:
    """The first matrix that makes the key; of a fused one (Phi-3) the gate is the first half."""
    return model.block(layer).get_submodule(model.architecture.mlp_in[0])
