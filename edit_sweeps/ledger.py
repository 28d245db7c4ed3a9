"""The only code in the project that changes a weight: write, revert, measure, store.

Updates are summed in masters of higher precision, kept for the edited matrices only: a bfloat16
weight would lose 70 % of an edit of relative norm 1e-4 silently. What the cast to the model's dtype
still loses is measured.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from edit_sweeps.later import tensor_files, torch
from edit_sweeps.regularizers import Regularizer
from edit_sweeps.updates import Dense, LowRank, Update, to_dense

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edit_sweeps.model import EditableModel

__all__ = ["Dense", "Ledger", "LowRank", "Update", "to_dense"]


class Ledger:
    """Keeps the account of all changes of one model; the model must be unedited at construction.

    Args:
        model: Its edited matrices are mutated by every method but `norms`, `delta` and `save`.
        regularizer: Applied to every update, and once to the total by `finish`; None leaves them
            alone.
        seed: Of the regularizer's draws.

    Attributes:
        model: The model written to.
    """

    def __init__(
        self, model: EditableModel, regularizer: Regularizer | None = None, seed: int = 0
    ) -> None:
        self.model = model
        self._regularizer = regularizer
        self._seed = seed
        self._originals: dict[str, Tensor] = {}
        self._masters: dict[str, Tensor] = {}
        self._replaced: dict[str, nn.Module] = {}
        self._writes = 0
        self._finished = False

    def write(self, parameter: str, update: Update) -> None:
        """Add an update to a matrix: regularise, add to the master, cast to the model's dtype.

        Args:
            parameter: Full name of the weight (`EditableModel.parameter_name`).
            update: In math orientation whatever the layout of the weight, on any device.

        Raises:
            ValueError: The update has another shape than the matrix.
            RuntimeError: `finish` changed the totals, so that nothing can be added any more.
        """
        if self._finished:
            msg = "the ledger is finished; revert it or load a stored prefix before writing again"
            raise RuntimeError(msg)
        self._open(parameter)
        master = self._oriented(parameter, self._masters[parameter])
        if self._regularizer is not None:
            original = self._oriented(parameter, self._originals[parameter]).to(master.dtype)
            update = _beside(master, update)
            update = self._regularizer.on_write(update, original, master, self._generator())
        change = to_dense(update)
        if change.shape != master.shape:
            msg = f"an update of {parameter} must be {list(master.shape)}; got {list(change.shape)}"
            raise ValueError(msg)
        master += change.to(master)
        self._writes += 1
        self._store(parameter)

    def attach(self, path: str, module: nn.Module) -> None:
        """Put a module in the place of one of the model's (GRACE, WISE); `revert` takes it out again.

        `save` and `load` know weights only: an editor that attaches keeps what its module learnt in
        its `State` and attaches again in `Editor.resume`.

        Args:
            path: Full name of the submodule that is replaced.
            module: Usually holds the one it replaces; must have no hooks left on it.

        Raises:
            RuntimeError: Something is attached there already, or a regularizer is set: there is no
                update that it could change.
        """
        if self._regularizer is not None:
            name = type(self._regularizer).__name__
            msg = f"a module attached to the model has no update for {name} to change; use regularizer=none"
            raise RuntimeError(msg)
        if path in self._replaced:
            msg = f"{path} has an attached module already; detach it first"
            raise RuntimeError(msg)
        self._replaced[path] = self.model.network.get_submodule(path)
        self.model.network.set_submodule(path, module)

    def detach(self, path: str) -> None:
        """Put the model's own module back.

        Raises:
            KeyError: Nothing is attached at `path`.
        """
        self.model.network.set_submodule(path, self._replaced.pop(path))

    @property
    def attached(self) -> tuple[str, ...]:
        """Paths where a module stands in for the model's own."""
        return tuple(self._replaced)

    def finish(self) -> None:
        """Let the regularizer change the sum of all updates; call it once, after the last write."""
        if self._regularizer is None or self._finished:
            return
        for name, master in self._masters.items():
            original = self._oriented(name, self._originals[name]).to(master.dtype)
            total = self._oriented(name, master) - original
            final = self._regularizer.on_finish(total, original)
            if final is total:
                continue
            self._oriented(name, master).copy_(original + final.to(original))
            self._store(name)
            self._finished = True

    def revert(self) -> None:
        """Take out what is attached, put the original weights back bit for bit, forget all updates."""
        for path in self.attached:
            self.detach(path)
        for name, original in self._originals.items():
            self._assign(name, original)
        self._originals, self._masters = {}, {}
        self._writes, self._finished = 0, False

    def delta(self) -> dict[str, Tensor]:
        """Weight after minus weight before of every edited parameter.

        In the parameter's own layout and the master's precision, without the model's rounding.
        """
        return {
            name: master - self._originals[name].to(master.dtype)
            for name, master in self._masters.items()
        }

    def norms(self) -> dict[str, dict[str, float]]:
        """How large the changes are, for each edited parameter.

        Returns:
            parameter -> `update_norm` and `original_norm` (Frobenius), `relative` (their ratio) and
            `cast_loss`: norm of what the model's dtype could not hold of the update, over the
            update's norm.
        """
        rows = {}
        for name, delta in self.delta().items():
            original, master = self._originals[name].to(delta.dtype), self._masters[name]
            lost = self.model.parameter(name).detach().to(delta.dtype) - master
            update_norm, original_norm = delta.norm().item(), original.norm().item()
            rows[name] = {
                "update_norm": update_norm,
                "original_norm": original_norm,
                "relative": _ratio(update_norm, original_norm),
                "cast_loss": _ratio(lost.norm().item(), update_norm),
            }
        return rows

    def save(self, path: Path) -> None:
        """Write the masters as one safetensors file, aside and renamed; `load` brings them back.

        Args:
            path: Its folder must exist.
        """
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        tensors = {name: master.cpu().contiguous() for name, master in self._masters.items()}
        facts = {
            "writes": str(self._writes),
            "finished": str(int(self._finished)),
            "model": self.model.fingerprint(),
        }
        tensor_files.save_file(tensors, aside, metadata=facts)
        aside.replace(path)

    def load(self, path: Path) -> None:
        """Bring masters and weights to the stored state, bit for bit, whatever was written before.

        Args:
            path: Written by `save` over the same unedited model.

        Raises:
            ValueError: The file belongs to another model; nothing is changed then.
        """
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            masters = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts.get("model") != self.model.fingerprint():
            msg = (
                f"{path} was stored over other weights than this model's; remove it and edit again"
            )
            raise ValueError(msg)
        self.revert()
        for name, master in masters.items():
            self._open(name)
            self._masters[name].copy_(master)
            self._store(name)
        self._writes, self._finished = int(facts["writes"]), facts["finished"] == "1"

    def _open(self, name: str) -> None:
        """Keep the original of a parameter before its first change."""
        if name in self._masters:
            return
        weight = self.model.parameter(name).detach()
        precision = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self._originals[name] = weight.clone()
        self._masters[name] = weight.to(precision, copy=True)

    def _store(self, name: str) -> None:
        """Cast a master into the model."""
        self._assign(name, self._masters[name])

    def _assign(self, name: str, value: Tensor) -> None:
        with torch.no_grad():
            self.model.parameter(name).copy_(value)

    def _oriented(self, name: str, tensor: Tensor) -> Tensor:
        """`[d_out, d_in]` view of a tensor in the parameter's layout; nothing else transposes."""
        return tensor.T if self.model.is_transposed(name) else tensor

    def _generator(self) -> torch.Generator:
        """Depends on the seed and on how many updates were written, on nothing else."""
        return torch.Generator().manual_seed(self._seed * 1_000_003 + self._writes)


def _beside(master: Tensor, update: Update) -> Update:
    """The update where the master is: of a model on several devices it can come from another."""

    def moved(x: Tensor) -> Tensor:
        return x if x.device == master.device else x.to(master)

    if isinstance(update, LowRank):
        return LowRank(moved(update.left), moved(update.right))
    return Dense(moved(update.matrix))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
