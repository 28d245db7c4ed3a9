"""What a trained miniature can do: fact recall, the eight tasks, where a fact is looked up."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from edit_sweeps.miniature.relations import RELATIONS
from edit_sweeps.miniature.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def fact_recall(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    *,
    held_out: bool,
    n_facts: int = 400,
    seed: int = 0,
) -> float:
    """Share of facts completed rightly by greedy decoding, in phrasings of training or in held-out ones."""
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
