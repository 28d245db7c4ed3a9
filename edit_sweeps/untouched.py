"""Context managers that put back what lm-eval and measuring would change."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def untouched_rng(device: torch.device | None = None) -> Iterator[None]:
    """Put the states of the global random number generators back afterwards.

    Those of `random`, NumPy and torch, and torch's of `device`.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    place = device or torch.device("cpu")
    devices = [] if place.type == "cpu" else [place.index or 0]
    with torch.random.fork_rng(devices, device_type=place.type):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module has its own mode back."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
