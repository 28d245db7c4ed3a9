"""The facts to write: `EditRequest` with its probes, readers for each format, seeded sampling."""

from __future__ import annotations

import functools
import logging
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from edit_sweeps.data_files import FieldError, RequestError, file_digest, json_lines, json_list
from edit_sweeps.request_forms import PROBE_FIELDS, from_counterfact, from_line

__all__ = [
    "Dataset",
    "EditRequest",
    "Probe",
    "RequestError",
    "check_count",
    "count_requests",
    "digest",
    "drop_edited_probes",
    "load_requests",
    "read_requests",
    "superseded",
]

logger = logging.getLogger(__name__)

MINIATURE_FILE = Path(__file__).parent / "miniature" / "data" / "requests.jsonl"
ORDERS = ("sampled", "file")
ERRORS_SHOWN = 5


class Dataset(Protocol):
    """What the readers need of `conf/dataset/`; `config.DatasetConfig` has it."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def format(self) -> str: ...  # noqa: D102
    @property
    def path(self) -> str | None: ...  # noqa: D102
    @property
    def order(self) -> str: ...  # noqa: D102
    @property
    def skip(self) -> int: ...  # noqa: D102
    @property
    def repeat(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Probe:
    """A prompt with the answer a good edit must give there.

    Attributes:
        prompt: Full text, no placeholder.
        target: What the edited model must answer, without leading space.
        alternative: The answer it is compared with, or None when only generation can be judged.
        subject: Whom the prompt asks about, where the data say so; serves `drop_edited_probes`.
        relation: What it asks about it, where the data say so.
    """

    prompt: str
    target: str
    alternative: str | None = None
    subject: str | None = None
    relation: str | None = None


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """One fact to write.

    Attributes:
        case_id: Unique within its data set.
        subject: The entity; it stands where the prompt has `{}`.
        prompt: Template with exactly one `{}`.
        target_new: What the edited model should say, without leading space.
        target_true: What it says, or should say, before; None when unknown.
        paraphrases: Rewordings; target is `target_new`, alternative `target_true`.
        neighborhood: Same relation, other subjects; target is their true answer.
        other_facts: Other facts of the same subject; target is their true answer.
        portability: Consequences of the edit.
        relation: Name of the relation, where the data have one.
    """

    case_id: str
    subject: str
    prompt: str
    target_new: str
    target_true: str | None = None
    paraphrases: tuple[Probe, ...] = ()
    neighborhood: tuple[Probe, ...] = ()
    other_facts: tuple[Probe, ...] = ()
    portability: tuple[Probe, ...] = ()
    relation: str | None = None

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace("{}", self.subject)


def load_requests(dataset: Dataset, n: int, seed: int) -> list[EditRequest]:
    """The first `n` requests of a cell; those of a smaller `n` are a prefix of them.

    Args:
        dataset: Where they come from. `order=sampled`: request i is the i-th of one permutation
            drawn from `seed`; `order=file`: file order, the first `skip` passed over.
        n: How many.
        seed: Of the permutation.

    Raises:
        RequestError: The file is missing or broken, or has fewer requests and `repeat` is off.
    """
    requests = read_requests(dataset)
    rounds = _rounds(dataset, n, len(requests))
    if dataset.order == "sampled":
        random.Random(f"requests/{seed}").shuffle(requests)
    else:
        requests = requests[dataset.skip :]
    again = [replace(r, case_id=f"{r.case_id}#{i}") for i in range(2, rounds + 1) for r in requests]
    if again:
        logger.warning(
            "dataset=%s has %d requests for num_edits=%d: REPEATED UP TO %d TIMES (dataset.repeat)",
            *(dataset.name, len(requests), n, rounds),
        )
    return (requests + again)[:n]


def check_count(dataset: Dataset, n: int) -> None:
    """Refuse a cell of `n` edits that the data set cannot give, without checking every request.

    Raises:
        RequestError: As `load_requests`, broken requests aside.
    """
    _rounds(dataset, n, count_requests(dataset))


def count_requests(dataset: Dataset) -> int:
    """How many requests the file of the data set holds, without checking each of them.

    Raises:
        RequestError: The file is missing or not of its format.
    """
    path = _file(dataset)
    stat = path.stat()
    return _count(dataset.format, path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _count(form: str, path: Path, size: int, mtime_ns: int) -> int:  # noqa: ARG001  # cache keys
    return sum(1 for _ in _FORMATS[form].items(path))


def digest(dataset: Dataset) -> str:
    """The sha256 of the file that the data set reads; part of a cell's key.

    Raises:
        RequestError: The file is missing.
    """
    return file_digest(_file(dataset))


def read_requests(dataset: Dataset) -> list[EditRequest]:
    """All requests of the data set, in file order.

    Targets lose one leading space, prompts the white space at their end: one space always joins the
    two. `{}` in a probe's prompt stands for the subject. Keys of no meaning here are passed over,
    but one that is nearly right is refused.

    Raises:
        RequestError: The file is missing, empty or broken; names line and field of the first five
            broken requests.
    """
    path, form = _file(dataset), _FORMATS[dataset.format]
    requests: dict[str, EditRequest] = {}
    errors: list[str] = []
    total = 0
    for line, item in form.items(path):
        total += 1
        try:
            request = _request(form.fields(item))
            if request.case_id in requests:
                raise FieldError("case_id", f"{request.case_id!r} has been used before")
            requests[request.case_id] = request
        except FieldError as error:
            field = f", field {error.field}" if error.field else ""
            errors.append(f"line {line}{field}: {error}")
    if errors:
        more = f"; the first {ERRORS_SHOWN}" if len(errors) > ERRORS_SHOWN else ""
        shown = "".join(f"\n  {e}" for e in errors[:ERRORS_SHOWN])
        msg = f"{path}: {len(errors)} of {total} requests are broken{more}:{shown}"
        raise RequestError(msg)
    if not requests:
        msg = f"{path} is empty; dataset={dataset.name} needs at least one request"
        raise RequestError(msg)
    return list(requests.values())


def _file(dataset: Dataset) -> Path:
    """The file that the data set reads; refuses what its configuration should not say."""
    if dataset.format not in _FORMATS:
        msg = f"dataset.format={dataset.format}: allowed are {', '.join(_FORMATS)}"
        raise RequestError(msg)
    if dataset.order not in ORDERS:
        msg = f"dataset.order={dataset.order}: allowed are {', '.join(ORDERS)}"
        raise RequestError(msg)
    if dataset.skip < 0 or (dataset.skip > 0 and dataset.order != "file"):
        msg = (
            f"dataset.skip={dataset.skip} with dataset.order={dataset.order}: skip is a count from "
            "0 on, and needs dataset.order=file"
        )
        raise RequestError(msg)
    default = MINIATURE_FILE if dataset.format == "miniature" else None
    path = Path(dataset.path).expanduser() if dataset.path else default
    if path is None:
        msg = f"dataset={dataset.name} reads a file of yours: give dataset.path=FILE"
        raise RequestError(msg)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        msg = f"dataset={dataset.name}: {path} {what}; dataset.path must name a file"
        raise RequestError(msg)
    return path


def _rounds(dataset: Dataset, n: int, total: int) -> int:
    """How often the data set is gone through for `n` requests, the last time perhaps in part."""
    available = total - dataset.skip
    if n < 0:
        msg = f"num_edits={n}: a count from 0 on is needed"
        raise RequestError(msg)
    if available <= 0 and n > 0:
        msg = f"dataset.skip={dataset.skip}: dataset={dataset.name} has only {total} requests"
        raise RequestError(msg)
    if n > available and not dataset.repeat:
        skipped = f" after dataset.skip={dataset.skip}" if dataset.skip else ""
        msg = (
            f"num_edits={n}: dataset={dataset.name} has {available} requests{skipped}. Take at "
            "most that many, or dataset.repeat=true to write them several times"
        )
        raise RequestError(msg)
    return -(-n // available) if n else 0


def _request(fields: dict[str, Any]) -> EditRequest:
    probes = {field: tuple(Probe(**p) for p in fields[field]) for field in PROBE_FIELDS}
    return EditRequest(**fields | probes)


@dataclass(frozen=True)
class _Format:
    items: Callable[[Path], Iterator[tuple[int, Any]]]
    fields: Callable[[Any], dict[str, Any]]


_FORMATS: Mapping[str, _Format] = {
    "miniature": _Format(json_lines, from_line),
    "jsonl": _Format(json_lines, from_line),
    "counterfact": _Format(json_list, from_counterfact),
}


def superseded(requests: Sequence[EditRequest]) -> frozenset[str]:
    """Case ids of requests whose fact a later request of the list writes with another target.

    The same fact is: the same prompt with its subject, also as a paraphrase of the later request;
    the same (subject, relation) where the data name the relation.
    """
    last = _last_targets(requests)
    return frozenset(r.case_id for r in requests if any(last[k] != r.target_new for k in _facts(r)))


def drop_edited_probes(requests: Sequence[EditRequest]) -> tuple[list[EditRequest], int]:
    """The requests without the probes that ask what another request of the list writes.

    Such a probe's target is no longer what a good edit must give. It is one whose prompt is that of
    the other request or of one of its paraphrases; or whose (subject, relation) is the other's. A
    probe's own `subject` and `relation` are used where the data have them; otherwise other facts
    have the request's subject, and a neighborhood prompt has the request's relation and every
    subject of that relation that occurs in it as whole words. Paraphrases are dropped only where a
    later request writes another target.

    Returns:
        The requests, in the same order, and the number of probes dropped.
    """
    edited = _Edited(requests)
    asks = edited.asks
    kept = []
    for i, request in enumerate(requests):
        about, relation = request.subject, request.relation
        kept.append(
            replace(
                request,
                paraphrases=tuple(p for p in request.paraphrases if not edited.rewrites(i, p)),
                neighborhood=tuple(
                    p for p in request.neighborhood if not asks(i, p, relation=relation)
                ),
                other_facts=tuple(p for p in request.other_facts if not asks(i, p, subject=about)),
                portability=tuple(p for p in request.portability if not asks(i, p)),
            )
        )
    return kept, sum(map(_probe_count, requests)) - sum(map(_probe_count, kept))


class _Edited:
    """What the requests of a cell write, for looking probes up in it."""

    def __init__(self, requests: Sequence[EditRequest]) -> None:
        self.requests = requests
        self.superseded = superseded(requests)
        self.last = _last_targets(requests)
        self.writers: dict[tuple[str, ...], set[int]] = {}
        self.subjects: dict[str, dict[tuple[str, ...], set[int]]] = {}
        for i, request in enumerate(requests):
            for key in _targets(request):
                self.writers.setdefault(key, set()).add(i)
            name = _words(request.subject)
            if request.relation is not None and name:
                self.subjects.setdefault(request.relation, {}).setdefault(name, set()).add(i)

    def rewrites(self, own: int, paraphrase: Probe) -> bool:
        """Whether a later request changes the answer to this paraphrase of request number `own`."""
        last = self.last[_prompt_key(paraphrase.prompt)]
        return self.requests[own].case_id in self.superseded or last != paraphrase.target

    def asks(
        self, own: int, probe: Probe, *, subject: str | None = None, relation: str | None = None
    ) -> bool:
        """Whether a request other than number `own` writes what the probe asks.

        Args:
            own: Number of the request that the probe belongs to.
            probe: The probe.
            subject: Its subject, where it does not say itself.
            relation: Its relation, where it does not say itself.
        """
        subject, relation = probe.subject or subject, probe.relation or relation
        writers = set(self.writers.get(_prompt_key(probe.prompt), ()))
        if relation is not None:
            if subject is not None:
                writers |= self.writers.get(("fact", subject, relation), set())
            else:
                writers |= _mentioned(probe.prompt, self.subjects.get(relation, {}))
        return bool(writers - {own})


def _facts(request: EditRequest) -> list[tuple[str, ...]]:
    """Keys of the fact that a request writes."""
    named = [("fact", request.subject, request.relation)] if request.relation is not None else []
    return [_prompt_key(request.text), *named]


def _targets(request: EditRequest) -> dict[tuple[str, ...], str]:
    """What a request says about each prompt and fact."""
    paraphrases = {_prompt_key(p.prompt): p.target for p in request.paraphrases}
    return paraphrases | dict.fromkeys(_facts(request), request.target_new)


def _last_targets(requests: Sequence[EditRequest]) -> dict[tuple[str, ...], str]:
    """What the last request about it says about each prompt and fact."""
    return {key: target for r in requests for key, target in _targets(r).items()}


def _prompt_key(prompt: str) -> tuple[str, ...]:
    return ("prompt", " ".join(prompt.split()))


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


def _mentioned(prompt: str, names: Mapping[tuple[str, ...], set[int]]) -> set[int]:
    """The requests whose subject's words occur in the prompt, one after another."""
    words = _words(prompt)
    spans = ((i, i + size) for size in {len(n) for n in names} for i in range(len(words)))
    return set().union(*(names.get(words[start:end], set()) for start, end in spans))


def _probe_count(r: EditRequest) -> int:
    return sum(map(len, (r.paraphrases, r.neighborhood, r.other_facts, r.portability)))
