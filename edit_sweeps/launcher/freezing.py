"""From a composed configuration to the plain values that a cell keeps, whatever becomes of `conf/` later.

Light imports only: the plan is made on login nodes.
"""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from edit_sweeps import data_root
from edit_sweeps.cell import Tree
from edit_sweeps.config import Config
from edit_sweeps.launcher import tuned


class Refusal(Exception):  # noqa: N818
    """A cell cannot be run as asked; the message says why and what to do. Shown without a traceback."""


@dataclass(frozen=True)
class Composed:
    """One cell of a command, as the plan takes it.

    Attributes:
        overrides: What it was composed with, without Hydra's own settings.
        tree: Its frozen configuration; None where it cannot be frozen.
        reason: Why not.
    """

    overrides: tuple[str, ...]
    tree: Tree | None
    reason: str = ""


def frozen(config: DictConfig, overrides: Sequence[str]) -> Composed:
    """The cell of a configuration that Hydra has composed; what is wrong with it is kept for the plan to tell."""
    try:
        return Composed(tuple(overrides), freeze(config))
    except (Refusal, OmegaConfBaseException, ValueError) as error:
        return Composed(tuple(overrides), None, str(error))


def freeze(config: DictConfig) -> Tree:
    """The whole configuration without Hydra's part, resolved to plain values.

    Raises:
        Refusal: Unknown keys, or values that nobody gave and no rule of depth can guess.
        OmegaConfBaseException: A value of a wrong type, or one that refers to nothing.
        ValueError: `tuned` names a school without values for this editor and model.
    """
    return resolve(typed(config))


def typed(config: DictConfig) -> DictConfig:
    """A copy of a composed configuration in the types of the schema, without Hydra's part and not resolved.

    Raises:
        Refusal: A key at the top that the schema does not have.
        OmegaConfBaseException: One below the top, or a value of a wrong type.
    """
    own = copy.copy(config)
    OmegaConf.set_struct(own, value=False)
    own.pop("hydra", None)
    known = [f.name for f in fields(Config)]
    for key in own:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            msg = f"there is no key {key!r}.{hint} Known: {', '.join(known)}"
            raise Refusal(msg)
    # Of plain values: a node with a type of its own would bring keys along that the schema does not have.
    merged = OmegaConf.merge(_schema(), OmegaConf.to_container(own))
    OmegaConf.copy_cache(from_config=config, to_config=merged)
    OmegaConf.set_struct(merged, value=True)
    return merged  # type: ignore[return-value]


@functools.cache
def _schema() -> DictConfig:
    """Once a process, since it takes as long as freezing ten cells; a merge copies it."""
    return OmegaConf.structured(Config)


def resolve(config: DictConfig) -> Tree:
    """Plain values of a typed configuration, guesses by depth in the place of layers that nobody gave.

    Raises:
        Refusal: Values that nobody gave and no rule of depth can guess.
        OmegaConfBaseException: A value that refers to nothing, or to one of a wrong type.
        ValueError: `tuned` names a school without values for this editor and model.
    """
    tree: Tree = OmegaConf.to_container(config, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    missing = [path for path, value in leaves(tree) if value == "???"]
    with data_root.using(tree["data_root"]):
        guessed = tuned.fill_by_depth(tree, missing)
        missing = [path for path, value in leaves(tree) if value == "???"] if missing else []
        if missing:
            raise Refusal(explain_missing(tree, missing))
        tree["tuned_source"] = tuned.describe_source(tree, guessed)
    tree["num_edits_asked"] = []
    return tree


def leaves(tree: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Each value of a nested tree with its dotted path."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def explain_missing(tree: Tree, missing: Sequence[str]) -> str:
    """Why a value is missing and how to give it."""
    text = f"no value for {', '.join(missing)}"
    if any(path.startswith("editor.") for path in missing):
        editor, model = tree["editor"]["name"], tree["model"]["name"]
        layers = [path for path in missing if path in {"editor.layer", "editor.layers"}]
        text += f": no values are published or tuned for this pair (there is no conf/tuned/{editor}-{model}.yaml)"
        if layers:
            text += ", and the model's config.json, which would tell its depth, cannot be read here"
        example = {"editor.layer": "5", "editor.layers": "[3,4,5]"}.get(missing[0], "VALUE")
        text += f". Give them on the command line, for example {missing[0]}={example}, or write that file"
    else:
        text += f". Give it on the command line, for example {missing[0]}=VALUE"
    return text
