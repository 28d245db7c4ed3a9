"""lm-eval's model class over weights that are in memory and edited; it leaves no trace in them.

What differs from lm-eval's own `HFLM` (0.4.13), and why:
    `tie_weights` is not called: it would undo an edit of an output matrix tied by configuration.
    Log-softmax in float32 at least: in bfloat16 half of the log-likelihoods of a task coincide.
    A row of a generation batch stops on its own; HFLM waits until all have met the same stop
    string. Decoding is always greedy. Rows with logits that are not finite are noted in `broken`.
    No answer is ever cached: the slot of lm-eval's response cache drives the progress bar.
    A string is tokenised once for all the weights that a bench scores (`TokenMemory`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessor, StoppingCriteria

from edit_sweeps.model import EditableModel
from edit_sweeps.token_memory import TokenMemory
from edit_sweeps.untouched import evaluating

log = logging.getLogger(__name__)

SAMPLING = frozenset({"do_sample", "temperature", "top_k", "top_p", "num_beams"})
"""Options of a task's `generation_kwargs` that are passed over."""


class LiveLM(HFLM):
    """lm-eval's view of a network as its weights are now. Make one with `live`.

    Attributes:
        mute: Answer every generation request with an empty text, without running the network.
        broken: Prompts of generation requests that met logits which are not finite (or were muted).
        cut: Prompts that were too long and lost their beginning.
    """

    def __init__(
        self,
        model: EditableModel,
        *,
        batch_size: int,
        max_length: int,
        mute: bool = False,
        memory: TokenMemory | None = None,
    ) -> None:
        wide = model.network.dtype == torch.float64
        super().__init__(
            pretrained=model.network,
            tokenizer=model.tokenizer,
            batch_size=batch_size,
            max_length=max_length,
            softmax_dtype=torch.float64 if wide else torch.float32,
        )
        self.mute = mute
        self.memory = memory or TokenMemory()
        self.memory.serve(model.tokenizer)
        self.broken: set[str] = set()
        self.cut = 0
        self._prompts: Sequence[str] = ()

    def watch(self, bar: tqdm[Any]) -> None:
        """Advance `bar` by one with every answered request."""
        self.set_cache_hook(_Progress(bar))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:  # noqa: ARG002
        """As `HFLM`, without its progress bars."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:  # noqa: ARG002
        """As `HFLM`, without its progress bars."""
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """As `HFLM`, without its progress bar; empty texts when `mute`.

        A task that asks for as many new tokens as the window holds gets half of it for its answers,
        where `HFLM` fails.
        """
        if not self.mute:
            return super().generate_until(self._fitting(requests), disable_tqdm=True)
        self.broken |= {request.args[0] for request in requests}
        return [""] * len(requests)

    def _fitting(self, requests: list[Any]) -> list[Any]:
        """The requests, those that leave no room for a prompt with fewer tokens to generate."""
        asked = [request.args[1].get("max_gen_toks", self.max_gen_toks) for request in requests]
        if max(asked, default=0) < self.max_length:
            return requests
        room = self.max_length // 2
        log.warning(
            "%d new tokens asked for in a window of %d: answers get %d",
            *(max(asked), self.max_length, room),
        )
        return [
            replace(r, arguments=(r.args[0], {**r.args[1], "max_gen_toks": min(n, room)}))
            for r, n in zip(requests, asked, strict=True)
        ]

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = True,  # noqa: ARG002
        override_bs: int | None = None,
    ) -> list[Any]:
        limit = self.max_length + 1
        self.cut += sum(len(context) + len(target) > limit for _, context, target in requests)
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **options: Any,
    ) -> list[int]:
        """As `HFLM`, from memory where the string has been seen."""
        ids = self.memory.get(string, add_special_tokens)
        if ids is None:
            ids = super().tok_encode(string, add_special_tokens, None, **options)
            self.memory.keep(string, add_special_tokens, ids)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def tok_batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,  # noqa: ARG002  # always cut here, on the left
    ) -> tuple[Tensor, Tensor]:
        """As `HFLM`; also remembers the prompts of the batch and counts those that must be cut."""
        self._prompts = strings
        rows = [self.tok_encode(string) for string in strings]
        if left_truncate_len is not None:
            self.cut += sum(len(row) > left_truncate_len for row in rows)
            rows = [row[-left_truncate_len:] for row in rows]
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            here = slice(width - len(row), None) if padding_side == "left" else slice(len(row))
            ids[number, here] = torch.tensor(row, dtype=ids.dtype)
            mask[number, here] = 1
        return ids, mask

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **options: Any
    ) -> Tensor:
        start = context.shape[1]
        watch = _NonFinite()
        tokens: Tensor = self.model.generate(
            input_ids=context,
            max_new_tokens=max_length - start,
            stopping_criteria=[_RowStop(self.tokenizer, stop, start)],
            logits_processor=[watch],
            pad_token_id=self.tokenizer.pad_token_id,
            use_cache=True,
            do_sample=False,
            **{k: v for k, v in options.items() if k not in SAMPLING},
        )
        for row in watch.rows():
            self.broken.add(self._prompts[row])
            tokens[row, start:] = self.tokenizer.pad_token_id
        return tokens


@contextmanager
def live(
    model: EditableModel,
    *,
    batch_size: int,
    max_length: int,
    mute: bool = False,
    memory: TokenMemory | None = None,
) -> Iterator[LiveLM]:
    """A `LiveLM` over `model`; afterwards network and tokenizer are as they were.

    lm-eval switches the network to evaluation, ties its weights and gives the tokenizer a pad
    token; the first and last are put back, the second is prevented.

    Args:
        model: Scored with its weights as they are.
        batch_size: Rows of a forward pass; fixed, because it moves the last digits of answers.
        max_length: Tokens of prompt and answer together.
        mute: Do not run generation requests.
        memory: Token ids of strings seen before; mutated.
    """
    network, tokenizer = model.network, model.tokenizer
    padding = tokenizer.pad_token, tokenizer.padding_side
    network.tie_weights = _leave_untied
    try:
        if tokenizer.pad_token is None:
            # Any token will do, it is masked; without this lm-eval would add one to the vocabulary.
            known = tokenizer.eos_token or tokenizer.unk_token
            tokenizer.pad_token = known or tokenizer.convert_ids_to_tokens(0)
        with evaluating(network):
            yield LiveLM(
                model, batch_size=batch_size, max_length=max_length, mute=mute, memory=memory
            )
    finally:
        del network.tie_weights
        tokenizer.pad_token, tokenizer.padding_side = padding


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what lm-eval and transformers log below errors, and the bars of `datasets`."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers")]
    levels, bars_off = [logger.level for logger in loggers], are_progress_bars_disabled()
    disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars_off:
            enable_progress_bars()


class _Progress:
    """Takes the place of lm-eval's response cache, which is told of every answer."""

    def __init__(self, bar: tqdm[Any]) -> None:
        self.bar = bar

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:  # noqa: ARG002
        self.bar.update()


class _RowStop(StoppingCriteria):
    """A row is done once one of `stops` is in its new text."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], start: int) -> None:
        self.tokenizer = tokenizer
        self.stops = [stop for stop in stops if stop]
        self.start = start
        self.done: Tensor | None = None
        # Two tokens more than a stop string has: it may come out split in another way.
        lengths = [len(tokenizer.encode(s, add_special_tokens=False)) for s in self.stops]
        self.window = max(lengths, default=0) + 2

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:  # noqa: ARG002
        if self.done is None:
            self.done = torch.zeros(len(input_ids), dtype=torch.bool)
        rows = torch.nonzero(~self.done)[:, 0].tolist()
        recent = input_ids[rows, max(self.start, input_ids.shape[1] - self.window) :]
        for row, text in zip(rows, self.tokenizer.batch_decode(recent), strict=True):
            self.done[row] = any(stop in text for stop in self.stops)
        return self.done.to(input_ids.device)


class _NonFinite(LogitsProcessor):
    """Notes rows whose logits held NaN or +inf at some step; -inf is how tokens are forbidden."""

    def __init__(self) -> None:
        self.seen: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        bad = (scores.isnan() | scores.isposinf()).any(dim=-1)
        self.seen = bad if self.seen is None else self.seen | bad
        return scores

    def rows(self) -> list[int]:
        return [] if self.seen is None else torch.nonzero(self.seen)[:, 0].tolist()


def _leave_untied(*args: Any, **kwargs: Any) -> None:
    """Stands for `tie_weights` while lm-eval wraps the network."""
