"""One editing run whose prefixes are stored: num_edits=1,10,100 are three prefixes of the same trajectory.

A cell starts from the longest stored prefix of its own trajectory. That gives nested edit counts, resume after
a kill, and `num_edits=120` added later. Correctness never depends on it: without a stored prefix the same
weights come out, bit for bit.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from edit_sweeps.editors.base import Editor, Prepared, State
from edit_sweeps.ledger import Ledger
from edit_sweeps.model import EditableModel
from edit_sweeps.record import write_json
from edit_sweeps.requests import EditRequest

log = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0
"""A killed run loses at most this much editing, and the batch under way."""


class Trajectory:
    """Edits `model` along one sequence of requests; the model must be unedited at construction.

    Args:
        folder: Where prefixes are stored, one folder for each edit count.
        model: Mutated through `ledger`.
        editor: The method.
        ledger: The only thing that changes a weight.
        prepared: Of `editor.prepare` on the unedited model.
        batch_size: Requests written at a time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        model: EditableModel,
        editor: Editor,
        ledger: Ledger,
        prepared: Prepared,
        batch_size: int,
    ) -> None:
        self.folder = folder
        self.model = model
        self.editor = editor
        self.ledger = ledger
        self.prepared = prepared
        self.batch_size = batch_size

    def advance(self, requests: Sequence[EditRequest]) -> list[dict[str, Any]]:
        """Bring the model from unedited to all of `requests` written.

        Args:
            requests: All requests of the cell, in order.

        Returns:
            The course of each edit (`editors.base.Trace`), those of a stored prefix included.
        """
        goal = len(requests)
        state = self.editor.start(self.model, self.prepared)
        start, traces = self._begin(state, goal)
        saved = time.monotonic()
        passing: int | None = None
        with tqdm(total=goal, initial=start, desc="edits", unit="edit", disable=None) as bar:
            for first in range(start, goal, self.batch_size):
                batch = requests[first : first + self.batch_size]
                traces += [
                    trace.as_dict()
                    for trace in self.editor.edit(self.model, batch, self.ledger, state)
                ]
                state.edits_done = first + len(batch)
                bar.update(len(batch))
                if time.monotonic() - saved > SAVE_EVERY_S and state.edits_done < goal:
                    self._save(state.edits_done, traces, state.tensors)
                    self._forget(passing)
                    passing, saved = state.edits_done, time.monotonic()
        if start < goal:
            self._save(goal, traces, state.tensors)
            self._forget(passing)
        return traces

    def _begin(self, state: State, goal: int) -> tuple[int, list[dict[str, Any]]]:
        """Load the longest stored prefix into model and `state`; its edit count and their course."""
        for count in self._prefixes(goal):
            try:
                traces, state.tensors = self._load(count)
            except (OSError, SafetensorError):  # another process has forgotten it just now
                self.ledger.revert()
                continue
            state.edits_done = count
            self.editor.resume(self.model, self.ledger, state)
            log.info("continuing from the stored prefix of %d edits", count)
            return count, traces
        return 0, []

    def _prefixes(self, goal: int) -> list[int]:
        """Stored edit counts that are prefixes of `goal` edits, the largest first.

        A prefix that ends inside a batch of this trajectory (the remainder of another cell) is none.
        """
        stored = (int(p.name) for p in self.folder.glob("[0-9]*") if (p / "traces.json").exists())
        fitting = [n for n in stored if n == goal or (n < goal and n % self.batch_size == 0)]
        return sorted(fitting, reverse=True)

    def _save(self, count: int, traces: list[dict[str, Any]], tensors: dict[str, Any]) -> None:
        """Store the prefix of `count` edits: written aside, then renamed."""
        aside = self.folder / f".{count:06d}.{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        self.ledger.save(aside / "ledger.safetensors")
        save_file({k: v.contiguous() for k, v in tensors.items()}, aside / "state.safetensors")
        write_json(aside / "traces.json", traces, indent=None)
        try:
            aside.rename(self.folder / f"{count:06d}")
        except OSError:  # another process stored the same prefix first
            shutil.rmtree(aside)

    def _load(self, count: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        folder = self.folder / f"{count:06d}"
        self.ledger.load(folder / "ledger.safetensors")
        tensors = load_file(folder / "state.safetensors")
        return json.loads((folder / "traces.json").read_text(encoding="utf-8")), tensors

    def _forget(self, count: int | None) -> None:
        """Remove a prefix that was stored only against a kill."""
        if count is not None:
            shutil.rmtree(self.folder / f"{count:06d}", ignore_errors=True)
