"""What the caches of the Hugging Face libraries on this machine hold. Light imports only."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from pathlib import Path

from edit_sweeps import data_root
from edit_sweeps.manifest import is_commit
from edit_sweeps.offline import is_offline

_KINDS = {"models": ("model", "config.json"), "datasets": ("dataset", "README.md")}
"""Folder of the data folder -> the hub's word for it, and a small file that every one has."""


def home() -> Path:
    """The folder of all caches, as huggingface_hub finds it."""
    base = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(os.environ.get("HF_HOME", base / "huggingface")).expanduser()


def commit_of(kind: str, hub_id: str, revision: str | None) -> str | None:
    """The commit of a model or data set that would be read now.

    It is that of the data folder in force, None if someone has put it there by hand; else the one in
    the cache; else, with a network, the one the hub names.

    Args:
        kind: `models` or `datasets`.
        hub_id: Its id.
        revision: Branch, tag or commit; None: the main branch.
    """
    local = data_root.local_model if kind == "models" else data_root.local_dataset
    if local(hub_id) is not None:
        entry = data_root.entry(kind, hub_id)
        return entry.commit if entry and entry.has_revision(revision) else None
    if is_commit(revision):
        return revision
    return _cached_commit(kind, hub_id, revision) or _ask(kind, hub_id, revision)


def _repository(kind: str, hub_id: str) -> Path:
    hub = Path(os.environ.get("HF_HUB_CACHE", home() / "hub")).expanduser()
    return hub / f"{kind}--{hub_id.replace('/', '--')}"


def _cached_commit(kind: str, hub_id: str, revision: str | None) -> str | None:
    ref = _repository(kind, hub_id) / "refs" / (revision or "main")
    return ref.read_text(encoding="utf-8").strip() if ref.is_file() else None


@functools.lru_cache(maxsize=256)
def _ask(kind: str, hub_id: str, revision: str | None) -> str | None:
    """Once a process: a hub that cannot be reached takes its time to say so."""
    if is_offline() or data_root.root() is not None:
        return None
    from huggingface_hub import hf_hub_download

    repo_type, small = _KINDS[kind]
    with contextlib.suppress(
        OSError, ValueError
    ):  # no such file is an answer too, and names the commit
        hf_hub_download(hub_id, small, repo_type=repo_type, revision=revision)
    return _cached_commit(kind, hub_id, revision)


def has_model(hub_id: str, revision: str | None) -> bool:
    """Whether the hub's cache holds a model's configuration and weights."""
    commit = revision if is_commit(revision) else None
    commit = commit or _cached_commit("models", hub_id, revision)
    if commit is None:
        return False
    snapshot = _repository("models", hub_id) / "snapshots" / commit
    return (snapshot / "config.json").exists() and any(snapshot.glob("*.safetensors"))


def has_tokenizer(hub_id: str) -> bool:
    """Whether the hub's cache holds a tokenizer."""
    commit = _cached_commit("models", hub_id, None)
    folder = _repository("models", hub_id) / "snapshots" / (commit or "")
    return commit is not None and any(folder.glob("tokenizer*"))


def has_dataset(hub_id: str, subset: str | None, revision: str | None = None) -> bool:
    """Whether `datasets` has loaded this data set here before, which is what it can read again without a network.

    Files in the hub's cache alone do not serve it. Of several commits it reads the one it has prepared
    last; that must be the commit that enters keys, where this is known.
    """
    owner, _, name = hub_id.rpartition("/")
    folder = "___".join(part for part in (owner, _snake_case(name)) if part)
    cache = Path(os.environ.get("HF_DATASETS_CACHE", home() / "datasets")).expanduser()
    prepared = [p for p in (cache / folder).glob(f"{subset or '*'}/*/*") if p.is_dir()]
    commit = revision if is_commit(revision) else _cached_commit("datasets", hub_id, revision)
    if commit is None or not prepared:
        return bool(prepared)
    return max(prepared, key=lambda p: p.stat().st_mtime).name == commit


def commit_to_read(kind: str, hub_id: str, revision: str | None) -> str | None:
    """What to ask the hub for: the commit that enters keys; the revision itself where that is not known."""
    return commit_of(kind, hub_id, revision) or revision


def _snake_case(name: str) -> str:
    """As `datasets.naming.camelcase_to_snakecase` writes a name for its cache."""
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z\d])([A-Z])", r"\1_\2", name).lower()
