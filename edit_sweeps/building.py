"""Objects from the plain values of a configuration: editor, regularizer, settings. Light imports only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edit_sweeps.editors.base import Editor
    from edit_sweeps.regularizers import Regularizer


def build_editor(config: Mapping[str, Any]) -> Editor:
    """The editor that `config` names.

    Raises:
        TypeError: A hyper-parameter the editor does not have.
    """
    return instantiate({k: v for k, v in config["editor"].items() if k != "name"})


def build_regularizer(config: Mapping[str, Any]) -> Regularizer | None:
    """The regularizer that `config` names; None for `regularizer=none`."""
    values = {k: v for k, v in config["regularizer"].items() if k != "name"}
    return instantiate(values) if values.get("_target_") else None


def instantiate(values: Mapping[str, Any]) -> Any:
    """Hydra's `instantiate` on plain values; nested `_target_` included, lists stay lists."""
    import hydra

    # Hydra 1.4 warns unless it is told which targets it may call. Any: an editor may be the user's own class.
    unchecked = getattr(hydra.utils, "UNSAFE_DISABLE_EXECUTION_CHECKS", None)
    policy = {} if unchecked is None else {"_execution_whitelist_": unchecked}
    return hydra.utils.instantiate(dict(values), _convert_="all", **policy)


def pick(kind: type, values: Mapping[str, Any]) -> Any:
    """A dataclass from those of `values` that it has fields for."""
    known = {f.name for f in fields(kind)}
    return kind(**{k: v for k, v in values.items() if k in known})
