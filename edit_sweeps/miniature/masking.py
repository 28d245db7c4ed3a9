"""Hiding a subject's name from the tokens after it: facts get looked up at its last token.

A small transformer left to itself looks a fact up at the *relation's* last token, where no editor
writes. In most fact documents, tokens after a subject may therefore not attend to its tokens before
the last one, in any block, nor to its last token in the first block: the name must be put together
at its last token before anyone can read it. At inference nothing is masked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edit_sweeps.miniature.packing import ROW_TOKENS, Span

BLOCKED = torch.finfo(torch.float32).min


class FirstBlockMask:
    """Gives the first block an attention mask of its own."""

    def __init__(self, block: nn.Module) -> None:
        """Hooks the block; `mask` `[rows, 1, tokens, tokens]` is used as long as it is not None."""
        self.mask: Tensor | None = None
        block.register_forward_pre_hook(self._replace, with_kwargs=True)

    def _replace(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.mask is None:
            return None
        # GPT-2 passes (hidden states, cache, mask, ...) by position, LLaMA the mask by name.
        if "attention_mask" in kwargs:
            return args, {**kwargs, "attention_mask": self.mask}
        return (*args[:2], self.mask, *args[3:]), kwargs


def subject_masks(hidden: list[list[Span]]) -> tuple[Tensor, Tensor]:
    """Additive masks for all blocks and for the first, `[rows, 1, ROW_TOKENS, ROW_TOKENS]`."""
    causal = torch.full((ROW_TOKENS, ROW_TOKENS), BLOCKED).triu(1)
    everywhere = causal.repeat(len(hidden), 1, 1, 1)
    first_block = everywhere.clone()
    for row, spans in enumerate(hidden):
        for first, last in spans:
            everywhere[row, 0, last + 1 :, first:last] = BLOCKED
            first_block[row, 0, last + 1 :, first : last + 1] = BLOCKED
    return everywhere, first_block
