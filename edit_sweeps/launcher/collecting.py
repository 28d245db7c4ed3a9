"""`edit-sweeps collect`: everything that is known of studies as CSV and parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from edit_sweeps.launcher.showing import counted, near
from edit_sweeps.launcher.states import look
from edit_sweeps.table import COLUMNS, rows

ALL_TABLE = "results"
CELLS_FILE = "cells.csv"
TEXT = (
    "study", "cell", "state", "model", "editor", "regularizer", "dataset", "edits", "overrides", "task", "metric",
)  # fmt: skip


def collect(studies: Sequence[Path], to: Path) -> str:
    """Write results.csv, results.parquet and cells.csv into `to`, each aside and renamed; whole records only are read.

    Returns:
        What to tell the user.
    """
    import pandas as pd

    to.mkdir(parents=True, exist_ok=True)
    found, cells, told = [], [], []
    for study in studies:
        found += [{"study": study.name, **row} for row in rows(study)]
        looks = look(study)
        told.append(f"{study.name}: {counted(looks) or 'no cells'}")
        cells += [{"study": study.name} | asdict(each) for each in looks]
    table = pd.DataFrame(found, columns=["study", *COLUMNS])
    for column in table.columns:  # one type a column, also where a column is empty
        text = column in TEXT
        table[column] = table[column].astype("string") if text else pd.to_numeric(table[column])
    files = [to / f"{ALL_TABLE}.csv", to / f"{ALL_TABLE}.parquet", to / CELLS_FILE]
    states = pd.DataFrame(cells)
    for file, write in zip(
        files,
        (
            lambda path: table.to_csv(path, index=False),
            table.to_parquet,
            lambda path: states.to_csv(path, index=False),
        ),
        strict=True,
    ):
        aside = file.with_name(f".{file.name}")
        write(aside)
        aside.replace(file)
    lines = [f"{near(file)}" for file in files]
    return "\n".join([*told, f"{len(table)} rows of results, {len(states)} cells:", *lines])
