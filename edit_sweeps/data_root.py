"""The data folder: models, data sets and edit files brought from the hub, for machines without a network.

Layout, below one root (written by `edit-sweeps data fetch`, docs/airgapped.md):
    models/<hub id>/      a model's files, as on the hub
    datasets/<hub id>/    a data set's files, as on the hub
    files/<name>          files that are not on the hub: edit requests, MuTual's dialogues ...
    manifest.json         what was brought, from where, with digests and stated licences

The root in force is that of the cell that runs; it is set by `using`, for the block of code that reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from edit_sweeps import manifest

_ROOT: ContextVar[Path | None] = ContextVar("data_root", default=None)


def root() -> Path | None:
    """The data folder in force; None: data come from the hub."""
    return _ROOT.get()


@contextmanager
def using(folder: str | Path | None) -> Iterator[None]:
    """Read from `folder` inside the block; none (None, or an empty name) leaves what is in force outside."""
    if not folder:
        yield
        return
    token = _ROOT.set(Path(folder).expanduser())
    try:
        yield
    finally:
        _ROOT.reset(token)


def local_model(hub_id: str) -> Path | None:
    """The folder of a model in the data folder, if it is there."""
    return _folder("models", hub_id)


def local_dataset(hub_id: str) -> Path | None:
    """The folder of a data set in the data folder, if it is there."""
    return _folder("datasets", hub_id)


def local_file(name: str) -> Path | None:
    """A file or folder below `files/` of the data folder, if it is there."""
    return _folder("files", name)


def existing_file(name: str) -> Path | None:
    """The file of that name, here or below `files/` of the data folder; None where there is neither."""
    path = Path(name).expanduser()
    return path if path.is_file() else local_file(name)


def entry(kind: str, name: str) -> manifest.Entry | None:
    """What the manifest of the data folder says of a model, data set or file; None where it says nothing."""
    folder = root()
    return manifest.read(folder).get(f"{kind}/{name}") if folder else None


def _folder(kind: str, name: str) -> Path | None:
    folder = root()
    path = folder / kind / name if folder else None
    return path if path and path.exists() else None
