"""What a cell needs and this package does not hold: model, documents, edit requests, text. Light imports only."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from edit_sweeps import data_root, edit_sources, hub_cache
from edit_sweeps.cell import Tree, is_baseline
from edit_sweeps.config import CONF
from edit_sweeps.manifest import EVERYTHING
from edit_sweeps.text_shards import shards_of

GROUPS = ("model", "task", "dataset", "moments")
"""Config groups that need something, and options of `edit-sweeps data fetch`."""

_OWN_TEXT = ("miniature",)
_TEXT_FILES = (".txt", ".jsonl")


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
        group: One of `GROUPS`.
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
        option = named or (f"{name}@{revision}" if revision else name)
        found.append(
            Need(kind="models", name=name, revision=revision, group="model", option=option)
        )
    if tokenizer and _on_hub(str(tokenizer)):
        option, only = named or str(tokenizer), TOKENIZER_FILES
        found.append(Need(kind="models", name=tokenizer, only=only, group="model", option=option))
    return found


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
    own = f"{name}{f':{subset}' if subset else ''}{f'@{revision}' if revision else ''}"
    return Need(
        kind=kind, name=name, revision=revision, subset=subset, group="task", option=named or own
    )


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


def moments_needs(moments: Mapping[str, Any]) -> list[Need]:
    """The text that second moments are taken over, when it is on the hub."""
    source, subset = str(moments["source"]), moments["subset"]
    if moments["file"]:
        return []
    told = {"source": source, "subset": subset}
    named = str(moments["name"]) if _says(str(moments["name"]), "moments", told) else None
    return _text_needs(source, subset, moments["split"], named)


def training_needs(training: Mapping[str, Any]) -> list[Need]:
    """The text on which MEND's network learns to change nothing, when it is on the hub."""
    source = training.get("locality", "probes")
    if source == "probes":
        return []
    return _text_needs(source, training["locality_subset"], training["locality_split"], None)


def _text_needs(source: str, subset: str | None, split: str, named: str | None) -> list[Need]:
    if source in _OWN_TEXT or Path(source).suffix in _TEXT_FILES:
        return []
    option = named or (f"{source}:{subset}" if subset else source)
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
    conf: Path = CONF,
) -> bool:
    """Whether the file of an option says what `told` says, so that its name alone asks for the same."""
    file = conf / group / f"{option}.yaml"
    if not file.is_file():
        return False
    tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    tree = tree.get(inside) or {} if inside else tree
    return all(tree.get(key) == value for key, value in told.items())


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


def is_there(need: Need, *, caches: Sequence[str] = ()) -> bool:
    """Whether it can be read without a network.

    Args:
        need: What is looked for in the data folder in force.
        caches: Kinds that are then also looked for in the caches of the hub's libraries.
    """
    if _in_data_folder(need):
        return True
    if need.kind not in caches:
        return False
    if need.kind == "datasets":
        # Single files of a data set are read as a stream, which no cache serves.
        return not need.only and hub_cache.has_dataset(need.name, need.subset)
    if need.only:
        return hub_cache.has_tokenizer(need.name)
    return hub_cache.has_model(need.name, need.revision)


def _in_data_folder(need: Need) -> bool:
    """A folder that no manifest speaks of was put there by hand and is taken as it is."""
    root = data_root.root()
    if root is None or not (root / need.place).exists():
        return False
    entry = data_root.entry(need.kind, need.name)
    if entry is None or need.kind == "files":
        return True
    if not entry.has_revision(need.revision):
        return False
    if need.kind == "models":
        return EVERYTHING in entry.parts or bool(need.only)
    if need.only:
        return set(need.only) <= set(entry.files)
    return EVERYTHING in entry.parts or need.subset in entry.parts


def command(needs: Sequence[Need], root: str | Path) -> str:
    """The command that brings `needs` into the data folder `root`."""
    options = dict.fromkeys(f"--{need.group} {need.option}" for need in needs)
    return f"edit-sweeps data fetch {' '.join(options)} --to {root}"


def explain(needs: Sequence[Need], root: str | Path | None) -> str:
    """A refusal: everything that is missing, and how to bring it."""
    listed = "; ".join(dict.fromkeys(map(str, needs)))
    if root is None:
        return (
            f"missing, and HF_HUB_OFFLINE=1 keeps the hub from being asked: {listed}; where there is a network: "
            f"{command(needs, 'FOLDER')}, then here data_root=FOLDER"
        )
    return (
        f"missing in data_root={root}: {listed}; bring them, where there is a network, with: "
        f"{command(needs, root)}"
    )
