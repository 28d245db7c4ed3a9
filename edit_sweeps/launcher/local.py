"""Run the units of a plan one after the other in this process."""

from __future__ import annotations

import logging

from filelock import FileLock
from omegaconf import OmegaConf

from edit_sweeps.building import pick
from edit_sweeps.cell import CONFIG_FILE, Cell, Tree
from edit_sweeps.launcher.plan import Plan
from edit_sweeps.run import Session, run_unit
from edit_sweeps.tracking import WandbSettings, push

log = logging.getLogger(__name__)


def run_units(plan: Plan) -> None:
    """Run every unit; each record is on disk, then mirrored to W&B, before the next cell begins."""
    session = Session(plan.device)
    total, number = len(plan.todo()), 0
    for unit in plan.units():
        lock = (
            plan.study
            / ".locks"
            / f"{unit[0].trajectory if not unit[0].is_baseline else unit[0].key}"
        )
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock.with_suffix(".lock")):
            # Another process may have done some since they were planned.
            cells = [cell for cell in unit if plan.force or not cell.is_complete()]
            for cell in cells:
                freeze_config(cell)
            for record in run_unit(cells, session, force=plan.force):
                number += 1
                log.info("[%d/%d] %s: %s", number, total, record.name, record.state)
                push(
                    plan.study / "cells" / record.name, plan.study.name, wandb_settings(plan.wandb)
                )


def freeze_config(cell: Cell) -> None:
    """Write the resolved configuration beside the record: what was planned is what runs."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    aside = cell.folder / f".{CONFIG_FILE}"
    OmegaConf.save(OmegaConf.create(cell.config), aside)
    aside.replace(cell.folder / CONFIG_FILE)


def wandb_settings(values: Tree) -> WandbSettings:
    """The settings of `wandb=...`."""
    settings: WandbSettings = pick(WandbSettings, values)
    return settings
