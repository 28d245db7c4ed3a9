"""The seam every editing method fills: `Editor`, and what travels through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from edit_sweeps.ledger import Ledger
from edit_sweeps.model import EditableModel
from edit_sweeps.moments import Moment, MomentStore
from edit_sweeps.requests import EditRequest


@dataclass(frozen=True)
class Prepared:
    """What an editor works out once on the unedited model; the same for all cells of a trajectory.

    Attributes:
        moments: Layer -> second moment of the keys of that layer.
        contexts: Groups of templates with one `{}` where the prompt goes; a group counts once in a mean.
    """

    moments: Mapping[int, Moment] = field(default_factory=dict)
    contexts: tuple[tuple[str, ...], ...] = (("{}",),)


@dataclass
class State:
    """What outlives a batch.

    Attributes:
        prepared: From `Editor.prepare`.
        tensors: Named tensors (AlphaEdit's keys ...), stored with every prefix of a trajectory.
        edits_done: Requests written so far in this trajectory.
    """

    prepared: Prepared
    tensors: dict[str, Tensor] = field(default_factory=dict)
    edits_done: int = 0


@dataclass(frozen=True)
class Trace:
    """The course of one edit, for the record.

    Attributes:
        case_id: Of the request.
        loss: Final total loss of the optimisation; None where there is none.
        steps: Updates made.
        clamp_hit: Whether the shift ended on its norm bound.
        numbers: Further figures: `nll`, `shift_norm`, `value_norm`, `update_norm`, `update_norm_relative` ...
    """

    case_id: str
    loss: float | None = None
    steps: int = 0
    clamp_hit: bool = False
    numbers: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Flat, for JSON."""
        return {
            "case_id": self.case_id,
            "loss": self.loss,
            "steps": self.steps,
            "clamp_hit": self.clamp_hit,
            **self.numbers,
        }


class Editor(ABC):
    """A method that changes weights.

    Subclasses are frozen keyword-only dataclasses whose fields are the method's hyper-parameters; Hydra builds
    them from `conf/editor/<name>.yaml` by `_target_`.
    """

    one_at_a_time: ClassVar[bool] = False
    """Whether `edit` accepts exactly one request (ROME); such an editor refuses `edits=batch`."""

    def check(self, n_layers: int) -> None:  # noqa: B027  # most editors add to it, `none` does not
        """Refuse hyper-parameters that a model with `n_layers` blocks cannot have.

        Called before anything runs.

        Raises:
            ValueError: Says what was given and what is allowed.
        """

    def prepare(self, model: EditableModel, store: MomentStore) -> Prepared:  # noqa: ARG002
        """Statistics, contexts or a hyper-network from the *unedited* model; cached on disk by the store."""
        return Prepared()

    def start(self, model: EditableModel, prepared: Prepared) -> State:  # noqa: ARG002
        """The state before the first batch."""
        return State(prepared)

    @abstractmethod
    def edit(
        self, model: EditableModel, requests: Sequence[EditRequest], ledger: Ledger, state: State
    ) -> list[Trace]:
        """Write `requests` as ONE batch through `ledger`; mutates the model (by the ledger) and `state`."""
