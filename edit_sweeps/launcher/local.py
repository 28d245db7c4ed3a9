"""Run the units of a plan one after the other in this process."""

from __future__ import annotations

from collections.abc import Sequence

from edit_sweeps.launcher.units import Unit
from edit_sweeps.launcher.work import Work, forget_prefixes


def run_units(units: Sequence[Unit], *, device: str, force: bool) -> None:
    """Run every unit; each record is on disk, then mirrored to W&B, before the next cell begins."""
    cells = [cell for unit in units for cell in unit.cells()]
    if force:
        forget_prefixes(cells)
    work = Work(device, force=force, total=len(cells))
    for unit in units:
        for chain in unit.chains:
            for _ in work.run_chain(chain):
                pass
