"""Cells grouped into units: what runs in one process, one after the other, with one model in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edit_sweeps.cell import Cell, Tree, digest
from edit_sweeps.launcher import resources
from edit_sweeps.launcher.resources import Resources


@dataclass
class Unit:
    """Work for one process.

    Attributes:
        chains: Cells of one trajectory each, ascending in num_edits; a baseline is a chain of its own.
        prepare: Cells whose editors' shared work (second moments, networks) is done first, and kept.
    """

    chains: list[list[Cell]]
    prepare: list[Cell] = field(default_factory=list)

    def cells(self) -> list[Cell]:
        """All cells it runs, in order."""
        return [cell for chain in self.chains for cell in chain]

    def __str__(self) -> str:
        """Its cells in the order in which they run; of a unit without cells, whose preparation it is."""
        cells = " -> ".join(cell.name for cell in self.cells())
        return cells or "prepares for " + ", ".join(cell.name for cell in self.prepare)

    @property
    def resources(self) -> Resources:
        """What suffices for each of its cells."""
        return resources.of_cells(self.cells() or self.prepare)

    def as_tree(self) -> Tree:
        """Plain values for a unit file; `load` reads them."""
        return {
            "chains": [[freeze(cell) for cell in chain] for chain in self.chains],
            "prepare": [freeze(cell) for cell in self.prepare],
        }

    @classmethod
    def load(cls, tree: Tree) -> Unit:
        """From `as_tree`; nothing is resolved or looked up again."""
        return cls(
            chains=[[thaw(cell) for cell in chain] for chain in tree["chains"]],
            prepare=[thaw(cell) for cell in tree["prepare"]],
        )


def group(cells: Sequence[Cell], how: str = "trajectory", largest: int | None = None) -> list[Unit]:
    """Cells to run as units.

    Args:
        cells: In the order of the command.
        how: trajectory: cells of one editing run, which then costs as many edits as its longest cell; model:
            all cells of a model, which is then loaded once; none: each cell alone, as parallel as can be.
        largest: Cells in a unit at most.
    """
    chains = chains_of(cells)
    if how == "none":
        return [Unit([[cell]]) for chain in chains for cell in chain]
    pieces = [piece for chain in chains for piece in cut(chain, largest)]
    if how == "trajectory":
        return [Unit([piece]) for piece in pieces]
    units: dict[str, list[Unit]] = {}
    for piece in pieces:
        known = units.setdefault(digest(piece[0].config["model"]), [])
        if not known or (largest and len(known[-1].cells()) + len(piece) > largest):
            known.append(Unit([]))
        known[-1].chains.append(piece)
    return [unit for known in units.values() for unit in known]


def chains_of(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells by trajectory, ascending in num_edits; baselines alone."""
    chains: dict[str, list[Cell]] = {}
    for cell in cells:
        chains.setdefault(cell.key if cell.is_baseline else cell.trajectory, []).append(cell)
    return [sorted(chain, key=lambda cell: cell.num_edits) for chain in chains.values()]


def cut(chain: list[Cell], largest: int | None) -> list[list[Cell]]:
    """A chain in pieces of at most `largest` cells."""
    step = largest or len(chain)
    return [chain[i : i + step] for i in range(0, len(chain), step)]


def freeze(cell: Cell) -> Tree:
    """A cell as plain values."""
    return {
        "config": cell.config,
        "identity": cell.identity,
        "overrides": cell.overrides,
        "study": str(cell.study),
        "baseline": cell.baseline,
        "revision": cell.revision,
    }


def thaw(tree: Tree) -> Cell:
    """The cell again."""
    return Cell(**tree | {"study": Path(tree["study"])})
