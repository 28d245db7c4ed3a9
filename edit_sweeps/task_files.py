"""Finding and loading lm-eval tasks: from a shipped folder, a user's folder, or lm-eval itself.

lm-eval's own index of its 14,000 files takes 10 to 20 seconds. A task is therefore looked for by
its `task:` line and loaded by path, and a group by its `group:` line, with an index of its own
corner of the files. The whole index is built only for tags, for groups with members elsewhere and
for names that do not exist.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edit_sweeps.stock_data import HubData, TaskFile, data_of, reading

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "lm_tasks"
"""Folders of tasks that come with this package."""


def task_folder(folder: str | None) -> Path:
    """Where the task files lie.

    Args:
        folder: Name of a shipped folder, a path, or None for lm-eval's own tasks.

    Raises:
        ValueError: There is no such folder.
    """
    if folder is None:
        spec = importlib.util.find_spec("lm_eval")
        assert spec is not None
        return Path((spec.submodule_search_locations or [""])[0]) / "tasks"
    for place in (SHIPPED / folder, Path(folder).expanduser()):
        if place.is_dir():
            return place
    shipped = ", ".join(sorted(p.name for p in SHIPPED.iterdir() if p.is_dir()))
    msg = (
        f"task folder {folder!r} is neither shipped ({shipped}) nor a folder below {Path.cwd()}; "
        "leave folder: null for lm-eval's own tasks"
    )
    raise ValueError(msg)


def check_task(name: str, folder: str | None) -> None:
    """Refuse the name of a task, group or tag that does not exist; loads neither data nor a model.

    Raises:
        LookupError: Unknown name; says which names are alike.
        ValueError: Unknown folder.
    """
    if find_file(name, folder) is None:
        _manager_of(name, folder)


def load_tasks(name: str, folder: str | None, *, num_fewshot: int | None = None) -> dict[str, Any]:
    """Build the task objects of `name` with their data: one for a task, several for a group or tag.

    Args:
        name: Of a task, group or tag.
        folder: Name of a shipped folder, a path, or None for lm-eval's own tasks.
        num_fewshot: Examples the prompt will have, which decides what data are needed; None: as
            the task's file says.

    Returns:
        Name of the task -> lm-eval `Task`.

    Raises:
        LookupError: Unknown name; says which names are alike.
        ValueError: Unknown folder.
        TaskDataError: Documents that are missing; says what brings them.
        Exception: Whatever the task's own code or its data raise.
    """
    from lm_eval.tasks import TaskManager

    file = find_file(name, folder)
    manager = TaskManager(include_defaults=False) if file else _manager_of(name, folder)
    configs = [_read(file)] if file else list(_leaves(manager.task_index, name))
    with reading(name, configs, num_fewshot=num_fewshot):
        loaded = manager.load([str(file or name)])
    return dict(loaded["tasks"])


def datasets_of(name: str, folder: str | None) -> tuple[HubData, ...]:
    """The data that a task, group or tag needs, from its files alone; loads no data.

    Tasks that are Python classes do not say what they load; they are left out.

    Raises:
        LookupError: Unknown name; says which names are alike.
        ValueError: Unknown folder.
    """
    file = find_file(name, folder)
    configs = [_read(file)] if file else _leaves(_manager_of(name, folder).task_index, name)
    return tuple(dict.fromkeys(data for config in configs for data in data_of(config)))


def find_file(name: str, folder: str | None) -> Path | None:
    """The YAML file whose `task:` is `name`; None for groups, tags and unknown names."""
    key, file = _find(name, task_folder(folder))
    return file if key == "task" else None


def _find(name: str, root: Path) -> tuple[str, Path | None]:
    """Whether a file below `root` says `task: name` or `group: name`, and that file."""
    if root == task_folder(None):
        return _find_packaged(name)
    return _search(name, tuple(root.rglob("*.yaml")))


# What comes with lm-eval does not change while we run; a check before submission asks for it often.
@functools.cache
def _find_packaged(name: str) -> tuple[str, Path | None]:
    return _search(name, _packaged())


@functools.cache
def _packaged() -> tuple[Path, ...]:
    return tuple(task_folder(None).rglob("*.yaml"))


@functools.cache
def _packaged_index(corner: str | None) -> Any:
    """lm-eval's index of one folder of its files, or of all."""
    from lm_eval.tasks import TaskManager

    if corner is not None:
        return TaskManager(include_path=[task_folder(None) / corner], include_defaults=False)
    log.info("reading lm-eval's whole index of tasks; this takes some 20 seconds")
    return TaskManager()


def _search(name: str, files: tuple[Path, ...]) -> tuple[str, Path | None]:
    pattern = rf"^([\"']?)(task|group)\1:[ \t]*([\"']?){re.escape(name)}\3[ \t\r]*(#.*)?$"
    line = re.compile(pattern.encode(), re.MULTILINE)

    def unlikely(path: Path) -> tuple[bool, Path]:
        return name not in {path.stem.lstrip("_"), path.parent.name}, path

    for path in sorted(files, key=unlikely):
        found = line.search(path.read_bytes())
        if found:
            return found.group(2).decode(), path
    return "", None


def _read(file: Path) -> TaskFile:
    """What a YAML file says, includes resolved; its functions stay names."""
    return dict(_yaml_reader()(file, resolve_func=False))


@functools.cache
def _yaml_reader() -> Any:
    """The reader of lm-eval, from its file alone: to import the package would bring torch to a login node."""
    file = task_folder(None) / "_yaml_loader.py"
    spec = importlib.util.spec_from_file_location("edit_sweeps._lm_eval_yaml", file)
    if spec is None or spec.loader is None or not file.is_file():
        from lm_eval.tasks._yaml_loader import load_yaml

        return load_yaml
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load_yaml


def _leaves(index: Any, member: Any) -> Iterator[TaskFile]:
    """What the files of the tasks below a member of a group say, with what the group changes in it.

    Args:
        index: Name -> lm-eval's entry.
        member: Name of a task, group or tag; or a mapping that changes one or is a task itself.

    Raises:
        LookupError: A name that the index does not have.
    """
    if isinstance(member, str):
        entry = index.get(member)
        if entry is None:
            raise LookupError(member)
        config = entry.cfg or {}
        below = _members(config) if entry.yaml_path else sorted(entry.tags)
        if below is None:
            yield config
        else:
            yield from (leaf for name in below for leaf in _leaves(index, name))
        return
    inner = member.get("task", member.get("group"))
    if isinstance(inner, str) and inner not in index and "dataset_path" in member:
        yield member
        return
    changes = {key: value for key, value in member.items() if key.startswith("dataset_")}
    for name in inner if isinstance(inner, list) else [inner]:
        yield from ({**leaf, **changes} for leaf in _leaves(index, name))


def _members(config: TaskFile) -> list[Any] | None:
    """The members of a group; None for a task."""
    members = config.get("task")
    return members if "group" in config and isinstance(members, list) else None


def _manager_of(name: str, folder: str | None) -> Any:
    """An index that has `name` and all its members: of a corner of lm-eval's files, if that does.

    Raises:
        LookupError: Nowhere; says which names are alike.
    """
    root = task_folder(folder)
    key, file = _find(name, root)
    if folder is None and key == "group" and file is not None and file.parent != root:
        corner = file.relative_to(root).parts[0]
        manager = _packaged_index(corner)
        try:
            list(_leaves(manager.task_index, name))
        except LookupError:
            log.info("%s has members outside of %s", name, corner)
        else:
            return manager
    manager = _manager(folder)
    _known_to_index(manager, name, folder)
    return manager


def _manager(folder: str | None) -> Any:
    """lm-eval's index of one folder, or of all its own."""
    from lm_eval.tasks import TaskManager

    if folder is None:
        return _packaged_index(None)
    return TaskManager(include_path=[task_folder(folder)], include_defaults=False)


def _known_to_index(manager: Any, name: str, folder: str | None) -> None:
    """Raise LookupError when the index does not have `name`."""
    names = manager.all_tasks
    if name in names:
        return
    alike = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    where = "lm-eval" if folder is None else f"the task folder {folder!r}"
    hint = f"did you mean {', '.join(alike)}?" if alike else f"it has {', '.join(names[:20])}"
    msg = f"{where} has no task, group or tag {name!r}: {hint}"
    raise LookupError(msg)
