"""Edit counts above what a data set has: with `dataset.cap` they are brought down to it, and labelled so.

A preset with a paper's counts then also runs on a small data set.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from types import SimpleNamespace

from edit_sweeps import requests
from edit_sweeps.cell import Cell, Tree, is_baseline

log = logging.getLogger(__name__)


def cap(tree: Tree) -> Tree:
    """The configuration with at most as many edits as its data set has requests, where `dataset.cap` is on.

    `num_edits_asked` then holds the count that was asked for; a batch is not larger than what there is.
    """
    dataset = tree["dataset"]
    if not dataset["cap"] or dataset["repeat"] or is_baseline(tree):
        return tree
    available = requests.count_requests(SimpleNamespace(**dataset)) - dataset["skip"]
    asked = tree["num_edits"]
    if not 0 < available < asked:
        return tree
    size = min(tree["edits"]["batch_size"], available)
    return tree | {
        "num_edits": available,
        "num_edits_asked": [asked],
        "edits": tree["edits"] | {"batch_size": size},
    }


def merge(grid: Sequence[Cell]) -> None:
    """Several counts may have become one cell: it gets all of them as `num_edits_asked`; mutates the cells."""
    asked: dict[str, set[int]] = {}
    for cell in grid:
        asked.setdefault(cell.key, set()).update(cell.config["num_edits_asked"])
    for cell in grid:
        cell.config["num_edits_asked"] = sorted(asked[cell.key])


def tell(grid: Iterable[Cell]) -> None:
    """Warn once for each data set that has fewer requests than were asked for."""
    for text in dict.fromkeys(
        f"dataset={cell.config['dataset']['name']} has {cell.num_edits} requests: {label(cell)} (dataset.cap)"
        for cell in grid
        if cell.config["num_edits_asked"]
    ):
        log.warning("%s", text)


def label(cell: Cell) -> str:
    """`num_edits=1000, 2000 capped to 640`; empty for a cell of the count that was asked for."""
    asked = ", ".join(map(str, cell.config["num_edits_asked"]))
    return f"num_edits={asked} capped to {cell.num_edits}" if asked else ""
