"""No edit: what the baseline's cells run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edit_sweeps.editors.base import Editor, State, Trace
from edit_sweeps.ledger import Ledger
from edit_sweeps.requests import EditRequest

if TYPE_CHECKING:
    from edit_sweeps.model import EditableModel


@dataclass(frozen=True, kw_only=True)
class NoEdit(Editor):
    """Leaves the model as it is."""

    def edit(
        self,
        model: EditableModel,  # noqa: ARG002
        requests: Sequence[EditRequest],
        ledger: Ledger,  # noqa: ARG002
        state: State,  # noqa: ARG002
    ) -> list[Trace]:
        """Write nothing."""
        return [Trace(request.case_id) for request in requests]
