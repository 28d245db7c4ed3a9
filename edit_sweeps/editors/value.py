"""The optimised value: what a module should put out for an edit (v* of ROME, z of MEMIT).

ROME (arXiv 2202.05262, eq. 4) and MEMIT (arXiv 2210.07229, section 4.3), with the details of the authors'
code: a shift is added to the module's output at the subject's last token in every row, the loss is

    mean over contexts of the target's negative log-likelihood a token
    + kl_factor KL(p || p0) of the next token at the subject's last token of "<subject> is a"
    + weight_decay |shift| / |start|^2

and Adam makes at most steps - 1 updates, the shift being cut to clamp |start| after each. Many
edits are optimised at once, each with its own loss, stop and clamp: the results are those of one at
a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from edit_sweeps.editors.base import Trace
from edit_sweeps.editors.reading import Site, read_outputs, rows_for
from edit_sweeps.editors.settings import check_positive
from edit_sweeps.editors.shifted import Shifted, Whole
from edit_sweeps.editors.suffix import Suffix, can_be_cut
from edit_sweeps.later import enable_grad, torch
from edit_sweeps.requests import EditRequest
from edit_sweeps.tokens import IGNORE, Line

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.model import EditableModel

KL_PROMPT = "{} is a"
BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True)
class ValueSettings:
    """How a value is optimised.

    Attributes:
        lr: Learning rate of Adam.
        steps: Forward passes; the last makes no update.
        clamp: Bound on |shift| / |start|.
        weight_decay: Weight of |shift| / |start|^2.
        kl_factor: Weight of the divergence from the unshifted model's next token.
        early_stop: An edit stops when its whole loss is below.
        batch_size: Edits in one forward pass; a matter of memory and speed only.
        fast: Run what stands before the shift once and keep it (`suffix.Suffix`), where
            `suffix.can_be_cut`; the same up to rounding.
    """

    lr: float = 0.5
    steps: int = 20
    clamp: float = 4.0
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    early_stop: float = 0.05
    batch_size: int = 8
    fast: bool = True

    def check(self) -> None:
        """Refuse settings that cannot be.

        Raises:
            ValueError: Names the setting, its value and what is allowed.
        """
        check_positive(self, ("lr", "steps", "clamp", "batch_size"), where="editor.value")
        for name in ("weight_decay", "kl_factor", "early_stop"):
            if not getattr(self, name) >= 0:
                msg = f"editor.value.{name}={getattr(self, name)} must be 0 or more"
                raise ValueError(msg)

    def loss(self, nll: Tensor, kl: Tensor, decay: Tensor, said: Tensor) -> Tensor:  # noqa: ARG002
        """`[edits]`, what is minimised; `said`: the target is the most probable text under every context."""
        return nll + self.kl_factor * kl + self.weight_decay * decay

    def over(self, loss: Tensor, kl: Tensor, said: Tensor, since: Tensor) -> Tensor:  # noqa: ARG002
        """`[edits]`, which have gone far enough; `since`: updates since the target was first said, -1 before."""
        return loss < self.early_stop


@dataclass(frozen=True, kw_only=True)
class SaidValueSettings(ValueSettings):
    """Most-probable early stopping (ENCORE, arXiv 2502.01636, section 4): enough said is enough.

    Attributes:
        stop_after: Updates still made after the target has first become the most probable text
            under every context.
    """

    stop_after: int = 3

    def check(self) -> None:
        """As `ValueSettings.check`; also refuse a negative count."""
        super().check()
        if not self.stop_after >= 0:
            msg = f"editor.value.stop_after={self.stop_after} must be 0 or more"
            raise ValueError(msg)

    def over(self, loss: Tensor, kl: Tensor, said: Tensor, since: Tensor) -> Tensor:
        """Whichever comes first."""
        return super().over(loss, kl, said, since) | (since >= self.stop_after)


@dataclass(frozen=True, kw_only=True)
class CalmValueSettings(ValueSettings):
    """PMET's loss (arXiv 2308.08742, section 4.2): once the target is said, only calm counts.

    Attributes:
        said_weight: Of the negative log-likelihood once the target is the most probable text under
            every context.
        calm: An edit stops when it is said and its divergence is at most this.
    """

    said_weight: float = 0.1
    calm: float = 0.01

    def loss(self, nll: Tensor, kl: Tensor, decay: Tensor, said: Tensor) -> Tensor:
        """As above."""
        return super().loss(nll.where(~said, self.said_weight * nll), kl, decay, said)

    def over(self, loss: Tensor, kl: Tensor, said: Tensor, since: Tensor) -> Tensor:  # noqa: ARG002
        """Said, still, and calm."""
        return said & (kl <= self.calm)


@dataclass(frozen=True)
class Values:
    """Optimised values, one row for each edit, and how the optimisation went.

    Attributes:
        start: `[edits, d_out]`, output of the module for the bare prompt.
        shift: `[edits, d_out]`, what was added to it.
        loss: `[edits]`, total loss at the end.
        nll: `[edits]`, its first term.
        steps: `[edits]`, updates made.
        clamped: `[edits]`, whether the shift ended on its bound.
    """

    start: Tensor
    shift: Tensor
    loss: Tensor
    nll: Tensor
    steps: Tensor
    clamped: Tensor

    @property
    def value(self) -> Tensor:
        """`[edits, d_out]`, the wanted output."""
        return self.start + self.shift

    def traces(self, requests: Sequence[EditRequest], **more: Tensor) -> list[Trace]:
        """One trace for each edit.

        Args:
            requests: In the order of the rows.
            **more: Further figures, `[edits]` each.
        """
        numbers = {
            "nll": self.nll,
            "start_norm": self.start.norm(dim=-1),
            "shift_norm": self.shift.norm(dim=-1),
            "value_norm": self.value.norm(dim=-1),
            **more,
        }
        return [
            Trace(
                request.case_id,
                loss=self.loss[i].item(),
                steps=int(self.steps[i]),
                clamp_hit=bool(self.clamped[i]),
                numbers={name: figure[i].item() for name, figure in numbers.items()},
            )
            for i, request in enumerate(requests)
        ]


@enable_grad
def optimise_values(
    model: EditableModel,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    site: Site,
    settings: ValueSettings,
) -> Values:
    """Optimise one value for each request on the model as it stands.

    Args:
        model: Not changed.
        requests: The facts.
        contexts: Templates with one `{}` where the prompt goes.
        site: The module whose output is shifted.
        settings: Of the optimisation.
    """
    size = settings.batch_size
    parts = [
        _optimise(model, requests[i : i + size], contexts, site, settings)
        for i in range(0, len(requests), size)
    ]
    return Values(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Values)))


def _optimise(
    model: EditableModel,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    site: Site,
    settings: ValueSettings,
) -> Values:
    """`optimise_values` of requests that go through the model together."""
    lines = [
        line
        for r in requests
        for line in (
            *(Line(r.prompt, r.subject, r.target_new, text) for text in contexts),
            Line(KL_PROMPT, r.subject),
        )
    ]
    rows = rows_for(model, lines)
    way = Suffix if settings.fast and can_be_cut(model, rows) else Whole
    shifted = way(model, site.modules(model), rows, len(contexts) + 1)
    precision = torch.float64 if model.dtype == torch.float64 else torch.float32
    start = read_outputs(model, requests, site).T.to(precision)
    descent = _Descent(start, settings, parts=len(site.modules(model)))
    active = torch.arange(len(requests), device=start.device)
    before = None
    for step in range(settings.steps):
        shift = descent.shift[active].requires_grad_()
        nll, now, said = _predictions(shifted, active, shift, precision)
        before = now.detach() if before is None else before
        kl = (now.exp() * (now - before[active.to(now.device)])).sum(-1).to(shift.device)
        sizes, starts = descent.norms(shift), descent.norms(start[active])
        loss = settings.loss(nll, kl, (sizes / starts**2).sum(-1), said)
        further = descent.note(active, loss.detach(), nll.detach(), kl.detach(), said)
        going = further & (step < settings.steps - 1)
        if not going.any():
            break
        (gradient,) = torch.autograd.grad(loss[going].sum(), shift)
        active = active[going]
        descent.update(active, gradient[going])
    return descent.values()


class _Descent:
    """Shifts of several edits under Adam, each with its own stop and bound.

    Adam works on each number by itself, so that edits that have stopped do not disturb the others.
    """

    def __init__(self, start: Tensor, settings: ValueSettings, parts: int) -> None:
        self._start, self._settings, self._parts = start, settings, parts
        self._bound = settings.clamp * self.norms(start)
        self.shift, self._mean, self._square = (torch.zeros_like(start) for _ in range(3))
        self._loss, self._nll = start.new_zeros(2, len(start))
        self._steps = torch.zeros(len(start), dtype=torch.long, device=start.device)
        self._clamped = torch.zeros(len(start), dtype=torch.bool, device=start.device)
        self._said_at = torch.full_like(self._steps, -1)

    def norms(self, x: Tensor) -> Tensor:
        """`[edits, parts]`, the norm of each module's share of `[edits, parts * d_out]`."""
        return x.unflatten(-1, (self._parts, -1)).norm(dim=-1)

    def note(self, edits: Tensor, loss: Tensor, nll: Tensor, kl: Tensor, said: Tensor) -> Tensor:
        """Keep the losses of some edits; true where one has further to go."""
        self._loss[edits], self._nll[edits] = loss, nll
        steps, at = self._steps[edits], self._said_at[edits]
        at = at.where((at >= 0) | ~said, steps)
        self._said_at[edits] = at
        since = (steps - at).where(at >= 0, -1)
        return ~self._settings.over(loss, kl, said, since) & loss.isfinite()

    def update(self, edits: Tensor, gradient: Tensor) -> None:
        """One step of Adam for edits that never paused, then the cut to the bound."""
        self._steps[edits] += 1
        count = int(self._steps[edits[0]])
        mean = BETAS[0] * self._mean[edits] + (1 - BETAS[0]) * gradient
        square = BETAS[1] * self._square[edits] + (1 - BETAS[1]) * gradient**2
        self._mean[edits], self._square[edits] = mean, square
        scale = (square / (1 - BETAS[1] ** count)).sqrt() + EPSILON
        shift = self.shift[edits] - self._settings.lr / (1 - BETAS[0] ** count) * mean / scale
        norm, bound = self.norms(shift), self._bound[edits]
        over = norm > bound
        parts = shift.unflatten(-1, (self._parts, -1))
        cut = torch.where(over[..., None], parts * bound[..., None] / norm[..., None], parts)
        self.shift[edits] = cut.flatten(1)
        self._clamped[edits] = over.any(-1)

    def values(self) -> Values:
        """What was found."""
        return Values(self._start, self.shift, self._loss, self._nll, self._steps, self._clamped)


def _predictions(
    shifted: Shifted, edits: Tensor, shift: Tensor, precision: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Negative log-likelihoods of the targets, and what the KL row says next.

    Returns:
        `[edits]`, the mean over contexts of the mean over the target's tokens, on the device of
        `shift`; `[edits, vocab]` log-probabilities; `[edits]`, whether every token of the target is
        the most probable one under every context.
    """
    logits = shifted.logits(edits, shift)
    place = edits.to(logits.device)
    labels = shifted.kept.labels.to(logits.device)[place]
    column = shifted.kept.kl_column.to(logits.device)[place]
    now = logits[torch.arange(len(edits), device=logits.device), -1, column]
    asked = labels != IGNORE
    logprobs = logits[asked].to(precision).log_softmax(-1)
    each = logprobs.gather(1, labels[asked][:, None])[:, 0]
    n_contexts = labels.shape[1] - 1
    counts = (n_contexts * asked.sum(-1, keepdim=True)).expand_as(asked)[asked]
    nll = each.new_zeros(len(edits)).index_add(0, asked.nonzero()[:, 0], -each / counts)
    missed = logits[asked].argmax(-1) != labels[asked]
    misses = torch.zeros_like(nll).index_add(0, asked.nonzero()[:, 0], missed.to(nll.dtype))
    said = (misses == 0).to(shift.device)
    return nll.to(shift.device), now.to(precision).log_softmax(-1), said
