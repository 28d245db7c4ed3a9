"""What a data folder holds: `manifest.json`, written by `edit-sweeps data fetch`. Light imports only."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

MANIFEST_FILE = "manifest.json"
FORMAT = 1
KINDS = ("models", "datasets", "files")
"""Folders below the root of a data folder."""
EVERYTHING = "*"
"""In `Entry.parts`: all of the data set."""


class ManifestError(ValueError):
    """A manifest cannot be read; the message says what to do."""


@dataclass(frozen=True)
class FileFacts:
    """One file as it was brought.

    Attributes:
        sha256: Of its bytes, in hexadecimal digits.
        size: In bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model, data set or plain file of a data folder.

    Attributes:
        source: Hub id, or address of the file.
        revision: What was asked for: branch, tag, commit; None: the hub's main branch.
        commit: What that was when it was fetched; None where the source keeps no history.
        licence: As the source states it.
        parts: Of a data set the subsets that are there in full, or `EVERYTHING`.
        fetched: Day of the last fetch, ISO 8601.
        files: Path inside the entry -> what is known of the file. For a plain file its own name.
    """

    source: str
    revision: str | None
    commit: str | None
    licence: str
    parts: tuple[str, ...] = ()
    fetched: str = ""
    files: Mapping[str, FileFacts] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(file.size for file in self.files.values())

    def has_revision(self, wanted: str | None) -> bool:
        """Whether this is what `wanted` names; None stands for the main branch, or for the commit it was pinned to."""
        if wanted is None:
            return self.revision in {None, "main"} or is_commit(self.revision)
        return wanted in {self.revision, self.commit} or (wanted == "main" and not self.revision)


def is_commit(revision: str | None) -> bool:
    """Whether it is a full commit id, and no branch or tag."""
    return bool(revision and re.fullmatch(r"[0-9a-f]{40}", revision))


Entries = dict[str, Entry]
"""Place below the root, such as `models/openai-community/gpt2-xl` -> what is there."""


def read(root: Path) -> Entries:
    """The entries of the data folder `root`; none without a manifest.

    Raises:
        ManifestError: The manifest is not of this program's form.
    """
    file = root / MANIFEST_FILE
    try:
        stat = file.stat()
    except OSError:
        return {}
    return dict(_read(file, stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=8)
def _read(file: Path, size: int, mtime_ns: int) -> Entries:  # noqa: ARG001  # they key the cache
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        if tree["format"] != FORMAT:
            msg = f"{file} has the format {tree['format']}, this program reads {FORMAT}; fetch again into a new folder"
            raise ManifestError(msg)
        return {place: _entry(values) for place, values in tree["entries"].items()}
    except ManifestError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = (
            f"{file} cannot be read ({type(error).__name__}: {error}); move it away and run "
            "`edit-sweeps data fetch` again: what is there is taken up without being downloaded again"
        )
        raise ManifestError(msg) from error


def _entry(values: Mapping[str, object]) -> Entry:
    tree = dict(values)
    files = {name: FileFacts(**facts) for name, facts in tree.pop("files").items()}  # type: ignore[attr-defined]
    return Entry(**tree | {"parts": tuple(tree["parts"]), "files": files})  # type: ignore[arg-type]


def write(root: Path, entries: Mapping[str, Entry]) -> None:
    """Write the manifest of the data folder `root`, aside and renamed."""
    tree = {
        "format": FORMAT,
        "entries": {place: asdict(entry) for place, entry in sorted(entries.items())},
    }
    file = root / MANIFEST_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{MANIFEST_FILE}.{os.getpid()}")
    aside.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(file)


def facts_of(path: Path) -> FileFacts:
    """Read a file for its digest."""
    with path.open("rb") as file:
        return FileFacts(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def path_of(root: Path, place: str, name: str) -> Path:
    """Where the file `name` of the entry at `place` lies."""
    folder = root / place
    return folder if place.startswith("files/") and name == folder.name else folder / name


def damaged(root: Path, entries: Mapping[str, Entry], *, deep: bool) -> Iterator[str]:
    """What is not as the manifest says, a sentence each.

    Args:
        root: The data folder.
        entries: Of it.
        deep: Compare digests too, which reads every byte; else presence and size only.
    """
    for place, entry in sorted(entries.items()):
        for name, known in sorted(entry.files.items()):
            path = path_of(root, place, name)
            shown = path.relative_to(root)
            if not path.is_file():
                yield f"{shown} is missing"
            elif path.stat().st_size != known.size:
                yield f"{shown} has {path.stat().st_size} bytes, {known.size} were fetched"
            elif deep and facts_of(path).sha256 != known.sha256:
                yield f"{shown} has changed: its sha256 is not {known.sha256}"


def unlisted(root: Path, entries: Mapping[str, Entry]) -> Iterator[str]:
    """Folders and files below the kinds that no entry speaks of: someone has put them there."""
    for kind in KINDS:
        yield from _unlisted(root / kind, root, entries)


def _unlisted(folder: Path, root: Path, entries: Mapping[str, Entry]) -> Iterable[str]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        place = path.relative_to(root).as_posix()
        if path.name.startswith(".") or place in entries:
            continue
        if any(known.startswith(f"{place}/") for known in entries):
            yield from _unlisted(path, root, entries)
        else:
            yield place
