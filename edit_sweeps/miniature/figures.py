"""What a miniature can do: fact recall, the eight tasks, where it looks a fact up.

``python -m edit_sweeps.miniature.figures DIR`` measures a checkpoint and adds the figures to its
``figures.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from edit_sweeps.miniature.network import blocks_of
from edit_sweeps.miniature.relations import PERSON_RELATIONS, RELATIONS
from edit_sweeps.miniature.tasks import TASKS
from edit_sweeps.miniature.world import World, build_world

logger = logging.getLogger(__name__)

LM_TASKS = Path(__file__).parents[1] / "lm_tasks" / "miniature"
NOISE_SAMPLES = 8
# Meng et al. 2022 disturb the subject by three standard deviations of the embeddings.
NOISE_SCALE = 3.0


def fact_recall(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    *,
    held_out: bool,
    n_facts: int = 400,
    seed: int = 0,
) -> float:
    """Share of facts completed rightly by greedy decoding, in trained or held-out phrasings."""
    rng = random.Random(f"recall {seed}")
    facts = rng.sample(sorted(world.facts), n_facts)
    prompts = []
    for subject, name in facts:
        relation = RELATIONS[name]
        phrasings = relation.held_out if held_out else relation.phrasings
        prompts.append(rng.choice(phrasings).format(subject))
    answers = greedy_answers(model, tokenizer, prompts)
    truths = [world.facts[fact] for fact in facts]
    return sum(a.startswith(t) for a, t in zip(answers, truths, strict=True)) / n_facts


@torch.no_grad()
def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    *,
    max_new_tokens: int = 6,
    batch_size: int = 100,
) -> list[str]:
    """Greedy continuations, stripped; prompts of one batch are padded on the left."""
    training = model.training
    model.eval()
    end = tokenizer.eos_token_id
    answers: list[str] = []
    for start in range(0, len(prompts), batch_size):
        rows = [tokenizer(p)["input_ids"] for p in prompts[start : start + batch_size]]
        width = max(map(len, rows))
        ids = torch.tensor([[end] * (width - len(r)) + r for r in rows])
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=end,
        )
        texts = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        answers += [text.strip() for text in texts]
    model.train(training)
    return answers


def task_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, limit: int | None = None
) -> dict[str, float]:
    """The headline score of each of the eight tasks, by lm-eval."""
    from lm_eval import evaluator  # slow; training does without
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=[str(LM_TASKS)], include_defaults=False)
    tasks = manager.load([f"mini_{task}" for task in TASKS])["tasks"]
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=64, max_length=256)
    found = evaluator.evaluate(lm, tasks, limit=limit, bootstrap_iters=0, log_samples=False)
    return {
        name.removeprefix("mini_"): float(
            found["results"][name][f"{task.config.metadata['headline']},none"]
        )
        for name, task in tasks.items()
    }


@torch.no_grad()
def causal_trace(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    *,
    n_facts: int = 60,
    seed: int = 0,
) -> dict[str, Any]:
    """Probability of the right answer, the subject disturbed and one block restored.

    Returns ``clean`` and ``disturbed`` probabilities and, for each block, what restoring its output
    at the subject's last token and at the prompt's last token gives (Meng et al. 2022, section
    2.1).
    """
    rng = random.Random(f"trace {seed}")
    generator = torch.Generator().manual_seed(seed)
    blocks = blocks_of(model)
    totals = torch.zeros(2 + 2 * len(blocks))
    n_done = 0
    while n_done < n_facts:
        person, name = rng.choice(world.people), rng.choice(PERSON_RELATIONS)
        prompt = rng.choice(RELATIONS[name].phrasings)
        ids, subject = _subject_positions(tokenizer, prompt, person)
        if subject[-1] == len(ids) - 1:
            continue
        answer = tokenizer(f" {world.facts[person, name]}")["input_ids"][0]
        totals += _trace_one(model, torch.tensor(ids), subject, answer, generator)
        n_done += 1
    means = [round(value, 3) for value in (totals / n_facts).tolist()]
    return {
        "clean": means[0],
        "disturbed": means[1],
        "restored_at_subject": means[2 : 2 + len(blocks)],
        "restored_at_end": means[2 + len(blocks) :],
    }


def _trace_one(
    model: PreTrainedModel, ids: Tensor, subject: list[int], answer: int, generator: torch.Generator
) -> Tensor:
    """Clean, disturbed, restored in each block at the subject, then in each at the end."""
    embedding = model.get_input_embeddings()
    size = (NOISE_SAMPLES, len(subject), embedding.weight.shape[1])
    noise = torch.randn(size, generator=generator) * NOISE_SCALE * embedding.weight.std()
    rows = ids.repeat(NOISE_SAMPLES + 1, 1)

    def disturb(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[1:, subject] += noise
        return output

    def probabilities() -> Tensor:
        logits = model(input_ids=rows, use_cache=False).logits[:, -1]
        return logits.softmax(-1)[:, answer]

    hook = embedding.register_forward_hook(disturb)
    plain = probabilities()
    found = [plain[0], plain[1:].mean()]
    for position in (subject[-1], len(ids) - 1):
        for block in blocks_of(model):
            restore = block.register_forward_hook(_restoration(position))
            found.append(probabilities()[1:].mean())
            restore.remove()
    hook.remove()
    return torch.stack(found)


def _restoration(position: int) -> Any:
    """A hook that gives every row the clean row's output at one position."""

    def restore(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        hidden[1:, position] = hidden[0, position]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return restore


def _subject_positions(
    tokenizer: PreTrainedTokenizerFast, prompt: str, subject: str
) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and the positions of its subject."""
    start = prompt.index("{}")
    end = start + len(subject)
    encoded = tokenizer(prompt.format(subject), return_offsets_mapping=True)
    inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if b > start and a < end]
    return encoded["input_ids"], inside


def measure(folder: Path) -> dict[str, Any]:
    """All figures of a checkpoint."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    world = build_world()
    n_facts = len(world.facts)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "fact_recall": fact_recall(model, tokenizer, world, held_out=False, n_facts=n_facts),
        "fact_recall_held_out": fact_recall(
            model, tokenizer, world, held_out=True, n_facts=n_facts
        ),
        "tasks": task_scores(model, tokenizer),
        "causal_trace": causal_trace(model, tokenizer, world),
    }


def main() -> None:
    """Measures a checkpoint and adds the figures to its figures.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    logging.basicConfig(level=logging.INFO)
    file = folder / "figures.json"
    figures = json.loads(file.read_text()) if file.exists() else {}
    figures |= measure(folder)
    file.write_text(json.dumps(figures, indent=2) + "\n")
    logger.info("%s", json.dumps(figures))


if __name__ == "__main__":
    main()
