"""Gradients of edits, token by token: what goes into a matrix, and what the loss wants of its output.

The gradient of a loss in a matrix W with output W x is a sum over tokens, `sum_t delta_t x_t^T`, with
`delta_t` the gradient in the output. MEND (arXiv 2110.11309, section 3) and UltraEdit work on these
pairs, not on the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edit_sweeps.editors.reading import rows_for
from edit_sweeps.hooks import capture, replace_output
from edit_sweeps.later import enable_grad, torch
from edit_sweeps.tokens import IGNORE, Line, Rows

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.model import EditableModel

Reduction = Literal["tokens", "rows", "sum"]


@dataclass(frozen=True)
class Pairs:
    """Both factors of one matrix's gradient, in the order of `EditGradients.rows`.

    Attributes:
        inputs: `[tokens, d_in]`, x.
        deltas: `[tokens, d_out]`, gradient of the loss in the module's output.
    """

    inputs: Tensor
    deltas: Tensor

    def dense(self) -> Tensor:
        """`[d_out, d_in]`, the gradient in the matrix."""
        return self.deltas.T @ self.inputs


@dataclass(frozen=True)
class EditGradients:
    """Of a list of lines; a token is one of the text, never padding.

    Attributes:
        nll: `[lines]`, mean over each target's tokens.
        pairs: Name of a weight -> its pairs, in float32 (float64 of such a model), on its device.
        rows: `[tokens]`, index of the line that a token is of; on the CPU.
        answers: `[tokens]`, true where a token of the target is predicted; on the CPU.
    """

    nll: Tensor
    pairs: Mapping[str, Pairs]
    rows: Tensor
    answers: Tensor


def edit_gradients(
    model: EditableModel,
    lines: Sequence[Line],
    names: Sequence[str],
    *,
    reduction: Reduction = "tokens",
    batch_size: int = 32,
) -> EditGradients:
    """Inputs and output gradients of some matrices for the NLL of each line's target.

    Nothing is left on the model, neither hooks nor gradients.

    Args:
        model: As it stands.
        lines: Each with a target.
        names: Full names of weights of linear modules, `[d_out, d_in]` or Conv1D.
        reduction: The loss of which these are gradients: `tokens` the mean over all tokens of all
            targets, `rows` the mean over lines of each target's mean, `sum` the sum over lines of
            that: each line's own gradient, whatever stands beside it.
        batch_size: Lines in one forward and backward pass; the result does not depend on it.

    Raises:
        ValueError: No lines, a line without target, or one that the model cannot take.
    """
    if not lines or not all(line.target for line in lines):
        msg = f"gradients need lines, each with a target; got {len(lines)} lines"
        raise ValueError(msg)
    batches = [
        rows_for(model, lines[start : start + batch_size])
        for start in range(0, len(lines), batch_size)
    ]
    n_tokens = sum(int(rows.target_mask.sum()) for rows in batches)
    share = {"tokens": 1 / n_tokens, "rows": 1 / len(lines), "sum": 1.0}[reduction]
    found = [_pass(model, rows, names, share, by_token=reduction == "tokens") for rows in batches]
    return EditGradients(
        nll=torch.cat([f.nll for f in found]),
        pairs={
            name: Pairs(
                torch.cat([f.pairs[name].inputs for f in found]),
                torch.cat([f.pairs[name].deltas for f in found]),
            )
            for name in names
        },
        rows=torch.cat([f.rows + i * batch_size for i, f in enumerate(found)]),
        answers=torch.cat([f.answers for f in found]),
    )


def target_nll(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of target tokens.

    Args:
        logits: `[rows, tokens, vocab]`.
        labels: `[rows, tokens]` with `IGNORE` where nothing is asked.

    Returns:
        `[asked]` NLL of each token in at least float32, and `[asked]` the row it is of.
    """
    labels = labels.to(logits.device)
    row, column = (labels != IGNORE).nonzero(as_tuple=True)
    logprobs = raised(logits[row, column]).log_softmax(-1)
    return -logprobs.gather(1, labels[row, column][:, None])[:, 0], row


def row_means(values: Tensor, row: Tensor, n_rows: int) -> Tensor:
    """`[rows]` means of `[asked]` values by the row they are of."""
    sums = values.new_zeros(n_rows).index_add(0, row, values)
    return sums / torch.bincount(row, minlength=n_rows)


def raised(x: Tensor) -> Tensor:
    """`x` in float32 where it was of lower precision."""
    return x if x.dtype == torch.float64 else x.float()


@enable_grad
def _pass(
    model: EditableModel, rows: Rows, names: Sequence[str], share: float, *, by_token: bool
) -> EditGradients:
    """One batch; `share` is the weight of a token (`by_token`) or of a row in the loss."""
    n_rows = len(rows.ids)
    modules = {n: model.network.get_submodule(n.removesuffix(".weight")) for n in names}
    zeros: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        inputs = hooks.enter_context(capture(modules, inputs=True, rows=n_rows))
        for name, module in modules.items():
            change = _adds_zero(zeros, name)
            hooks.enter_context(replace_output(module, change, rows=n_rows))
        logits = model.network(input_ids=rows.ids, attention_mask=rows.mask, use_cache=False).logits
    each, row = target_nll(logits, rows.labels)
    nll = row_means(each, row, n_rows)
    loss = share * (each.sum() if by_token else nll.sum())
    deltas = dict(zip(names, torch.autograd.grad(loss, [zeros[n] for n in names]), strict=True))
    text = rows.mask.cpu().bool()
    return EditGradients(
        nll=nll.detach(),
        pairs={
            name: Pairs(_tokens(inputs[name], text), _tokens(deltas[name], text)) for name in names
        },
        rows=text.nonzero()[:, 0],
        answers=rows.target_mask.cpu()[text],
    )


def _adds_zero(zeros: dict[str, Tensor], name: str) -> Callable[[Tensor], Tensor]:
    """Adds a zero that wants a gradient: no parameter has to, and in-place additions do no harm."""

    def change(output: Tensor) -> Tensor:
        zeros[name] = torch.zeros_like(output).requires_grad_()
        return output + zeros[name]

    return change


def _tokens(hidden: Tensor, text: Tensor) -> Tensor:
    """`[tokens, width]`: the positions of `[rows, tokens, width]` that are text."""
    return raised(hidden.detach()[text.to(hidden.device)])
