"""The numbers of this project's paper, arXiv 2401.04700, to lay beside ours. Data: published.csv.

They were read off the figures in `src/` of github.com/JasonForJoy/Model-Editing-Hurt (commit 8f8d4dc), which the
column `source` names: by digitising pixels (error 0.005), by eye (0.01), or printed in a table (0). Single runs,
without error bars. Markers that are hidden in the figures are left out. That the editor of the batch-sequential
figures is MEMIT is inferred, and so is their model, from the unedited scores.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

FILE = Path(__file__).with_suffix(".csv")
METRIC = "released"
"""The paper's scores of tasks are those of its released scorer."""

EDITORS: Mapping[str, str] = MappingProxyType(
    {
        "none": "none",
        "kn": "KN",
        "mend": "MEND",
        "memit": "MEMIT",
        "rome": "ROME",
        "rome_identity": "ROME",
    }
)
"""Option of `editor` -> the paper's name. Its ROME is our `rome_identity`; `rome` is ROME as first published."""
EDIT_METRICS: Mapping[str, str] = MappingProxyType(
    {"reliability": "efficacy_accuracy", "generalization": "paraphrase_accuracy"}
)
"""The paper's score of an edit -> ours. Its locality is agreement with the unedited model, which we do not have."""


DATASETS = frozenset({"zsre_paper", "zsre"})
"""Options of `dataset` that write the paper's facts, with `target=alt`, the counterfactual answer."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One number of the paper.

    Attributes:
        figure: base | sequential | batch | batch_sequential | rect_general | rect_editing | weight_change.
        model: Option of `model`.
        editor: The paper's name; `none` in the figure `base`.
        edits: Option of `edits`; None where the paper's figure does not say (`rect_editing`, `base`).
        batch_size: Edits written at a time; None where `edits` is, and before the first batch.
        regularizer: none | rect | random | pca. Its PCA is not our `low_rank`: docs/reproducing.md.
        keep: Share of the elements that are kept.
        num_edits: Facts in total; None where the figure does not say.
        task: Option of `task`, `edit` or `weights`.
        metric: `released` for a task.
        value: The number.
        read_by: pixels | eye | print.
        error: Half the width of what the reading leaves open.
        source: The picture.
    """

    figure: str
    model: str
    editor: str
    edits: str | None
    batch_size: int | None
    regularizer: str
    keep: float | None
    num_edits: int | None
    task: str
    metric: str
    value: float
    read_by: str
    error: float
    source: str


@functools.cache
def everything() -> tuple[Published, ...]:
    """All numbers, in the order of the file."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(_point(row) for row in csv.DictReader(file))


def published(**setting: Any) -> list[Published]:
    """The numbers whose fields have these values, for example `figure="sequential", model="gpt2-xl"`.

    Raises:
        TypeError: A field that there is not.
    """
    unknown = setting.keys() - Published.__dataclass_fields__.keys()
    if unknown:
        allowed = ", ".join(Published.__dataclass_fields__)
        msg = f"{', '.join(sorted(unknown))}: not a field of Published, which has {allowed}"
        raise TypeError(msg)
    return [p for p in everything() if all(getattr(p, k) == v for k, v in setting.items())]


def line(
    model: str,
    editor: str,
    edits: str,
    *,
    batch_size: int | None = None,
    regularizer: str = "none",
    keep: float | None = None,
    figure: str | None = None,
) -> list[Published]:
    """The paper's scores of tasks along the number of edits, in the words of our records.

    Args:
        model: Option of `model`.
        editor: Option of `editor`.
        edits: Option of `edits`.
        batch_size: Only with `batch_sequential`, where each batch size is a line of its own.
        regularizer: Option of `regularizer`.
        keep: Share kept by `rect` and `random`.
        figure: The figure to read. None: the one that is about `edits`, or with a regularizer `rect_general`. The
            latter has unregularised ROME on gpt2-xl a second time, with other numbers.

    Returns:
        Ordered by task and number of edits; empty where the paper has no such line.
    """
    name = EDITORS.get(editor)
    if name is None:
        return []
    wanted = {
        "figure": figure or (edits if regularizer == "none" else "rect_general"),
        "model": model,
        "editor": name,
        "edits": edits,
        "regularizer": regularizer,
        "keep": keep,
        "metric": METRIC,
    }
    if edits == "batch_sequential":
        wanted["batch_size"] = batch_size
    return sorted(published(**wanted), key=lambda point: (point.task, point.num_edits or 0))


def line_of(config: Mapping[str, Any], figure: str | None = None) -> list[Published]:
    """The paper's line on which a cell with this configuration lies; empty where there is none.

    A cell that wrote other facts lies on none.
    """
    if not on_its_facts(config):
        return []
    regularizer, edits = config["regularizer"], config["edits"]
    return line(
        config["model"]["name"],
        config["editor"]["name"],
        edits["name"],
        batch_size=edits["batch_size"],
        regularizer=regularizer["name"],
        keep=regularizer.get("keep"),
        figure=figure,
    )


def on_its_facts(config: Mapping[str, Any]) -> bool:
    """Whether a cell with this configuration edited in facts of the paper's data set."""
    dataset = config["dataset"]
    return dataset["name"] in DATASETS and dataset.get("target", "alt") == "alt"


def curve(
    model: str, editor: str, edits: str, **setting: Any
) -> dict[str, list[tuple[int, float]]]:
    """`task -> [(edits, score)]` of `line`, with the same arguments: what a chart draws."""
    found: dict[str, list[tuple[int, float]]] = {}
    for point in line(model, editor, edits, **setting):
        if point.num_edits is not None:
            found.setdefault(point.task, []).append((point.num_edits, point.value))
    return found


def _point(row: Mapping[str, str]) -> Published:
    """A line of the file; an empty field is None."""
    values: dict[str, Any] = dict(row)
    for name, convert in (("batch_size", int), ("num_edits", int), ("keep", float)):
        values[name] = convert(row[name]) if row[name] else None
    values |= {"value": float(row["value"]), "error": float(row["error"])}
    values["edits"] = row["edits"] or None
    return Published(**values)
