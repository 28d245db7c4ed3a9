"""torch and its kin, imported when first used: who plans a sweep looks at editors and models and runs none of them.

Modules that a planner imports take `torch` from here; annotations are text in them and need nothing. The package's
own classes of modules (`nn.Module`) lie in files of their own, which are imported inside functions.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

__all__ = ["enable_grad", "no_grad", "tensor_files", "torch", "transformers"]

P = ParamSpec("P")
R = TypeVar("R")


class _Later:
    """Stands for a module until an attribute of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    import safetensors.torch as tensor_files
    import torch
    import transformers
else:
    torch = _Later("torch")
    transformers = _Later("transformers")
    tensor_files = _Later("safetensors.torch")


def no_grad(function: Callable[P, R]) -> Callable[P, R]:
    """As `torch.no_grad()` above a function."""

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.no_grad():
            return function(*args, **kwargs)

    return inside


def enable_grad(function: Callable[P, R]) -> Callable[P, R]:
    """As `torch.enable_grad()` above a function."""

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.enable_grad():
            return function(*args, **kwargs)

    return inside
