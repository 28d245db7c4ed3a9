"""A seed is one draw of facts, however often it was run: of cells that repeat a task, the last counts.

The same series, seed and number of edits comes twice when only the list of tasks was changed, or a
setting in a file. Counted as two seeds it would make intervals and tests surer than they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from edit_sweeps.record import Record
from edit_sweeps.table import EDIT, CellView


def edits_label(cell: CellView) -> str:
    """How the edits were dealt out; the batch size where it is not implied."""
    return f"{cell.edits} {cell.batch_size}" if cell.edits == "batch_sequential" else cell.edits


def series_key(cell: CellView) -> tuple[str, ...]:
    """What the cells of one series have in common: editor, regularizer, edits, data set, overrides."""
    return cell.editor, cell.regularizer, edits_label(cell), cell.dataset, cell.overrides


def finished(cell: CellView) -> tuple[str, str]:
    """Sort key: when a cell finished, in UTC; its name where that is unknown or the same."""
    return str(cell.record.provenance.get("finished") or "") if cell.record else "", cell.cell


def by_seed(cells: Iterable[CellView]) -> dict[tuple[int, int], list[CellView]]:
    """`(number of edits, seed)` -> the cells of one series that have scores, the last one last."""
    found: dict[tuple[int, int], list[CellView]] = {}
    for cell in cells:
        if cell.record and cell.scored:
            found.setdefault((cell.num_edits, cell.seed), []).append(cell)
    return {place: sorted(mine, key=finished) for place, mine in found.items()}


def latest(cells: Iterable[CellView], has: Callable[[CellView], bool]) -> list[CellView]:
    """One cell of a series for each number of edits and seed: of those that `has`, the last."""
    return list({place: mine[-1] for place, mine in by_seed(filter(has, cells)).items()}.values())


def joined(cells: Sequence[CellView]) -> Record:
    """What is known of one seed at one number of edits: each task as it was scored last.

    Args:
        cells: Of `by_seed`, at least one.
    """
    records = [cell.record for cell in cells if cell.record]
    whole = replace(records[-1], scores={}, comparisons={})
    for record in records:
        for task, metrics in record.scores.items():
            whole.scores[task] = metrics
            whole.comparisons[task] = record.comparisons.get(task, {})
    whole.comparisons = {task: found for task, found in whole.comparisons.items() if found}
    return whole


def left_out(cells: Iterable[CellView]) -> list[CellView]:
    """Cells of which some task stands in no curve, since a later cell has it for the same seed.

    That the edits were scored again, with the same outcome, is not counted.
    """
    series: dict[tuple[str, ...], list[CellView]] = {}
    for cell in cells:
        if not cell.is_baseline:
            series.setdefault((cell.model, *series_key(cell)), []).append(cell)
    groups = (mine for members in series.values() for mine in by_seed(members).values())
    return [
        cell for mine in groups for place, cell in enumerate(mine) if repeated(cell, mine[place + 1 :])
    ]  # fmt: skip


def repeated(cell: CellView, later: Iterable[CellView]) -> bool:
    """Whether a later cell has a task of this one."""
    own = cell.record.scores if cell.record else {}
    others = [other.record.scores for other in later if other.record]
    return any(
        task in scores and (task != EDIT or scores[task] != own[task])
        for task in own
        for scores in others
    )
