"""Text to token ids and back: where a subject ends, what the target is, decoding, scores.

Everything is found by character offsets of the joined text, never by tokenising a part alone: that
would put a BOS into targets, and would break where tokens merge across the seam.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from edit_sweeps.later import torch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from edit_sweeps.model import EditableModel

IGNORE = -100
"""Label of a position that predicts nothing of the target."""

Side = Literal["left", "right"]
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Token ids of several texts.

    Attributes:
        ids: `[rows, tokens]`.
        mask: `[rows, tokens]`, 1 on text, 0 on padding.
    """

    ids: Tensor
    mask: Tensor

    @property
    def positions(self) -> Tensor:
        """`[rows, tokens]` positions that do not count padding; needed where it is on the left."""
        return (self.mask.cumsum(-1) - 1).clamp(min=0)


@dataclass(frozen=True)
class Line:
    """One row to be laid out for reading keys or optimising a value.

    Attributes:
        prompt: Template with one `{}` where the subject goes.
        subject: Stands there.
        target: What must follow the prompt, without leading space; empty for a row without target.
        context: Template with one `{}` where the prompt goes.
    """

    prompt: str
    subject: str
    target: str = ""
    context: str = "{}"


@dataclass(frozen=True)
class Rows(Batch):
    """Lines as token ids. A target's last token is left out: nothing is predicted from it.

    Attributes:
        lookup: `[rows]`, column of the subject's last token.
        labels: `[rows, tokens]`, id of the target's token that each position must predict, or
            `IGNORE`.
    """

    lookup: Tensor
    labels: Tensor

    @property
    def target_mask(self) -> Tensor:
        """`[rows, tokens]`, true where a token of the target is predicted."""
        return self.labels != IGNORE


@dataclass(frozen=True)
class TargetScore:
    """How a model predicts one target, token by token.

    Attributes:
        logprobs: Natural log-probability of each token of the target.
        hits: Whether the token is the most probable one there.
    """

    logprobs: list[float]
    hits: list[bool]


@dataclass(frozen=True)
class _Encoded:
    """Token ids of one text with their spans of characters; special tokens have empty spans."""

    ids: list[int]
    spans: list[tuple[int, int]]


def encode(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    device: torch.device | str = "cpu",
    side: Side = "right",
) -> Batch:
    """Token ids of texts, with the special tokens that the tokenizer puts in front, none behind.

    Raises:
        ValueError: No texts, or one without tokens.
    """
    return batch_of(tokenizer, [token_ids(tokenizer, text) for text in texts], device, side)


def token_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of one text, with the special tokens that the tokenizer puts in front, none behind."""
    return _encode(tokenizer, text).ids


def batch_of(
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[list[int]],
    device: torch.device | str = "cpu",
    side: Side = "right",
) -> Batch:
    """Rows of token ids, padded.

    Raises:
        ValueError: No rows, or an empty one.
    """
    ids, mask = _pad(rows, _pad_id(tokenizer), side)
    return Batch(ids.to(device), mask.to(device))


def lookup_index(
    tokenizer: PreTrainedTokenizerFast, prefix_template: str, prompt: str, subject: str
) -> int:
    """Index of the subject's last token in the ids of the text, special tokens in front counted.

    It is the last token whose characters overlap the subject's: also right where a token holds the
    subject's end and something more.

    Args:
        tokenizer: A fast one.
        prefix_template: Template with one `{}` where the prompt goes.
        prompt: Template with one `{}` where the subject goes.
        subject: Not empty.

    Raises:
        ValueError: A template without `{}`, or a subject that no token holds.
    """
    text, span = subject_span(prefix_template, prompt, subject)
    return _last_overlap(_encode(tokenizer, text), span, subject)


def subject_span(prefix_template: str, prompt: str, subject: str) -> tuple[str, tuple[int, int]]:
    """The full text, and the characters of it that are the subject.

    Raises:
        ValueError: A template without `{}`.
    """
    for name, template in (("context", prefix_template), ("prompt", prompt)):
        if "{}" not in template:
            msg = f"the {name} {template!r} needs a {{}} to say where the text goes"
            raise ValueError(msg)
    before, _, after = prefix_template.partition("{}")
    head, _, tail = prompt.partition("{}")
    start = len(before) + len(head)
    return f"{before}{head}{subject}{tail}{after}", (start, start + len(subject))


def join(prompt: str, target: str) -> str:
    """Prompt and target with one space between; none after white space or an empty prompt."""
    glue = "" if not prompt or prompt[-1].isspace() else " "
    return f"{prompt}{glue}{target.lstrip()}"


def target_ids(
    tokenizer: PreTrainedTokenizerFast, prompt: str, target: str
) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and of the target, as they stand in the joined text.

    The space between belongs to the target. The prompt's ids can differ from the prompt's alone
    where a token reaches over the seam; such a token is the target's.

    Raises:
        ValueError: The target has no token, or nothing stands before it to predict it from.
    """
    encoded = _encode(tokenizer, join(prompt, target))
    start = _target_start(encoded, prompt, target)
    return encoded.ids[:start], encoded.ids[start:]


def lay_out(
    tokenizer: PreTrainedTokenizerFast,
    lines: Sequence[Line],
    device: torch.device | str = "cpu",
    side: Side = "right",
) -> Rows:
    """Lines as padded rows with lookup positions and labels.

    Raises:
        ValueError: No lines, a template without `{}`, a subject or target without token.
    """
    ids, labels, lookup = [], [], []
    for line in lines:
        text, span = subject_span(line.context, line.prompt, line.subject)
        encoded = _encode(tokenizer, join(text, line.target) if line.target else text)
        row, start = encoded.ids, len(encoded.ids)
        if line.target:
            start = _target_start(encoded, text, line.target)
            row = row[:-1]
        wanted = [IGNORE] * (start - 1) + encoded.ids[start:]
        ids.append(row)
        labels.append(wanted + [IGNORE] * (len(row) - len(wanted)))
        lookup.append(_last_overlap(encoded, span, line.subject))
    padded, mask = _pad(ids, _pad_id(tokenizer), side)
    wide_labels, _ = _pad(labels, IGNORE, side)
    shift = (1 - mask).sum(1) if side == "left" else torch.zeros(len(ids), dtype=torch.long)
    columns = torch.tensor(lookup) + shift
    return Rows(padded.to(device), mask.to(device), columns.to(device), wide_labels.to(device))


def greedy(
    model: EditableModel, prompts: Sequence[str], max_new_tokens: int, batch_size: int
) -> list[str]:
    """What the model says after each prompt: the most probable token each time, to its end token.

    Args:
        model: Its `generation_config` is set aside meanwhile: penalties in it would change the
            answer.
        prompts: Full texts.
        max_new_tokens: At most so many for each prompt.
        batch_size: Prompts decoded together.

    Returns:
        The continuations without special tokens.

    Raises:
        ValueError: A prompt and its continuation do not fit the model.
    """
    rows = [token_ids(model.tokenizer, prompt) for prompt in prompts]
    texts: dict[int, str] = {}
    with _plain_generation(model, max_new_tokens):
        for chunk in _decoding_batches(rows, batch_size, equal=model.dtype == torch.float64):
            batch = batch_of(model.tokenizer, [rows[i] for i in chunk], model.device, "left")
            width = batch.ids.shape[1]
            _check_length(model, width + max_new_tokens)
            with torch.no_grad():
                out = model.network.generate(batch.ids, attention_mask=batch.mask)
            new = model.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
            texts.update(zip(chunk, new, strict=True))
    return [texts[i] for i in range(len(prompts))]


def score_targets(
    model: EditableModel, pairs: Sequence[tuple[str, str]], batch_size: int
) -> list[TargetScore]:
    """Log-probability of each target after its prompt, teacher-forced.

    Args:
        model: Not mutated.
        pairs: Prompts (full texts) and targets (without leading space).
        batch_size: Pairs in one forward pass.

    Returns:
        One score for each pair, from a log-softmax in at least float32.

    Raises:
        ValueError: A target without token, or a text that does not fit the model.
    """
    scores: list[TargetScore] = []
    for chunk in _chunks(pairs, batch_size):
        split = [target_ids(model.tokenizer, prompt, target) for prompt, target in chunk]
        batch = batch_of(model.tokenizer, [(a + b)[:-1] for a, b in split], model.device)
        _check_length(model, batch.ids.shape[1])
        with torch.no_grad():
            out = model.network(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
        for row, (prompt, target) in zip(out.logits, split, strict=True):
            scores.append(_score(row[len(prompt) - 1 :][: len(target)], target))
    return scores


def _score(logits: Tensor, target: list[int]) -> TargetScore:
    """Score of target ids under logits `[len(target), vocab]`."""
    exact = logits.double() if logits.dtype == torch.float64 else logits.float()
    wanted = torch.tensor(target, device=logits.device)[:, None]
    logprobs = exact.log_softmax(-1).gather(1, wanted)
    hits = exact.argmax(-1, keepdim=True) == wanted
    return TargetScore(logprobs[:, 0].tolist(), hits[:, 0].tolist())


def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> _Encoded:
    """Ids and spans; special tokens that the tokenizer puts behind the text are dropped."""
    found = tokenizer(
        text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
    )
    special, spans = found["special_tokens_mask"], found["offset_mapping"]
    end = len(special)
    while end > 1 and special[end - 1] and spans[end - 1] == (0, 0):
        end -= 1
    return _Encoded(found["input_ids"][:end], spans[:end])


def _last_overlap(encoded: _Encoded, span: tuple[int, int], subject: str) -> int:
    for index, (low, high) in reversed(list(enumerate(encoded.spans))):
        if low < high and low < span[1] and high > span[0]:
            return index
    msg = f"no token holds the subject {subject!r}; a subject must not be empty"
    raise ValueError(msg)


def _target_start(encoded: _Encoded, prompt: str, target: str) -> int:
    """Index of the target's first token in the joined text."""
    seam = len(prompt)
    start = 0
    for index, (low, high) in enumerate(encoded.spans):
        if high <= seam:
            start = index + 1
        elif low < high:
            break
    if start >= len(encoded.ids) or not target.strip():
        msg = f"the target {target!r} has no token; a target must not be empty"
        raise ValueError(msg)
    if start == 0:
        msg = f"nothing stands before the target {target!r}; give a prompt that is not empty"
        raise ValueError(msg)
    return start


def _pad(rows: Sequence[list[int]], fill: int, side: Side) -> tuple[Tensor, Tensor]:
    """Rows of unequal length as `[rows, tokens]`, with a mask of the same shape."""
    if not rows:
        msg = "there are no texts to encode"
        raise ValueError(msg)
    if not all(rows):
        msg = "an empty text has no token; give a prompt that is not empty"
        raise ValueError(msg)
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), fill)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=ids.dtype)
        mask[i, place] = 1
    return ids, mask


def _pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Any id will do: padding is masked out."""
    return tokenizer.pad_token_id or tokenizer.eos_token_id or 0


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _decoding_batches(
    rows: Sequence[list[int]], size: int, *, equal: bool
) -> Iterator[Sequence[int]]:
    """Indices of rows to decode together; with `equal` only rows of one length, so without padding.

    Attention code that takes the softmax of a float64 model in float32 turns the mask's float64
    minimum into -inf: what is padded on the left comes out NaN, and spoils the text behind it.
    """
    for length in sorted({len(row) for row in rows} if equal else {0}):
        yield from _chunks(
            [i for i, row in enumerate(rows) if len(row) == length or not equal], size
        )


def _check_length(model: EditableModel, tokens: int) -> None:
    if tokens > model.max_length:
        hint = "shorten the prompt or lower edit_scores.max_new_tokens"
        msg = f"a text needs {tokens} tokens and the model takes {model.max_length}; {hint}"
        raise ValueError(msg)


@contextmanager
def _plain_generation(model: EditableModel, max_new_tokens: int) -> Iterator[None]:
    """Greedy decoding without the model's own generation settings, but for its end tokens."""
    from transformers import GenerationConfig

    own = model.network.generation_config
    end = model.tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    model.network.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=end,
        pad_token_id=_pad_id(model.tokenizer),
    )
    try:
        yield
    finally:
        model.network.generation_config = own
