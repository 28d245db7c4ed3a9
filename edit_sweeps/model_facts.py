"""What a model's config.json says of it, without torch and without its weights: a login node asks no more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edit_sweeps import data_root, hub_cache
from edit_sweeps.architectures import architecture
from edit_sweeps.offline import is_offline

DTYPE_NAMES = ("float64", "float32", "bfloat16", "float16")
MINIATURE = "miniature://"
LONGEST = 2048
"""No text is longer than this many tokens, whatever the model could take."""
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
NAMES = {
    "n_layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "vocab_size": ("vocab_size",),
    "max_length": ("max_position_embeddings", "n_positions"),
}
"""What families call these in their config.json."""
SHORT = {"gpt2": 1024}
"""Windows below `LONGEST` of families whose config.json need not say them."""


class ModelSource(Protocol):
    """What to load; `edit_sweeps.config.ModelConfig` has these attributes."""

    @property
    def pretrained(self) -> str:
        """Hub id, folder, or `miniature://gpt2 | llama`."""

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit on the hub."""

    @property
    def dtype(self) -> str:
        """One of `DTYPE_NAMES`."""

    @property
    def attention(self) -> str | None:
        """The `attn_implementation` of transformers; None leaves the choice to it."""

    @property
    def device_map(self) -> Any:
        """Passed through to transformers."""

    @property
    def tokenizer(self) -> str | None:
        """Hub id or folder, where it is not the model's own."""


@dataclass(frozen=True)
class ModelFacts:
    """What a model's config.json says, without its weights.

    Attributes:
        model_type: Family.
        n_layers: Decoder blocks.
        max_length: Longest text in tokens.
        hidden_size: Width of the residual stream.
        vocab_size: Rows of the embedding.
    """

    model_type: str
    n_layers: int
    max_length: int
    hidden_size: int
    vocab_size: int


def describe_model(source: ModelSource) -> ModelFacts:
    """Read a model's config.json and refuse what cannot be edited, before any weight is read.

    Raises:
        ValueError: Pickled weights, an encoder-decoder, an unknown dtype, a folder or hub id that cannot be read; the
            message says what to do.
        LookupError: A family that is not in the table.
    """
    if source.dtype not in DTYPE_NAMES:
        msg = f"model.dtype={source.dtype} is unknown; choose one of {', '.join(DTYPE_NAMES)}"
        raise ValueError(msg)
    place = resolve_pretrained(source.pretrained)
    try:
        config = read_config(place, source.revision)
    except (OSError, ValueError) as error:
        msg = (
            f"model.pretrained={source.pretrained} cannot be read: give a hub id that this machine "
            f"can reach or has in its cache, or a folder with a config.json ({brief(error)})"
        )
        raise ValueError(msg) from error
    if config.get("is_encoder_decoder"):
        msg = (
            f"{source.pretrained} is an encoder-decoder ({config['model_type']}); give a "
            "decoder, such as a GPT or LLaMA: only these can be edited"
        )
        raise ValueError(msg)
    architecture(config["model_type"])
    if config.get("quantization_config") is not None:
        msg = f"{source.pretrained} is quantised and cannot be edited; use the unquantised weights"
        raise ValueError(msg)
    check_weight_files(place, source.revision)
    found: dict[str, Any] = {
        fact: next((config[name] for name in names if config.get(name) is not None), None)
        for fact, names in NAMES.items()
    }
    if None in (found["n_layers"], found["hidden_size"], found["vocab_size"]):
        config = whole_config(place, source.revision)
        found = {fact: config.get(names[0]) for fact, names in NAMES.items()}
    return ModelFacts(
        model_type=config["model_type"],
        n_layers=found["n_layers"],
        max_length=min(found["max_length"] or SHORT.get(config["model_type"], LONGEST), LONGEST),
        hidden_size=found["hidden_size"],
        vocab_size=found["vocab_size"],
    )


def read_config(place: str | Path, revision: str | None) -> dict[str, Any]:
    """The config.json of a folder, or of a hub id; by transformers where it does not name its family.

    Raises:
        OSError: There is none that can be read.
        ValueError: It is no such file.
    """
    config = json.loads(file_of(place, "config.json", revision).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        msg = f"config.json of {place} holds no object"
        raise ValueError(msg)  # a broken file, not a wrong argument
    return config if config.get("model_type") else whole_config(place, revision)


def whole_config(place: str | Path, revision: str | None) -> dict[str, Any]:
    """The configuration with everything that its class fills in and calls otherwise; imports transformers.

    Raises:
        OSError: It cannot be read.
        ValueError: Its family is not known.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
    names = (name for names in NAMES.values() for name in names[:1])
    told: Mapping[str, Any] = {name: getattr(config, name, None) for name in names}
    return {**config.to_dict(), **told}


def file_of(place: str | Path, name: str, revision: str | None) -> Path:
    """A small file of a model: in its folder, or brought from the hub.

    Raises:
        OSError: It is not there, or the hub cannot be asked.
    """
    if isinstance(place, Path):
        return place / name
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(place, name, revision=revision))


def tokenizer_place(source: ModelSource) -> tuple[str | Path, str | None]:
    """Folder or hub id, and revision, of the model's tokenizer, or of the one that `source` names instead.

    Raises:
        ValueError: A folder or miniature that does not exist.
    """
    place, revision = resolve_pretrained(source.tokenizer or source.pretrained), source.revision
    if source.tokenizer:  # of another repository: at the commit that is in the cell's key
        on_hub = isinstance(place, str)
        revision = hub_cache.commit_of("models", source.tokenizer, None) if on_hub else None
    return place, revision


def tokenizer_file(source: ModelSource) -> Path | None:
    """The tokenizer.json that `model.load_tokenizer` reads; None where the model has none.

    Raises:
        ValueError: A folder or miniature that does not exist.
    """
    place, revision = tokenizer_place(source)
    try:
        file = file_of(place, "tokenizer.json", revision)
    except OSError:
        return None
    return file if file.is_file() else None


def resolve_pretrained(pretrained: str) -> str | Path:
    """The folder that `pretrained` means, of the data folder too, or the hub id as it is.

    Raises:
        ValueError: A path without a folder, or a miniature that does not exist.
    """
    if pretrained.startswith(MINIATURE):
        home = Path(__file__).parent / "miniature" / "checkpoints"
        folder = home / pretrained.removeprefix(MINIATURE)
        if not (folder / "config.json").is_file():
            there = ", ".join(MINIATURE + p.name for p in sorted(home.glob("*/"))) or "none"
            msg = (
                f"there is no {pretrained}; there are: {there}. "
                "`python -m edit_sweeps.miniature.train` makes them"
            )
            raise ValueError(msg)
        return folder
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        return folder
    if pretrained.startswith(("/", "./", "../", "~")) or pretrained.count("/") > 1:
        msg = f"model.pretrained={pretrained} is neither a folder nor a hub id (owner/name)"
        raise ValueError(msg)
    return data_root.local_model(pretrained) or pretrained


def check_weight_files(place: str | Path, revision: str | None) -> None:
    """Refuse weights that are not safetensors.

    Raises:
        ValueError: They are not, or there are none.
    """
    if not any(has_file(place, name, revision) for name in WEIGHT_FILES):
        msg = (
            f"{place} has no safetensors weights; pickled ones are not read, because a pickle can "
            'run code. If you trust the source, convert it: python -c "from transformers import '
            "AutoModelForCausalLM as M, AutoTokenizer as T; "
            f"M.from_pretrained('{place}', use_safetensors=False).save_pretrained('converted'); "
            f"T.from_pretrained('{place}').save_pretrained('converted')\", then "
            "model.pretrained=converted"
        )
        raise ValueError(msg)


def has_file(place: str | Path, name: str, revision: str | None) -> bool:
    """Whether a model's folder, the hub's cache or the hub has a file; nothing is brought."""
    if isinstance(place, Path):
        return (place / name).is_file()
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(try_to_load_from_cache(place, name, revision=revision), str):
        return True
    if is_offline():
        return False
    try:
        return bool(HfApi().file_exists(place, name, revision=revision))
    except (HfHubHTTPError, OSError):
        return False


def brief(error: BaseException) -> str:
    """Its message on one line, cut."""
    return " ".join(str(error).split())[:200]
