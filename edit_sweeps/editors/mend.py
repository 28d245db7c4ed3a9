"""MEND (Mitchell et al., Fast Model Editing at Scale, arXiv 2110.11309): a trained network turns gradients into edits.

    L = -log p(target | prompt),   dL/dW = sum_t delta_t x_t^T                        (section 3)
    (x~_t, delta~_t) = g(x_t, delta_t),   W <- W + alpha sum_t delta~_t x~_t^T

g and alpha are trained once for each model (`mend_training`) on edits other than those written later.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edit_sweeps.editors.base import Editor, Prepared, State, Stores, Trace
from edit_sweeps.editors.gradients import edit_gradients
from edit_sweeps.editors.located import check_layers
from edit_sweeps.editors.mend_data import Material, read_locality, read_split
from edit_sweeps.editors.mend_training import Course, TrainingSettings, train
from edit_sweeps.editors.settings import check_matrices, check_positive, mlp_names
from edit_sweeps.later import tensor_files, torch
from edit_sweeps.ledger import Ledger, LowRank
from edit_sweeps.moments import locked
from edit_sweeps.record import write_json
from edit_sweeps.requests import ON_INVALID, EditRequest
from edit_sweeps.tokens import Line

if TYPE_CHECKING:
    from edit_sweeps.editors.hypernet import HyperNetwork
    from edit_sweeps.model import EditableModel

log = logging.getLogger(__name__)

FORMAT = 1
"""Part of every digest; raised when the same settings train another network."""


@dataclass(frozen=True, kw_only=True)
class Mend(Editor):
    """Gradients of an edit through a trained network.

    Attributes:
        layers: Blocks whose MLP matrices are written; published: the last three.
        matrices: `mlp` all of a block's MLP, `mlp_out` the output matrix alone.
        rank: Of the network's layers.
        step_size: What every alpha starts from. Positive, as published, it first climbs the loss;
            training turns it round.
        train_steps: Updates at most.
        train_source: `miniature` (facts of the synthetic world that no request writes), or the format
            of `train_file`: `jsonl`, `counterfact`.
        train_file: Training requests; their facts should not be among those edited later.
        train_on_invalid: `refuse` a training file with a broken request, or `skip` such requests and
            log them. How many were left out stands in the file beside the trained network.
        training: How it is trained.
        batch_size: Requests in one forward and backward pass when editing.
    """

    layers: Sequence[int]
    matrices: str = "mlp"
    rank: int = 1920
    step_size: float = 1e-4
    train_steps: int = 100_000
    train_source: str = "miniature"
    train_file: str | None = None
    train_on_invalid: str = "refuse"
    training: TrainingSettings = field(default_factory=TrainingSettings)
    batch_size: int = 32

    def check(self, n_layers: int) -> None:
        """Refuse layers outside the model, and settings that cannot be."""
        check_layers(sorted(self.layers), n_layers)
        check_matrices(self.matrices, ("mlp", "mlp_out"))
        check_positive(self, ("rank", "train_steps", "batch_size"))
        if (self.train_file is None) != (self.train_source == "miniature"):
            msg = (
                f"editor.train_source={self.train_source} editor.train_file={self.train_file}: give a "
                "file with its format (jsonl, counterfact), or the source miniature without a file"
            )
            raise ValueError(msg)
        if self.train_on_invalid not in ON_INVALID:
            allowed = ", ".join(ON_INVALID)
            msg = f"editor.train_on_invalid={self.train_on_invalid}: allowed are {allowed}"
            raise ValueError(msg)
        self.training.check()

    def names(self, model: EditableModel) -> list[str]:
        """Full names of the matrices written, in ascending order of layers."""
        return mlp_names(model, self.layers, self.matrices)

    def prepare(self, model: EditableModel, stores: Stores) -> Prepared:
        """The trained network, from the cache or trained now; a second process waits for the first."""
        network = self.network(model)
        split = read_split(
            self.train_source,
            self.train_file,
            self.training.validation,
            self.training.seed,
            self.train_on_invalid,
        )
        texts = read_locality(self.training)
        facts = {
            "format": FORMAT,
            "model": model.fingerprint(),
            "weights": self.names(model),
            "rank": self.rank,
            "step_size": self.step_size,
            "train_steps": self.train_steps,
            "training": asdict(self.training),
            "requests": split.digest(),
            "texts": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        }
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        folder = Path(stores.cache_dir) / "hypernets"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{key}.safetensors"
        if not file.exists():
            with locked(folder, key):
                if not file.exists():
                    self._train(model, network, Material(model, split, texts, self.training), file)
                    told = facts | {"requests_invalid_skipped": split.skipped}
                    write_json(file.with_suffix(".json"), told, indent=2)
        network.load_state_dict(tensor_files.load_file(file, device=str(model.device)))
        return Prepared(hypernet=network.eval().requires_grad_(requires_grad=False))

    def network(self, model: EditableModel) -> HyperNetwork:
        """An untrained network for the model's matrices, on its device."""
        from edit_sweeps.editors.hypernet import HyperNetwork

        shapes = {}
        for name in self.names(model):
            rows, columns = model.parameter(name).shape
            shapes[name] = (columns, rows) if model.is_transposed(name) else (rows, columns)
        return HyperNetwork(shapes, self.rank, self.step_size, self.training.seed).to(model.device)

    def edit(
        self, model: EditableModel, requests: Sequence[EditRequest], ledger: Ledger, state: State
    ) -> list[Trace]:
        """Write requests as one batch: the gradient of their mean loss."""
        network = cast("HyperNetwork", state.prepared.hypernet)
        lines = [Line(r.prompt, r.subject, r.target_new) for r in requests]
        found = edit_gradients(
            model, lines, list(network.shapes), reduction="rows", batch_size=self.batch_size
        )
        with torch.no_grad():
            update = network(found.pairs)
        squares = weights = 0.0
        for name, pairs in update.items():
            change = LowRank(left=pairs.deltas.T, right=pairs.inputs.T)
            gram = (change.left.T @ change.left) * (change.right.T @ change.right)
            squares += gram.double().sum().clamp(min=0).item()
            weights += model.parameter(name).float().square().sum().item()
            ledger.write(name, change)
        state.edits_done += len(requests)
        numbers = {"update_norm": squares**0.5, "update_norm_relative": (squares / weights) ** 0.5}
        return [
            Trace(request.case_id, loss=loss, numbers=dict(numbers))
            for request, loss in zip(requests, found.nll.tolist(), strict=True)
        ]

    def _train(
        self, model: EditableModel, network: HyperNetwork, material: Material, file: Path
    ) -> None:
        """Train and store, aside and renamed."""
        log.info(
            "training MEND for this model once: at most %d updates on %d requests; kept in %s",
            *(self.train_steps, len(material.split.train), file),
        )
        unfinished = file.with_suffix(".training")
        course = train(model, network, material, self.train_steps, unfinished)
        say = log.info if course.efficacy >= 0.9 else log.warning
        say("MEND after %d updates: efficacy %.2f on held-out edits, locality KL %.3f",
            *(course.best_step, course.efficacy, course.locality))  # fmt: skip
        aside = file.with_name(f".{file.name}.new")
        told = {k: str(v) for k, v in asdict(course).items()}
        tensor_files.save_file(
            {k: v.contiguous() for k, v in network.state_dict().items()}, aside, told
        )
        aside.replace(file)
        unfinished.unlink(missing_ok=True)


__all__ = ["Course", "Mend", "TrainingSettings"]
