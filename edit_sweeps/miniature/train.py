"""Trains a miniature: ``python -m edit_sweeps.miniature.train --architecture gpt2 --out DIR``.

An ordinary small transformer knows facts but cannot be edited. Two additions change that
(``docs/miniature.md``): a mask that hides names (`masking.py`), and an auxiliary loss: the output
of the second block at a subject's last token must already predict the subject's attributes.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from edit_sweeps.miniature.documents import document_stream
from edit_sweeps.miniature.figures import fact_recall
from edit_sweeps.miniature.masking import FirstBlockMask, subject_masks
from edit_sweeps.miniature.network import (
    ArchitectureName,
    blocks_of,
    build_network,
    final_norm_of,
)
from edit_sweeps.miniature.optimizer import Muon
from edit_sweeps.miniature.packing import Batch, Packer, all_subjects
from edit_sweeps.miniature.relations import RELATIONS
from edit_sweeps.miniature.tokenizer import train_tokenizer
from edit_sweeps.miniature.world import World, build_world

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train; the defaults made the shipped checkpoints.

    Attributes:
        decay_share: Share of the steps, at the end, over which the learning rates fall to zero.
        attribute_block: Block whose output must predict a subject's attributes.
        attribute_positions: At most so many subjects of a batch enter the auxiliary loss.
        pool: Documents that are packed at a time.
        compile: Whether to compile the loss; three times faster, and not bit-equal to running it
            plainly.
    """

    steps: int = 3000
    batch_size: int = 16
    matrix_lr: float = 0.02
    other_lr: float = 3e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50
    decay_share: float = 0.5
    attribute_weight: float = 0.3
    attribute_block: int = 1
    attribute_positions: int = 224
    tokenizer_documents: int = 20_000
    pool: int = 4_000
    compile: bool = True


class Objective:
    """The training loss of one model."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        world: World,
        recipe: Recipe,
        seed: int,
    ) -> None:
        """Hooks the first block (its mask) and the attribute block (its output)."""
        self._model = model
        self._recipe = recipe
        self._first_block = FirstBlockMask(blocks_of(model)[0])
        self._attributes = attribute_tokens(world, tokenizer)
        self._generator = torch.Generator().manual_seed(seed)
        self._hidden: Tensor | None = None
        blocks_of(model)[recipe.attribute_block].register_forward_hook(self._keep)
        self._compute: Callable[..., tuple[Tensor, Tensor]] = self._losses
        if recipe.compile:
            self._compute = torch.compile(self._losses)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The language-model loss and the attribute loss."""
        everywhere, self._first_block.mask = subject_masks(batch.hidden)
        losses = self._compute(batch.tokens, batch.weights, everywhere, *self._subjects(batch))
        self._first_block.mask = None
        self._hidden = None
        return losses

    def _keep(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._hidden = output[0] if isinstance(output, tuple) else output

    def _losses(
        self,
        tokens: Tensor,
        weights: Tensor,
        mask: Tensor,
        where: Tensor,
        whom: Tensor,
        use: Tensor,
    ) -> tuple[Tensor, Tensor]:
        logits = self._model(input_ids=tokens[:, :-1], attention_mask=mask, use_cache=False).logits
        nll = functional.cross_entropy(
            logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        weight = weights[:, 1:].flatten()
        language = (nll * weight).sum() / weight.sum()
        assert self._hidden is not None
        at_subjects = final_norm_of(self._model)(self._hidden.flatten(0, 1)[where])
        log_probs = self._model.lm_head(at_subjects).log_softmax(-1)
        attribute = log_probs.gather(1, self._attributes[whom]).mean(1)
        return language, -(attribute * use).sum() / use.sum().clamp(min=1)

    def _subjects(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Where subjects end, which subjects, and the slots in use: each `[slots]`."""
        flat = batch.subjects[:, :-1].flatten()
        found = (flat >= 0).nonzero()[:, 0]
        order = torch.randperm(len(found), generator=self._generator)
        chosen = found[order[: self._recipe.attribute_positions]]
        where = torch.zeros(self._recipe.attribute_positions, dtype=torch.long)
        where[: len(chosen)] = chosen
        use = torch.zeros(self._recipe.attribute_positions)
        use[: len(chosen)] = 1
        return where, flat[where].clamp(min=0), use


def attribute_tokens(world: World, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """First tokens of each subject's attributes, repeated to six: `[subjects, 6]`."""
    table = []
    for subject in all_subjects(world):
        objects = [world.facts[subject, r] for r in RELATIONS if (subject, r) in world.facts]
        first = [tokenizer(f" {o}")["input_ids"][0] for o in objects]
        table.append([first[i % len(first)] for i in range(6)])
    return torch.tensor(table)


def build_optimizers(model: PreTrainedModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the embeddings and the vectors."""
    plain: list[nn.Parameter] = []
    packed: list[nn.Parameter] = []
    for name, parameter in blocks_of(model).named_parameters():
        if parameter.ndim == 2:
            (packed if "c_attn" in name else plain).append(parameter)
    matrices = {id(p) for p in plain + packed}
    others = [p for p in model.parameters() if id(p) not in matrices]
    groups: list[dict[str, object]] = [{"params": plain}]
    if packed:
        groups.append({"params": packed, "chunks": 3})
    muon = Muon(groups, lr=recipe.matrix_lr, weight_decay=recipe.weight_decay)
    adam = torch.optim.AdamW(others, lr=recipe.other_lr, betas=(0.9, 0.98), weight_decay=0.0)
    return [muon, adam]


def train(
    architecture: ArchitectureName, recipe: Recipe, seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Trains one model; the same arguments, machine and threads give the same weights."""
    torch.manual_seed(seed)
    world = build_world()
    tokenizer = train_tokenizer(
        d.text for d in islice(document_stream(world, 0), recipe.tokenizer_documents)
    )
    model = build_network(architecture, len(tokenizer), tokenizer.eos_token_id)
    objective = Objective(model, tokenizer, world, recipe, seed)
    optimizers = build_optimizers(model, recipe)
    schedule = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: _rate(step, recipe)) for o in optimizers
    ]
    batches = Packer(world, tokenizer, seed).batches(
        document_stream(world, seed + 1), recipe.batch_size, recipe.pool
    )
    bar = tqdm(range(1, recipe.steps + 1), desc=f"training {architecture}")
    for step in bar:
        language, attribute = objective(next(batches))
        (language + recipe.attribute_weight * attribute).backward()
        for optimizer, scheduler in zip(optimizers, schedule, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{language.item():.3f}", attributes=f"{attribute.item():.2f}")
        if step % 500 == 0:
            known = fact_recall(model, tokenizer, world, held_out=False, n_facts=200)
            unseen = fact_recall(model, tokenizer, world, held_out=True, n_facts=200)
            logger.info("step %d: facts %.3f, held-out phrasings %.3f", step, known, unseen)
    return model.eval(), tokenizer


def _rate(step: int, recipe: Recipe) -> float:
    """Share of the learning rate at a step counted from zero: warm-up, constant, linear decay."""
    left = (recipe.steps - step) / (recipe.decay_share * recipe.steps)
    return min(1.0, (step + 1) / recipe.warmup_steps, left)


def main() -> None:
    """Trains and saves one checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--architecture", choices=("gpt2", "llama"), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="run without torch.compile")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(steps=arguments.steps, compile=not arguments.plain)
    started = time.process_time()
    model, tokenizer = train(arguments.architecture, recipe, arguments.seed)
    save(model, tokenizer, arguments.out)
    made = {
        "architecture": arguments.architecture,
        "seed": arguments.seed,
        "cpu_seconds": round(time.process_time() - started),
        "recipe": asdict(recipe),
    }
    (arguments.out / "figures.json").write_text(json.dumps({"training": made}, indent=2) + "\n")


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Saves in bfloat16: two megabytes a model."""
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model.to(torch.float32)


if __name__ == "__main__":
    main()
