"""Shared fixtures: a tokenizer built in code, tiny random models of every family, requests. No network."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from edit_sweeps.model import DTYPES, EditableModel
from edit_sweeps.requests import EditRequest, Probe

torch.set_num_threads(1)

D, D_IN, LAYERS, HEADS, POSITIONS = 32, 48, 4, 4, 128

_COMMON = {
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": D_IN,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.1,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2, "head_dim": D // HEADS}
_SLIDING = {**_GROUPED, "query_pre_attn_scalar": 8, "sliding_window": 64}

FAMILIES = {
    "bloom": {**_COMMON, "n_layer": LAYERS, "n_head": HEADS},
    "falcon": {**_COMMON, "ffn_hidden_size": D_IN, "alibi": False},
    "gemma": _GROUPED,
    "gemma2": _SLIDING,
    "gemma3_text": _SLIDING,
    "gpt2": {**_COMMON, "n_inner": D_IN},
    "gpt_neo": {**_COMMON, "attention_types": [[["global", "local"], LAYERS // 2]]},
    "gpt_neox": _COMMON,
    "gptj": {**_COMMON, "n_inner": D_IN, "rotary_dim": 4},
    "llama": _GROUPED,
    "mistral": _GROUPED,
    "olmo2": {**_COMMON, "num_key_value_heads": 2},
    "opt": {**_COMMON, "ffn_dim": D_IN, "word_embed_proj_dim": D, "init_std": 0.1},
    "phi3": {**_COMMON, "num_key_value_heads": 2},
    "qwen2": {**_COMMON, "num_key_value_heads": 2},
    "qwen3": _GROUPED,
}
"""Family -> tiny sizes; a new row of the table of architectures needs a row here."""

TEXT = (
    "Marlow Quillfeather lives in Brackenford and works as a baker for the Halden Company.",
    "The capital of Ostravia is Velmora. Ingrid Thistledown was born in Velmora.",
    "Question: Where does Ingrid Thistledown live?\nAnswer: Brackenford, near the river.",
    "Paris, London and Rome are cities; the mother tongue of Danielle Darrieux is French.",
    "the bakers and the singers live there, she said, and he plays the violin in the morning.",
)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of some 400 tokens, without BOS; most names are several tokens."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def bos_tokenizer() -> PreTrainedTokenizerFast:
    """The same, but it puts `<s>` in front of every text."""
    return make_tokenizer(bos=True)


def make_tokenizer(*, bos: bool = False, eos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that puts `<s>` in front (`bos`) or `</s>` behind (`eos`) of every text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXT, trainer)
    if bos or eos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> " * bos + "$A" + " </s>" * eos,
            special_tokens=[("<s>", 1), ("</s>", 2)],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture
def tiny_model(tokenizer):
    """Factory: `tiny_model(family, dtype="float32", seed=0, **config)` -> EditableModel with fresh random weights."""

    def make(family="gpt2", *, dtype="float32", seed=0, tokenizer=tokenizer, **overrides):
        return EditableModel(
            tiny_network(family, len(tokenizer), dtype, seed, overrides), tokenizer
        )

    return make


def tiny_network(family, vocab_size, dtype="float32", seed=0, overrides=None):
    """A random network of 4 blocks of width 32; its biases are random too."""
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(
        family, **{"vocab_size": vocab_size, **ids, **FAMILIES[family], **(overrides or {})}
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, parameter in network.named_parameters():
            if name.endswith(".bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    return network.to(DTYPES[dtype]).eval().requires_grad_(requires_grad=False)


class StayExact(TorchFunctionMode):
    """A float64 tensor is not cast to float32, as norms and attention of some families do it inside.

    Without this a float64 LLaMA, Gemma or GPT-J computes with 7 digits, which an optimisation multiplies.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64:
            if func is torch.Tensor.float:
                return args[0]
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


@pytest.fixture
def exactly():
    """float64 models compute in float64 throughout, whatever the family: formulas can be held to many digits."""
    with StayExact():
        yield


@pytest.fixture
def tiny(tiny_model) -> EditableModel:
    """A tiny GPT-2 in float32."""
    return tiny_model("gpt2")


@pytest.fixture(params=sorted(FAMILIES))
def family(request) -> str:
    """Every family in turn."""
    return request.param


@pytest.fixture
def requests() -> list[EditRequest]:
    """Three requests; each subject is several tokens."""
    return [
        EditRequest(
            case_id="1",
            subject="Marlow Quillfeather",
            prompt="{} lives in",
            target_new="Velmora",
            target_true="Brackenford",
            paraphrases=(Probe("The home of Marlow Quillfeather is", "Velmora", "Brackenford"),),
            neighborhood=(Probe("Ingrid Thistledown lives in", "Brackenford", "Velmora"),),
            other_facts=(Probe("Marlow Quillfeather works as a", "baker"),),
            relation="home",
        ),
        EditRequest(
            case_id="2",
            subject="Danielle Darrieux",
            prompt="The mother tongue of {} is",
            target_new="English",
            target_true="French",
            paraphrases=(Probe("Danielle Darrieux spoke the language", "English", "French"),),
            neighborhood=(Probe("The mother tongue of Léon Blum is", "French", "English"),),
            relation="language",
        ),
        EditRequest(
            case_id="3",
            subject="Ostravia",
            prompt="The capital of {} is the city of",
            target_new="Paris",
            target_true="Velmora",
            paraphrases=(Probe("Ostravia is governed from", "Paris", "Velmora"),),
            neighborhood=(Probe("The capital of France is the city of", "Paris", "Velmora"),),
            portability=(Probe("The parliament of Ostravia meets in", "Paris"),),
            relation="capital",
        ),
    ]
