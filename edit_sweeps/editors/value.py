"""The optimised value: what an edited module should put out at the subject's last token (ROME's v*, MEMIT's z).

ROME (arXiv 2202.05262, eq. 4) and MEMIT (arXiv 2210.07229, eq. 7), with the details of the authors' code:
a shift is added to the module's output at the subject's last token in every row, the loss is

    mean over contexts of the target's negative log-likelihood a token
    + kl_factor KL(p || p0) of the next token at the subject's last token of "<subject> is a"
    + weight_decay |shift| / |start|^2

and Adam makes at most steps - 1 updates, the shift being cut to clamp |start| after each. Many edits are
optimised at once, each with its own loss, stop and clamp: the results are those of one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from edit_sweeps.editors.reading import Site, read_site, site_module
from edit_sweeps.hooks import replace_output
from edit_sweeps.model import EditableModel
from edit_sweeps.requests import EditRequest
from edit_sweeps.tokens import Rows

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
    """

    lr: float = 0.5
    steps: int = 20
    clamp: float = 4.0
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    early_stop: float = 0.05
    batch_size: int = 8

    def check(self) -> None:
        """Refuse settings that cannot be.

        Raises:
            ValueError: Names the setting, its value and what is allowed.
        """
        for name in ("lr", "steps", "clamp", "batch_size"):
            if not getattr(self, name) > 0:
                msg = f"editor.value.{name}={getattr(self, name)} must be greater than 0"
                raise ValueError(msg)
        for name in ("weight_decay", "kl_factor", "early_stop"):
            if not getattr(self, name) >= 0:
                msg = f"editor.value.{name}={getattr(self, name)} must be 0 or more"
                raise ValueError(msg)


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


@torch.enable_grad()
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
