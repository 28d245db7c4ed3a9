"""`edit-sweeps collect`: everything that is known of studies as CSV and parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from edit_sweeps.launcher.showing import headline, near
from edit_sweeps.launcher.states import CellLook, look
from edit_sweeps.table import COLUMNS, rows

ALL_TABLE = "results"
CELLS_FILE = "cells.csv"
CELL_COLUMNS = ("study", *(field.name for field in fields(CellLook)))
TEXT = (
    "study", "cell", "state", "model", "editor", "regularizer", "dataset", "edits", "overrides", "task", "metric",
)  # fmt: skip


def collect(studies: Sequence[Path], to: Path) -> str:
    """Write results.csv, results.parquet and cells.csv into `to`, each aside and renamed; whole records only are read.

    Args:
        studies: Their folders; the column `study` has the names.
        to: A folder; is made.

    Returns:
        What to tell the user.

    Raises:
        OSError: `to` cannot be written.
    """
    import pandas as pd

    to.mkdir(parents=True, exist_ok=True)
    found, cells, told = [], [], []
    for study in studies:
        # States first: a cell that ends between is `running` and has results, never `done` without them.
        looks = look(study)
        found += [{"study": study.name, **row} for row in rows(study)]
        told.append(headline(study, looks))
        cells += [{"study": study.name} | asdict(each) for each in looks]
    table = pd.DataFrame(found, columns=["study", *COLUMNS])
    for column in table.columns:  # one type a column, also where a column is empty
        text = column in TEXT
        table[column] = table[column].astype("string") if text else pd.to_numeric(table[column])
    states = pd.DataFrame(cells, columns=list(CELL_COLUMNS))
    writers: dict[str, Callable[[Path], Any]] = {
        f"{ALL_TABLE}.csv": lambda path: table.to_csv(path, index=False),
        f"{ALL_TABLE}.parquet": lambda path: table.to_parquet(path, index=False),
        CELLS_FILE: lambda path: states.to_csv(path, index=False),
    }
    for name, write in writers.items():
        aside = to / f".{name}.{os.getpid()}"
        try:
            write(aside)
            aside.replace(to / name)
        finally:
            aside.unlink(missing_ok=True)
    lines = [f"  {near(to / name)}" for name in writers]
    return "\n".join([*told, f"{len(table)} rows of results, {len(states)} cells:", *lines])
