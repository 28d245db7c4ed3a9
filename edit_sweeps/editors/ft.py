"""Fine-tuning of one MLP output matrix: FT, and FT-L with a bound on each weight's change.

The baselines of Meng et al. (arXiv 2202.05262, appendix E.1); the bound is of Zhu et al. (arXiv
2012.00363).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edit_sweeps.editors.base import Editor, State, Trace
from edit_sweeps.editors.located import check_layers
from edit_sweeps.editors.reading import rows_for
from edit_sweeps.editors.settings import check_positive
from edit_sweeps.later import enable_grad, no_grad, torch
from edit_sweeps.ledger import Dense, Ledger
from edit_sweeps.requests import EditRequest
from edit_sweeps.tokens import IGNORE, Line, Rows

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.model import EditableModel

LOSSES = ("target", "last_token")


@dataclass(frozen=True, kw_only=True)
class FineTune(Editor):
    """Adam on the MLP output matrix of one layer.

    Attributes:
        layer: The block.
        lr: Learning rate of Adam.
        steps: Passes over the batch of requests at most.
        early_stop: Stop when the mean loss is below.
        loss: `target`: negative log-likelihood of each token of the target after those before it.
            `last_token`: of all its tokens at the last token of the prompt, as in the authors'
            code.
        max_change: Bound on the change of any one weight in one call; None for none.
        batch_size: Requests in one update.
    """

    dense: ClassVar[bool] = True

    layer: int
    lr: float = 5e-4
    steps: int = 25
    early_stop: float = 1e-2
    loss: str = "target"
    max_change: float | None = None
    batch_size: int = 64

    def check(self, n_layers: int) -> None:
        """Refuse a layer outside the model and settings that cannot be."""
        check_layers((self.layer,), n_layers)
        check_positive(self, ("lr", "steps", "batch_size", "max_change"))
        if self.loss not in LOSSES:
            msg = f"editor.loss={self.loss} is not known; choose one of {', '.join(LOSSES)}"
            raise ValueError(msg)

    def edit(
        self, model: EditableModel, requests: Sequence[EditRequest], ledger: Ledger, state: State
    ) -> list[Trace]:
        """Train a change of the matrix on all requests together, then write it."""
        name = model.parameter_name(self.layer)
        weight = model.parameter(name).detach()
        precision = torch.float64 if weight.dtype == torch.float64 else torch.float32
        change = torch.zeros_like(weight, dtype=precision)
        batches = [
            _lay_out(model, requests[i : i + self.batch_size])
            for i in range(0, len(requests), self.batch_size)
        ]
        losses, steps = self._train(model, name, change, batches)
        size, original = change.norm().item(), weight.to(precision).norm().item()
        ledger.write(name, Dense(change.T if model.is_transposed(name) else change))
        state.edits_done += len(requests)
        numbers = {"update_norm": size, "update_norm_relative": size / original}
        return [
            Trace(request.case_id, loss=loss, steps=steps, numbers=dict(numbers))
            for request, loss in zip(requests, losses.tolist(), strict=True)
        ]

    @enable_grad
    def _train(
        self, model: EditableModel, name: str, change: Tensor, batches: Sequence[Rows]
    ) -> tuple[Tensor, int]:
        """Mutates `change`, in the parameter's own layout.

        Returns:
            `[requests]` losses of the last forward pass, and the number of passes that made an
            update.
        """
        change.requires_grad_()
        weight, dtype = model.parameter(name).detach().to(change.dtype), model.parameter(name).dtype
        optimizer = torch.optim.Adam([change], lr=self.lr)
        losses, steps = torch.empty(0), 0
        for _ in range(self.steps):
            found, updated = [], False
            for rows in batches:
                each = self._losses(model, {name: (weight + change).to(dtype)}, rows)
                found.append(each.detach().cpu())
                loss = each.mean()
                if loss.isfinite() and loss >= self.early_stop:
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    updated = True
                    self._cut(change)
            losses = torch.cat(found)
            steps += updated
            if not updated or losses.mean() < self.early_stop:
                break
        change.requires_grad_(requires_grad=False)
        return losses, steps

    @no_grad
    def _cut(self, change: Tensor) -> None:
        if self.max_change is not None:
            change.clamp_(-self.max_change, self.max_change)

    def _losses(self, model: EditableModel, edited: dict[str, Tensor], rows: Rows) -> Tensor:
        """`[rows]`, mean over each target's tokens."""
        inputs = {"input_ids": rows.ids, "attention_mask": rows.mask, "use_cache": False}
        logits = torch.func.functional_call(model.network, edited, (), inputs).logits
        labels = rows.labels.to(logits.device)
        asked = labels != IGNORE
        row, column = asked.nonzero(as_tuple=True)
        if self.loss == "last_token":
            column = asked.int().argmax(1)[row]
        precision = torch.float64 if logits.dtype == torch.float64 else torch.float32
        logprobs = logits[row, column].to(precision).log_softmax(-1)
        each = -logprobs.gather(1, labels[asked][:, None])[:, 0]
        return each.new_zeros(len(labels)).index_add(0, row, each) / asked.sum(1)


def _lay_out(model: EditableModel, requests: Sequence[EditRequest]) -> Rows:
    lines = [Line(r.prompt, r.subject, r.target_new) for r in requests]
    return rows_for(model, lines)
