"""The folder that `edit-sweeps apply` leaves: the edited model, its scores before and after, requests and record."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edit_sweeps.cell import ARTEFACTS, RECORD_FILE, Cell
from edit_sweeps.record import Record, Score, write_json

SCORES_FILE = "scores.json"
REQUESTS_FILE = "requests.jsonl"
SHOWN = (
    "efficacy", "efficacy_generated", "paraphrase", "neighborhood", "other_facts", "portability", "score",
)  # fmt: skip
"""Metrics of the edits in the table; scores.json has them all."""
LOADING = {
    "model": "Model:   {out} (AutoModelForCausalLM.from_pretrained)",
    "adapter": "Adapter: {out}/adapter (peft.PeftModel.from_pretrained(unedited_model, ...))",
    "delta": "Changes: {out}/delta.safetensors (parameter name -> what to add)",
}
"""Artefact -> where it is and what reads it."""


class ApplyError(ValueError):
    """What was asked for cannot be done and nothing has run; the message says why and what to do."""


@dataclass(frozen=True)
class Outcome:
    """What has come of an order.

    Attributes:
        text: For the reader.
        code: Exit code: 0, or 1 when something that was asked for is not there.
    """

    text: str
    code: int = 0


def check_out(out: Path, cell: Cell) -> None:
    """Refuse a folder with anything else in it than what came of the same cell.

    Raises:
        ApplyError: Says what is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        msg = f"--out {out} is a file; give a folder"
        raise ApplyError(msg)
    try:
        found = Record.load(out)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        msg = f"--out {out} is not empty and not from this command; choose another folder"
        raise ApplyError(msg) from None
    if found.key != cell.key:
        msg = (
            f"--out {out} holds the outcome of other requests or settings ({found.name}, this is "
            f"{cell.name}); choose another folder, or remove it"
        )
        raise ApplyError(msg)


def publish(cell: Cell, out: Path, requests: Path) -> None:
    """Put what `save` asked for into `out`, with the record, the scores and the requests.

    The record goes first: it says whose the folder is when this is broken off. Weights are hard links to
    those of the cell where the file system has them.
    """
    out.mkdir(parents=True, exist_ok=True)
    place(cell.folder / RECORD_FILE, out / RECORD_FILE)
    for artefact in sorted(cell.asked_artefacts()):
        for source, name in artefact_files(cell, artefact):
            place(source, out / name)
    place(requests, out / REQUESTS_FILE)
    scores, file = scores_of(Record.load(cell.folder)), out / SCORES_FILE
    if not file.exists() or json.loads(file.read_text(encoding="utf-8")) != scores:
        write_json(file, scores)


def artefact_files(cell: Cell, artefact: str) -> Iterator[tuple[Path, str]]:
    """Each file of an artefact and its name in the folder: a model's lie at the top."""
    if artefact == "delta":
        yield cell.folder / ARTEFACTS["delta"], ARTEFACTS["delta"]
        return
    home = cell.folder / artefact
    for file in sorted(path for path in home.rglob("*") if path.is_file()):
        yield file, str(file.relative_to(home if artefact == "model" else cell.folder))


def place(source: Path, target: Path) -> None:
    """Link or copy a file, aside and renamed, unless it is there already."""
    stat = source.stat()
    if target.exists():
        there = target.stat()
        if (there.st_size, there.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if source.suffix != ".safetensors":  # small, and its reader may edit it in place
            raise OSError
        os.link(source, aside)
    except OSError:
        shutil.copy2(source, aside)
    aside.replace(target)


def scores_of(record: Record) -> dict[str, Any]:
    """Every score before and after the edit, for scores.json."""
    return {
        "model": record.config["model"]["pretrained"],
        "editor": record.config["editor"]["name"],
        "key": record.key,
        "state": record.state,
        "counts": record.counts,
        "scores": {
            task: {metric: score_row(record, task, metric, s) for metric, s in metrics.items()}
            for task, metrics in record.scores.items()
        },
    }


def score_row(record: Record, task: str, metric: str, score: Score) -> dict[str, Any]:
    """One score before and after."""
    compared = record.comparisons.get(task, {}).get(metric)
    return {
        "before": compared.baseline if compared else None,
        "after": score.value,
        "low": score.low,
        "high": score.high,
        "n": score.n,
    }


def tell(cell: Cell, out: Path) -> Outcome:
    """The table of scores, where everything is, and what could not be had."""
    record = Record.load(cell.folder)
    rows = [("", "before", "after", "n")]
    for task, metrics in record.scores.items():
        chosen = [m for m in SHOWN if m in metrics] if task == "edit" else headline(metrics)
        for metric in chosen:
            row = score_row(record, task, metric, metrics[metric])
            label = metric if task == "edit" else f"{task}/{metric}"
            rows.append((label, figure(row["before"]), figure(row["after"]), str(row["n"])))
    width = max(len(row[0]) for row in rows)
    lines = [f"{a:<{width}}  {b:>6}  {c:>6}  {d:>5}" for a, b, c, d in rows]
    refused = []
    for artefact in ("model", "adapter", "delta"):
        if artefact not in cell.asked_artefacts():
            continue
        why = cell.refusal(artefact)
        if why.exists():
            refused.append(why.read_text(encoding="utf-8").strip())
        else:
            lines.append(LOADING[artefact].format(out=out))
    lines.append(f"Scores:  {out / SCORES_FILE}, {out / RECORD_FILE}")
    if record.state == "collapsed":
        lines.append("The edited model has collapsed: it no longer predicts plain text.")
    return Outcome("\n".join([*lines, *refused]), code=1 if refused else 0)


def headline(metrics: dict[str, Score]) -> list[str]:
    """The metric that stands for a task; all where none does."""
    return [name for name, score in metrics.items() if score.headline] or list(metrics)


def figure(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "–" if value is None else f"{value:.2f}"
