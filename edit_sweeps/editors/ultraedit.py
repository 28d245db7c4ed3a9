"""UltraEdit (Gu et al., arXiv 2505.14679): edits from one backward pass, without training, subjects or a second moment.

For the answer tokens of a batch, h [T, d_in] the inputs of a matrix and g [T, d_out] the gradients of
the loss in its outputs:

    (h^, g^) = normalised by the running mean and deviation over all edits so far    (lifelong normalisation)
    v_t = -lr |h^_t|^2 g^_t
    Delta = V^T H (H^T H + ridge I)^-1 = V^T (H H^T + ridge I)^-1 H

The statistics are shared by matrices of one shape, as in the authors' code. Its loss is the mean over
the tokens of all targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edit_sweeps.editors.base import Editor, State, Trace
from edit_sweeps.editors.gradients import EditGradients, edit_gradients
from edit_sweeps.editors.kernel import exact
from edit_sweeps.editors.located import check_layers
from edit_sweeps.editors.settings import check_matrices, check_positive, mlp_names
from edit_sweeps.later import torch
from edit_sweeps.ledger import Ledger, LowRank
from edit_sweeps.requests import EditRequest
from edit_sweeps.tokens import Line

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.model import EditableModel

TINY = 1e-7
"""Added to deviations."""


@dataclass(frozen=True, kw_only=True)
class UltraEdit(Editor):
    """Normalised gradients, solved for the matrices in closed form.

    Attributes:
        layers: The blocks.
        matrices: `mlp_out` the output matrix of the MLP, `mlp_in` those before it, `mlp` all.
        lr: Size of the wanted change of outputs.
        ridge: On the update; published: 1.
        batch_size: Requests in one forward and backward pass.
    """

    layers: Sequence[int]
    matrices: str = "mlp_out"
    lr: float = 1e-6
    ridge: float = 1.0
    batch_size: int = 32

    def check(self, n_layers: int) -> None:
        """Refuse layers outside the model and settings that cannot be."""
        check_layers(sorted(self.layers), n_layers)
        check_matrices(self.matrices)
        check_positive(self, ("lr", "ridge", "batch_size"))

    def names(self, model: EditableModel) -> list[str]:
        """Full names of the matrices written."""
        return mlp_names(model, self.layers, self.matrices)

    def edit(
        self, model: EditableModel, requests: Sequence[EditRequest], ledger: Ledger, state: State
    ) -> list[Trace]:
        """Write requests as one batch."""
        lines = [Line(r.prompt, r.subject, r.target_new) for r in requests]
        found = edit_gradients(model, lines, self.names(model), batch_size=self.batch_size)
        pairs = answers_of(found)
        for inputs, deltas in pairs.values():
            observe(state, shape_of(inputs, deltas), torch.cat([inputs, deltas], 1))
        squares = weights = 0.0
        for name, (inputs, deltas) in pairs.items():
            update = self._update(inputs, deltas, state)
            gram = (update.left.T @ update.left) * (update.right.T @ update.right)
            squares += gram.sum().clamp(min=0).item()
            weights += model.parameter(name).double().square().sum().item()
            ledger.write(name, update)
        state.edits_done += len(requests)
        numbers = {"update_norm": squares**0.5, "update_norm_relative": (squares / weights) ** 0.5}
        return [
            Trace(request.case_id, loss=loss, numbers=dict(numbers))
            for request, loss in zip(requests, found.nll.tolist(), strict=True)
        ]

    def _update(self, inputs: Tensor, deltas: Tensor, state: State) -> LowRank:
        """Of one matrix; in float64."""
        mean, deviation = moments_of(state, shape_of(inputs, deltas))
        both = torch.cat([inputs, deltas], 1)
        hat = (both - mean.to(both)) / deviation.to(both)
        hat_inputs, hat_deltas = hat.split([inputs.shape[1], deltas.shape[1]], 1)
        wanted = -self.lr * hat_inputs.square().sum(1, keepdim=True) * hat_deltas
        gram = inputs @ inputs.T
        gram.diagonal().add_(self.ridge)
        return LowRank(left=wanted.T, right=torch.linalg.solve(gram, inputs).T)


def answers_of(found: EditGradients) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight -> `[T, d_in]` and `[T, d_out]` in float64 of the tokens where the target is predicted."""
    return {
        name: (
            exact(pair.inputs[found.answers.to(pair.inputs.device)]),
            exact(pair.deltas[found.answers.to(pair.deltas.device)]),
        )
        for name, pair in found.pairs.items()
    }


def shape_of(inputs: Tensor, deltas: Tensor) -> str:
    """Name under which statistics are kept."""
    return f"{deltas.shape[1]}x{inputs.shape[1]}"


def observe(state: State, shape: str, rows: Tensor) -> None:
    """Take `[T, width]` into the running mean and squared deviations; mutates `state.tensors`."""
    rows = rows.cpu()
    count, mean, squares = (
        state.tensors.get(
            f"{part}.{shape}", rows.new_zeros(() if part == "count" else rows.shape[1])
        )
        for part in ("count", "mean", "squares")
    )
    total, gap = count + len(rows), rows.mean(0) - mean
    state.tensors[f"squares.{shape}"] = (
        squares + (rows - rows.mean(0)).square().sum(0) + gap.square() * count * len(rows) / total
    )
    state.tensors[f"mean.{shape}"] = mean + gap * len(rows) / total
    state.tensors[f"count.{shape}"] = total


def moments_of(state: State, shape: str) -> tuple[Tensor, Tensor]:
    """Mean and deviation `[width]`; of a coordinate that never varied (one token alone) the deviation is 1."""
    count, mean, squares = (state.tensors[f"{p}.{shape}"] for p in ("count", "mean", "squares"))
    deviation = (squares / (count - 1).clamp(min=1)).sqrt()
    return mean, torch.where(deviation > 0, deviation, torch.ones_like(deviation)) + TINY
