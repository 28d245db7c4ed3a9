"""Whose values an editor runs with on a model: told for every pair, guessed by depth where nobody published any.

Light imports only: the plan is made on login nodes.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edit_sweeps import data_root
from edit_sweeps.cell import Cell, Tree
from edit_sweeps.config import CONF, SCHOOLS
from edit_sweeps.model_facts import NAMES

log = logging.getLogger(__name__)

DEPTH_KEYS = NAMES["n_layers"]


@dataclass(frozen=True)
class DepthRule:
    """Where in a model an editor goes when nobody has said.

    Attributes:
        share: Depth of the last edited block as a share of all blocks.
        count: Blocks that are edited, ending there.
    """

    share: float
    count: int = 1

    def layers(self, n_layers: int) -> list[int]:
        """Blocks of a model with `n_layers`; fewer than `count` in a shallow one."""
        last = min(round(n_layers * self.share), n_layers - 1)
        return list(range(max(last - self.count + 1, 0), last + 1))


_LOCATED, _SPREAD = DepthRule(1 / 3), DepthRule(1 / 3, 5)
DEPTH_RULES: Mapping[str, DepthRule] = MappingProxyType(
    {
        # Published: 8/24, 12/36, 17/48, 15/44; and 5/28, 5/32 in models of 6 to 8 billion parameters.
        "rome": _LOCATED,
        "rome_identity": _LOCATED,
        "r_rome": _LOCATED,
        # Published: five or six layers that end at ROME's or a little above.
        "memit": _SPREAD,
        "memit_seq": _SPREAD,
        "pmet": _SPREAD,
        "alphaedit": _SPREAD,
        "encore": _SPREAD,
        "emmet": _LOCATED,
        # Published: 1/48, 21/28, 21/32.
        "ft": DepthRule(2 / 3),
        # Published: the first, in every model.
        "ft_l": DepthRule(0.0),
        # Published: the last three, in every model.
        "mend": DepthRule(1.0, 3),
        # Published: 18-26/28 and 29-30/32.
        "ultraedit": DepthRule(0.9, 3),
        # Published: 35/48, 25/28, 27/32, 18/28.
        "grace": DepthRule(0.8),
        # Published: 8/48, 21/28, 27/32, 29/32, 23/28.
        "wise": DepthRule(0.85),
    }
)
"""Editor -> the rule for `editor.layer` or `editor.layers`; in words in docs/methods.md."""


def fill_by_depth(tree: Tree, missing: Sequence[str]) -> list[str]:
    """Put guesses for the edited layers in the place of what nobody gave; mutates `tree["editor"]`.

    Args:
        tree: Configuration of a cell.
        missing: Dotted paths of the values nobody gave.

    Returns:
        What was filled in, such as `editor.layer=11`; empty without a rule, or when the model's depth
        cannot be read here.
    """
    rule = DEPTH_RULES.get(tree["editor"]["name"])
    wanted = [path for path in missing if path in {"editor.layer", "editor.layers"}]
    depth = depth_of(tree["model"]) if rule and wanted else None
    if rule is None or depth is None:
        return []
    filled = []
    for path in wanted:
        key, layers = path.removeprefix("editor."), rule.layers(depth)
        tree["editor"][key] = layers[-1] if key == "layer" else layers
        filled.append(f"{path}={tree['editor'][key]}".replace(" ", ""))
    return filled


def depth_of(model: Tree) -> int | None:
    """Blocks of a model by its config.json: of a folder, the hub's cache, or the hub; None where none can be read."""
    name = str(model["pretrained"])
    return _read_depth(str(data_root.local_model(name) or name), model["revision"])


@functools.cache
def _read_depth(pretrained: str, revision: str | None) -> int | None:
    """Once for all cells of a grid: a hub that cannot be reached takes half a minute to say so."""
    try:
        config = json.loads(_config_file(pretrained, revision).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = [config[key] for key in DEPTH_KEYS if isinstance(config.get(key), int)]
    return found[0] if found else None


def _config_file(name: str, revision: str | None) -> Path:
    if name.startswith("miniature://"):
        home = Path(__file__).parent.parent / "miniature" / "checkpoints"
        return home / name.removeprefix("miniature://") / "config.json"
    if Path(name).is_dir():
        return Path(name) / "config.json"
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(name, "config.json", revision=revision))


def describe_source(tree: Tree, guessed: Sequence[str], conf: Path = CONF) -> str:
    """Where the editor's values for this model are from, for the log and the record.

    Args:
        tree: Configuration of a cell.
        guessed: From `fill_by_depth`.
        conf: Folder of configurations.

    Returns:
        The first line of the file in use, or `none, ...` where there is no file.

    Raises:
        ValueError: `tuned` names a school that has no values for this pair.
    """
    editor, model, school = tree["editor"]["name"], tree["model"]["name"], tree["tuned"]
    if editor == "none":
        return ""
    if school not in SCHOOLS:
        msg = f"tuned={school}: choose {', '.join(SCHOOLS)}"
        raise ValueError(msg)
    pair = f"{editor}-{model}.yaml"
    own = conf / "tuned" / "school" / school / pair
    source = first_line(own) or first_line(conf / "tuned" / pair)
    if school == "default" or own.is_file():
        return source or _without_file(guessed)
    if source and _is_easyedit(source) == (school == "easyedit") and "our own" not in source:
        return source
    held = f"conf/tuned/{pair} has {source!r}" if source else f"there is no conf/tuned/{pair}"
    msg = f"tuned={school}: no values of that school for editor={editor} model={model}: {held}; use tuned=default"
    raise ValueError(msg)


def first_line(file: Path) -> str:
    """What the first line of a file of values says of their source; empty without such a file."""
    if not file.is_file():
        return ""
    with file.open(encoding="utf-8") as lines:
        return lines.readline().lstrip("# ").removeprefix("Source: ").strip()


def _is_easyedit(source: str) -> bool:
    """Whether values are EasyEdit's, perhaps taken over from another method's."""
    return source.partition("'s values. ")[2].startswith("EasyEdit") or source.startswith(
        "EasyEdit"
    )


def _without_file(guessed: Sequence[str]) -> str:
    depth = f", {' '.join(guessed)} by depth ratio" if guessed else ""
    return f"none{depth}: the editor's defaults, not chosen for this model"


def is_guess(source: Any) -> bool:
    """Whether nobody chose these values for the model."""
    return str(source).startswith("none")


def tell(grid: Sequence[Cell]) -> None:
    """Say for every editor and model whose values are used; a warning where nobody chose any."""
    pairs: dict[tuple[str, str, str], None] = {}
    for cell in grid:
        source = cell.config["tuned_source"]
        if source:
            pairs[cell.config["editor"]["name"], cell.config["model"]["name"], source] = None
    for warning in dict.fromkeys(w for cell in grid for w in foreign_text(cell.config)):
        log.warning("%s", warning)
    for editor, model, source in pairs:
        level = logging.WARNING if is_guess(source) else logging.INFO
        log.log(level, "values of editor=%s on model=%s: %s", editor, model, source)


def foreign_text(tree: Tree) -> list[str]:
    """What a model from elsewhere would take from the miniature's synthetic world, because that is the default."""
    name, editor = tree["model"]["name"], tree["editor"]
    if str(tree["model"]["pretrained"]).startswith("miniature://"):
        return []
    found = []
    if (
        editor.get("second_moment")
        and tree["moments"]["source"] == "miniature"
        and not tree["moments"].get("file")
    ):
        found.append(
            f"the second moments of model={name} are taken over the miniature's synthetic text, which it was not "
            "trained on; use moments=quick or moments=faithful"
        )
    if editor.get("train_source") == "miniature":
        found.append(
            f"MEND's network for model={name} is trained on facts of the miniature's synthetic world; give requests "
            "of yours: editor.train_source=jsonl editor.train_file=FILE"
        )
    return found
