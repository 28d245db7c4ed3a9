"""What a command asks for: cells with keys and states, the missing baselines, duplicates collapsed, units of work."""

from __future__ import annotations

import copy
import difflib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from edit_sweeps import cell as cells
from edit_sweeps import data_root
from edit_sweeps.cell import Cell, Digests, Tree
from edit_sweeps.config import Config, study_folder
from edit_sweeps.launcher import capping, inputs, tuned
from edit_sweeps.launcher.units import Unit, group
from edit_sweeps.record import write_json

log = logging.getLogger(__name__)

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


class Refusal(Exception):  # noqa: N818
    """A cell cannot be run as asked; the message says why and what to do. Shown without a traceback."""


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

    def headline(self) -> str:
        """One line: how much there is and how much of it is to do."""
        return (
            f"study {self.study.name}: {len(self.entries)} cells, {len(self.todo())} to run "
            f"in {len(self.units())} units"
        )

    def describe(self) -> str:
        """The plan as text: a line a cell, then the units."""
        width = max((len(entry.cell.name) for entry in self.entries), default=0)
        lines = [
            f"  {entry.cell.name:<{width}}  {entry.state:<9}  {'run' if entry.todo else 'skip'}"
            + (f"  ({entry.why})" if entry.why else "")
            for entry in self.entries
        ]
        units = [
            f"  unit {i}: " + " -> ".join(cell.name for cell in unit.cells())
            for i, unit in enumerate(self.units(), 1)
        ]
        return "\n".join([self.headline(), *lines, *units])

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


def make_plan(composed: Sequence[tuple[DictConfig, Sequence[str]]]) -> Plan:
    """Freeze the configurations, key the cells, add baselines, collapse duplicates, look up states.

    Raises:
        Refusal: A configuration is incomplete or contradicts itself. All reasons are in the message.
    """
    with data_root.using(composed[0][0].data_root):
        return _plan(composed)


def _plan(composed: Sequence[tuple[DictConfig, Sequence[str]]]) -> Plan:
    frozen, reasons = [], []
    for config, overrides in composed:
        try:
            frozen.append((freeze(config), list(overrides)))
        except (Refusal, OmegaConfBaseException, ValueError) as error:
            reasons.append(f"  {' '.join(overrides) or '(defaults)'}: {error}")
    if reasons:
        raise Refusal("\n".join(dict.fromkeys(reasons)))
    first = frozen[0][0]
    inputs.make_readable([tree for tree, _ in frozen], Refusal)
    digests = Digests(Path(first["cache_dir"]) / "digests.json")
    grid = [make_cell(capping.cap(tree), overrides, digests) for tree, overrides in frozen]
    capping.merge(grid)
    capping.tell(grid)
    baselines = [baseline_of(cell, digests) for cell in grid if cell.config["task"]]
    digests.save()
    tell_sources(grid)
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


def freeze(config: DictConfig) -> Tree:
    """The whole configuration without Hydra's part, resolved to plain values.

    Raises:
        Refusal: Unknown keys, or values that nobody gave and no rule of depth can guess.
        ValueError: `tuned` names a school without values for this editor and model.
    """
    config = copy.copy(config)
    OmegaConf.set_struct(config, value=False)
    config.pop("hydra", None)
    tree: Tree = OmegaConf.to_container(config, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    known = [f.name for f in fields(Config)]
    for key in tree:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            msg = f"there is no key {key!r}.{hint} Known: {', '.join(known)}"
            raise Refusal(msg)
    missing = [path for path, value in leaves(tree) if value == "???"]
    guessed = tuned.fill_by_depth(tree, missing)
    missing = [path for path, value in leaves(tree) if value == "???"]
    if missing:
        raise Refusal(explain_missing(tree, missing))
    tree["tuned_source"] = tuned.describe_source(tree, guessed)
    tree["num_edits_asked"] = []
    # Types, and unknown keys below the top that came in with `+`.
    checked = OmegaConf.merge(OmegaConf.structured(Config), tree)
    plain: Tree = OmegaConf.to_container(checked, resolve=True)  # type: ignore[assignment]
    return plain


def tell_sources(grid: Sequence[Cell]) -> None:
    """Say for every editor and model whose values are used; a warning where nobody chose any."""
    pairs: dict[tuple[str, str, str], None] = {}
    for cell in grid:
        source = cell.config["tuned_source"]
        if source:
            pairs[cell.config["editor"]["name"], cell.config["model"]["name"], source] = None
    for warning in dict.fromkeys(w for cell in grid for w in foreign_text(cell.config)):
        log.warning("%s", warning)
    for editor, model, source in pairs:
        level = logging.WARNING if tuned.is_guess(source) else logging.INFO
        log.log(level, "values of editor=%s on model=%s: %s", editor, model, source)


def foreign_text(tree: Tree) -> list[str]:
    """What a model from elsewhere would take from the miniature's synthetic world, because that is the default."""
    name, editor = tree["model"]["name"], tree["editor"]
    if str(tree["model"]["pretrained"]).startswith("miniature://"):
        return []
    found = []
    if (
        editor.get("second_moment")
        and tree["moments"]["source"] == "miniature"
        and not tree["moments"].get("file")
    ):
        found.append(
            f"the second moments of model={name} are taken over the miniature's synthetic text, which it was not "
            "trained on; use moments=quick or moments=faithful"
        )
    if editor.get("train_source") == "miniature":
        found.append(
            f"MEND's network for model={name} is trained on facts of the miniature's synthetic world; give requests "
            "of yours: editor.train_source=jsonl editor.train_file=FILE"
        )
    return found


def leaves(tree: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Each value of a nested tree with its dotted path."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def explain_missing(tree: Tree, missing: Sequence[str]) -> str:
    """Why a value is missing and how to give it."""
    text = f"no value for {', '.join(missing)}"
    if any(path.startswith("editor.") for path in missing):
        editor, model = tree["editor"]["name"], tree["model"]["name"]
        layers = [path for path in missing if path in {"editor.layer", "editor.layers"}]
        text += f": no values are published or tuned for this pair (there is no conf/tuned/{editor}-{model}.yaml)"
        if layers:
            text += ", and the model's config.json, which would tell its depth, cannot be read here"
        example = {"editor.layer": "5", "editor.layers": "[3,4,5]"}.get(missing[0], "VALUE")
        text += f". Give them on the command line, for example {missing[0]}={example}, or write that file"
    else:
        text += f". Give it on the command line, for example {missing[0]}=VALUE"
    return text


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
    """Copy a baseline that another study has computed into this study."""
    kept = Path(cell.config["cache_dir"]) / "baselines" / cell.key
    if (kept / cells.RECORD_FILE).exists() and not (cell.folder / cells.RECORD_FILE).exists():
        aside = cell.folder.with_name(f".{cell.folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(kept, aside)
        shutil.rmtree(cell.folder, ignore_errors=True)
        aside.rename(cell.folder)
