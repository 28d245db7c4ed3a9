"""What is known of a cell when it has run: scores, differences, norms, provenance. The truth; W&B only mirrors it."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from edit_sweeps.cell import FAILURE_FILE, RECORD_FILE

SCHEMA_VERSION = 1
SAMPLES_FILE = "samples.json"


@dataclass(frozen=True)
class Score:
    """One metric of one task (or of the edits) on one model.

    Attributes:
        value: The metric; None when it is not a finite number.
        n: Number of documents.
        low: Lower end of the 95 % interval of `value`.
        high: Upper end of it.
        chance: What guessing would score; None when unknown.
        invalid: Share of documents without a usable answer.
        headline: Whether this is the metric that stands for the task in plots.
        aggregation: How `samples` become `value`; a key of `statistics.AGGREGATIONS`.
        samples: Document id -> statistic of that document (`[1.0]` for a mean, `[tp, fp, fn]` for a
            micro F1). Stored beside the record in samples.json, not in it.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    invalid: float | None = None
    headline: bool = False
    aggregation: str = "mean"
    samples: dict[str, list[float]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Comparison:
    """A score against the unedited model's on the same documents.

    Attributes:
        baseline: The unedited model's score.
        difference: Edited minus baseline.
        low: Lower end of the paired 95 % interval of `difference`.
        high: Upper end of it.
        p: Two-sided p value of the paired test; None where no test applies.
        retention: (score - chance) / (baseline - chance); None when the baseline is at chance.
        n: Documents compared.
    """

    baseline: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    retention: float | None
    n: int


@dataclass
class Record:
    """Everything about one cell; `record.json` in its folder.

    Attributes:
        key: Content hash of the cell.
        name: Name of the cell's folder.
        state: done | collapsed | failed.
        config: The resolved configuration that the key was made from.
        overrides: Swept keys that have no column of their own, `key -> value`.
        scores: `task -> metric -> Score`; the task of edit scores is `edit`.
        comparisons: `task -> metric -> Comparison` with the baseline.
        traces: One entry for each edit: loss, steps, clamp hit, norms.
        weights: `parameter -> {update_norm, original_norm, relative, cast_loss}`.
        health: Finite weights and logits, loss on fixed text, whether the model counts as collapsed.
        errors: `task -> message` for tasks that failed; `cell -> traceback` when the cell did.
        counts: Requests used, probes dropped, prompts cut ...
        provenance: Host, device, times, attempts, versions, git. Not compared by tests.
        schema_version: Raised when a key changes meaning.
    """

    key: str
    name: str
    state: str
    config: dict[str, Any]
    overrides: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    comparisons: dict[str, dict[str, Comparison]] = field(default_factory=dict)
    traces: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def save(self, folder: Path) -> None:
        """Write samples.json, then record.json, each aside and renamed: the record's existence means done.

        The record of a failed cell goes to failure.json, so that the cell counts as not done.
        """
        folder.mkdir(parents=True, exist_ok=True)
        body = asdict(self)
        samples: dict[str, dict[str, dict[str, list[float]]]] = {}
        for task, metrics in body["scores"].items():
            for metric, score in metrics.items():
                samples.setdefault(task, {})[metric] = score.pop("samples")
        file = FAILURE_FILE if self.state == "failed" else RECORD_FILE
        if self.state != "failed":
            write_json(folder / SAMPLES_FILE, samples, indent=None)
        split = {k: body.pop(k) for k in ("provenance",)}
        top = {
            k: body.pop(k)
            for k in ("schema_version", "key", "name", "state", "config", "overrides")
        }
        write_json(folder / file, {**top, "result": body, **split})
        if self.state != "failed":
            (folder / FAILURE_FILE).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path, *, samples: bool = False) -> Record:
        """Read the record of a cell's folder.

        Args:
            folder: The cell's folder.
            samples: Also read the documents' own statistics.

        Raises:
            FileNotFoundError: The cell has no record.
            ValueError: The file is not a record of this schema version.
        """
        path = folder / RECORD_FILE
        if not path.exists() and (folder / FAILURE_FILE).exists():
            path = folder / FAILURE_FILE
        body = json.loads(path.read_text(encoding="utf-8"))
        if body.get("schema_version") != SCHEMA_VERSION:
            msg = (
                f"{path} has schema version {body.get('schema_version')}, this program reads "
                f"{SCHEMA_VERSION}; rerun the cell with resume=force"
            )
            raise ValueError(msg)
        body |= body.pop("result")
        details: dict[str, Any] = {}
        if samples and (folder / SAMPLES_FILE).exists():
            details = json.loads((folder / SAMPLES_FILE).read_text(encoding="utf-8"))
        body["scores"] = {
            task: {
                m: Score(**s, samples=details.get(task, {}).get(m, {})) for m, s in metrics.items()
            }
            for task, metrics in body["scores"].items()
        }
        body["comparisons"] = {
            task: {m: Comparison(**c) for m, c in metrics.items()}
            for task, metrics in body["comparisons"].items()
        }
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in body.items() if k in known})


def load_all(study: Path) -> Iterator[Record]:
    """The records of a study, failed cells' too, by name; folders without a record are passed over."""
    for folder in sorted((study / "cells").glob("*/")):
        if (folder / RECORD_FILE).exists() or (folder / FAILURE_FILE).exists():
            yield Record.load(folder)


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write `value` aside, flush it to disk and rename, so that no reader sees half a file."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            json.dump(_finite(value), file, indent=indent, allow_nan=False, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # half a file is of no use, least of all on a full disk
            aside.unlink(missing_ok=True)
        raise


def _finite(value: Any) -> Any:
    """`value` with NaN and infinity as None, which JSON can hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
