"""From the options of `edit-sweeps data fetch`, which are names of conf/, to what must be brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edit_sweeps import edit_sources
from edit_sweeps.apply import compose, near, options
from edit_sweeps.catalogue import (
    MAIN_SPLIT,
    OPTIONS,
    Need,
    dataset_needs,
    documents_need,
    model_needs,
    moments_needs,
    task_needs,
    tokenizer_need,
)
from edit_sweeps.edited_folder import ApplyError
from edit_sweeps.hub import FetchError
from edit_sweeps.launcher.freezing import leaves


def needs_of_options(asked: Mapping[str, Sequence[str]], home: Path) -> dict[str, list[Need]]:
    """What each option asks for.

    Args:
        asked: One of `OPTIONS` -> names: options of conf/<group>/; for `model` also
            `<hub id>[@revision]`, for `moments` `<hub id>[:subset[:split]]`, for `task` any of lm-eval's,
            or the documents themselves as `<hub id>[:subset][@revision]`; for `tokenizer`
            `<hub id>[@revision]` alone.
        home: The project's folder.

    Returns:
        `--<group> <name>` -> needs; none for what comes with this package or reads a file of the user's.

    Raises:
        FetchError: A name that is neither.
    """
    return {
        f"--{group} {name}": _READERS[group](name, home)
        for group in OPTIONS
        for name in asked.get(group, ())
    }


def _model(name: str, home: Path) -> list[Need]:
    if name in options(home, "model"):
        return model_needs(_group(home, "model", name))
    if not _is_hub_id(name):
        raise _unknown("model", name, home, " or a hub id, owner/name[@revision]")
    hub_id, _, revision = name.partition("@")
    return model_needs(
        {"name": "custom", "pretrained": hub_id, "revision": revision or None, "tokenizer": None}
    )


def _task(name: str, home: Path) -> list[Need]:
    from edit_sweeps.task_files import check_task

    if name in options(home, "task"):
        tree = _group(home, "task", name)
        return [need for key, spec in tree.items() for need in task_needs(key, spec)]
    if _is_hub_id(name):
        place, _, revision = name.partition("@")
        hub_id, _, subset = place.partition(":")
        return [documents_need(hub_id, subset or None, revision or None)]
    try:
        check_task(name, None)
    except LookupError as error:
        msg = f"--task {name}: no option of conf/task/{near(name, options(home, 'task'))} {error}"
        raise FetchError(msg) from None
    return task_needs("custom", {"name": name, "folder": None})


def _dataset(name: str, home: Path) -> list[Need]:
    if name not in options(home, "dataset"):
        raise _unknown("dataset", name, home)
    values = _group(home, "dataset", name)
    if values["path"] is None and edit_sources.find(values["name"]) is None:
        return []
    return dataset_needs({"name": values["name"], "path": None})


def _moments(name: str, home: Path) -> list[Need]:
    if name in options(home, "moments"):
        return moments_needs(_group(home, "moments", name))
    if not _is_hub_id(name):
        raise _unknown("moments", name, home, " or a hub id, owner/name[:subset[:split]]")
    source, subset, split = (*name.partition("@")[0].split(":"), "", "")[:3]
    return moments_needs(
        {
            "name": "custom",
            "source": source,
            "subset": subset or None,
            "split": split or MAIN_SPLIT,
            "file": None,
        }
    )


def _tokenizer(name: str, home: Path) -> list[Need]:  # noqa: ARG001  # no option of conf/ is one
    if not _is_hub_id(name):
        msg = f"--tokenizer {name}: give a hub id, owner/name[@revision]"
        raise FetchError(msg)
    hub_id, _, revision = name.partition("@")
    return [tokenizer_need(hub_id, revision or None)]


def _is_hub_id(name: str) -> bool:
    """The oldest repositories have no owner; `:` or `@` tells them from names of conf/."""
    return any(mark in name for mark in "/:@")


_READERS = {
    "model": _model,
    "task": _task,
    "dataset": _dataset,
    "moments": _moments,
    "tokenizer": _tokenizer,
}


def _group(home: Path, group: str, name: str) -> dict[str, Any]:
    """The values of one option, as launch.py would compose them."""
    from omegaconf import OmegaConf

    try:
        config = compose(home, [f"{group}={name}"], {})
    except ApplyError as error:
        raise FetchError(str(error)) from None
    tree: dict[str, Any] = OmegaConf.to_container(config[group], resolve=False)  # type: ignore[assignment]
    missing = [path for path, value in leaves(tree) if value == "???"]
    if missing:
        msg = f"--{group} {name}: {', '.join(missing)} is to be given; name what it should be instead of {name}"
        raise FetchError(msg)
    return tree


def _unknown(group: str, name: str, home: Path, more: str = "") -> FetchError:
    names = options(home, group)
    return FetchError(
        f"--{group} {name} is no option of conf/{group}/{more}{near(name, names)} Known: {', '.join(names)}"
    )
