"""Working without a network: the flags that keep the hub's libraries from trying. Light imports only.

Without these flags a library that misses a file tries the hub for half a minute before it gives up.
huggingface_hub reads them once, when it is first imported; datasets and transformers ask huggingface_hub.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

FLAGS = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE")
_CONSTANTS = {
    "huggingface_hub.constants": ("HF_HUB_OFFLINE",),
    "datasets.config": ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
    "evaluate.config": ("HF_EVALUATE_OFFLINE",),
}
"""Module -> names in it that hold a flag as it was when the module was imported."""


def offline_environment(root: str | Path | None) -> dict[str, str]:
    """What a process that works from the data folder `root` needs in its environment; nothing for none.

    A variable that is set to nothing names no folder either.
    """
    if not root:
        return {}
    return {
        "EDIT_SWEEPS_DATA": str(Path(root).expanduser().absolute()),
        **dict.fromkeys(FLAGS, "1"),
    }


def go_offline(root: str | Path | None) -> None:
    """Keep this process, and those it starts, off the network for good; does nothing for no folder.

    Modules that have read the flags already are told too.
    """
    if not root:
        return
    os.environ.update(offline_environment(root))
    for module, names in _CONSTANTS.items():
        for name in names:
            if module in sys.modules:
                setattr(sys.modules[module], name, True)


def is_offline() -> bool:
    """Whether the environment forbids asking the hub for models."""
    values = (os.environ.get(flag, "") for flag in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.upper() in {"1", "ON", "YES", "TRUE"} for value in values)
