"""The seam every editing method fills: `Editor`, and what travels through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edit_sweeps.ledger import Ledger
from edit_sweeps.moment import Moment
from edit_sweeps.moments import MomentSettings, MomentStore
from edit_sweeps.requests import EditRequest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edit_sweeps.model import EditableModel


@dataclass(frozen=True)
class Stores:
    """Where `Editor.prepare` finds and leaves what is worked out once for each model.

    Attributes:
        moments: Second moments.
        cache_dir: Its sub-folders are shared by all studies; hyper-networks go to `hypernets/`.
    """

    moments: MomentStore
    cache_dir: Path

    @classmethod
    def at(cls, settings: MomentSettings, cache_dir: Path) -> Stores:
        """Both below `cache_dir`."""
        return cls(MomentStore(settings, cache_dir), cache_dir)


@dataclass(frozen=True)
class Prepared:
    """What an editor works out once on the unedited model; the same for all cells of a trajectory.

    Attributes:
        moments: Layer -> second moment of the keys of that layer.
        contexts: Groups of templates with one `{}` where the prompt goes; a group counts once in a mean.
        hypernet: Trained network that computes updates (MEND); None for all others.
    """

    moments: Mapping[int, Moment] = field(default_factory=dict)
    contexts: tuple[tuple[str, ...], ...] = (("{}",),)
    hypernet: nn.Module | None = None


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

    attaches: ClassVar[bool] = False
    """Whether the method puts a module into the model instead of changing weights (GRACE, WISE).

    Such an edit has no delta: regularizers and every `save` refuse it.
    """

    dense: ClassVar[bool] = False
    """Whether changes are of full rank by their nature (FT); `save=adapter` refuses such an editor."""

    def check(self, n_layers: int) -> None:  # noqa: B027  # most editors add to it, `none` does not
        """Refuse hyper-parameters that a model with `n_layers` blocks cannot have.

        Called before anything runs.

        Raises:
            ValueError: Says what was given and what is allowed.
        """

    def prepare(self, model: EditableModel, stores: Stores) -> Prepared:  # noqa: ARG002
        """Statistics, contexts or a hyper-network from the *unedited* model; cached on disk."""
        return Prepared()

    def start(self, model: EditableModel, prepared: Prepared) -> State:  # noqa: ARG002
        """The state before the first batch."""
        return State(prepared)

    def resume(self, model: EditableModel, ledger: Ledger, state: State) -> None:  # noqa: B027
        """Bring back what neither the ledger nor `state` can by themselves: attached modules.

        Called once after a stored prefix was loaded; mutates the model (by `ledger`).
        """

    @abstractmethod
    def edit(
        self, model: EditableModel, requests: Sequence[EditRequest], ledger: Ledger, state: State
    ) -> list[Trace]:
        """Write `requests` as ONE batch through `ledger`; mutates the model (by the ledger) and `state`."""
