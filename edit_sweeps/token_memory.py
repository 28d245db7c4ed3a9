"""Prompts are tokenised once for all the weights that score them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any


class TokenMemory:
    """Token ids of strings under one tokenizer; another tokenizer empties it.

    Prompts are the same for all weights, and at the size of the real data sets tokenising them
    takes as long as building them (20 s for the eight tasks).
    """

    def __init__(self) -> None:
        self._tokenizer: Any = None
        self._ids: dict[tuple[str, bool | None], array[int]] = {}

    def serve(self, tokenizer: Any) -> None:
        """Keep what is known if it is of this very tokenizer."""
        if tokenizer is not self._tokenizer:
            self._tokenizer, self._ids = tokenizer, {}

    def get(self, string: str, special: bool | None) -> list[int] | None:
        """The ids, a list of one's own; None when the string has not been seen."""
        known = self._ids.get((string, special))
        return None if known is None else known.tolist()

    def keep(self, string: str, special: bool | None, ids: Sequence[int]) -> None:
        """Remember the ids in four bytes each."""
        self._ids[string, special] = array("i", ids)
