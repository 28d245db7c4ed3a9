"""`edit-sweeps retry`: failed and lost cells of a study once more, frozen as they were, without launch.py."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from edit_sweeps import attempts, data_root
from edit_sweeps.cell import Cell
from edit_sweeps.claims import Held
from edit_sweeps.launcher import cluster, settling
from edit_sweeps.launcher.queue import Slurm
from edit_sweeps.launcher.states import CellLook, look
from edit_sweeps.launcher.submissions import Submission, read_all
from edit_sweeps.launcher.units import Unit

AGAIN = ("failed", "lost")


def retry(study: Path, names: Collection[str] | None = None, *, dry_run: bool = False) -> str:
    """Submit the failed and lost cells of a study again; how often they were lost is forgotten.

    Args:
        study: Its folder.
        names: Only these cells; all by default.
        dry_run: Say what would be submitted.

    Returns:
        What to tell the user.

    Raises:
        SlurmUnavailable: Slurm does not answer.
        SubmissionError: sbatch refused an array.
    """
    slurm = Slurm()
    with settling.planning(study) as held:
        looks = {each.name: each for each in look(study, slurm)}
        asked = [each for each in looks.values() if names is None or each.name in names]
        again = [each for each in asked if each.state in AGAIN]
        if not again:
            return f"Nothing to retry in {study.name}: no cell{'' if names is None else ' of these'} is failed or lost."
        frozen = frozen_cells(study)
        cells = {each.name: frozen[each.name] for each in again if each.name in frozen}
        cells = with_baselines(cells, frozen, looks)
        lines = [f"  {name}  ({looks[name].state}: {looks[name].why})" for name in cells]
        here = [each.name for each in again if each.name not in frozen]
        if here:
            lines.append(
                f"  {cluster.many(len(here), 'cell')} ran in the launching process and not on Slurm; repeat their "
                f"launch.py command: {', '.join(here)}"
            )
        if dry_run or not cells:
            return "\n".join(
                [f"{cluster.many(len(cells), 'cell')} would be submitted again:", *lines]
            )
        submissions = submit_again(study, list(cells.values()), slurm, held)
    arrays = [
        cluster.describe_array(submission, i)
        for submission in submissions
        for i in range(len(submission.arrays))
    ]
    return "\n".join([f"Submitted {cluster.many(len(cells), 'cell')} again:", *lines, *arrays])


def with_baselines(
    cells: dict[str, Cell], frozen: dict[str, Cell], looks: dict[str, CellLook]
) -> dict[str, Cell]:
    """`cells`, and before them their baselines that are neither done nor on their way."""
    wanted = {cell.baseline for cell in cells.values() if cell.config["task"]}
    first = {
        name: cell
        for name, cell in frozen.items()
        if cell.is_baseline and cell.key in wanted and looks[name].state in (*AGAIN, "missing")
    }
    return first | cells


def frozen_cells(study: Path) -> dict[str, Cell]:
    """Every cell that was ever submitted, by name, as it was frozen the last time."""
    found: dict[str, Cell] = {}
    for submission in read_all(study):
        for array in submission.arrays:
            for unit in (name for task in array.tasks for name in task.units):
                file = submission.unit_file(unit)
                if file.exists():
                    tree = json.loads(file.read_text(encoding="utf-8"))
                    found |= {cell.name: cell for cell in Unit.load(tree).cells()}
    return found


def forgive(cell: Cell) -> None:
    """Note that the losses up to now do not count."""
    starts = [line for line in attempts.read(cell.folder) if "started" in line]
    if starts:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        attempts.append(cell.folder, {"number": starts[-1]["number"], "ended": now, "how": "retry"})


def homes(study: Path) -> dict[str, str]:
    """Cell -> the folder in which it was submitted the last time."""
    return {
        name: submission.cwd
        for submission in read_all(study)
        for array in submission.arrays
        for task in array.tasks
        for name in task.cells
    }


def submit_again(study: Path, cells: list[Cell], slurm: Slurm, held: Held) -> list[Submission]:
    """Submit from the folder in which the cells were submitted: relative paths of the configuration are from there.

    Cells of one folder, one `cluster` and one data folder go together, what others need first.
    """
    study, known = study.absolute(), homes(study)
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        alike = [known[cell.name], cell.config["cluster"], cell.config["data_root"]]
        groups.setdefault(json.dumps(alike, sort_keys=True, default=str), []).append(cell)
    submitted = []
    here = Path.cwd()
    try:
        for group in groups.values():
            os.chdir(known[group[0].name])
            for cell in group:
                forgive(cell)
            with data_root.using(group[0].config["data_root"]):
                submitted.append(cluster.submit_cells(study, group, slurm, held, force=False))
    finally:
        os.chdir(here)
    return submitted
