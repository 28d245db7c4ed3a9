"""What cells need and this machine does not hold, and the command that brings it. Light imports only."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edit_sweeps import data_root, hub_cache, manifest
from edit_sweeps.catalogue import Need, moments_needs, needs_of, training_needs
from edit_sweeps.cell import Tree
from edit_sweeps.manifest import EVERYTHING
from edit_sweeps.text_shards import label


def of_cells(trees: Sequence[Tree], caches: Sequence[str]) -> list[Need]:
    """What the cells read and neither the data folder in force nor caches of these kinds hold.

    Text is not missing where the second moments that a cell takes over it are stored.

    Args:
        trees: Resolved configurations, with the model's revision as it was asked for.
        caches: Kinds that are also looked for in the caches of the hub's libraries.
    """
    found: dict[Need, None] = {}
    for tree in trees:
        needs = dict.fromkeys(needs_of(tree))
        if has_moments(tree):
            text = set(moments_needs(tree["moments"]))
            read = training_needs(tree["editor"].get("training") or {})
            needs = {need: None for need in needs if need not in text or need in read}
        found |= needs
    return [need for need in found if not is_there(need, caches=caches)]


def has_moments(tree: Tree) -> bool:
    """Whether the second moments that a cell needs are stored: of its model, its layers, as it takes them."""
    editor = tree["editor"]
    layers = editor.get("layers") or [editor.get("layer")]
    stored = [facts for facts in _stored(str(tree["cache_dir"])) if _is_of(facts, tree)]
    found = {int(n) for facts in stored for n in re.findall(r"\.(\d+)\.", facts["parameter"])[:1]}
    return bool(stored) and set(layers) <= found


def _stored(cache_dir: str) -> list[dict[str, Any]]:
    """What is said beside the second moments in `cache_dir`; those that are being written are left out."""
    found = []
    for file in (Path(cache_dir) / "moments").glob("*.json"):
        if not file.with_suffix(".safetensors").is_file():
            continue
        try:
            found.append(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    return found


def _is_of(facts: Mapping[str, Any], tree: Tree) -> bool:
    """Whether stored moments are those of the cell's model and text, as far as names and numbers tell."""
    moments, name = tree["moments"], str(tree["model"]["pretrained"])
    text = label(str(moments["source"]), moments["subset"], moments["split"])
    numbers = ("tokens", "max_length", "batch_size", "dtype", "seed", "field", "subset", "split")
    place = str(facts.get("pretrained", ""))
    return (
        facts.get("source") == text
        and all(facts.get(key) == moments[key] for key in numbers)
        and (place == name or place.endswith(f"/models/{name}"))
    )


def is_there(need: Need, *, caches: Sequence[str] = ()) -> bool:
    """Whether it can be read without a network.

    Args:
        need: What is looked for in the data folder in force.
        caches: Kinds that are then also looked for in the caches of the hub's libraries.
    """
    root = data_root.root()
    if root is not None and (root / need.place).exists():
        return _in_data_folder(need, root)  # it is what would be read, whatever a cache holds
    if need.kind not in caches:
        return False
    if need.kind == "datasets":
        # Single files of a data set are read as a stream, which no cache serves.
        return not need.only and hub_cache.has_dataset(need.name, need.subset, need.revision)
    if need.only:
        return hub_cache.has_tokenizer(need.name)
    return hub_cache.has_model(need.name, need.revision)


def _in_data_folder(need: Need, root: Path) -> bool:
    """Its files must be those of the manifest in number and size; what no manifest speaks of is taken as it is."""
    entry = data_root.entry(need.kind, need.name)
    if entry is None:
        return True
    if not entry.has_revision(need.revision) or damage(need, root):
        return False
    if need.kind == "files":
        return True
    if need.kind == "models":
        return EVERYTHING in entry.parts or bool(need.only)
    if need.only:
        return set(need.only) <= set(entry.files)
    return EVERYTHING in entry.parts or need.subset in entry.parts


def damage(need: Need, root: Path) -> str | None:
    """The first of its files that is not there, or not of the size that was fetched, in words."""
    entry = manifest.read(root).get(need.place)
    if entry is None:
        return None
    return next(iter(manifest.damaged(root, {need.place: entry}, deep=False)), None)


def command(needs: Sequence[Need], root: str | Path) -> str:
    """The command that brings `needs` into the data folder `root`, as a shell takes it."""
    options = dict.fromkeys(f"--{need.group} {shlex.quote(need.option)}" for need in needs)
    return f"edit-sweeps data fetch {' '.join(options)} --to {shlex.quote(str(root))}"


def explain(needs: Sequence[Need], root: str | Path | None) -> str:
    """A refusal: everything that is missing, and how to bring it."""
    if not root:
        listed = "; ".join(dict.fromkeys(map(str, needs)))
        return (
            f"missing, and HF_HUB_OFFLINE=1 keeps the hub from being asked: {listed}; where there is a network: "
            f"{command(needs, 'FOLDER')}, then here data_root=FOLDER"
        )
    listed = "; ".join(dict.fromkeys(_shown(need, Path(root).expanduser()) for need in needs))
    return (
        f"missing in data_root={root}: {listed}; bring them, where there is a network, with: "
        f"{command(needs, root)}"
    )


def _shown(need: Need, root: Path) -> str:
    broken = damage(need, root)
    return f"{need}: {broken}" if broken else str(need)
