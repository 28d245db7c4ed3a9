"""Where the parts of a decoder lie: one table, one row for each model family."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Architecture:
    """Module paths of one family.

    Attributes:
        block: Of the list of decoder blocks, from the model.
        mlp_out: Of the down projection, inside a block: the matrix that editors write to.
        mlp_in: Of what feeds it, inside a block.
        attention: Inside a block.
        norm: Of the final norm, from the model.
        post_mlp_norm: Whether a norm stands between the MLP's output and the residual stream.
    """

    block: str
    mlp_out: str
    mlp_in: tuple[str, ...]
    attention: str
    norm: str
    post_mlp_norm: bool = False


_LLAMA = Architecture(
    block="model.layers",
    mlp_out="mlp.down_proj",
    mlp_in=("mlp.gate_proj", "mlp.up_proj"),
    attention="self_attn",
    norm="model.norm",
)
_LLAMA_POST_NORM = Architecture(
    block="model.layers",
    mlp_out="mlp.down_proj",
    mlp_in=("mlp.gate_proj", "mlp.up_proj"),
    attention="self_attn",
    norm="model.norm",
    post_mlp_norm=True,
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "bloom": Architecture(
            block="transformer.h",
            mlp_out="mlp.dense_4h_to_h",
            mlp_in=("mlp.dense_h_to_4h",),
            attention="self_attention",
            norm="transformer.ln_f",
        ),
        "falcon": Architecture(
            block="transformer.h",
            mlp_out="mlp.dense_4h_to_h",
            mlp_in=("mlp.dense_h_to_4h",),
            attention="self_attention",
            norm="transformer.ln_f",
        ),
        "gemma": _LLAMA,
        "gemma2": _LLAMA_POST_NORM,
        "gemma3_text": _LLAMA_POST_NORM,
        "gpt2": Architecture(
            block="transformer.h",
            mlp_out="mlp.c_proj",
            mlp_in=("mlp.c_fc",),
            attention="attn",
            norm="transformer.ln_f",
        ),
        "gpt_neo": Architecture(
            block="transformer.h",
            mlp_out="mlp.c_proj",
            mlp_in=("mlp.c_fc",),
            attention="attn",
            norm="transformer.ln_f",
        ),
        "gpt_neox": Architecture(
            block="gpt_neox.layers",
            mlp_out="mlp.dense_4h_to_h",
            mlp_in=("mlp.dense_h_to_4h",),
            attention="attention",
            norm="gpt_neox.final_layer_norm",
        ),
        "gptj": Architecture(
            block="transformer.h",
            mlp_out="mlp.fc_out",
            mlp_in=("mlp.fc_in",),
            attention="attn",
            norm="transformer.ln_f",
        ),
        "llama": _LLAMA,
        "mistral": _LLAMA,
        "olmo2": _LLAMA_POST_NORM,
        "opt": Architecture(
            block="model.decoder.layers",
            mlp_out="fc2",
            mlp_in=("fc1",),
            attention="self_attn",
            norm="model.decoder.final_layer_norm",
        ),
        "phi3": Architecture(
            block="model.layers",
            mlp_out="mlp.down_proj",
            mlp_in=("mlp.gate_up_proj",),
            attention="self_attn",
            norm="model.norm",
        ),
        "qwen2": _LLAMA,
        "qwen3": _LLAMA,
    }
)
"""Keyed by transformers' `config.model_type`."""


def architecture(model_type: str) -> Architecture:
    """The row of a family.

    Args:
        model_type: `config.model_type` of a transformers model.

    Raises:
        LookupError: No row; says which families are known and how to add one.
    """
    if model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    near = difflib.get_close_matches(model_type, ARCHITECTURES, n=1)
    hint = f" (the nearest is {near[0]!r})" if near else ""
    msg = (
        f"models of type {model_type!r} are not in the table of architectures{hint}. "
        f"Known: {', '.join(ARCHITECTURES)}. To add a family, put one row into ARCHITECTURES in "
        f'edit_sweeps/architectures.py: "{model_type}": Architecture(block=<path of the list of '
        "decoder blocks>, mlp_out=<path of the down projection inside a block>, mlp_in=..., "
        "attention=..., norm=...), and one row of tiny sizes to FAMILIES in tests/conftest.py. "
        "Mixture-of-experts models have no single down projection and cannot be edited"
    )
    raise LookupError(msg)
