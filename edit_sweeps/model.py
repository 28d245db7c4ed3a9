"""A decoder that can be edited: loading, and the matrix of a layer as `[d_out, d_in]`."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D

from edit_sweeps.architectures import Architecture, architecture
from edit_sweeps.model_facts import (
    LONGEST,
    ModelSource,
    brief,
    describe_model,
    resolve_pretrained,
    tokenizer_place,
)

log = logging.getLogger(__name__)

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}


class EditableModel:
    """A decoder with its tokenizer and its row of the table of architectures.

    Args:
        network: In evaluation mode, unedited.
        tokenizer: A fast one: positions are found by character offsets.

    Attributes:
        network: The transformers model.
        tokenizer: Its tokenizer.
        architecture: Where its parts lie.

    Raises:
        LookupError: Of an unknown family.
        ValueError: The tokenizer is a slow one.
    """

    def __init__(self, network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        if not tokenizer.is_fast:
            msg = (
                f"{type(tokenizer).__name__} is a slow tokenizer and knows no character offsets; "
                "set model.tokenizer to a folder or hub id that has a tokenizer.json"
            )
            raise ValueError(msg)
        self.network = network
        self.tokenizer = tokenizer
        self.architecture: Architecture = architecture(network.config.model_type)
        self._fingerprint = fingerprint_of(network)

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return self.network.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.network.dtype

    @property
    def max_length(self) -> int:
        """Longest text in tokens."""
        return min(
            getattr(self.network.config, "max_position_embeddings", None) or LONGEST, LONGEST
        )

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks."""
        return self.network.get_submodule(self.architecture.block)

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.blocks)

    def block(self, layer: int) -> nn.Module:
        """Decoder block `layer`, counted from 0.

        Raises:
            ValueError: The model has no such layer.
        """
        self._check(layer)
        return self.blocks[layer]

    def mlp_out(self, layer: int) -> nn.Module:
        """The down projection of a block: its input is the key, its output the value."""
        return self.block(layer).get_submodule(self.architecture.mlp_out)

    def parameter_name(self, layer: int) -> str:
        """Full name of the matrix of a layer, such as `transformer.h.2.mlp.c_proj.weight`."""
        self._check(layer)
        return f"{self.architecture.block}.{layer}.{self.architecture.mlp_out}.weight"

    def mlp_parameters(self, layer: int) -> tuple[str, ...]:
        """Full names of all MLP weights of a layer, those that make the key first (MEND, UltraEdit)."""
        row = self.architecture
        home = f"{row.block}.{self._check(layer)}"
        return tuple(f"{home}.{path}.weight" for path in (*row.mlp_in, row.mlp_out))

    def parameter(self, name: str) -> nn.Parameter:
        """A parameter by its full name."""
        return self.network.get_parameter(name)

    def is_transposed(self, name: str) -> bool:
        """Whether a weight is stored `[d_in, d_out]`: whether its module is a Conv1D (GPT-2)."""
        return isinstance(self.network.get_submodule(name.rpartition(".")[0]), Conv1D)

    def matrix(self, layer: int) -> Tensor:
        """`[d_out, d_in]` of the down projection; a view, so it changes with every write."""
        name = self.parameter_name(layer)
        weight = self.parameter(name).detach()
        return weight.T if self.is_transposed(name) else weight

    def d_in(self, layer: int) -> int:
        """Width of a key."""
        return self.matrix(layer).shape[1]

    def d_out(self, layer: int) -> int:
        """Width of a value."""
        return self.matrix(layer).shape[0]

    def fingerprint_now(self) -> str:
        """Of the weights as they are at this moment."""
        return fingerprint_of(self.network)

    def fingerprint(self) -> str:
        """Digest of the unedited model, taken when this object was made; see `fingerprint_of`."""
        return self._fingerprint

    def _check(self, layer: int) -> int:
        if not 0 <= layer < self.n_layers:
            msg = f"layer {layer} is outside this model: it has layers 0 to {self.n_layers - 1}"
            raise ValueError(msg)
        return layer


def fingerprint_of(network: PreTrainedModel) -> str:
    """sha256 over the bytes, names, types and shapes of all parameters, and the configuration."""

    def digest(item: tuple[str, nn.Parameter]) -> str:
        name, parameter = item
        tensor = parameter.detach().cpu().contiguous()
        head = f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
        return hashlib.sha256(
            head + tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        ).hexdigest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(digest, network.named_parameters()))
    config = {k: v for k, v in network.config.to_dict().items() if k not in _VOLATILE}
    body = json.dumps([config, digests], sort_keys=True, default=str)
    return hashlib.sha256(body.encode()).hexdigest()


def load_model(source: ModelSource, device: str = "auto") -> EditableModel:
    """Load a model for editing: evaluation mode, no gradients, explicit dtype, safetensors only.

    Args:
        source: What to load.
        device: `auto` (an accelerator if there is one), or a torch device. Not used with a device
            map.

    Raises:
        ValueError: Pickled weights, a slow tokenizer, an encoder-decoder, an unknown dtype, a
            folder or hub id that cannot be read; the message says what to do.
        LookupError: A family that is not in the table.
    """
    facts = describe_model(source)
    place = resolve_pretrained(source.pretrained)
    log.info(
        "loading %s (%s, %d layers, %s)", place, facts.model_type, facts.n_layers, source.dtype
    )
    options: dict[str, Any] = {"revision": source.revision} if source.revision else {}
    if source.attention:
        options["attn_implementation"] = source.attention
    if source.device_map is not None:
        options["device_map"] = source.device_map
    network, report = AutoModelForCausalLM.from_pretrained(
        place,
        dtype=DTYPES[source.dtype],
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    _check_complete(place, report)
    if source.device_map is None:
        network = network.to(choose_device(device))
    network.eval().requires_grad_(requires_grad=False)
    return EditableModel(network, load_tokenizer(source))


def choose_device(device: str) -> torch.device:
    """`auto` is an accelerator where torch has one, else the CPU; anything else is a torch device.

    Raises:
        ValueError: Not a device that torch has here.
    """
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        msg = f"device={device} cannot be used here ({brief(error)}); try device=auto"
        raise ValueError(msg) from error
    return chosen


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerFast:
    """The model's tokenizer, or the one that `source` names instead.

    Raises:
        ValueError: A folder or miniature that does not exist.
    """
    place, revision = tokenizer_place(source)
    options = {"revision": revision} if revision else {}
    return AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)


def _check_complete(place: str | Path, report: dict[str, Any]) -> None:
    """Refuse weights that leave a parameter at random values."""
    absent = sorted(report["missing_keys"]) + sorted(str(k) for k in report["mismatched_keys"])
    if absent:
        msg = (
            f"the weights of {place} are not complete: {len(absent)} parameters are missing or of "
            f"another shape than config.json says, such as {absent[0]}; get the whole model"
        )
        raise ValueError(msg)
