"""Checks of hyper-parameters that several methods share, and the one-request rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from edit_sweeps.requests import EditRequest

if TYPE_CHECKING:
    from edit_sweeps.model import EditableModel

MATRICES = {"mlp_out": slice(-1, None), "mlp_in": slice(None, -1), "mlp": slice(None)}
"""What `editor.matrices` can ask for of a block's MLP: the one behind the key, those before it, all."""


def check_positive(settings: Any, names: Iterable[str], where: str = "editor") -> None:
    """Refuse fields that are not greater than 0; a field that is None is not looked at.

    Raises:
        ValueError: Names the first such field.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            msg = f"{where}.{name}={value} must be greater than 0"
            raise ValueError(msg)


def check_matrices(matrices: str, allowed: Sequence[str] = tuple(MATRICES)) -> None:
    """Refuse a name that is not in `MATRICES`, or that the method has no use for.

    Raises:
        ValueError: Says what is allowed.
    """
    if matrices not in allowed:
        msg = f"editor.matrices={matrices}: one of {', '.join(allowed)}"
        raise ValueError(msg)


def mlp_names(model: EditableModel, layers: Iterable[int], matrices: str) -> list[str]:
    """Full names of the chosen MLP matrices, in ascending order of layers."""
    part = MATRICES[matrices]
    return [name for layer in sorted(layers) for name in model.mlp_parameters(layer)[part]]


def the_only(requests: Sequence[EditRequest], method: str) -> EditRequest:
    """The one request of a batch of one.

    Raises:
        ValueError: There are more, or none.
    """
    if len(requests) != 1:
        msg = f"{method} writes one request at a time, not {len(requests)}; use edits=sequential"
        raise ValueError(msg)
    return requests[0]
