"""What MEND is trained on: requests, split for validation, and texts that an edit must not change."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING

from edit_sweeps import data_root
from edit_sweeps.later import torch
from edit_sweeps.request_forms import PROBE_FIELDS
from edit_sweeps.requests import EditRequest, Probe, RequestError, read, tell
from edit_sweeps.texts import read_texts
from edit_sweeps.tokens import IGNORE, Batch, batch_of, target_ids, token_ids

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.editors.mend_training import TrainingSettings
    from edit_sweeps.model import EditableModel

MINIATURE = "miniature"
PROBES = "probes"
N_MINIATURE = 8000
"""Training requests that are made of the synthetic world."""

N_TEXTS = 2000
TEXT_LENGTH = 64
"""Locality texts read, and tokens kept of each."""


@dataclass(frozen=True)
class Split:
    """Requests to train on and others to validate on: no fact is in both.

    Attributes:
        train: To train on.
        validation: Set aside.
        skipped: Broken requests of the file that were left out.
    """

    train: Sequence[EditRequest]
    validation: Sequence[EditRequest]
    skipped: int = 0

    def digest(self) -> str:
        """Of the content."""
        return hashlib.sha256(repr((self.train, self.validation)).encode()).hexdigest()


@dataclass(frozen=True)
class Asked(Batch):
    """Texts with the tokens that matter in them.

    Attributes:
        labels: `[rows, tokens]`, token that each position must predict, or `IGNORE`.
        owner: `[rows]`, index of the group of edits that the text is about.
    """

    labels: Tensor
    owner: Tensor


def read_split(
    source: str, file: str | None, n_validation: int, seed: int, on_invalid: str = "refuse"
) -> Split:
    """Training edits.

    Args:
        source: `miniature`, or a format of data sets (`jsonl`, `counterfact`, `zsre` ...).
        file: Of that format, here or below `files/` of the data folder; None for the miniature.
        n_validation: Requests set aside; facts of theirs leave the training set.
        seed: Of the choice.
        on_invalid: `refuse` a file with a broken request, or `skip` such requests and log them.

    Raises:
        RequestError: The file cannot be read, holds broken requests that are refused, or is too
            small to set so many aside.
    """
    skipped = 0
    if source == MINIATURE:
        requests = list(_miniature_requests(seed))
    else:
        path = str(data_root.existing_file(file or "") or file)
        place = {"name": "training", "format": source, "path": path, "order": "file", "skip": 0}
        place |= {"repeat": False, "on_invalid": on_invalid, "target": None}
        dataset, setting = SimpleNamespace(**place), "editor.train_on_invalid"
        reading = read(dataset, setting)
        tell(dataset, reading, setting)
        requests, skipped = list(reading.requests), len(reading.skipped)
    random.Random(f"split/{seed}").shuffle(requests)
    validation = requests[:n_validation]
    held = {fact for request in validation for fact in _facts(request)}
    train = [r for r in requests[n_validation:] if held.isdisjoint(_facts(r))]
    if not train:
        msg = (
            f"editor.train_source={source} has {len(requests)} requests, too few to train on when "
            f"editor.training.validation={n_validation} of them are set aside"
        )
        raise RequestError(msg)
    return Split(train, validation, skipped)


def read_locality(settings: TrainingSettings) -> list[str]:
    """Locality texts; none where the requests' own probes serve."""
    if settings.locality == PROBES:
        return []
    place = SimpleNamespace(
        source=settings.locality,
        seed=settings.seed,
        field=settings.locality_field,
        split=settings.locality_split,
        subset=settings.locality_subset,
    )
    return list(islice(read_texts(place), N_TEXTS))


class Material:
    """Draws what one update of the hyper-network looks at; each draw has its own seed.

    Args:
        model: For its tokenizer and device.
        split: The edits.
        texts: Of locality; empty: probes of the requests.
        settings: How many of each.
    """

    def __init__(
        self,
        model: EditableModel,
        split: Split,
        texts: Sequence[str],
        settings: TrainingSettings,
    ) -> None:
        self._model, self.split, self._texts, self.settings = model, split, texts, settings
        self._known: dict[tuple[str, str | None], tuple[list[int], list[int]]] = {}

    def draw(self, step: int) -> list[EditRequest]:
        """Requests of update number `step`."""
        count = self.settings.edits * self.settings.accumulate
        rng = random.Random(f"edits/{self.settings.seed}/{step}")
        if count <= len(self.split.train):
            return rng.sample(self.split.train, count)
        return rng.choices(self.split.train, k=count)

    def outer(self, requests: Sequence[EditRequest], seed: str) -> Asked:
        """What must hold after the edits: of each the prompt or a paraphrase, with its target."""
        rng = random.Random(f"outer/{self.settings.seed}/{seed}")
        probes = []
        for request in requests:
            own = Probe(request.text, request.target_new)
            probes.append(rng.choice([own, *request.paraphrases]))
        return self._asked([(p.prompt, p.target) for p in probes], per_request=1)

    def locality(self, requests: Sequence[EditRequest], seed: str) -> Asked:
        """What must stay as it was: texts, or probes about others and about other facts."""
        rng = random.Random(f"locality/{self.settings.seed}/{seed}")
        count = self.settings.locality_rows
        chosen: list[tuple[str, str | None]] = []
        for request in requests:
            own = [(p.prompt, p.target) for p in request.neighborhood + request.other_facts]
            pool = [(text, None) for text in self._texts] or own
            if not pool:
                msg = (
                    f"the training request {request.case_id!r} has neither neighborhood nor other "
                    "facts; give texts instead: editor.training.locality=FILE.txt"
                )
                raise RequestError(msg)
            chosen += rng.choices(pool, k=count)
        return self._asked(chosen, per_request=count)

    def answers(self, requests: Sequence[EditRequest], *, new: bool) -> Asked:
        """The edited prompts with their new or their old answer."""
        pairs = [(r.text, r.target_new if new else r.target_true) for r in requests]
        return self._asked([(a, b) for a, b in pairs if b is not None], per_request=1)

    def _asked(self, pairs: Sequence[tuple[str, str | None]], *, per_request: int) -> Asked:
        rows = [self._encode(*pair) for pair in pairs]
        batch = batch_of(self._model.tokenizer, [ids for ids, _ in rows], self._model.device)
        labels = torch.full(batch.ids.shape, IGNORE)
        for row, (_, wanted) in zip(labels, rows, strict=True):
            row[: len(wanted)] = torch.tensor(wanted)
        group = per_request * self.settings.edits
        owner = torch.arange(len(rows)) // group
        return Asked(batch.ids, batch.mask, labels.to(batch.ids.device), owner)

    def _encode(self, prompt: str, target: str | None) -> tuple[list[int], list[int]]:
        """Token ids without the last, and what each position must predict."""
        key = (prompt, target)
        if key not in self._known:
            if target is None:
                length = min(TEXT_LENGTH, self._model.max_length)
                ids = token_ids(self._model.tokenizer, prompt)[:length]
                self._known[key] = ids[:-1] or ids, ids[1:] or [IGNORE]
            else:
                head, tail = target_ids(self._model.tokenizer, prompt, target)
                labels = [IGNORE] * (len(head) - 1) + tail
                self._known[key] = (head + tail)[:-1], labels
        return self._known[key]


@functools.cache
def _miniature_requests(seed: int) -> tuple[EditRequest, ...]:
    """Facts of the synthetic world that are in none of its edit requests."""
    from edit_sweeps.miniature.build import training_requests
    from edit_sweeps.miniature.world import build_world

    return tuple(
        EditRequest(**row | {f: tuple(Probe(**p) for p in row[f]) for f in PROBE_FIELDS})
        for row in training_requests(build_world(), N_MINIATURE, seed)
    )


def _facts(request: EditRequest) -> set[tuple[str, ...]]:
    """What a request is about: its prompt, and its subject and relation where it names that."""
    named = {(request.subject, request.relation)} if request.relation is not None else set()
    return {(request.text,), *named}
