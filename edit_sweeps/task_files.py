"""Finding and loading lm-eval tasks: from a shipped folder, a user's folder, or lm-eval itself.

lm-eval's own index of its 14,000 files takes 10 to 20 seconds. A task is therefore looked for by
its `task:` line and loaded by path; the index is built only for groups, tags and names that do
not exist.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import re
from pathlib import Path
from typing import Any

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
        _known_to_index(_manager(folder), name, folder)


def load_tasks(name: str, folder: str | None) -> dict[str, Any]:
    """Build the task objects of `name` with their data: one for a task, several for a group or tag.

    Returns:
        Name of the task -> lm-eval `Task`.

    Raises:
        LookupError: Unknown name; says which names are alike.
        ValueError: Unknown folder.
        Exception: Whatever the task's own code or its data raise.
    """
    from lm_eval.tasks import TaskManager

    file = find_file(name, folder)
    if file is not None:
        loaded = TaskManager(include_defaults=False).load([str(file)])
    else:
        manager = _manager(folder)
        _known_to_index(manager, name, folder)
        loaded = manager.load([name])
    return dict(loaded["tasks"])


def find_file(name: str, folder: str | None) -> Path | None:
    """The YAML file whose `task:` is `name`; None for groups, tags and unknown names."""
    line = re.compile(rf"^task:[ \t]*([\"']?){re.escape(name)}\1[ \t]*(#.*)?$", re.MULTILINE)
    files = task_folder(folder).rglob("*.yaml")
    for path in sorted(files, key=lambda p: (name not in {p.stem, p.parent.name}, p)):
        if line.search(path.read_text(encoding="utf-8", errors="replace")):
            return path
    return None


def _manager(folder: str | None) -> Any:
    """lm-eval's index of one folder."""
    from lm_eval.tasks import TaskManager

    if folder is None:
        log.info("reading lm-eval's whole index of tasks; this takes some 20 seconds")
        return TaskManager()
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
