"""Ordinary text for second moments: a named source, a file, or a data set on the hub."""

from __future__ import annotations

import pkgutil
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from edit_sweeps import data_root
from edit_sweeps.data_files import file_digest, json_lines
from edit_sweeps.text_shards import label, shards_of
from edit_sweeps.tokens import Batch, batch_of, token_ids

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

NAMED: Mapping[str, str] = MappingProxyType({"miniature": "edit_sweeps.miniature:training_text"})
"""Name -> `module:function`, which takes a number of documents and a seed and returns texts."""

FIRST_DRAW = 1024
SHUFFLE_BUFFER = 10_000
FILES = (".txt", ".jsonl")


class TextSettings(Protocol):
    """Which text; `edit_sweeps.moments.MomentSettings` has these attributes."""

    @property
    def source(self) -> str:
        """A key of `NAMED`, a file, or a hub id."""

    @property
    def seed(self) -> int:
        """Of the order."""

    @property
    def field(self) -> str:
        """Which field of an object is its text."""

    @property
    def split(self) -> str:
        """Of a data set on the hub."""

    @property
    def subset(self) -> str | None:
        """Of a data set on the hub."""


def read_texts(settings: TextSettings) -> Iterator[str]:
    """Documents that are not blank, in an order that the seed decides.

    A .txt file holds documents with a blank line between them; a .jsonl file one object a line.

    Raises:
        ValueError: The source cannot be read; the message says what can.
    """
    if settings.source in NAMED:
        texts: Iterable[str] = _named(NAMED[settings.source], settings.seed)
    elif Path(settings.source).suffix in FILES:
        path = existing_file(settings.source, "moments.source")
        texts = _shuffled(_file(path, settings.field), settings.seed)
    else:
        texts = _hub(settings)
    return (text for text in texts if text.strip())


def pieces(
    tokenizer: PreTrainedTokenizerFast,
    texts: Iterable[str],
    *,
    length: int,
    batch_size: int,
    budget: int,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Documents cut into pieces of at most `length` tokens, in batches, `budget` tokens in all.

    Args:
        tokenizer: A fast one.
        texts: Read only as far as the budget goes.
        length: Longest piece.
        batch_size: Pieces in a batch; the last batch can have fewer.
        budget: The piece that would exceed it is cut; fewer tokens come out when the texts end
            before.
        device: Of the batches.
    """
    batch: list[list[int]] = []
    for piece in _cut(tokenizer, texts, length, budget):
        batch.append(piece)
        if len(batch) == batch_size:
            yield batch_of(tokenizer, batch, device)
            batch = []
    if batch:
        yield batch_of(tokenizer, batch, device)


def _cut(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], length: int, budget: int
) -> Iterator[list[int]]:
    left = budget
    for text in texts:
        ids = token_ids(tokenizer, text)
        for start in range(0, len(ids), length):
            piece = ids[start : start + length][:left]
            yield piece
            left -= len(piece)
            if left == 0:
                return


def source_digest(settings: TextSettings) -> str:
    """What stands for the source in a digest: content of files and named sources, name on the hub.

    Raises:
        ValueError: The file does not exist.
    """
    if settings.source in NAMED:
        draw = pkgutil.resolve_name(NAMED[settings.source])(FIRST_DRAW, settings.seed)
        return f"{settings.source}:{sha256(chr(0).join(draw).encode()).hexdigest()}"
    if Path(settings.source).suffix in FILES:
        return f"file:{file_digest(existing_file(settings.source, 'moments.source'))}"
    return label(settings.source, settings.subset, settings.split)


def existing_file(name: str, key: str) -> Path:
    """The file that the setting `key` names.

    Raises:
        ValueError: There is none.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        msg = f"{key}={name}: there is no file of that name"
        raise ValueError(msg)
    return path


def _named(place: str, seed: int) -> Iterator[str]:
    """All documents of a function whose first n documents are the same whatever n."""
    draw: Callable[[int, int], list[str]] = pkgutil.resolve_name(place)
    seen, count = 0, FIRST_DRAW
    while True:
        texts = draw(count, seed)
        yield from texts[seen:]
        if len(texts) < count:
            return
        seen, count = count, 2 * count


def _shuffled(texts: list[str], seed: int) -> list[str]:
    random.Random(seed).shuffle(texts)
    return texts


def _file(path: Path, field: str) -> list[str]:
    if path.suffix == ".txt":
        return path.read_text(encoding="utf-8").split("\n\n")
    texts = []
    for number, item in json_lines(path):
        if not isinstance(item, dict) or not isinstance(item.get(field), str):
            why = item if isinstance(item, Exception) else f"has no text in the field {field!r}"
            msg = (
                f"{path}, line {number}: {why}; set moments.field to the field that holds the text"
            )
            raise ValueError(msg)
        texts.append(item[field])
    return texts


def _hub(settings: TextSettings) -> Iterator[str]:
    advice = (
        f"moments.source={settings.source} cannot be read: give one of {', '.join(NAMED)}, a "
        ".txt or .jsonl file, or a data set on the Hugging Face hub with moments.subset, "
        "moments.split and moments.field"
    )
    try:
        for row in _stream(settings).shuffle(seed=settings.seed, buffer_size=SHUFFLE_BUFFER):
            yield _text_of(row, settings)
    except (OSError, ValueError) as error:
        msg = f"{advice} ({' '.join(str(error).split())[:200]})"
        raise ValueError(msg) from error


def _stream(settings: TextSettings) -> Any:
    """The rows of a data set, from the data folder or the hub; of the same files either way."""
    import datasets

    folder = data_root.local_dataset(settings.source)
    shards = shards_of(settings.source, settings.subset, settings.split)
    if shards:
        home = str(folder) if folder else f"hf://datasets/{settings.source}"
        files = {settings.split: [f"{home}/{shard}" for shard in shards]}
        return datasets.load_dataset(
            "parquet", data_files=files, split=settings.split, streaming=True
        )
    place = str(folder or settings.source)
    return datasets.load_dataset(place, settings.subset, split=settings.split, streaming=True)


def _text_of(row: Mapping[str, Any], settings: TextSettings) -> str:
    if settings.field not in row:
        msg = f"it has no field {settings.field!r}; it has {', '.join(row)}"
        raise ValueError(msg)
    return str(row[settings.field])
