"""The Hugging Face hub as `edit-sweeps data fetch` sees it: what a repository holds, and bringing files of it."""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_BESIDE_WEIGHTS = (
    "*.json",
    "*.jinja",
    "tokenizer*",
    "merges.txt",
    "vocab*",
    "README.md",
    "LICENSE*",
)
_DATA = ("parquet", "json", "jsonl", "csv", "tsv", "txt", "arrow", "zip", "gz", "zst", "bz2", "xz")


class FetchError(Exception):
    """Something cannot be brought; the message says what to do."""


@dataclass(frozen=True)
class Repository:
    """A model or a data set at one commit.

    Attributes:
        commit: Its commit.
        licence: As its card states it.
        sizes: File -> bytes.
        sha256: File -> digest, for the large files, whose digests the hub knows.
        configs: Subsets as the card lists them.
    """

    commit: str
    licence: str
    sizes: Mapping[str, int]
    sha256: Mapping[str, str] = field(default_factory=dict)
    configs: Sequence[Mapping[str, Any]] = ()


class Hub:
    """Asks the hub.

    Args:
        endpoint: Address of another one; None: the usual.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    def look_up(self, kind: str, hub_id: str, revision: str | None) -> Repository:
        """What a repository holds.

        Args:
            kind: `models` or `datasets`.
            hub_id: Its id.
            revision: Branch, tag or commit.

        Raises:
            FetchError: It does not exist, is closed to us, or the hub cannot be reached.
        """
        from huggingface_hub import HfApi

        with _explained(kind, hub_id):
            api = HfApi(endpoint=self._endpoint)
            info = api.repo_info(
                hub_id, repo_type=kind.removesuffix("s"), revision=revision, files_metadata=True
            )
        card = info.card_data.to_dict() if info.card_data else {}
        return Repository(
            commit=info.sha,
            licence=licence_of(card),
            sizes={f.rfilename: f.size or 0 for f in info.siblings},
            sha256={f.rfilename: f.lfs.sha256 for f in info.siblings if f.lfs},
            configs=card.get("configs") or (),
        )

    def bring(self, kind: str, hub_id: str, commit: str, names: Collection[str], to: Path) -> None:
        """Download files into a folder; what an interrupted call left there is gone on with.

        Raises:
            FetchError: As `look_up`.
        """
        from huggingface_hub import snapshot_download

        with _explained(kind, hub_id):
            snapshot_download(
                hub_id,
                repo_type=kind.removesuffix("s"),
                revision=commit,
                local_dir=to,
                allow_patterns=[glob.escape(name) for name in sorted(names)],
                endpoint=self._endpoint,
            )
        absent = [name for name in sorted(names) if not (to / name).is_file()]
        if absent:
            msg = f"{kind}/{hub_id}: {absent[0]} did not come; the same command goes on"
            raise FetchError(msg)


@contextmanager
def _explained(kind: str, hub_id: str) -> Iterator[None]:
    """Turn the hub's errors into advice."""
    from huggingface_hub import errors

    what = f"{kind.removesuffix('s')} {hub_id}".replace("dataset ", "data set ")
    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        msg = "HF_HUB_OFFLINE=1 is set, so nothing can be fetched; unset it on a machine with a network"
        raise FetchError(msg) from error
    except errors.GatedRepoError as error:
        msg = (
            f"the {what} asks for its licence to be accepted: do so on its page on the hub, then log in here "
            "(`hf auth login`, or HF_TOKEN in the environment) and fetch again"
        )
        raise FetchError(msg) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        msg = f"the hub has no {what}, no such revision of it, or it is private: {_line(error)}"
        raise FetchError(msg) from error
    except (errors.HfHubHTTPError, OSError, ValueError, *_transport_errors()) as error:
        msg = f"the {what} cannot be fetched ({type(error).__name__}: {_line(error)}); the same command goes on"
        raise FetchError(msg) from error


def _transport_errors() -> tuple[type[Exception], ...]:
    """What the HTTP library of huggingface_hub raises when there is no connection; it has changed over the years."""
    import importlib

    found = []
    for name in ("httpx2", "httpx"):
        try:
            found.append(importlib.import_module(name).TransportError)
        except ImportError:
            continue
    return tuple(found)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def licence_of(card: Mapping[str, Any]) -> str:
    """What a card states: an identifier, several, or the name of a licence of its own."""
    stated = card.get("license")
    if not stated:
        return "none stated"
    text = ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated)
    own = card.get("license_name")
    return f"{text} ({own})" if own else text


def model_files(names: Collection[str], hub_id: str) -> set[str]:
    """The files of a model that it is loaded from, its card and its licence; no other formats of its weights.

    Raises:
        FetchError: It has no safetensors weights.
    """
    top = [name for name in names if "/" not in name]
    weights = {name for name in top if _WEIGHTS.fullmatch(name)}
    if not weights:
        msg = (
            f"the model {hub_id} has no safetensors weights; pickled ones are not read, because a pickle can run code. "
            'If you trust the source, convert it where there is a network: python -c "from transformers import '
            "AutoModelForCausalLM as M, AutoTokenizer as T; "
            f"M.from_pretrained('{hub_id}', use_safetensors=False).save_pretrained('converted'); "
            f"T.from_pretrained('{hub_id}').save_pretrained('converted')\", then bring the folder over by hand and use "
            "model.pretrained=FOLDER"
        )
        raise FetchError(msg)
    return weights | {name for name in top if any(fnmatch(name, p) for p in _BESIDE_WEIGHTS)}


def dataset_files(repository: Repository, subset: str | None) -> set[str]:
    """The files of a data set, or of one subset of it, and its card.

    A subset's files are what the card says; without a card, those below a folder of its name; else all.
    """
    names = set(repository.sizes)
    data = {n for n in names if n.rpartition(".")[2] in _DATA and not n.startswith(".")}
    card = names & {"README.md", "dataset_infos.json"}
    if subset is None:
        return data | card
    patterns = [
        p for c in repository.configs if c.get("config_name") == subset for p in _patterns(c)
    ]
    listed = {n for n in names if any(fnmatch(n, p.removeprefix("./")) for p in patterns)}
    below = {n for n in data if n.startswith(f"{subset}/")}
    return (listed or below or data) | card


def _patterns(config: Mapping[str, Any]) -> Iterator[str]:
    """The patterns in a card's entry for a subset, which come in four forms."""
    files = config.get("data_files")
    if files is None and config.get("data_dir"):
        yield f"{config['data_dir'].rstrip('/')}/*"
    for item in [files] if isinstance(files, str) else files or ():
        path = item["path"] if isinstance(item, dict) else item
        yield from [path] if isinstance(path, str) else path
