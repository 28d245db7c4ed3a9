"""What is refused before any cell runs and needs the heavy libraries: editors, layers, weights, task names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace

from hydra.utils import get_class

from edit_sweeps.cell import Cell, digest
from edit_sweeps.launcher import inputs
from edit_sweeps.launcher.plan import Plan, Refusal
from edit_sweeps.model import describe_model
from edit_sweeps.run import build_editor, build_regularizer, pick
from edit_sweeps.tasks import TaskSpec, task_names_exist

log = logging.getLogger(__name__)


def check(plan: Plan) -> None:
    """Look at every cell that is to run; mutates `plan` where `impossible=drop` takes cells out.

    Raises:
        Refusal: With every reason found.
    """
    drop_clashes(plan)
    cells = plan.todo()
    reasons = inputs.check_counts([cell for cell in cells if not cell.is_baseline])
    reasons += check_tasks_exist(cells)
    depths: dict[str, int] = {}
    for cell in cells:
        model = cell.config["model"]
        key = digest(model)
        if key in depths:
            continue
        try:
            depths[key] = describe_model(SimpleNamespace(**model)).n_layers
        except (ValueError, LookupError, OSError) as error:
            depths[key] = 0
            reasons.append(f"model={model['name']} ({model['pretrained']}): {one_line(error)}")
    for cell in cells:
        reasons += check_editor(cell, depths[digest(cell.config["model"])])
    if reasons:
        raise Refusal("\n".join(f"  {reason}" for reason in dict.fromkeys(reasons)))


def drop_clashes(plan: Plan) -> None:
    """Take out of a grid with `impossible=drop` what its editors cannot do, and say so."""
    for entry in list(plan.entries):
        if not entry.todo or entry.cell.config["impossible"] != "drop":
            continue
        for reason in clashes(entry.cell):
            log.warning("%s is left out: %s", entry.cell.name, reason)
            plan.entries.remove(entry)


def check_editor(cell: Cell, n_layers: int) -> list[str]:
    """Whether the editor and the regularizer can be built and fit the model and each other."""
    name = cell.config["editor"]["name"]
    try:
        editor = build_editor(cell.config)
        build_regularizer(cell.config)
        if n_layers:
            editor.check(n_layers)
    except Exception as error:  # Hydra wraps whatever a constructor raises
        return [f"editor={name}: {one_line(error.__cause__ or error)}"]
    return clashes(cell)


def clashes(cell: Cell) -> list[str]:
    """At most one reason why the editor cannot do what the rest of the cell asks for."""
    name = cell.config["editor"]["name"]
    editor = get_class(cell.config["editor"]["_target_"])
    if editor.attaches and cell.config["regularizer"].get("_target_"):
        return [
            f"editor={name} puts a module into the model and writes no update that "
            f"regularizer={cell.config['regularizer']['name']} could change; use regularizer=none"
        ]
    if editor.attaches and cell.asked_artefacts():
        return [
            f"editor={name} puts a module into the model, so there are no changed weights to keep: "
            f"save={','.join(sorted(cell.asked_artefacts()))} is not possible; use save=none"
        ]
    size = cell.config["edits"]["batch_size"]
    if editor.one_at_a_time and size > 1 and not cell.is_baseline:
        return [
            f"editor={name} writes one edit at a time and cannot take edits={cell.config['edits']['name']} "
            f"with batches of {size}; use edits=sequential"
        ]
    return []


def check_tasks_exist(cells: Sequence[Cell]) -> list[str]:
    """Task names that lm-eval does not know."""
    specs = {name: spec for cell in cells for name, spec in cell.config["task"].items()}
    if not specs:
        return []
    try:
        task_names_exist({name: pick(TaskSpec, spec) for name, spec in specs.items()})
    except (ValueError, LookupError, OSError) as error:
        return [one_line(error)]
    return []


def one_line(error: BaseException) -> str:
    """The message of `error` on one line."""
    return " ".join(str(error).split()) or type(error).__name__
