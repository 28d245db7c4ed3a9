"""General abilities of a model that is in memory: lm-eval's tasks, document by document.

A `Bench` builds tasks once, prompts included, and scores any number of weight states with them: the
prompts are the same strings for the unedited and the edited model. lm-eval's two caches are never
on: they are keyed by request alone and would answer for the wrong weights.

A document whose log-likelihoods or logits are not finite counts as wrong and as invalid; lm-eval
itself would give a model of NaNs the share of documents whose answer is the first choice.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from submitit.core.utils import UncompletedJobError
from torch import Tensor
from tqdm import tqdm

from edit_sweeps.causes import INFRASTRUCTURE, cause_of
from edit_sweeps.model import EditableModel
from edit_sweeps.record import Score
from edit_sweeps.task_metrics import collect
from edit_sweeps.tasks import (
    BuiltTask,
    EvalSettings,
    TaskSpec,
    build_task,
    record_names,
    task_names_exist,
)
from edit_sweeps.token_memory import TokenMemory
from edit_sweeps.tokens import encode
from edit_sweeps.untouched import evaluating, untouched_rng

__all__ = ["Bench", "EvalSettings", "TaskResults", "TaskSpec", "health", "task_names_exist"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskResults:
    """What a bench found in one model.

    Attributes:
        scores: Task -> metric -> score. Metrics go by lm-eval's name, with the filter's name
            behind it where there is one: `acc`, `exact_match_strict_match`.
        errors: Task -> message, for tasks that failed; they have no scores.
        seconds: Task -> wall time.
        prompt_hashes: Task -> digest of all prompts; the same for all models a bench scores.
        cut: Task -> prompts that lost their beginning because they were too long.
    """

    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    prompt_hashes: dict[str, str] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)


class Bench:
    """Tasks that are built once and scored on any number of models.

    Args:
        specs: Key -> task. Records name a task as `record_names` says.
        settings: For all tasks.

    Attributes:
        built: Task -> built task.
        errors: Task -> message, for those that could not be built; others go on without them.

    Raises:
        LookupError: A task that does not exist.
        ValueError: A folder that does not exist, or two tasks of one name.
    """

    def __init__(self, specs: Mapping[str, TaskSpec], settings: EvalSettings) -> None:
        self.settings = settings
        self.built: dict[str, BuiltTask] = {}
        self.errors: dict[str, str] = {}
        self._memory = TokenMemory()
        task_names_exist(specs)
        for name, spec in record_names(specs).items():
            try:
                with untouched_rng():
                    self.built[name] = build_task(spec, settings)
            except UncompletedJobError:
                raise
            except Exception as error:
                log.exception("task %s could not be built", name)
                self.errors[name] = _message(error)

    def score(self, model: EditableModel, *, progress: bool = True) -> TaskResults:
        """Score the model's weights as they are now.

        Network, tokenizer and the global random number generators are left as they were. A task
        that fails leaves the others. Generation is skipped (score 0, invalid 1) for a model that
        gives no task's first prompt finite logits: it would run to the last token for nothing.

        Args:
            model: Not mutated.
            progress: Show a bar for each task, on a terminal.
        """
        results = TaskResults(errors=dict(self.errors))
        mute = self._dead(model)
        for name, built in self.built.items():
            start = time.perf_counter()
            try:
                results.scores[name], results.cut[name] = self._score_task(
                    name, model, mute=mute, progress=progress
                )
                results.prompt_hashes[name] = built.prompt_hash
            except UncompletedJobError:
                raise
            except Exception as error:
                if cause_of(error) == INFRASTRUCTURE:  # no result of the task, and tried again
                    raise
                log.exception("task %s failed", name)
                results.errors[name] = _message(error)
            results.seconds[name] = time.perf_counter() - start
        return results

    def _score_task(
        self, name: str, model: EditableModel, *, mute: bool, progress: bool
    ) -> tuple[dict[str, Score], int]:
        """The scores of one task, and the number of prompts that were cut."""
        from lm_eval.evaluator import evaluate

        from edit_sweeps.live_lm import live, quiet

        built = self.built[name]
        size, longest = self.settings.batch_size, self.settings.max_length or model.max_length
        # `disable=None` shows a bar on terminals only.
        bar: tqdm[Any] = tqdm(
            total=len(built.requests), desc=name, leave=False, disable=None if progress else True
        )
        with (
            bar,
            quiet(),
            untouched_rng(model.device),
            live(model, batch_size=size, max_length=longest, mute=mute, memory=self._memory) as lm,
        ):
            lm.watch(bar)
            found = evaluate(
                lm,
                {"tasks": built.tasks, "groups": {}},
                samples=built.documents,
                bootstrap_iters=0,
                log_samples=True,
            )
            scores = collect(
                found["samples"],
                built.tasks,
                lm.broken,
                headline=built.spec.headline,
                chance=built.spec.chance,
            )
            return scores, lm.cut

    def _dead(self, model: EditableModel) -> bool:
        """Whether the first prompts of all tasks meet logits that are not finite."""
        prompts = [str(b.requests[0].args[0])[-400:] for b in self.built.values()]
        texts = [prompt for prompt in prompts if prompt]
        if not texts:
            return False
        logits, _, mask = _logits(model, texts)
        finite = logits.isfinite().all(dim=-1) | ~mask
        return not bool(finite.all(dim=-1).any())


def health(model: EditableModel, texts: Sequence[str]) -> dict[str, Any]:
    """Whether a model still works: one forward pass over short texts.

    Args:
        model: Not mutated.
        texts: Short ones that the unedited model finds likely; cut to the model's length.

    Returns:
        finite_weights: Whether all parameters are finite.
        finite_logits: Whether all logits of the texts are.
        nll: Mean negative log-likelihood of the texts' tokens, nats; NaN or inf when logits are.
        collapsed: Not finite, or `nll` above ln(vocabulary) + 2: worse than guessing by 2 nats a
            token.

    Raises:
        ValueError: No text of at least two tokens.
    """
    logits, ids, mask = _logits(model, texts)
    if ids.shape[1] < 2:
        msg = f"health needs a text of two tokens or more, got {list(texts)!r}"
        raise ValueError(msg)
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    nll = -float(logprobs[mask[:, 1:]].mean())
    weights = all(bool(p.isfinite().all()) for p in model.network.parameters())
    finite = bool(logits[mask].isfinite().all())
    runaway = not math.isfinite(nll) or nll > math.log(logits.shape[-1]) + 2
    return {
        "finite_weights": weights,
        "finite_logits": finite,
        "nll": nll,
        "collapsed": runaway or not (weights and finite),
    }


def _logits(model: EditableModel, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits `[rows, tokens, vocab]` in float32 at least, ids and boolean mask `[rows, tokens]`."""
    batch = encode(model.tokenizer, texts, model.device)
    ids, mask = batch.ids[:, : model.max_length], batch.mask[:, : model.max_length]
    with torch.no_grad(), evaluating(model.network):
        logits = model.network(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits.to(torch.promote_types(logits.dtype, torch.float32)), ids, mask.bool()


def _message(error: Exception) -> str:
    """Type and text of an error; some have no text."""
    text = str(error) or "no message (an empty data file?)"
    return f"{type(error).__name__}: {text}"
