"""The facts to write: `EditRequest` with its probes, reading them from any form, seeded sampling."""

from __future__ import annotations

import functools
import itertools
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from edit_sweeps import edit_sources
from edit_sweeps.data_files import FieldError, RequestError, file_digest, json_items
from edit_sweeps.datasets.forms import FORMS
from edit_sweeps.request_forms import PROBE_FIELDS

__all__ = [
    "Dataset",
    "EditRequest",
    "Probe",
    "Reading",
    "RequestError",
    "check_count",
    "count_requests",
    "digest",
    "left_out",
    "load_requests",
    "read",
    "read_requests",
    "repeats",
    "tell",
]

logger = logging.getLogger(__name__)

MINIATURE_FILE = Path(__file__).parent / "miniature" / "data" / "requests.jsonl"
ORDERS = ("sampled", "file")
ON_INVALID = ("refuse", "skip")
ON_INVALID_SETTING = "dataset.on_invalid"
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
    @property
    def on_invalid(self) -> str: ...  # noqa: D102
    @property
    def target(self) -> str | None: ...  # noqa: D102


@dataclass(frozen=True)
class Probe:
    """A prompt with the answer a good edit must give there.

    Attributes:
        prompt: Full text, no placeholder.
        target: What the edited model must answer, without leading space.
        alternative: The answer it is compared with, or None when only generation can be judged.
        subject: Whom the prompt asks about, where the data say so; serves `drop_edited_probes`.
        relation: What it asks about it, where the data say so.
        kind: What sort of question it is, where the data say so: multi_hop, subject_aliasing ...
    """

    prompt: str
    target: str
    alternative: str | None = None
    subject: str | None = None
    relation: str | None = None
    kind: str | None = None


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
        case: What requests share that must all be written for the portability probes of the last of
            them to hold; None for a request that stands alone.
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
    case: str | None = None

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace("{}", self.subject)


@dataclass(frozen=True)
class Broken:
    """An item of a file that gives no request; `place` says where it is and `reason` what is wrong."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}{self.reason}"


@dataclass(frozen=True)
class Reading:
    """What a file gave.

    Attributes:
        requests: The valid ones, in file order.
        skipped: Broken items, with `dataset.on_invalid=skip`; several requests if the item holds so many.
        items: Items in the file.
        left_out: Probes of the valid requests that name no answer and are not asked.
    """

    requests: tuple[EditRequest, ...]
    skipped: tuple[Broken, ...]
    items: int
    left_out: int


def load_requests(dataset: Dataset, n: int, seed: int) -> list[EditRequest]:
    """The first `n` requests of a cell; those of a smaller `n` are a prefix of them.

    Args:
        dataset: Where they come from. `order=sampled`: request i is the i-th of one permutation
            drawn from `seed`, in which requests of one case stay together; `order=file`: file
            order, the first `skip` passed over.
        n: How many.
        seed: Of the permutation.

    Raises:
        RequestError: The file is missing or broken, or has fewer requests and `repeat` is off.
    """
    reading = read(dataset)
    requests = list(reading.requests)
    rounds = _rounds(dataset, n, requests)
    if dataset.order == "sampled":
        requests = _sampled(requests, seed)
    else:
        requests = requests[dataset.skip :]
    again = [replace(r, case_id=f"{r.case_id}#{i}") for i in range(2, rounds + 1) for r in requests]
    if again:
        logger.warning(
            "dataset=%s has %d requests for num_edits=%d: REPEATED UP TO %d TIMES (dataset.repeat)",
            *(dataset.name, len(requests), n, rounds),
        )
    tell(dataset, reading)
    return (requests + again)[:n]


def check_count(dataset: Dataset, n: int) -> None:
    """Refuse a cell of `n` edits that the data set cannot give.

    Raises:
        RequestError: As `load_requests`.
    """
    _rounds(dataset, n, read(dataset).requests)


def repeats(dataset: Dataset, n: int) -> bool:
    """Whether a cell of `n` edits writes some requests of the data set more than once.

    Raises:
        RequestError: As `read`.
    """
    return dataset.repeat and n > count_requests(dataset) - dataset.skip


def count_requests(dataset: Dataset) -> int:
    """How many valid requests the data set gives.

    Raises:
        RequestError: As `read`.
    """
    return len(read(dataset).requests)


def left_out(dataset: Dataset) -> dict[str, int]:
    """What of the file no cell sees, as a record counts it.

    Raises:
        RequestError: As `read`.
    """
    reading = read(dataset)
    return {
        "requests_invalid_skipped": len(reading.skipped),
        "probes_without_answer": reading.left_out,
    }


def digest(dataset: Dataset) -> str:
    """The sha256 of the file that the data set reads; part of a cell's key.

    Raises:
        RequestError: The file is missing.
    """
    return file_digest(_file(dataset))


def read_requests(dataset: Dataset) -> list[EditRequest]:
    """All valid requests of the data set, in file order.

    Raises:
        RequestError: As `read`.
    """
    return list(read(dataset).requests)


def read(dataset: Dataset, setting: str = ON_INVALID_SETTING) -> Reading:
    """Read the file of the data set, a JSON list or one object a line; again only when it changes.

    Prompts and targets lose the white space around them: one space always joins the two. In the
    project's own form `{}` in a probe's prompt stands for the subject. Keys of no meaning here are
    passed over, but one that is nearly right is refused.

    Args:
        dataset: What to read.
        setting: Where the user says what becomes of broken requests.

    Raises:
        RequestError: The file is missing or gives no request; or requests are broken and
            `dataset.on_invalid=refuse`: names line and field of the first five.
    """
    path = _file(dataset)
    stat = path.stat()
    reading = _read(dataset.format, dataset.target, path, stat.st_size, stat.st_mtime_ns)
    if reading.skipped and dataset.on_invalid == "refuse":
        more = f"; the first {ERRORS_SHOWN}" if len(reading.skipped) > ERRORS_SHOWN else ""
        shown = "".join(f"\n  {broken}" for broken in reading.skipped[:ERRORS_SHOWN])
        msg = (
            f"{path}: {len(reading.skipped)} of {reading.items} requests are broken{more} "
            f"({setting}=skip leaves them out):{shown}"
        )
        raise RequestError(msg)
    if not reading.requests:
        what = "gives no valid request" if reading.skipped else "is empty"
        msg = f"{path} {what}; dataset={dataset.name} needs at least one request"
        raise RequestError(msg)
    return reading


@functools.lru_cache(maxsize=8)
def _read(
    form: str,
    target: str | None,
    path: Path,
    size: int,  # noqa: ARG001  # size and time of change are part of the cache's key
    mtime_ns: int,  # noqa: ARG001
) -> Reading:
    reader = FORMS[form].reader(target)
    requests: dict[str, EditRequest] = {}
    broken: list[Broken] = []
    number, unasked, last_line = -1, 0, 0
    for number, (line, item) in enumerate(json_items(path)):
        try:
            if isinstance(item, FieldError):
                raise item
            fields = reader(item, number)
            unasked += sum(f.pop("left_out", 0) for f in fields)
            found = {f["case_id"]: _request(f) for f in fields}
            for case_id in found.keys() & requests.keys():
                raise FieldError("case_id", f"{case_id!r} has been used before")
            requests |= found
        except FieldError as error:
            # A list on one line says more by the item's number.
            where = f"line {line}" + (f", item {number + 1}" if line == last_line else "")
            where += f", field {error.field}" if error.field else ""
            broken.append(Broken(where, f": {error}"))
        last_line = line
    return Reading(tuple(requests.values()), tuple(broken), number + 1, unasked)


def _request(fields: dict[str, Any]) -> EditRequest:
    probes = {field: tuple(Probe(**p) for p in fields[field]) for field in PROBE_FIELDS}
    return EditRequest(**fields | probes)


def tell(dataset: Dataset, reading: Reading, setting: str = ON_INVALID_SETTING) -> None:
    """Log what of the file is left out; `setting` is what says so."""
    if reading.skipped:
        reasons = "; ".join(map(str, reading.skipped[:ERRORS_SHOWN]))
        others = ", ".join(broken.place for broken in reading.skipped[ERRORS_SHOWN:])
        logger.warning(
            "dataset=%s: %d of %d requests are broken and LEFT OUT (%s=skip): %s%s",
            *(dataset.name, len(reading.skipped), reading.items, setting, reasons),
            f"; likewise {others}" if others else "",
        )
    if reading.left_out:
        logger.warning(
            "dataset=%s: %d probes name no answer and are not asked", dataset.name, reading.left_out
        )


def _sampled(requests: Sequence[EditRequest], seed: int) -> list[EditRequest]:
    """The requests in a permutation that keeps those of one case together."""
    cases = [
        list(case)
        for _, case in itertools.groupby(
            requests, key=lambda r: (r.case is None, r.case_id if r.case is None else r.case)
        )
    ]
    random.Random(f"requests/{seed}").shuffle(cases)
    return [request for case in cases for request in case]


def _file(dataset: Dataset) -> Path:
    """The file that the data set reads; refuses what its configuration should not say."""
    _check_settings(dataset)
    source = edit_sources.find(dataset.name)
    fetched = edit_sources.in_data_folder(source) if source else None
    default = MINIATURE_FILE if dataset.format == "miniature" else fetched
    path = Path(dataset.path).expanduser() if dataset.path else default
    if path is None:
        fetch = f", or run `edit-sweeps data fetch --dataset {source.name}`" if source else ""
        msg = f"dataset={dataset.name} reads a file of yours: give dataset.path=FILE{fetch}"
        raise RequestError(msg)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        msg = f"dataset={dataset.name}: {path} {what}; dataset.path must name a file"
        raise RequestError(msg)
    return path


def _check_settings(dataset: Dataset) -> None:
    for name, value, allowed in (
        ("format", dataset.format, FORMS),
        ("order", dataset.order, ORDERS),
        ("on_invalid", dataset.on_invalid, ON_INVALID),
    ):
        if value not in allowed:
            msg = f"dataset.{name}={value}: allowed are {', '.join(allowed)}"
            raise RequestError(msg)
    FORMS[dataset.format].reader(dataset.target)
    if dataset.skip < 0 or (dataset.skip > 0 and dataset.order != "file"):
        msg = (
            f"dataset.skip={dataset.skip} with dataset.order={dataset.order}: skip is a count from "
            "0 on, and needs dataset.order=file"
        )
        raise RequestError(msg)


def _rounds(dataset: Dataset, n: int, requests: Sequence[EditRequest]) -> int:
    """How often the data set is gone through for `n` requests, the last time perhaps in part."""
    skip = dataset.skip
    available = len(requests) - skip
    if n < 0:
        msg = f"num_edits={n}: a count from 0 on is needed"
        raise RequestError(msg)
    if available <= 0 and n > 0:
        msg = f"dataset.skip={skip}: dataset={dataset.name} has only {len(requests)} requests"
        raise RequestError(msg)
    case = requests[skip - 1].case if n and skip else None
    if case is not None and requests[skip].case == case:
        msg = (
            f"dataset.skip={skip} cuts case {case} in two, whose edits belong together; skip "
            "one more or one less"
        )
        raise RequestError(msg)
    if n > available and not dataset.repeat:
        skipped = f" after dataset.skip={skip}" if skip else ""
        msg = (
            f"num_edits={n}: dataset={dataset.name} has {available} requests{skipped}. Take at "
            "most that many, or dataset.repeat=true to write them several times"
        )
        raise RequestError(msg)
    return -(-n // available) if n else 0
