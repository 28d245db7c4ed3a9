"""What training texts and test items are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Role = Literal["prompt", "answer", "label"]
"""How much a piece of text counts in training: little, fully, or (one-word labels) threefold."""


class Segment(NamedTuple):
    """A piece of a document that has one weight in the loss."""

    text: str
    role: Role


@dataclass(frozen=True)
class Document:
    """A training text.

    Attributes:
        segments: The pieces of the text, in order.
        recalls_facts: Its answers are facts about the subjects it names, so that attention to their
            names may be
            masked (see `masking.py`).
    """

    segments: tuple[Segment, ...]
    recalls_facts: bool = False

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(segment.text for segment in self.segments)


@dataclass(frozen=True, kw_only=True)
class Item:
    """A task item: a prompt, the right answer and, for multiple choice, all answers to choose from.

    The answer follows the prompt after a space.
    """

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    recalls_facts: bool = False

    def document(self, role: Role = "answer") -> Document:
        """The training text that teaches this item."""
        segments = (Segment(self.prompt, "prompt"), Segment(f" {self.answer}", role))
        return Document(segments, self.recalls_facts)
