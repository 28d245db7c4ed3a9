"""GRACE (Hartvigsen et al., Aging with GRACE, arXiv 2211.11031): a codebook beside one matrix, weights untouched.

A token whose key (input of the matrix) lies within the radius of a codebook entry gets that entry's
value in place of the matrix's output. An edit looks up the key of its prompt's last token:

    nothing near:           a new entry, its value trained so that the model says the target
    near one of the same target:   that entry's radius grows to take the key in
    near one of another target:    both radii shrink to half the distance, and a new entry is trained

Every token is judged by its own key alone. The published code replaces from the prompt's last token on,
which it is told; an evaluation harness tells no one where a prompt ends. So here the value stands at
the prompt's last token only and is trained for the *whole* target from there; batches, padding, the
order of texts and a key-value cache make no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edit_sweeps.editors.base import Editor, State, Trace
from edit_sweeps.editors.gradients import target_nll
from edit_sweeps.editors.located import check_layers
from edit_sweeps.editors.reading import rows_for
from edit_sweeps.editors.settings import check_positive, the_only
from edit_sweeps.hooks import capture, replace_output
from edit_sweeps.later import enable_grad, no_grad, torch
from edit_sweeps.ledger import Ledger
from edit_sweeps.requests import EditRequest
from edit_sweeps.tokens import IGNORE, Line, Rows

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.editors.codebook import Codebook
    from edit_sweeps.model import EditableModel

MARGIN = 1e-5
"""Between the spheres of two entries that were split."""


@dataclass(frozen=True, kw_only=True)
class Grace(Editor):
    """Codebook at the MLP output matrix of one layer.

    Attributes:
        layer: The block.
        radius: Of a new entry, in the units of the key.
        lr: Of Adam on a value.
        steps: Passes at most.
        early_stop: Stop when the target's mean NLL is below.
    """

    layer: int
    radius: float = 1.0
    lr: float = 1.0
    steps: int = 50
    early_stop: float = 0.01

    one_at_a_time: ClassVar[bool] = True
    attaches: ClassVar[bool] = True

    def check(self, n_layers: int) -> None:
        """Refuse a layer outside the model and settings that cannot be."""
        check_layers((self.layer,), n_layers)
        check_positive(self, ("radius", "lr", "steps"))

    def resume(self, model: EditableModel, ledger: Ledger, state: State) -> None:
        """Attach the codebook of `state`."""
        self._codebook(model, ledger, state)

    def edit(
        self, model: EditableModel, requests: Sequence[EditRequest], ledger: Ledger, state: State
    ) -> list[Trace]:
        """Write one request.

        Raises:
            ValueError: Not exactly one request.
        """
        request = the_only(requests, "GRACE")
        codebook = self._codebook(model, ledger, state)
        rows = rows_for(model, [Line(request.prompt, request.subject, request.target_new)])
        column = int(rows.target_mask[0].nonzero()[0])
        key, start = _at(model, codebook, rows, column)
        target = rows.labels[0][rows.target_mask[0]].cpu()
        loss, steps = None, 0
        if self._place(state, key, target):
            codebook.fill(state, key.device)  # a neighbour's radius may have shrunk
            value, loss, steps = self._train(model, codebook, rows, column, start)
            _append(state, "values", value[None].cpu())
        codebook.fill(state, key.device)
        state.edits_done += 1
        entries = len(state.tensors["keys"])
        distance = (state.tensors["values"][-1].to(start) - start).norm().item()
        numbers = {"entries": float(entries), "value_change": distance if steps else 0.0}
        return [Trace(request.case_id, loss=loss, steps=steps, numbers=numbers)]

    def _codebook(self, model: EditableModel, ledger: Ledger, state: State) -> Codebook:
        """The attached one; attached now if it is not."""
        path = model.parameter_name(self.layer).removesuffix(".weight")
        if path not in ledger.attached:
            from edit_sweeps.editors.codebook import Codebook

            ledger.attach(path, Codebook(model.mlp_out(self.layer)))
        codebook = model.network.get_submodule(path)
        codebook.fill(state, next(codebook.inner.parameters()).device)
        return codebook

    def _place(self, state: State, key: Tensor, target: Tensor) -> bool:
        """Grow, split or add; true when a value must be found. Mutates `state.tensors`."""
        from edit_sweeps.editors.codebook import lookup

        key = key.cpu()
        known = state.tensors
        if "keys" in known:
            nearest, distance = (x.item() for x in lookup(key[None], known["keys"]))
            index, radius = int(nearest), known["radii"][int(nearest)].item()
            if distance <= self.radius + radius:
                given = known["targets"][index]
                if torch.equal(given[given != IGNORE], target):
                    known["radii"][index] = max(distance, radius)
                    return False
                half = max(distance / 2 - MARGIN, 0.0)
                known["radii"][index] = min(radius, half)
                self._add(state, key, target, half)
                return True
        self._add(state, key, target, self.radius)
        return True

    def _add(self, state: State, key: Tensor, target: Tensor, radius: float) -> None:
        _append(state, "keys", key[None])
        _append(state, "radii", key.new_tensor([radius]))
        _append(state, "targets", target[None])

    @enable_grad
    def _train(
        self, model: EditableModel, codebook: Codebook, rows: Rows, column: int, start: Tensor
    ) -> tuple[Tensor, float, int]:
        """The value at one column of the row, its loss, and the updates made."""
        value = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([value], lr=self.lr)
        steps = 0
        while True:

            def put(out: Tensor) -> Tensor:
                before, after = out[:, :column], out[:, column + 1 :]
                return torch.cat([before, value.to(out)[None, None], after], 1)

            with replace_output(codebook, put, rows=1):
                logits = model.network(
                    input_ids=rows.ids, attention_mask=rows.mask, use_cache=False
                ).logits
            loss = target_nll(logits, rows.labels)[0].mean()
            if steps == self.steps or not loss >= self.early_stop:
                return value.detach(), loss.item(), steps
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1


@no_grad
def _at(model: EditableModel, codebook: Codebook, rows: Rows, column: int) -> tuple[Tensor, Tensor]:
    """Key `[d_in]` and present output `[d_out]` of one token, in at least float32."""
    found = []
    for inputs in (True, False):
        with capture({0: codebook}, inputs=inputs, rows=1, stop_after=codebook) as seen:
            model.network(input_ids=rows.ids, attention_mask=rows.mask, use_cache=False)
        one = seen[0][0, column]
        found.append(one if one.dtype == torch.float64 else one.float())
    return found[0], found[1]


def _append(state: State, part: str, row: Tensor) -> None:
    """Add a row; targets of unequal length are padded."""
    before = state.tensors.get(part)
    if before is None:
        state.tensors[part] = row.clone()
        return
    if part == "targets":
        width = max(before.shape[1], row.shape[1])
        before, row = (
            torch.nn.functional.pad(x, (0, width - x.shape[1]), value=IGNORE) for x in (before, row)
        )
    state.tensors[part] = torch.cat([before, row])
