"""What several units need first (baselines, second moments, MEND's networks) as jobs of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edit_sweeps import prepared
from edit_sweeps.cell import Cell, digest
from edit_sweeps.launcher import units as grouping
from edit_sweeps.launcher.units import Unit

KINDS = ("moments", "hypernets", "baselines", "cells")
"""Kinds of jobs, in the order in which they are submitted."""


@dataclass
class Job:
    """A unit on its way to Slurm.

    Attributes:
        unit: What it runs.
        kind: One of KINDS.
        needs: Digests of prerequisites, keys of baselines, that must be there first.
        provides: Those that it computes.
    """

    unit: Unit
    kind: str = "cells"
    needs: set[str] = field(default_factory=set)
    provides: list[str] = field(default_factory=list)


def jobs_of(
    cells: Sequence[Cell],
    live: Mapping[str, str],
    *,
    how: str = "trajectory",
    largest: int | None = None,
) -> list[Job]:
    """Cells to run as jobs, with what they wait for.

    A baseline, or a preparation, that one unit alone needs is done by that unit.

    Args:
        cells: To run; baselines among them.
        live: Prerequisites that queued or running jobs will provide.
        how: As in `units.group`.
        largest: Cells in a unit at most.
    """
    baselines = {cell.key: cell for cell in cells if cell.is_baseline}
    others = [cell for cell in cells if not cell.is_baseline]
    jobs = [Job(unit) for unit in grouping.group(others, how, largest)]
    for job in jobs:
        job.needs = needs_of(job.unit, set(baselines) | set(live))
    first = [job for job in preparations(jobs, live) if job.provides]
    for key, cell in baselines.items():
        waiting = [job for job in jobs if key in job.needs]
        if len(waiting) == 1:
            waiting[0].unit.chains.insert(0, [cell])
            waiting[0].needs.discard(key)
            waiting[0].provides.append(key)
        else:
            first.append(Job(Unit([[cell]]), "baselines", provides=[key]))
    found = set(live) | {need for job in first for need in job.provides}
    for job in jobs:
        job.needs &= found
    return sorted([*first, *jobs], key=lambda job: KINDS.index(job.kind))


def needs_of(unit: Unit, coming: set[str]) -> set[str]:
    """Baselines that are still to come, and preparations that no note vouches for."""
    cells = unit.cells()
    keys = {cell.baseline for cell in cells if cell.config["task"]} & coming
    return keys | {need for cell in cells for need in prepared.missing(cell)}


def preparations(jobs: Sequence[Job], live: Mapping[str, str]) -> list[Job]:
    """One job for each model and text (second moments), one for each network, that several units share.

    Moments of one text are one job even when editors want other layers: they wait for one another anyway.
    """
    found: dict[str, Job] = {}
    for need, (kind, cell) in wanted(jobs).items():
        sharing = sum(need in job.needs for job in jobs)
        if sharing < 2 or need in live:
            continue
        identity = cell.identity
        together = [identity["model"], identity["moments"]] if kind == "moments" else need
        job = found.setdefault(digest([kind, together]), Job(Unit([]), kind))
        job.unit.prepare.append(cell)
        job.provides.append(need)
    return list(found.values())


def wanted(jobs: Sequence[Job]) -> dict[str, tuple[str, Cell]]:
    """Each missing preparation with its kind and a cell that stands for it."""
    return {
        need: (kind, cell)
        for job in jobs
        for cell in job.unit.cells()
        for need, kind in prepared.missing(cell).items()
    }
