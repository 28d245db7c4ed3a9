"""What a cell needs and this package does not hold: model, documents, edit requests, text. Light imports only.

Whether it is on this machine is asked in `missing`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from edit_sweeps import edit_sources
from edit_sweeps.cell import Tree, is_baseline
from edit_sweeps.config import CONF
from edit_sweeps.text_shards import shards_of

GROUPS = ("model", "task", "dataset", "moments")
"""Config groups that need something."""
OPTIONS = (*GROUPS, "tokenizer")
"""Of `edit-sweeps data fetch`."""
MAIN_SPLIT = "train"
"""Of text, where nobody names another."""

_OWN_TEXT = ("miniature",)
TEXT_FILES = (".txt", ".jsonl")
"""Endings of files with text."""


@dataclass(frozen=True, kw_only=True)
class PlainFile:
    """A file, or a folder out of an archive, that is not on the hub.

    Attributes:
        name: Its place below `files/` of the data folder.
        url: Address of the file or the .tar.gz archive.
        licence: As stated there.
        commit: Of the repository it is in; None where the place keeps no history.
        member: Folder inside the archive; None for a plain file.
    """

    name: str
    url: str
    licence: str
    commit: str | None = None
    member: str | None = None


_MUTUAL = "b7b16a072679af4769f4201a47e4926464d91725"
_PAPER = "a9e9f3d334c93e926d91e4a1e17fd1f681319e4a"

TASK_FILES: Mapping[str, PlainFile] = MappingProxyType(
    {
        file.name: file
        for file in (
            *(
                PlainFile(
                    name=f"mutual/{split}",
                    url=f"https://github.com/Nealcly/MuTual/archive/{_MUTUAL}.tar.gz",
                    licence="none stated",
                    commit=_MUTUAL,
                    member=f"MuTual-{_MUTUAL}/data/mutual/{split}",
                )
                for split in ("dev", "train")
            ),
            PlainFile(
                name="paper/test-OpenDomainQA.jsonl",
                url="https://raw.githubusercontent.com/JasonForJoy/Model-Editing-Hurt/"
                f"{_PAPER}/task-data/test-OpenDomainQA.jsonl",
                licence="none stated",
                commit=_PAPER,
            ),
        )
    }
)
"""Documents of tasks that are not on the hub, by their place below `files/`."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """One thing that a cell reads.

    Attributes:
        kind: `models`, `datasets` or `files`.
        name: Hub id, or place below `files/`.
        revision: On the hub.
        subset: Of a data set on the hub; None: all of it.
        only: Files of the repository that are enough; empty: what the kind takes.
        group: One of `OPTIONS`.
        option: With `--<group>`, what fetches it.
    """

    kind: str
    name: str
    revision: str | None = None
    subset: str | None = None
    only: tuple[str, ...] = ()
    group: str
    option: str

    @property
    def place(self) -> str:
        """Below the root of a data folder."""
        return f"{self.kind}/{self.name}"

    def __str__(self) -> str:
        inside = f" {self.subset}" if self.subset else ""
        return f"{self.group} {self.option} ({self.name}{inside})"


TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "config.json")
"""`Need.only` of a tokenizer that is not the model's own."""


def needs_of(tree: Tree, groups: Iterable[str] = GROUPS) -> list[Need]:
    """What the cell of a configuration reads; the unedited model's cell reads no edits and no text.

    Args:
        tree: Resolved configuration.
        groups: Only what these need.
    """
    found: list[Need] = []
    groups = set(groups)
    if "model" in groups:
        found += model_needs(tree["model"])
    if "task" in groups:
        for key, spec in tree["task"].items():
            found += task_needs(key, spec)
    if "dataset" in groups and not is_baseline(tree):
        found += dataset_needs(tree["dataset"])
        found += train_file_needs(tree["editor"].get("train_file"))
    if "moments" in groups and not is_baseline(tree):
        if tree["editor"].get("second_moment"):
            found += moments_needs(tree["moments"])
        found += training_needs(tree["editor"].get("training") or {})
    return list(dict.fromkeys(found))


def model_needs(model: Mapping[str, Any]) -> list[Need]:
    """Weights and tokenizer of a model on the hub."""
    name, revision, tokenizer = str(model["pretrained"]), model["revision"], model["tokenizer"]
    told = {key: model[key] for key in ("pretrained", "revision", "tokenizer")}
    named = str(model["name"]) if _says(str(model["name"]), "model", told) else None
    found = []
    if _on_hub(name):
        option = named or _own(name, revision=revision)
        found.append(
            Need(kind="models", name=name, revision=revision, group="model", option=option)
        )
    if tokenizer and _on_hub(str(tokenizer)):
        need = tokenizer_need(str(tokenizer))
        found.append(replace(need, group="model", option=named) if named else need)
    return found


def tokenizer_need(hub_id: str, revision: str | None = None) -> Need:
    """A tokenizer without the model it was made for."""
    return Need(
        kind="models",
        name=hub_id,
        revision=revision,
        only=TOKENIZER_FILES,
        group="tokenizer",
        option=_own(hub_id, revision=revision),
    )


def _own(name: str, subset: str = "", revision: str | None = None) -> str:
    """How an option of `data fetch` calls a repository of the hub by its id and no name of conf/.

    One without an owner would be taken for a name; `:` or `@` in it show what it is.
    """
    if "/" not in name and not subset:
        revision = revision or "main"
    return f"{name}{f':{subset}' if subset else ''}{f'@{revision}' if revision else ''}"


def _on_hub(name: str) -> bool:
    return "://" not in name and not Path(name).expanduser().is_dir()


def task_needs(key: str, spec: Mapping[str, Any]) -> list[Need]:
    """The documents of a task, unless `data` gives them.

    Args:
        key: In the config group `task`.
        spec: Its settings.
    """
    if spec.get("data"):
        return []
    named = _task_option(key, str(spec["name"]))
    if named is None and spec["folder"] is None:
        named = str(spec["name"])  # lm-eval's own
    return [
        documents_need(data.file or data.hub_id, data.subset, data.revision, named)
        for data in _documents(spec["name"], spec["folder"])
    ]


def documents_need(
    name: str, subset: str | None = None, revision: str | None = None, named: str | None = None
) -> Need:
    """Documents of a task.

    Args:
        name: A hub id, or the place of a file of the catalogue below `files/`.
        subset: On the hub.
        revision: On the hub.
        named: What `--task` calls them; None: themselves, as `name[:subset][@revision]`.
    """
    kind = "datasets" if plain_file(name) is None else "files"
    option = named or _own(name, subset or "", revision)
    return Need(kind=kind, name=name, revision=revision, subset=subset, group="task", option=option)


@functools.lru_cache(maxsize=1024)
def _task_option(key: str, name: str, conf: Path = CONF) -> str | None:
    """The option of `task` in whose file a task stands: one of its own, or one with several."""
    files = sorted((conf / "task").glob("*.yaml"), key=lambda file: (file.stem != key, file))
    told = {"name": name}
    return next((f.stem for f in files if _says(f.stem, "task", told, inside=key)), None)


@functools.lru_cache(maxsize=1024)
def _documents(name: str, folder: str | None) -> tuple[Any, ...]:
    """Nothing for a task that does not exist: another check names it."""
    from edit_sweeps.task_files import datasets_of

    try:
        return tuple(datasets_of(name, folder))
    except (LookupError, ValueError):
        return ()


def dataset_needs(dataset: Mapping[str, Any]) -> list[Need]:
    """The published file of a data set of edits, unless `path` gives one."""
    source = None if dataset["path"] else edit_sources.find(dataset["name"])
    if source is None:
        return []
    if source.hub_id is None:
        return [Need(kind="files", name=source.file, group="dataset", option=source.name)]
    return [
        Need(
            kind="datasets",
            name=source.hub_id,
            revision=source.revision,
            only=(source.file,),
            group="dataset",
            option=source.name,
        )
    ]


def train_file_needs(file: str | None) -> list[Need]:
    """MEND's training requests, where they are a published file that is not here."""
    source = next((s for s in edit_sources.EDIT_SOURCES if s.file == file and s.url), None)
    if source is None or Path(source.file).is_file():
        return []
    return [Need(kind="files", name=source.file, group="dataset", option=source.name)]


def moments_needs(moments: Mapping[str, Any]) -> list[Need]:
    """The text that second moments are taken over, when it is on the hub."""
    source, subset, split = str(moments["source"]), moments["subset"], str(moments["split"])
    if moments["file"]:
        return []
    told, name = {"source": source, "subset": subset, "split": split}, str(moments["name"])
    named = name if _says(name, "moments", told, defaults={"split": MAIN_SPLIT}) else None
    return _text_needs(source, subset, split, named)


def training_needs(training: Mapping[str, Any]) -> list[Need]:
    """The text on which MEND's network learns to change nothing, when it is on the hub."""
    source = training.get("locality", "probes")
    if source == "probes":
        return []
    return _text_needs(source, training["locality_subset"], training["locality_split"], None)


def _text_needs(source: str, subset: str | None, split: str, named: str | None) -> list[Need]:
    if source in _OWN_TEXT or Path(source).suffix in TEXT_FILES:
        return []
    inside = f"{subset or ''}:{split}" if split != MAIN_SPLIT else subset or ""
    option = named or _own(source, inside)
    only = shards_of(source, subset, split)
    return [
        Need(kind="datasets", name=source, subset=subset, only=only, group="moments", option=option)
    ]


def _says(
    option: str,
    group: str,
    told: Mapping[str, Any],
    *,
    inside: str | None = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    conf: Path = CONF,
) -> bool:
    """Whether the file of an option says what `told` says, so that its name alone asks for the same."""
    file = conf / group / f"{option}.yaml"
    if not file.is_file():
        return False
    tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    tree = tree.get(inside) or {} if inside else tree
    said = {**defaults, **tree}
    return all(said.get(key) == value for key, value in told.items())


def plain_file(name: str) -> PlainFile | None:
    """Where the file or folder `files/<name>` of a data folder comes from."""
    if name in TASK_FILES:
        return TASK_FILES[name]
    for source in edit_sources.EDIT_SOURCES:
        if source.file == name and source.url:
            return PlainFile(
                name=name, url=source.url, licence=source.licence, commit=source.revision
            )
    return None
