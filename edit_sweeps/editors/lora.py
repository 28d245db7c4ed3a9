"""LoRA (Hu et al., arXiv 2106.09685) as an editor: fine-tuning of low-rank adapters, then merged into the weights.

The adapters are peft's; what is written is their merged weight, B A alpha / r. EasyEdit, whose settings
are the published ones, runs AdaLoRA, which also prunes ranks while training: this does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edit_sweeps.editors.base import Editor, State, Trace
from edit_sweeps.editors.gradients import row_means, target_nll
from edit_sweeps.editors.located import check_layers
from edit_sweeps.editors.reading import rows_for
from edit_sweeps.editors.settings import check_positive
from edit_sweeps.later import enable_grad, torch
from edit_sweeps.ledger import Ledger, LowRank
from edit_sweeps.requests import EditRequest
from edit_sweeps.tokens import Line, Rows

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.model import EditableModel

ADAPTER = "edit"
PROJECTIONS = frozenset({"c_attn", "q_proj", "v_proj", "query_key_value", "qkv_proj"})
"""What adapters go to by default: queries and values, or the fused matrix that makes them."""


@dataclass(frozen=True, kw_only=True)
class Lora(Editor):
    """Low-rank adapters trained on the targets of a batch, and merged.

    Attributes:
        layers: The blocks; None for all.
        targets: Module paths inside a block, such as `mlp.down_proj`; None for the attention's query
            and value projections.
        rank: Of each adapter.
        alpha: The update is B A alpha / rank.
        lr: Of Adam.
        steps: Passes over the batch at most.
        early_stop: Stop when the mean loss is below.
        seed: Of the starting values of A; B starts at 0.
        batch_size: Requests in one update.
    """

    layers: Sequence[int] | None = None
    targets: Sequence[str] | None = None
    rank: int = 8
    alpha: float = 32.0
    lr: float = 5e-3
    steps: int = 70
    early_stop: float = 0.01
    seed: int = 0
    batch_size: int = 64

    def check(self, n_layers: int) -> None:
        """Refuse layers outside the model and settings that cannot be."""
        if self.layers is not None:
            check_layers(sorted(self.layers), n_layers)
        check_positive(self, ("rank", "alpha", "lr", "steps", "batch_size"))

    def modules(self, model: EditableModel) -> list[str]:
        """Full paths of the modules that get an adapter.

        Raises:
            ValueError: There is no such module.
        """
        home, found = model.architecture.block, []
        for layer in sorted(self.layers if self.layers is not None else range(model.n_layers)):
            block = model.block(layer)
            names = dict(block.named_modules())
            inside = f"{model.architecture.attention}."
            chosen = self.targets or [
                n for n in names if n.startswith(inside) and n.rpartition(".")[2] in PROJECTIONS
            ]
            missing = [n for n in chosen if n not in names]
            if missing or not chosen:
                known = [n for n, m in names.items() if getattr(m, "weight", None) is not None]
                msg = (
                    f"editor.targets={list(chosen)}: a block of this model has no {missing or 'such'} "
                    f"module; it has {', '.join(known)}"
                )
                raise ValueError(msg)
            found += [f"{home}.{layer}.{name}" for name in chosen]
        return found

    def edit(
        self, model: EditableModel, requests: Sequence[EditRequest], ledger: Ledger, state: State
    ) -> list[Trace]:
        """Train adapters on all requests together, then write them."""
        lines = [Line(r.prompt, r.subject, r.target_new) for r in requests]
        batches = [
            rows_for(model, lines[i : i + self.batch_size])
            for i in range(0, len(lines), self.batch_size)
        ]
        with self._adapters(model, state.edits_done) as layers:
            losses, steps = self._train(model, layers, batches)
            updates = {
                path: LowRank(
                    left=layer.lora_B[ADAPTER].weight.detach() * layer.scaling[ADAPTER],
                    right=layer.lora_A[ADAPTER].weight.detach().T,
                )
                for path, layer in layers.items()
            }
        squares = weights = 0.0
        for path, update in updates.items():
            gram = (update.left.T @ update.left) * (update.right.T @ update.right)
            squares += gram.double().sum().clamp(min=0).item()
            weights += model.parameter(f"{path}.weight").double().square().sum().item()
            ledger.write(f"{path}.weight", update)
        state.edits_done += len(requests)
        numbers = {"update_norm": squares**0.5, "update_norm_relative": (squares / weights) ** 0.5}
        return [
            Trace(request.case_id, loss=loss, steps=steps, numbers=dict(numbers))
            for request, loss in zip(requests, losses.tolist(), strict=True)
        ]

    @contextmanager
    def _adapters(self, model: EditableModel, edits_done: int) -> Iterator[dict[str, Any]]:
        """Fresh adapters in the model while the body runs; path -> peft's layer. Leaves no trace."""
        import peft

        paths = self.modules(model)
        own = {path: model.network.get_submodule(path) for path in paths}
        transposed = model.is_transposed(f"{paths[0]}.weight")
        config = peft.LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules=paths, fan_in_fan_out=transposed
        )
        try:
            with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
                peft.inject_adapter_in_model(config, model.network, adapter_name=ADAPTER)
            layers = {path: model.network.get_submodule(path) for path in paths}
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + edits_done)
            for layer in layers.values():
                self._begin(layer, generator, model.dtype)
            yield layers
        finally:
            for path, module in own.items():
                model.network.set_submodule(path, module)
            model.network.requires_grad_(requires_grad=False)
            if hasattr(model.network, "peft_config"):
                del model.network.peft_config

    def _begin(self, layer: Any, generator: torch.Generator, dtype: torch.dtype) -> None:
        """A uniform, as Hu et al.; B zero; both in at least float32."""
        precision = torch.float64 if dtype == torch.float64 else torch.float32
        a, b = layer.lora_A[ADAPTER].to(precision), layer.lora_B[ADAPTER].to(precision)
        bound = 1 / math.sqrt(a.weight.shape[1])
        drawn = torch.rand(a.weight.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            a.weight.copy_((2 * drawn - 1) * bound)
            b.weight.zero_()

    @enable_grad
    def _train(
        self, model: EditableModel, layers: dict[str, Any], batches: Sequence[Rows]
    ) -> tuple[Tensor, int]:
        """Losses of the last pass, and the number of passes that made an update."""
        factors = [
            p
            for la in layers.values()
            for p in (la.lora_A[ADAPTER].weight, la.lora_B[ADAPTER].weight)
        ]
        optimizer = torch.optim.Adam(factors, lr=self.lr)
        losses, steps = torch.empty(0), 0
        for _ in range(self.steps):
            found = []
            for rows in batches:
                out = model.network(
                    input_ids=rows.ids, attention_mask=rows.mask, use_cache=False
                ).logits
                each = row_means(*target_nll(out, rows.labels), len(rows.ids))
                found.append(each.detach().cpu())
                if each.mean() >= self.early_stop:
                    optimizer.zero_grad()
                    each.mean().backward()
                    optimizer.step()
            losses = torch.cat(found)
            if not losses.mean() >= self.early_stop:
                break
            steps += 1
        return losses, steps
