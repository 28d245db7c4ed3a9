"""What a process does with its cells, here or in a job: claim them, run them, mirror the records."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from edit_sweeps import claims, data_root, prepared
from edit_sweeps.building import build_editor, pick
from edit_sweeps.causes import EXCEPTION, INFRASTRUCTURE
from edit_sweeps.cell import CONFIG_FILE, FAILURE_FILE, RECORD_FILE, Cell
from edit_sweeps.launcher.states import CLAIMS
from edit_sweeps.record import Record
from edit_sweeps.tracking import WandbSettings, push

log = logging.getLogger(__name__)


@dataclass
class Work:
    """How cells are run, and what came of them.

    Attributes:
        device: From the configuration.
        force: Cells are run though they are done.
        submission: Id of the submission, in a job of one.
        patience_s: How long to wait for a cell that somebody else runs; None: until it is done or given up.
        total: Cells to run, for the log.
        elsewhere: Names of cells that another process has.
        failed: Names of cells that failed.
        machine_failed: Whether a cell failed by the machine's doing; its own note of that may be lost with the disk.
    """

    device: str
    force: bool = False
    submission: str = ""
    patience_s: float | None = None
    total: int = 0
    number: int = 0
    elsewhere: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    machine_failed: bool = False

    def __post_init__(self) -> None:
        """Torch comes in here: a planner that has nothing to run never builds one."""
        from edit_sweeps.run import Session

        self.session = Session(self.device)

    def run_chain(self, chain: Sequence[Cell]) -> Iterator[Record]:
        """Run cells of one trajectory that are not done, each claimed by this process; yields their records.

        A chain is claimed whole, so that no two processes leapfrog along one trajectory.
        """
        from edit_sweeps.run import run_unit

        with contextlib.ExitStack() as held:
            mine = [cell for cell in chain if self._claim(cell, held)]
            for cell in mine:
                freeze_config(cell)
            for record in run_unit(
                mine, self.session, force=self.force, submission=self.submission
            ):
                self.number += 1
                log.info("[%d/%d] %s: %s", self.number, self.total, record.name, record.state)
                cell = next(cell for cell in mine if cell.name == record.name)
                push(cell.folder, cell.study.name, pick(WandbSettings, cell.config["wandb"]))
                if not self.is_finished(cell):
                    self.failed.append(cell.name)
                    self.machine_failed |= record.provenance.get("cause") == INFRASTRUCTURE
                yield record

    def prepare(self, cell: Cell) -> None:
        """Work out what the cell's editor shares with other cells: second moments, a network of MEND's."""
        from edit_sweeps.editors.base import Stores
        from edit_sweeps.moments import MomentSettings

        with data_root.using(cell.config["data_root"]):
            model = self.session.load(cell.config)
            stores = Stores.at(
                pick(MomentSettings, cell.config["moments"]), Path(cell.config["cache_dir"])
            )
            build_editor(cell.config).prepare(model, stores)
        prepared.mark(cell)

    def is_finished(self, cell: Cell) -> bool:
        """Whether nothing is left to do for the cell; a forced one must have been done by this submission."""
        if self.force and self.submission and done_by(cell) != self.submission:
            return False
        return cell.is_complete()

    def _has_failed_before(self, cell: Cell) -> bool:
        """Whether this submission tried the cell already, before its job was queued again for others."""
        return bool(self.submission) and failed_by(cell) == self.submission

    def _claim(self, cell: Cell, held: contextlib.ExitStack) -> bool:
        """Whether the cell is this process's to run now; its claim is then on `held`."""
        again = self.force and not self.submission
        if not again and (self.is_finished(cell) or self._has_failed_before(cell)):
            return False
        try:
            held.enter_context(
                claims.hold(
                    cell.study / CLAIMS,
                    cell.key,
                    note=cell.name,
                    wait_s=self.patience_s,
                    on_wait=lambda owner: log.info("%s is run by %s; waiting", cell.name, owner),
                )
            )
        except TimeoutError as error:
            log.warning("%s is left alone: %s", cell.name, error)
            self.elsewhere.append(cell.name)
            return False
        # Whoever had it may have done it.
        return again or not self.is_finished(cell)


def failed_by(cell: Cell) -> str:
    """The submission in which the cell failed by its own doing; empty for none."""
    if cell.state() != "failed":
        return ""
    failure = json.loads((cell.folder / FAILURE_FILE).read_text(encoding="utf-8"))
    provenance = failure.get("provenance", {})
    return str(provenance.get("submission", "")) if provenance.get("cause") == EXCEPTION else ""


def done_by(cell: Cell) -> str:
    """The submission that wrote the cell's record; empty for none."""
    file = cell.folder / RECORD_FILE
    if not file.exists():
        return ""
    provenance = json.loads(file.read_text(encoding="utf-8")).get("provenance", {})
    return str(provenance.get("submission", ""))


def forget_prefixes(cells: Sequence[Cell]) -> None:
    """Remove the stored prefixes of these cells' trajectories: they are computed again from nothing."""
    for folder in {cell.study / "trajectories" / cell.trajectory for cell in cells}:
        shutil.rmtree(folder, ignore_errors=True)


def freeze_config(cell: Cell) -> None:
    """Write the resolved configuration beside the record: what was planned is what runs."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    aside = cell.folder / f".{CONFIG_FILE}"
    try:
        OmegaConf.save(OmegaConf.create(cell.config), aside)
        aside.replace(cell.folder / CONFIG_FILE)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
