"""What a command asks for: cells with keys and states, the missing baselines, duplicates collapsed, units of work."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edit_sweeps import cell as cells
from edit_sweeps import data_root
from edit_sweeps.cell import Cell, Digests, Tree
from edit_sweeps.config import study_folder
from edit_sweeps.launcher import capping, inputs, tuned
from edit_sweeps.launcher.freezing import Composed, Refusal
from edit_sweeps.launcher.units import Unit, group
from edit_sweeps.record import write_json

OWN_COLUMN = {
    "model", "editor", "regularizer", "dataset", "edits", "edits.batch_size", "num_edits", "seed", "task",
}  # fmt: skip
"""Swept keys that the table has a column for."""
NO_RESULT = {
    "study",
    "device",
    "save",
    "resume",
    "dry_run",
    "impossible",
    "cache_dir",
    "data_root",
    "dataset.cap",
    "dataset.repeat",
    "dataset.on_invalid",
    "editor.train_on_invalid",
    "experiment",
}
NO_RESULT_GROUPS = {"wandb", "cluster", "hydra"}
PLAN_FILE = "plan.json"
SHOWN = 3
"""Cells named with one and the same reason against them."""


@dataclass
class Entry:
    """A cell in the plan.

    Attributes:
        cell: The cell.
        state: done | collapsed | failed | pending, at planning.
        todo: Whether this command runs it.
        why: A word on that for the reader.
    """

    cell: Cell
    state: str
    todo: bool
    why: str = ""


@dataclass
class Plan:
    """All cells of a command in one study."""

    study: Path
    entries: list[Entry]
    device: str
    dry_run: bool
    force: bool
    cluster: Tree
    data_root: str | None = None

    def todo(self) -> list[Cell]:
        """Cells to run, in the order of the command; baselines first."""
        return [entry.cell for entry in self.entries if entry.todo]

    def units(self) -> list[Unit]:
        """Cells to run in groups; a unit runs in one process, with one model in memory."""
        return group(self.todo(), self.cluster["group"], self.cluster["max_cells_per_unit"])

    def failed(self) -> int:
        """Cells of the plan that are failed on disk now, or lack a task."""
        cells = [entry.cell for entry in self.entries]
        return sum(cell.state() == "failed" or bool(cell.failed_tasks()) for cell in cells)

    def headline(self, units: Sequence[Unit] | None = None) -> str:
        """One line: how much there is and how much of it is to do."""
        count = len(self.units() if units is None else units)
        return (
            f"study {self.study.name}: {len(self.entries)} cells, {len(self.todo())} to run "
            f"in {count} unit{'s' * (count != 1)}"
        )

    def describe(self, units: Sequence[Unit] | None = None) -> str:
        """The plan as text: a line a cell, then the units.

        Args:
            units: Those that jobs will run; by default those of one process here.
        """
        units = self.units() if units is None else units
        width = max((len(entry.cell.name) for entry in self.entries), default=0)
        lines = [
            f"  {entry.cell.name:<{width}}  {entry.state:<9}  {'run' if entry.todo else 'skip'}"
            + (f"  ({entry.why})" if entry.why else "")
            for entry in self.entries
        ]
        lines += [f"  unit {i}: {unit}" for i, unit in enumerate(units, 1)]
        return "\n".join([self.headline(units), *lines])

    def save(self) -> None:
        """Add the cells to `plan.json` of the study, which knows every cell ever asked for."""
        file = self.study / PLAN_FILE
        known = {}
        if file.exists():
            known = {row["key"]: row for row in json.loads(file.read_text(encoding="utf-8"))}
        rows = known | {entry.cell.key: summary(entry.cell) for entry in self.entries}
        if rows != known:
            self.study.mkdir(parents=True, exist_ok=True)
            write_json(file, list(rows.values()))


def summary(cell: Cell) -> Tree:
    """What the table says of a cell that has no record yet."""
    config = cell.config
    short = {
        group: config[group]["name"]
        for group in ("model", "editor", "regularizer", "dataset", "edits")
    }
    short |= {"batch_size": config["edits"]["batch_size"]}
    short |= {"num_edits": cell.num_edits, "seed": config["seed"]}
    return {"name": cell.name, "key": cell.key, "overrides": cell.overrides, "config_short": short}


def make_plan(composed: Sequence[Composed]) -> Plan:
    """Key the cells, add baselines, collapse duplicates, look up states.

    Raises:
        Refusal: A configuration is incomplete or contradicts itself. All reasons are in the message.
    """
    reasons: dict[str, list[str]] = {}
    for cell in composed:
        if cell.tree is None:
            reasons.setdefault(cell.reason, []).append(" ".join(cell.overrides) or "(defaults)")
    if reasons:
        raise Refusal("\n".join(line for pair in reasons.items() for line in told(*pair)))
    frozen = [(cell.tree, cell.overrides) for cell in composed if cell.tree is not None]
    with data_root.using(frozen[0][0]["data_root"]):
        return _plan(frozen)


def told(reason: str, cells: Sequence[str]) -> list[str]:
    """Why some cells cannot be frozen, a line a cell; of a large grid the first few."""
    lines = [f"  {cell}: {reason}" for cell in dict.fromkeys(cells[:SHOWN])]
    return lines + [f"  ... and {len(cells) - SHOWN} more for the same reason"] * (
        len(cells) > SHOWN
    )


def _plan(frozen: Sequence[tuple[Tree, Sequence[str]]]) -> Plan:
    first = frozen[0][0]
    inputs.make_readable([tree for tree, _ in frozen], Refusal)
    digests = Digests(Path(first["cache_dir"]) / "digests.json")
    grid = [make_cell(capping.cap(tree), overrides, digests) for tree, overrides in frozen]
    capping.merge(grid)
    capping.tell(grid)
    by_baseline = {cell.baseline: cell for cell in grid if cell.config["task"]}
    baselines = [baseline_of(cell, digests) for cell in by_baseline.values()]
    digests.save()
    tuned.tell(grid)
    unique = {cell.key: cell for cell in [*baselines, *grid]}
    entries = [make_entry(cell) for cell in unique.values()]
    return Plan(
        study=Path(study_folder(first["study"])),
        entries=entries,
        device=first["device"],
        dry_run=first["dry_run"],
        force=first["resume"] == "force",
        cluster=first["cluster"],
        data_root=first["data_root"],
    )


def make_cell(tree: Tree, overrides: Sequence[str], digests: Digests) -> Cell:
    """Key one frozen configuration; a hub model is pinned to the commit that enters the key."""
    content = inputs.digest_inputs(tree, digests)
    model, asked = content.get("model", ""), tree["model"]["revision"]
    if model.startswith(f"{tree['model']['pretrained']}@"):
        tree = tree | {"model": tree["model"] | {"revision": model.rpartition("@")[2]}}
    identity = cells.identity(tree, content)
    base = identity if cells.is_baseline(tree) else cells.identity(as_baseline(tree), content)
    return Cell(
        config=tree,
        identity=identity,
        overrides=swept(tree, overrides),
        study=Path(study_folder(tree["study"])),
        baseline=cells.digest(base),
        revision=asked,
    )


def as_baseline(tree: Tree) -> Tree:
    """The configuration of the unedited model under the same model and tasks."""
    return tree | {
        "editor": {"_target_": "edit_sweeps.editors.none.NoEdit", "name": "none"},
        "regularizer": {"_target_": None, "name": "none"},
        "num_edits": 0,
        "seed": 0,
        "num_edits_asked": [],
        "save": "none",
        "tuned_source": "",
    }


def baseline_of(cell: Cell, digests: Digests) -> Cell:
    """The `editor=none` cell that `cell` is compared with."""
    if cell.is_baseline:
        return cell
    kept = [
        f"{k}={v}"
        for k, v in cell.overrides.items()
        if k.split(".")[0] in {"model", "task", "eval"}
    ]
    return make_cell(as_baseline(cell.as_asked()), kept, digests)


def swept(tree: Tree, overrides: Sequence[str]) -> Tree:
    """Overrides that change results and have no column of their own: two values of them are two lines."""
    found = {}
    for override in overrides:
        key, _, value = override.partition("=")
        key = key.lstrip("+~").split("@")[0]
        if key in OWN_COLUMN | NO_RESULT or key.split(".")[0] in NO_RESULT_GROUPS:
            continue
        if cells.is_baseline(tree) and key.split(".")[0] not in {"model", "task", "eval"}:
            continue
        found[key] = value
    return found


def make_entry(cell: Cell) -> Entry:
    """State of the cell on disk, and whether it is to run."""
    if cell.is_baseline:
        adopt_baseline(cell)
    state = cell.state()
    todo, why = decide(cell, state)
    return Entry(cell, state, todo, "; ".join(filter(None, (capping.label(cell), why))))


def decide(cell: Cell, state: str) -> tuple[bool, str]:
    """Whether this command runs the cell, and a word on that."""
    resume = cell.config["resume"]
    if state in {"done", "collapsed"}:
        lacking = cell.missing_artefacts()
        if resume == "force":
            return True, "resume=force"
        lost = cell.failed_tasks() if resume == "auto" else []
        reasons = [f"failed before: {', '.join(lost)}"] if lost else []
        reasons += [f"save: {', '.join(sorted(lacking))} is missing"] if lacking else []
        reasons += ["its baseline came later"] if cell.lacks_comparisons() else []
        return bool(reasons), "; ".join(reasons)
    if state == "failed":
        if resume == "only_missing":
            return False, "resume=only_missing"
        return True, "tried before"
    return True, ""


def adopt_baseline(cell: Cell) -> None:
    """Copy a baseline that another study has computed into this study, the record last: two may do it at once."""
    kept = Path(cell.config["cache_dir"]) / "baselines" / cell.key
    if (kept / cells.RECORD_FILE).exists() and not (cell.folder / cells.RECORD_FILE).exists():
        cell.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cell.folder, prefix=".adopted") as aside:
            for file in sorted(kept.iterdir(), key=lambda file: file.name == cells.RECORD_FILE):
                if file.is_file():
                    shutil.copy2(file, aside)
                    (Path(aside) / file.name).replace(cell.folder / file.name)
