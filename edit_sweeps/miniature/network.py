"""The two shapes: an ordinary GPT-2 and an ordinary LLaMA of about a million parameters."""

from __future__ import annotations

from typing import Literal

from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from edit_sweeps.miniature.tokenizer import MAX_TOKENS

ArchitectureName = Literal["gpt2", "llama"]

WIDTH = 128
HEADS = 4
LAYERS = 4
MLP_WIDTH = 384
# Its usual base of 10,000 is for thousands of positions: with it a model this small copies badly.
ROPE_THETA = 500.0


def build_network(
    architecture: ArchitectureName, vocabulary_size: int, end_of_text: int
) -> PreTrainedModel:
    """Builds an untrained model; the weights come from torch's global generator."""
    if architecture == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocabulary_size,
                n_positions=MAX_TOKENS,
                n_embd=WIDTH,
                n_layer=LAYERS,
                n_head=HEADS,
                n_inner=MLP_WIDTH,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=end_of_text,
                eos_token_id=end_of_text,
                pad_token_id=end_of_text,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary_size,
            hidden_size=WIDTH,
            intermediate_size=MLP_WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=MAX_TOKENS,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
            pad_token_id=end_of_text,
        )
    )


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks of one of the two shapes."""
    blocks = model.transformer.h if model.config.model_type == "gpt2" else model.model.layers
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def final_norm_of(model: PreTrainedModel) -> nn.Module:
    """The norm before the head."""
    norm = model.transformer.ln_f if model.config.model_type == "gpt2" else model.model.norm
    assert isinstance(norm, nn.Module)
    return norm
