"""Identity of a cell: what its results depend on, the key made of that, its name, folder and state on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

RESULT_VERSION = 1
"""Raised when the same configuration gives other results than before; old cells then run again."""

NO_RESULT_OF_MODEL = {"name", "device_map", "resources"}
NO_RESULT_OF_DATASET = {"name", "path", "cap", "repeat", "on_invalid"}
RECORD_FILE = "record.json"
FAILURE_FILE = "failure.json"
CONFIG_FILE = "config.yaml"
ARTEFACTS = {
    "delta": "delta.safetensors",
    "model": "model/config.json",
    "adapter": "adapter/adapter_config.json",
}
"""What `save` can ask for, and the file whose existence means that it is there."""
REFUSED_FILE = "REFUSED.txt"
"""In the place of an artefact that this cell cannot have: why. It is not asked for again then."""

Tree = dict[str, Any]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Cell:
    """One point of the grid, frozen.

    Attributes:
        config: The whole resolved configuration.
        identity: The part of it that results depend on, files as content digests.
        overrides: Swept keys without a column of their own.
        study: Folder of the study, `outputs/<study>`.
        baseline: Key of the `editor=none` cell this one is compared with; its own for such a cell.
        revision: Of the model as it was asked for; `config` has the commit.
    """

    config: Tree
    identity: Tree
    overrides: Tree
    study: Path
    baseline: str
    revision: str | None = None

    def as_asked(self) -> Tree:
        """The configuration with the model's revision as it was asked for."""
        return self.config | {"model": self.config["model"] | {"revision": self.revision}}

    @property
    def key(self) -> str:
        """Ten hexadecimal digits over `identity`."""
        return digest(self.identity)

    @property
    def is_baseline(self) -> bool:
        """Whether this is the unedited model's cell."""
        return is_baseline(self.config)

    @property
    def num_edits(self) -> int:
        """Facts written; 0 for the baseline."""
        return 0 if self.is_baseline else int(self.config["num_edits"])

    @property
    def name(self) -> str:
        """Folder name, readable part first."""
        editor, model = (plain(self.config[g]["name"]) for g in ("editor", "model"))
        seed = 0 if self.is_baseline else self.config["seed"]
        return f"{model}-{editor}-n{self.num_edits}-s{seed}-{self.key}"

    @property
    def folder(self) -> Path:
        """Where the record lies."""
        return self.study / "cells" / self.name

    @property
    def trajectory(self) -> str:
        """Key of the editing run of which this cell is a prefix: all but num_edits and what only scores.

        Cells with `edits=batch` share it only when their batch size, hence their edits, are the same.
        """
        parts = (
            "model",
            "editor",
            "regularizer",
            "dataset",
            "moments",
            "seed",
            "batch_size",
            "version",
        )
        return digest({part: self.identity[part] for part in parts if part in self.identity})

    def missing_artefacts(self) -> set[str]:
        """What `save` asks for and the folder neither holds nor explains why it cannot."""
        return {
            a
            for a in self.asked_artefacts()
            if not (self.folder / ARTEFACTS[a]).exists() and not self.refusal(a).exists()
        }

    def refusal(self, artefact: str) -> Path:
        """The file that says why the cell cannot have an artefact, where that is so."""
        return self.folder / artefact / REFUSED_FILE

    def asked_artefacts(self) -> set[str]:
        """What `save` asks for; a baseline has nothing to save."""
        save = self.config["save"]
        wanted = set(save if isinstance(save, list) else [save]) & set(ARTEFACTS)
        return set() if self.is_baseline else wanted

    def failed_tasks(self) -> list[str]:
        """Tasks that failed in a cell that did not: their documents could not be read, or scoring raised."""
        if not (self.folder / RECORD_FILE).exists():
            return []
        record = json.loads((self.folder / RECORD_FILE).read_text(encoding="utf-8"))
        errors = record.get("result", {}).get("errors", {})
        return [task for task in errors if not task.startswith("save=")]

    def lacks_comparisons(self) -> bool:
        """Whether the record was written before its baseline was there; the differences are then added to it."""
        file = self.folder / RECORD_FILE
        if self.is_baseline or not self.config["task"] or not file.exists():
            return False
        result = json.loads(file.read_text(encoding="utf-8")).get("result", {})
        scored = set(result.get("scores", {})) - {"edit"}
        return bool(scored - set(result.get("comparisons", {})))

    def is_complete(self) -> bool:
        """Whether nothing of what the cell asks for is left to do."""
        whole = self.state() in {"done", "collapsed"} and not self.failed_tasks()
        return whole and not self.missing_artefacts() and not self.lacks_comparisons()

    def state(self) -> str:
        """One of done, collapsed, failed, pending, as the disk says."""
        if (self.folder / RECORD_FILE).exists():
            state = json.loads((self.folder / RECORD_FILE).read_text(encoding="utf-8")).get("state")
            return str(state)
        return "failed" if (self.folder / FAILURE_FILE).exists() else "pending"


def is_baseline(config: Mapping[str, Any]) -> bool:
    """Whether `config` is the unedited model."""
    return config["editor"]["name"] == "none"


def identity(config: Mapping[str, Any], digests: Mapping[str, str]) -> Tree:
    """What the results of a cell depend on.

    Args:
        config: Resolved configuration.
        digests: Content digests of files named in it: `model`, `tokenizer`, `dataset`, `moments`,
            `contexts`, `train`, `locality`, `task.<name>`; `repeated`, where the cell writes requests of
            the data set more than once.

    Returns:
        A tree of plain values. Not in it: device, paths, W&B, cluster, study, save, resume, nor what
        becomes of broken requests: a cell that runs has read the same ones either way. Of a baseline only
        the model, the tasks and their settings are in it.
    """
    model = {k: v for k, v in config["model"].items() if k not in NO_RESULT_OF_MODEL}
    if "model" in digests:
        model |= {"pretrained": digests["model"], "revision": None}
    if "tokenizer" in digests:
        model |= {"tokenizer": digests["tokenizer"]}
    tasks = {
        name: {k: v for k, v in spec.items() if k != "data"}
        | {"content": digests.get(f"task.{name}")}
        for name, spec in config["task"].items()
    }
    scoring = {"model": model, "task": tasks, "eval": config["eval"], "version": RESULT_VERSION}
    if is_baseline(config):
        return scoring
    editor = {k: v for k, v in config["editor"].items() if k not in {"name", "train_on_invalid"}}
    if "contexts" in digests:
        editor["contexts_file"] = digests["contexts"]
    if "train" in digests:
        editor["train_file"] = digests["train"]
    if "locality" in digests:
        editor["training"] = editor["training"] | {"locality": digests["locality"]}
    dataset = {k: v for k, v in config["dataset"].items() if k not in NO_RESULT_OF_DATASET}
    dataset["content"] = digests.get("dataset")
    moments = {k: v for k, v in config["moments"].items() if k not in {"name", "batch_size"}}
    if "moments" in digests:
        moments["file" if moments.get("file") else "source"] = digests["moments"]
    if "repeated" in digests:
        scoring["repeated"] = True
    return scoring | {
        "editor": editor,
        "regularizer": {k: v for k, v in config["regularizer"].items() if k != "name"},
        "dataset": dataset,
        "moments": moments,
        "edit_scores": config["edit_scores"],
        "batch_size": config["edits"]["batch_size"],
        "num_edits": config["num_edits"],
        "seed": config["seed"],
    }


def digest(tree: Any) -> str:
    """Ten hexadecimal digits of the SHA-256 of `tree` as canonical JSON."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def plain(name: str) -> str:
    """`name` with everything that a folder name should not hold as an underscore."""
    return re.sub(r"[^A-Za-z0-9_.+]+", "_", str(name))[:40]


class Digests:
    """SHA-256 of files and folders, remembered on disk by size and modification time.

    One object stands for one look at the disk: what it has told once it tells again, for a thousand cells.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._told: dict[Any, Any] = {}
        try:
            self._known: dict[str, list[Any]] = json.loads(memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}
        self._changed = False

    def once(self, question: Hashable, answer: Callable[[], Answer]) -> Answer:
        """What `answer` returns, called once for each `question`."""
        if question not in self._told:
            self._told[question] = answer()
        return self._told[question]

    def of(self, *paths: Path) -> str:
        """One digest of all files at `paths`; folders are taken with everything in them."""
        return self.once(("files", *paths), lambda: self._of(paths))

    def _of(self, paths: Sequence[Path]) -> str:
        total = hashlib.sha256()
        for path in paths:
            files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
            for file in files:
                if "__pycache__" in file.parts:
                    continue
                total.update(file.name.encode() + self._file(file).encode())
        return total.hexdigest()[:16]

    def _file(self, path: Path) -> str:
        facts = path.stat()
        mark = [facts.st_size, facts.st_mtime_ns]
        known = self._known.get(str(path.resolve()))
        if known and known[:2] == mark:
            return str(known[2])
        with path.open("rb") as file:
            value = hashlib.file_digest(file, "sha256").hexdigest()
        self._known[str(path.resolve())] = [*mark, value]
        self._changed = True
        return value

    def save(self) -> None:
        """Write what was learnt, if anything."""
        if not self._changed:
            return
        aside = self._memory.with_name(f".{self._memory.name}.{platform.node()}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a memory that cannot be kept costs time, nothing else
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(self._known), encoding="utf-8")
            aside.replace(self._memory)
        self._changed = False
