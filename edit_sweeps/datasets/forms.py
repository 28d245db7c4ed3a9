"""The table of forms that `dataset.format` names. A new data set is a reader beside this file and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edit_sweeps.data_files import RequestError
from edit_sweeps.datasets import (
    counterfact,
    knowedit,
    mquake,
    qaedit,
    rippleedits,
    wikibigedit,
    zsre,
)
from edit_sweeps.datasets.building import Fields
from edit_sweeps.request_forms import from_line

Reader = Callable[[Any, int], list[Fields]]
"""(item of a file, its number from 0) -> fields of its requests; raises `FieldError`."""


@dataclass(frozen=True)
class Form:
    """How the items of a data set are read.

    Attributes:
        read: The reader.
        targets: Where the data offer several answers to write: `dataset.target` -> the reader that
            writes it. The first is the default, and `read` too.
    """

    read: Reader
    targets: Mapping[str, Reader] = field(default_factory=dict)

    def reader(self, target: str | None) -> Reader:
        """The reader that writes `target`; None for the default.

        Raises:
            RequestError: The form offers no such target.
        """
        if target is None:
            return self.read
        if target not in self.targets:
            allowed = f"one of {', '.join(self.targets)}, or null" if self.targets else "null"
            msg = f"dataset.target={target}: with this dataset.format it must be {allowed}"
            raise RequestError(msg)
        return self.targets[target]


def _own(item: Any, _: int) -> list[Fields]:
    return [from_line(item)]


FORMS: Mapping[str, Form] = {
    "miniature": Form(_own),
    "jsonl": Form(_own),
    "counterfact": Form(counterfact.read_counterfact),
    "counterfact_flat": Form(counterfact.read_flat),
    "zsre": Form(
        zsre.read_alternative, {"alt": zsre.read_alternative, "answers": zsre.read_answer}
    ),
    "qaedit": Form(qaedit.read_qaedit),
    "knowedit": Form(knowedit.read_knowedit),
    "mquake": Form(mquake.read_mquake),
    "rippleedits": Form(rippleedits.read_rippleedits),
    "wikibigedit": Form(wikibigedit.read_wikibigedit),
}
