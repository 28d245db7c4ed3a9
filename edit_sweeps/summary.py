"""What a study found, in words: sentences for the page and one line a cell for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from edit_sweeps.record import Comparison, Record, Score
from edit_sweeps.repeats import by_seed, joined, left_out
from edit_sweeps.table import (
    EDIT,
    CellView,
    headlines,
    mean_retention,
    read_cells,
    task_errors,
    tasks_lost,
    tasks_lost_by_holm,
    tasks_tested,
)

UNKNOWN = "–"


def print_summary(study: Path, planned: Sequence[Mapping[str, Any]] | None = None) -> str:
    """The study as plain text, one line a cell; returned, not printed."""
    cells = read_cells(study, planned)
    head = ("cell", "state", "efficacy", "paraphrase", "neighborhood", "retention", "tasks lost")
    lines = [head, *(summary_line(cell) for cell in cells)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            part.ljust(width) if place < 2 else part.rjust(width)
            for place, (part, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    reasons = [f"{cell.cell}: {last_line(cell.error)}" for cell in cells if cell.error]
    reasons += [
        f"{cell.cell}: task {task} failed: {last_line(message)}"
        for cell in cells
        if cell.record and cell.scored
        for task, message in task_errors(cell.record).items()
    ]
    return "\n".join([*text, counted(cells), *notes(cells), *reasons])


def notes(cells: Sequence[CellView]) -> list[str]:
    """What a reader must know: edit counts capped, requests left out, cells that are in no curve."""
    found = list(repeats_told(cells))
    for cell in cells:
        config, counts = (cell.record.config, cell.record.counts) if cell.record else ({}, {})
        asked = ", ".join(map(str, config.get("num_edits_asked") or ()))
        if asked:
            found.append(
                f"num_edits={asked} of {cell.editor} capped to the {cell.num_edits} requests that "
                f"dataset={cell.dataset} has (dataset.cap)"
            )
        left_out = counts.get("requests_invalid_skipped")
        if left_out:
            found.append(
                f"dataset={cell.dataset}: {left_out} broken requests were left out "
                "(dataset.on_invalid=skip)"
            )
        if (config.get("dataset") or {}).get("repeat") and counts.get("requests_repeated"):
            found.append(
                f"dataset={cell.dataset}: {counts['requests_repeated']} of the {cell.num_edits} edits "
                f"of {cell.editor} write a fact a second time or more (dataset.repeat)"
            )
    return list(dict.fromkeys(found))


def repeats_told(cells: Sequence[CellView]) -> Iterator[str]:
    """How many cells repeat a seed and are therefore in no curve."""
    others = [cell.cell for cell in left_out(cells)]
    if others:
        told = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        yield (
            f"{len(others)} cell{'s'[: len(others) != 1]} left out of the curves, tests and findings "
            f"where a later cell has the same series, seed, number of edits and task ({told}); the "
            "tables keep them. Cells that differ in a setting are a series of their own when it is "
            "given on the command line"
        )


def summary_line(cell: CellView) -> tuple[str, ...]:
    """One line of the summary."""
    if cell.record is None or not cell.scored:
        return (cell.cell, cell.state, *[UNKNOWN] * 5)
    edits = cell.record.scores.get(EDIT, {})
    scores = [edits.get(metric) for metric in ("efficacy", "paraphrase", "neighborhood")]
    told = [short(score.value) if score else UNKNOWN for score in scores]
    lost = f"{len(tasks_lost(cell.record))}/{len(tasks_tested(cell.record))}"
    has_tasks = any(task != EDIT for task in cell.record.comparisons)
    kept = short(mean_retention(cell.record))
    return (cell.cell, cell.state, *told, kept, lost if has_tasks else UNKNOWN)


def counted(cells: Sequence[CellView]) -> str:
    """`12 cells: 9 done, 1 collapsed ...` in a fixed order."""
    states = Counter(cell.state for cell in cells)
    order = ("done", "collapsed", "failed", "running", "pending", "lost", "missing")
    told = [f"{states.pop(state)} {state}" for state in order if state in states]
    told += [f"{number} {state}" for state, number in states.items()]
    return f"{len(cells)} cell{'s'[: len(cells) != 1]}: {', '.join(told) or 'nothing has run yet'}"


def findings(label: str, cells: Sequence[CellView]) -> Iterator[str]:
    """What came of one series at its largest number of edits that was scored, in a sentence."""
    scored = by_seed(cells)
    if not scored:
        yield f"{label}: no cell has scores."
        return
    most = max(count for count, _ in scored)
    last = [mine for (count, _), mine in scored.items() if count == most]
    records = [joined(mine) for mine in last]
    parts = [f"efficacy {efficacy_told(records)}", *loss_told(records)]
    if any(cell.state == "collapsed" for mine in last for cell in mine):
        parts.append("the model collapsed")
    every = len({seed for _, seed in scored})
    if len(last) < every:
        parts.append(f"only {len(last)} of {every} seeds have scores there")
    beyond = sorted({cell.num_edits for cell in cells if cell.num_edits > most})
    if beyond:
        parts.append(f"no scores at {', '.join(map(str, beyond))}")
    seeds = f", mean of {len(last)} seeds" if len(last) > 1 else ""
    yield f"{label} at {most} edit{'s'[: most != 1]}{seeds}: {'; '.join(parts)}."


def efficacy_told(records: Sequence[Record]) -> str:
    """Efficacy with its interval, or the mean over several cells."""
    scores = [record.scores.get(EDIT, {}).get("efficacy") for record in records]
    known = [score for score in scores if score is not None and score.value is not None]
    if len(known) == 1:
        return value_told(known[0])
    return short(fmean(score.value or 0.0 for score in known)) if known else "unknown"


def loss_told(records: Sequence[Record]) -> Iterator[str]:
    """How many tasks were lost and what share of the ability is left."""
    compared = [record for record in records if record.comparisons]
    tested = max((len(tasks_tested(record)) for record in compared), default=0)
    if tested:
        lost = fmean(len(tasks_lost(record)) for record in compared)
        by_holm = fmean(len(tasks_lost_by_holm(record)) for record in compared)
        yield f"{lost:g} of {tested} tasks lost ({by_holm:g} by Holm)"
    untested = {task for one in compared for task in set(headlines(one)) - set(tasks_tested(one))}
    if untested:
        yield f"not tested, without an interval: {', '.join(sorted(untested))}"
    kept = [value for value in map(mean_retention, records) if value is not None]
    if kept:
        yield f"mean retention {short(fmean(kept))}"


def short(value: float | None) -> str:
    """A figure with two decimals; a dash when unknown."""
    return UNKNOWN if value is None else f"{value:.2f}".replace("-", "−")


def value_told(score: Score) -> str:
    """A score with its interval."""
    if score.low is None or score.high is None:
        return short(score.value)
    return f"{short(score.value)} [{short(score.low)}, {short(score.high)}]"


def difference_told(compared: Comparison) -> str:
    """The baseline and the difference with its interval."""
    if compared.difference is None and compared.baseline is not None:
        return f"unedited {short(compared.baseline)}, no finite score now"
    if compared.difference is None:
        return "not compared with the unedited model"
    told = f"unedited {short(compared.baseline)}, difference {short(compared.difference)}"
    if compared.low is None or compared.high is None:
        return told
    return f"{told} [{short(compared.low)}, {short(compared.high)}]"


def last_line(text: str) -> str:
    """The last line of a traceback that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
