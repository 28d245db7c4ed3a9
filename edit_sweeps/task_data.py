"""The documents of the tasks of this package: from a file, the data folder or the hub, in one form each.

The same data set is published in several forms (GLUE as TSV with words for labels, on the hub with
numbers). Each source here has one form, on which its task files rely; whatever is read is brought
into it, and a document that does not fit is refused with its number.

A task file says
    custom_dataset: !function metrics.load
    dataset_kwargs: {source: rte, splits: [train]}
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from submitit.core.utils import UncompletedJobError

from edit_sweeps import data_root, task_forms
from edit_sweeps.hub_cache import commit_to_read
from edit_sweeps.task_forms import BlankTextError, Document

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".json", ".tsv", ".csv", ".parquet", ".txt", "")
"""Forms of files that are read; the last is a folder of files with one JSON object each."""

_GIVEN: ContextVar[str | None] = ContextVar("given", default=None)


class TaskDataError(ValueError):
    """The documents of a task are missing or not of the form that the task needs."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One published data set.

    Attributes:
        name: How task files call it.
        row: From a published row to a document, see `task_forms`.
        hub: Its id on the hub; None where it is not there as plain data.
        subset: Of the hub's data set.
        revision: Of the hub's data set.
        splits: Our split -> the hub's, where they differ.
        files: Our split -> name below `files/` of the data folder, for what is not on the hub.
    """

    name: str
    row: Callable[[Document], Document]
    hub: str | None = None
    subset: str | None = None
    revision: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def given(path: str | None) -> Iterator[None]:
    """Inside the block every source reads the file or folder `path` (`task.<name>.data`)."""
    token = _GIVEN.set(path)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def given_path() -> str | None:
    """What `given` has in force."""
    return _GIVEN.get()


def load(source: str, splits: Sequence[str]) -> dict[str, Dataset]:
    """The documents of `source`, in its one form.

    A file given by `task.<name>.data` goes before the data folder, the data folder before the hub.
    A given folder holds one file for each split, named `<split>.jsonl` or another of `SUFFIXES`; a
    given file stands for the last of `splits`, which is the one that is scored. In the others, which
    examples are taken from, a document whose text is blank is left out and logged: SAMSum's training
    split is published with one.

    Raises:
        TaskDataError: Nothing can be read, or a document does not fit.
    """
    from datasets import Dataset

    wanted = SOURCES[source]
    found = {}
    for split in splits:
        scored = split == splits[-1]
        place, rows = _rows(wanted, split, scored=scored)
        documents = list(_documents(wanted, rows, place, skip_blank=not scored))
        if not documents:
            msg = f"{place} holds no documents for the task data {source!r}"
            raise TaskDataError(msg)
        found[split] = Dataset.from_list(documents)
    return found


def _rows(source: Source, split: str, *, scored: bool) -> tuple[str, Iterable[Document]]:
    """Where the rows of a split are read from, in words, and the rows."""
    path = _local(source, split, scored=scored)
    if path is not None:
        return str(path), read_rows(path)
    from datasets import load_dataset

    theirs = source.splits.get(split, split)
    if source.hub is None:
        msg = (
            f"the documents of {source.name!r} are not on the hub: bring them with `edit-sweeps data "
            f"fetch`, or give a file of yours (task.<name>.data=FILE)"
        )
        raise TaskDataError(msg)
    folder = data_root.local_dataset(source.hub)
    revision = None if folder else commit_to_read("datasets", source.hub, source.revision)
    try:
        rows = load_dataset(
            str(folder or source.hub), source.subset, split=theirs, revision=revision
        )
    except (TaskDataError, UncompletedJobError):
        raise
    except Exception as error:
        msg = (
            f"the documents of {source.name!r} ({folder or source.hub}, {theirs}) cannot be loaded: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}. Without a network, bring "
            "them with `edit-sweeps data fetch` or give a file (task.<name>.data=FILE)"
        )
        raise TaskDataError(msg) from error
    return f"{folder or source.hub} ({theirs})", rows


def _local(source: Source, split: str, *, scored: bool) -> Path | None:
    """The file or folder with the rows of a split, where there is one on this machine."""
    given_path = _GIVEN.get()
    if given_path is not None:
        path = Path(given_path).expanduser()
        inside = [path / f"{split}{suffix}" for suffix in SUFFIXES]
        split_file = next((p for p in inside if p.exists()), None)
        if split_file is not None:
            return split_file
        if not path.exists():
            msg = f"task data {given_path}: there is no such file or folder"
            raise TaskDataError(msg)
        if scored and path.is_dir() and not any(path.rglob("*.txt")):
            names = ", ".join(f"{split}{suffix}" for suffix in SUFFIXES if suffix)
            msg = f"task data {given_path}: the folder has none of {names}, and no .txt files"
            raise TaskDataError(msg)
        if scored:
            return path
    name = source.files.get(split)
    return data_root.local_file(name) if name else None


def _documents(
    source: Source, rows: Iterable[Document], place: str, *, skip_blank: bool
) -> Iterator[Document]:
    for number, row in enumerate(rows):
        try:
            yield _document(source, row, place, number)
        except TaskDataError as error:
            if not (skip_blank and isinstance(error.__cause__, BlankTextError)):
                raise
            log.warning("left out: %s", error)


def _document(source: Source, row: Document, place: str, number: int) -> Document:
    try:
        return source.row(row)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        keys = ", ".join(map(str, row)) if isinstance(row, Mapping) else f"none, it is {row!r:.60}"
        msg = (
            f"{place}, document {number}: is not of the form of {source.name!r} "
            f"({type(error).__name__}: {error}); its keys are {keys}"
        )
        raise TaskDataError(msg) from error


def read_rows(path: Path) -> Iterator[Document]:
    """The rows of a file, or of all .txt files of a folder (one JSON object each), by number.

    Raises:
        TaskDataError: The file's form is not known, or a line of it cannot be read.
    """
    try:
        if path.is_dir():
            for file in sorted(path.rglob("*.txt"), key=_natural):
                yield json.loads(file.read_text(encoding="utf-8"))
        elif path.suffix == ".jsonl":
            yield from _json_lines(path)
        elif path.suffix == ".json":
            yield from _json_list(path)
        elif path.suffix in {".tsv", ".csv"}:
            yield from _separated(path)
        elif path.suffix == ".parquet":
            import pandas as pd

            yield from pd.read_parquet(path).to_dict("records")
        elif path.suffix == ".txt" or path.suffix.startswith(".test"):
            yield from _conll(path)
        else:
            msg = f"{path}: is none of {', '.join(SUFFIXES[:-1])} and no folder"
            raise TaskDataError(msg)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read: {error}"
        raise TaskDataError(msg) from error


def _json_lines(path: Path) -> Iterator[Document]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    msg = f"{path}, line {number}: is not JSON ({error.msg}): {line.strip()[:80]}"
                    raise TaskDataError(msg) from error


def _json_list(path: Path) -> Iterator[Document]:
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list):
        msg = f"{path} holds a JSON {type(rows).__name__}; a list of documents is needed"
        raise TaskDataError(msg)
    yield from rows


def _separated(path: Path) -> Iterator[Document]:
    """GLUE's .tsv files quote nothing; .csv files do."""
    tabs = path.suffix == ".tsv"
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield from csv.DictReader(
            lines,
            delimiter="\t" if tabs else ",",
            quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        )


def _conll(path: Path) -> Iterator[Document]:
    """Sentences of CoNLL's own files: a token a line with its tag last, a blank line between them.

    Lines that only mark the start of a newspaper article (-DOCSTART-) are no sentences.
    """
    tokens: list[str] = []
    tags: list[str] = []
    with path.open(encoding="utf-8") as lines:
        for line in (*lines, ""):
            words = line.split()
            if words:
                tokens.append(words[0])
                tags.append(words[-1])
            elif tokens:
                if tokens != ["-DOCSTART-"]:
                    yield {"tokens": tokens, "ner_tags": tags}
                tokens, tags = [], []


def _natural(path: Path) -> tuple[int, str]:
    """dev_2 before dev_10."""
    digits = "".join(c for c in path.stem if c.isdigit())
    return int(digits or 0), path.name


SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(name="gsm8k", row=task_forms.gsm8k, hub="openai/gsm8k", subset="main"),
        Source(name="rte", row=task_forms.rte, hub="nyu-mll/glue", subset="rte"),
        Source(name="nq_open", row=task_forms.nq_open, hub="google-research-datasets/nq_open"),
        Source(
            name="nq_open_passages",
            row=task_forms.nq_open_passages,
            files={"validation": "paper/test-OpenDomainQA.jsonl"},
        ),
        Source(name="boolq", row=task_forms.boolq, hub="google/boolq"),
        Source(
            name="mutual",
            row=task_forms.mutual,
            files={s: f"mutual/{d}" for s, d in (("train", "train"), ("validation", "dev"))},
        ),
        Source(name="samsum", row=task_forms.samsum, hub="knkarthick/samsum"),
        Source(
            name="conll2003",
            row=task_forms.conll2003,
            hub="eriktks/conll2003",
            revision="refs/convert/parquet",
        ),
        Source(name="sst2", row=task_forms.sst2, hub="nyu-mll/glue", subset="sst2"),
    )
}
"""Source -> what is known of it; licences and addresses are in `edit_sweeps.catalogue`."""
