"""A small world and two models of a million parameters that know it: made for a laptop.

The world is in `world.py`, the recipe in `train.py`, both explained in ``docs/miniature.md``.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from edit_sweeps.miniature.documents import document_stream
from edit_sweeps.miniature.world import build_world

CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""Holds the trained models, ``gpt2/`` and ``llama/``."""

DATA = Path(__file__).parent / "data"
"""Holds ``requests.jsonl`` and the test items of the eight tasks."""


def training_text(n_documents: int, seed: int) -> list[str]:
    """The world's own training text, for second moments and contexts; imports no torch."""
    return [document.text for document in islice(document_stream(build_world(), seed), n_documents)]
