"""From the points of a grid to cells, composed by Hydra once for each combination of options of groups.

Hydra takes a fifth of a second to compose one configuration, and most points of a grid differ in plain values
only (`seed=3`). Those are put into a copy of what Hydra has composed of the rest, in the way in which Hydra does it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from edit_sweeps.cell import Tree
from edit_sweeps.launcher.freezing import Composed, Refusal, frozen, resolve, typed
from edit_sweeps.offline import go_offline

Points = Sequence[Sequence[str]]


def compose(loader: ConfigLoader, master: DictConfig, points: Points) -> list[Composed]:
    """The cells of a grid, in its order.

    Args:
        loader: Hydra's.
        master: The configuration of the whole command, which Hydra's own settings are taken from.
        points: Overrides of each cell.

    Raises:
        HydraException: Hydra refuses an override; with the cell that it is of, where there are several.
    """
    return _Composing(loader, master, several=len(points) > 1).cells(points)


@dataclass(frozen=True)
class _Base:
    """What Hydra has composed of some overrides, in the types of the schema and not resolved.

    Attributes:
        config: Values of a cell are put in and taken out again: a copy takes twice as long as all the rest.
        raw: The plain values of `config`.
    """

    config: DictConfig
    raw: Tree

    def tree(self, values: Sequence[Override]) -> Tree:
        """Frozen, with `values` put in.

        Raises:
            _CannotSet: A value does not fit, or its key does not exist.
            Refusal, OmegaConfBaseException, ValueError: As `freezing.resolve`.
        """
        kept = [(v.key_or_group, _find(self.raw, _parts(v))) for v in values]
        simple = not any(isinstance(old, dict | list) for _, old in kept)
        simple = simple and not any(isinstance(v.value(), dict | list) for v in values)
        config = self.config if simple else copy.deepcopy(self.config)
        done = 0
        try:
            for value in values:
                OmegaConf.update(config, value.key_or_group, value.value(), merge=True)
                done += 1
            go_offline(config.data_root)
            return resolve(config)
        except OmegaConfBaseException as error:
            if done < len(values):
                raise _CannotSet from error
            raise
        finally:
            for key, old in kept[:done] if simple else []:
                OmegaConf.update(config, key, old, merge=True)


class _CannotSet(Exception):  # noqa: N818
    """Hydra has the words for what is wrong with a value."""


class _Composing:
    """What the cells of one command share while they are composed."""

    def __init__(self, loader: ConfigLoader, master: DictConfig, *, several: bool) -> None:
        self._loader, self._master, self._several = loader, master, several
        self._bases: dict[tuple[str, ...], _Base | Composed] = {}
        self._parse: Callable[[str], Override] = functools.cache(
            OverridesParser.create().parse_override
        )
        self._is_group: Callable[[str], bool] = functools.cache(self._look_for_group)
        self._only_sets_a_value: Callable[[str], bool] = functools.cache(self._judge)

    def cells(self, points: Points) -> list[Composed]:
        """See `compose`."""
        return [self._cell(tuple(point)) for point in points]

    def _cell(self, overrides: tuple[str, ...]) -> Composed:
        shared, values = self._divide(overrides)
        if shared not in self._bases:
            self._bases[shared] = self._base(shared, overrides)
        base = self._bases[shared]
        if isinstance(base, Composed):
            return Composed(overrides, None, base.reason)
        try:
            return Composed(overrides, base.tree(values))
        except _CannotSet:
            return frozen(self._by_hydra(overrides, overrides), overrides)
        except (Refusal, OmegaConfBaseException, ValueError) as error:
            return Composed(overrides, None, str(error))

    def _divide(self, overrides: tuple[str, ...]) -> tuple[tuple[str, ...], list[Override]]:
        """Overrides that Hydra composes, and those that only set a value.

        A value that an override of another kind (`+a.b=1`, `~a`) might meet goes with it: their order counts.
        """
        plain = [text for text in overrides if self._only_sets_a_value(text)]
        met = [_parts(self._parse(text)) for text in overrides if text not in plain]
        values = [
            override
            for override in map(self._parse, plain)
            if not any(_meet(_parts(override), other) for other in met)
        ]
        taken = {override.input_line for override in values}
        return tuple(text for text in overrides if text not in taken), values

    def _judge(self, text: str) -> bool:
        override = self._parse(text)
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and not override.is_sweep_override()
            and not override.is_hydra_override()
            and override.key_or_group != "hydra"
            and not self._is_group(override.key_or_group)
        )

    def _look_for_group(self, key: str) -> bool:
        own = OmegaConf.to_container(self._master.hydra.overrides.hydra)
        name = self._master.hydra.job.config_name
        return bool(self._loader.get_group_options(key, None, config_name=name, overrides=own))

    def _base(self, shared: tuple[str, ...], overrides: tuple[str, ...]) -> _Base | Composed:
        """What Hydra composes of `shared`, typed; the reason, where the schema does not have a key of it."""
        config = self._by_hydra(shared, overrides)
        try:
            config = typed(config)
        except (Refusal, OmegaConfBaseException) as error:
            return Composed(shared, None, str(error))
        return _Base(config, OmegaConf.to_container(config))  # type: ignore[arg-type]

    def _by_hydra(self, shared: Sequence[str], overrides: Sequence[str]) -> DictConfig:
        try:
            return self._loader.load_sweep_config(self._master, list(shared))
        except HydraException as error:
            if self._several:
                error.args = (f"{error}\nIn the cell {' '.join(overrides)}",)
            raise


def _parts(override: Override) -> list[str]:
    """`a.b[0]` and `a["b"][0]` as their keys."""
    key = override.key_or_group.translate(str.maketrans("[", ".", "]'\""))
    return key.replace("/", ".").split(".")


def _find(tree: Any, parts: Sequence[str]) -> Any:
    """The value under a key, which must be there."""
    for part in parts:
        if not isinstance(tree, dict) or part not in tree:
            raise _CannotSet
        tree = tree[part]
    return tree


def _meet(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether one key is the other, or lies inside it."""
    return all(a == b for a, b in zip(one, other, strict=False))
