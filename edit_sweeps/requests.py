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

from edit_sweeps.data_files import (
    FieldError,
    RequestError,
    check_keys,
    file_digest,
    json_lines,
    json_list,
    kind,
    text_field,
)

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
            "dataset=%s has only %d requests for num_edits=%d: dataset.repeat=true WRITES THEM UP TO %d TIMES",
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
    path = _file(dataset)
    requests: dict[str, EditRequest] = {}
    errors: list[str] = []
    total = 0
    for line, item in _FORMATS[dataset.format].items(path):
        total += 1
        try:
            request = _FORMATS[dataset.format].parse(item)
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
        msg = f"dataset.skip={dataset.skip} passes over all {total} requests of dataset={dataset.name}"
        raise RequestError(msg)
    if n > available and not dataset.repeat:
        skipped = f" after dataset.skip={dataset.skip}" if dataset.skip else ""
        msg = (
            f"num_edits={n}: dataset={dataset.name} has {available} requests{skipped}. Take at most "
            "that many, or dataset.repeat=true to write them several times"
        )
        raise RequestError(msg)
    return -(-n // available) if n else 0


_PROBE_FIELDS = ("paraphrases", "neighborhood", "other_facts", "portability")
_FIELDS = ("case_id", "subject", "prompt", "target_new", "target_true", "relation", *_PROBE_FIELDS)
_PROBE_KEYS = ("prompt", "target", "alternative", "subject", "relation")


def _parse_line(item: Any) -> EditRequest:
    """A request in the project's own form, `dataset=jsonl`."""
    if isinstance(item, FieldError):
        raise item
    check_keys(item, _FIELDS)
    subject = text_field(item, "subject").strip()
    prompt = text_field(item, "prompt").rstrip()
    if prompt.count("{}") != 1:
        message = f"holds {prompt.count('{}')} times {{}}; exactly one must stand for the subject"
        raise FieldError("prompt", message)
    new, true = _target(item, "target_new"), _optional(item, "target_true")
    if new == true:
        raise FieldError(
            "target_new", f"is target_true too ({new!r}); an edit must change the answer"
        )
    defaults = {"paraphrases": (new, true), "neighborhood": (true, new)}
    probes = {
        field: _probes(item, field, subject, *defaults.get(field, (None, None)))
        for field in _PROBE_FIELDS
    }
    return EditRequest(
        case_id=_case_id(item),
        subject=subject,
        prompt=prompt,
        target_new=new,
        target_true=true,
        relation=_optional(item, "relation"),
        **probes,
    )


def _case_id(item: Mapping[str, Any]) -> str:
    value = item.get("case_id")
    number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if number else text_field(item, "case_id").strip()


def _target(item: Mapping[str, Any], field: str, place: str | None = None) -> str:
    return text_field(item, field, place).removeprefix(" ")


def _optional(item: Mapping[str, Any], field: str, place: str | None = None) -> str | None:
    return None if item.get(field) is None else _target(item, field, place)


def _probes(
    item: Mapping[str, Any], field: str, subject: str, target: str | None, alternative: str | None
) -> tuple[Probe, ...]:
    """The probes of one field; `target` and `alternative` serve those that name none."""
    entries = item.get(field)
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise FieldError(field, f"is {kind(entries)}, a list is needed")
    probes = []
    for i, entry in enumerate(entries):
        probe = {"prompt": entry} if isinstance(entry, str) else entry
        place = f"{field}[{i}]"
        check_keys(probe, _PROBE_KEYS, place)
        probes.append(_probe(probe, place, subject, target, alternative))
    return tuple(probes)


def _probe(
    entry: Mapping[str, Any],
    place: str,
    subject: str,
    target: str | None,
    alternative: str | None,
) -> Probe:
    prompt = text_field(entry, "prompt", f"{place}.prompt").rstrip()
    if prompt.count("{}") > 1:
        raise FieldError(f"{place}.prompt", "holds {} more than once")
    answer = _optional(entry, "target", f"{place}.target") or target
    if answer is None:
        message = (
            'has no target, and none follows from the request; write {"prompt": …, "target": …}'
        )
        raise FieldError(place, message)
    other = _optional(entry, "alternative", f"{place}.alternative")
    if other == answer:
        raise FieldError(f"{place}.alternative", f"is the target too ({answer!r})")
    return Probe(
        prompt=prompt.replace("{}", subject),
        target=answer,
        alternative=other or (alternative if alternative != answer else None),
        subject=_optional(entry, "subject", f"{place}.subject"),
        relation=_optional(entry, "relation", f"{place}.relation"),
    )


# Field of a request -> where ROME's CounterFact has it.
_COUNTERFACT = {
    "case_id": ("case_id",),
    "subject": ("requested_rewrite", "subject"),
    "prompt": ("requested_rewrite", "prompt"),
    "target_new": ("requested_rewrite", "target_new", "str"),
    "target_true": ("requested_rewrite", "target_true", "str"),
    "relation": ("requested_rewrite", "relation_id"),
    "paraphrases": ("paraphrase_prompts",),
    "neighborhood": ("neighborhood_prompts",),
}


def _parse_counterfact(item: Any) -> EditRequest:
    """A request in the form of ROME's CounterFact (Meng et al. 2022, arXiv 2202.05262)."""
    check_keys(item, ("case_id", "requested_rewrite", "paraphrase_prompts", "neighborhood_prompts"))
    found = {}
    for field, path in _COUNTERFACT.items():
        at: Any = item
        for depth, key in enumerate(path):
            if not isinstance(at, dict):
                raise FieldError(
                    ".".join(path[:depth]), f"is {kind(at)}, an object {{...}} is needed"
                )
            if key not in at:
                break
            at = at[key]
        else:
            found[field] = at
    try:
        return _parse_line(found)
    except FieldError as error:
        field, bracket, rest = (error.field or "").partition("[")
        raise FieldError(".".join(_COUNTERFACT[field]) + bracket + rest, str(error)) from error


@dataclass(frozen=True)
class _Format:
    items: Callable[[Path], Iterator[tuple[int, Any]]]
    parse: Callable[[Any], EditRequest]


_FORMATS: Mapping[str, _Format] = {
    "miniature": _Format(json_lines, _parse_line),
    "jsonl": _Format(json_lines, _parse_line),
    "counterfact": _Format(json_list, _parse_counterfact),
}


def superseded(requests: Sequence[EditRequest]) -> frozenset[str]:
    """Case ids of requests whose fact a later request of the list writes with another target.

    A fact is the prompt with its subject, and (subject, relation) where the data name the relation.
    """
    last = {key: r.target_new for r in requests for key in _facts(r)}
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
    kept = []
    for i, request in enumerate(requests):
        groups = {
            "paraphrases": [p for p in request.paraphrases if not edited.rewritten(request, p)],
            "neighborhood": [
                p for p in request.neighborhood if not edited.asks(i, p, relation=request.relation)
            ],
            "other_facts": [
                p for p in request.other_facts if not edited.asks(i, p, subject=request.subject)
            ],
            "portability": [p for p in request.portability if not edited.asks(i, p)],
        }
        kept.append(replace(request, **{k: tuple(v) for k, v in groups.items()}))
    return kept, sum(_probe_count(r) for r in requests) - sum(_probe_count(r) for r in kept)


class _Edited:
    """What the requests of a cell write, for looking probes up in it."""

    def __init__(self, requests: Sequence[EditRequest]) -> None:
        self.superseded = superseded(requests)
        self.last: dict[tuple[str, ...], str] = {}
        self.writers: dict[tuple[str, ...], set[int]] = {}
        self.subjects: dict[str, dict[tuple[str, ...], set[int]]] = {}
        for i, request in enumerate(requests):
            self.last |= dict.fromkeys(_facts(request), request.target_new)
            for key in [*_facts(request), *(_prompt_key(p.prompt) for p in request.paraphrases)]:
                self.writers.setdefault(key, set()).add(i)
            if request.relation is not None:
                names = self.subjects.setdefault(request.relation, {})
                names.setdefault(_words(request.subject), set()).add(i)

    def rewritten(self, request: EditRequest, paraphrase: Probe) -> bool:
        """Whether a later request changes the answer to this paraphrase."""
        last = self.last.get(_prompt_key(paraphrase.prompt), request.target_new)
        return request.case_id in self.superseded or last != request.target_new

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
