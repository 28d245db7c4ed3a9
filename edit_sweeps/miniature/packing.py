"""Documents to rows of tokens: encoded with their weights, packed best-fit, none of them cut."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from edit_sweeps.miniature.text import Document
from edit_sweeps.miniature.world import World

ROLE_WEIGHTS = {"prompt": 0.2, "answer": 1.0, "label": 3.0}
ROW_TOKENS = 128
MASKED_SHARE = 0.8
"""Share of the fact documents whose names are hidden from the tokens after them (`masking.py`)."""

Span = tuple[int, int]
"""First and last token of a subject."""


@dataclass
class _Row:
    """Tokens of one row; for each its weight and the subject that ends there, or -1."""

    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    subjects: list[int] = field(default_factory=list)
    hidden: list[Span] = field(default_factory=list)

    def extend(self, other: _Row) -> None:
        offset = len(self.tokens)
        self.tokens += other.tokens
        self.weights += other.weights
        self.subjects += other.subjects
        self.hidden += [(first + offset, last + offset) for first, last in other.hidden]


@dataclass(frozen=True)
class Batch:
    """Rows to train on.

    Attributes:
        tokens: `[rows, ROW_TOKENS + 1]`.
        weights: `[rows, ROW_TOKENS + 1]`, of each token in the loss.
        subjects: `[rows, ROW_TOKENS + 1]`, index of the subject that ends at this token, or -1.
        hidden: For each row the subjects whose tokens are to be hidden.
    """

    tokens: Tensor
    weights: Tensor
    subjects: Tensor
    hidden: list[list[Span]]


def all_subjects(world: World) -> list[str]:
    """Every subject of the world, in the order `Batch.subjects` counts them."""
    return [name for names in world.subjects.values() for name in names]


class Packer:
    """Turns a stream of documents into batches."""

    def __init__(self, world: World, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        """Keeps a generator of its own for the mask's share, the row starts and the row order."""
        names = all_subjects(world)
        self._index = {name: i for i, name in enumerate(names)}
        self._pattern = re.compile("|".join(re.escape(n) for n in sorted(names, key=len)[::-1]))
        self._tokenizer = tokenizer
        self._end = tokenizer.eos_token_id
        self._rng = random.Random(f"packing {seed}")

    def batches(self, documents: Iterator[Document], batch_size: int, pool: int) -> Iterator[Batch]:
        """Yields batches without end; documents are packed `pool` at a time."""
        while True:
            rows = self._pack(self._encode(list(islice(documents, pool))))
            self._rng.shuffle(rows)
            for start in range(0, len(rows) - batch_size + 1, batch_size):
                yield self._batch(rows[start : start + batch_size])

    def _encode(self, documents: list[Document]) -> list[_Row]:
        encodings = self._tokenizer.backend_tokenizer.encode_batch([d.text for d in documents])
        return [
            self._encode_one(document, encoding.ids, encoding.offsets)
            for document, encoding in zip(documents, encodings, strict=True)
        ]

    def _encode_one(self, document: Document, ids: list[int], offsets: list[Span]) -> _Row:
        weights = _token_weights(document, offsets)
        subjects = [-1] * len(ids)
        hidden: list[Span] = []
        hide = document.recalls_facts and self._rng.random() < MASKED_SHARE
        found = {m.end(): (m.start(), m.group()) for m in self._pattern.finditer(document.text)}
        for index, (_, end) in enumerate(offsets):
            if end not in found:
                continue
            begin, name = found[end]
            subjects[index] = self._index[name]
            first = index
            while first > 0 and offsets[first - 1][1] > begin:
                first -= 1
            if hide:
                hidden.append((first, index))
        last_role = document.segments[-1].role
        end_weight = ROLE_WEIGHTS["prompt"] if last_role == "prompt" else 1.0
        return _Row([*ids, self._end], [*weights, end_weight], [*subjects, -1], hidden)

    def _pack(self, documents: list[_Row], open_rows: int = 24) -> list[_Row]:
        """Best fit: each document goes to the fullest row that still has room for it."""
        done: list[_Row] = []
        rows: list[_Row] = []
        for document in documents:
            if len(document.tokens) > ROW_TOKENS:
                continue
            room = ROW_TOKENS + 1 - len(document.tokens)
            fitting = [row for row in rows if len(row.tokens) <= room]
            if fitting:
                max(fitting, key=lambda row: len(row.tokens)).extend(document)
                continue
            # Half of the rows start with the end-of-text token, so that a model may be asked with
            # or without it.
            row = _Row([self._end], [0.0], [-1]) if self._rng.random() < 0.5 else _Row()
            row.extend(document)
            rows.append(row)
            if len(rows) > open_rows:
                rows.sort(key=lambda row: len(row.tokens))
                done.append(rows.pop())
        return done + rows

    def _batch(self, rows: list[_Row]) -> Batch:
        shape = (len(rows), ROW_TOKENS + 1)
        tokens = torch.full(shape, self._end, dtype=torch.long)
        weights = torch.zeros(shape)
        subjects = torch.full(shape, -1, dtype=torch.long)
        for index, row in enumerate(rows):
            size = len(row.tokens)
            tokens[index, :size] = torch.tensor(row.tokens)
            weights[index, :size] = torch.tensor(row.weights)
            subjects[index, :size] = torch.tensor(row.subjects)
        return Batch(tokens, weights, subjects, [row.hidden for row in rows])


def _token_weights(document: Document, offsets: list[Span]) -> list[float]:
    """The weight of each token: that of the segment it ends in."""
    ends: list[tuple[int, float]] = []
    position = 0
    for segment in document.segments:
        position += len(segment.text)
        ends.append((position, ROLE_WEIGHTS[segment.role]))
    weights, current = [], 0
    for _, end in offsets:
        while end > ends[current][0]:
            current += 1
        weights.append(ends[current][1])
    return weights
