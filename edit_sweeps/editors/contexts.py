"""Contexts: texts put before a prompt when keys and values are taken.

With them an edit holds behind other text too.

A context is a template with one `{}` where the prompt goes. Contexts come in groups; a mean over
contexts is the mean inside each group, then over groups. ROME uses the bare prompt and 20 texts
sampled from the model (arXiv 2202.05262, section 3.1), every one its own group; MEMIT the bare
prompt and, as a second group, five texts (arXiv 2210.07229, section 5).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edit_sweeps.later import torch

if TYPE_CHECKING:
    from edit_sweeps.model import EditableModel


Groups = tuple[tuple[str, ...], ...]

SOURCES = ("generated", "miniature", "bare")
BARE = "{}"
MINIATURE_CONTEXTS = 5
PLAIN_SENTENCE = re.compile(r"[A-Z][a-z' A-Z]{15,60}\.(?=\s|$)")


@dataclass(frozen=True, kw_only=True)
class ContextRecipe:
    """How contexts are made where a user gives none.

    Attributes:
        source: `generated` (sampled from the model), `miniature` (sentences of the synthetic world)
            or `bare` (the prompt alone).
        seed: Of the sampling.
        starts: Texts that sampling starts from; an empty one stands for the first token of any
            text.
        lengths: Pairs (tokens, count): from each start, `count` texts of `tokens` tokens, start
            included.
        grouped: Whether the texts of one length form one group; otherwise each is its own.
    """

    source: str
    seed: int
    starts: tuple[str, ...]
    lengths: tuple[tuple[int, ...], ...]
    grouped: bool

    def __post_init__(self) -> None:
        """Refuse an unknown source and impossible lengths.

        Raises:
            ValueError: Says what is allowed.
        """
        if self.source not in SOURCES:
            msg = f"editor.context_source={self.source} is unknown; choose of {', '.join(SOURCES)}"
            raise ValueError(msg)
        if not self.lengths or any(len(p) != 2 or min(p) < 1 for p in self.lengths):
            msg = (
                f"editor.context_lengths={[list(p) for p in self.lengths]} must be pairs "
                "[tokens, count] of positive numbers, such as [[5,10],[10,10]]"
            )
            raise ValueError(msg)
        if not self.starts:
            msg = 'editor.context_starts is empty; [""] samples from the first token of any text'
            raise ValueError(msg)


def read_contexts(given: Sequence[Any] | None, file: str | None) -> Groups | None:
    """Contexts that the user gave, as a list or as a JSON file with the same; None if neither.

    Raises:
        ValueError: Both were given, or the content is not a list of contexts; the message says
            where.
    """
    if given is not None and file is not None:
        msg = "both editor.contexts and editor.contexts_file are set; set one of them to null"
        raise ValueError(msg)
    if file is not None:
        with Path(file).expanduser().open(encoding="utf-8") as stream:
            given = json.load(stream)
        return parse_contexts(given, file)
    return None if given is None else parse_contexts(given, "editor.contexts")


def parse_contexts(entries: Any, where: str) -> Groups:
    """Groups of templates from a flat list (each entry its own group) or a list of lists.

    An entry with one `{}` is a template; an entry without is a prefix, put right before the prompt.

    Args:
        entries: The list.
        where: What the list is called in messages.

    Raises:
        ValueError: Not a list, empty, mixed, or an entry with several `{}`.
    """
    if not _is_list(entries) or not entries:
        msg = f'{where} must be a list such as ["{{}}", "I know this. {{}}"]; got {entries!r}'
        raise ValueError(msg)
    if all(_is_list(entry) and entry for entry in entries):
        return tuple(tuple(_template(text, where) for text in group) for group in entries)
    if not any(_is_list(entry) for entry in entries):
        return tuple((_template(text, where),) for text in entries)
    msg = f"{where} mixes contexts and groups of contexts, or has an empty group; got {entries!r}"
    raise ValueError(msg)


def make_contexts(model: EditableModel, recipe: ContextRecipe) -> Groups:
    """The contexts of a recipe, the bare prompt first; equal for equal models and seeds.

    Raises:
        ValueError: A start that is as long as the texts, or a tokenizer without a first token.
    """
    if recipe.source == "bare":
        return ((BARE,),)
    if recipe.source == "miniature":
        batches = [[f"{text} {BARE}" for text in _miniature_sentences(recipe.seed)]]
    else:
        batches = [[f"{text}. {BARE}" for text in texts] for texts in _sample(model, recipe)]
    groups = batches if recipe.grouped else [[text] for texts in batches for text in texts]
    return ((BARE,), *(tuple(group) for group in groups))


def flatten(groups: Groups) -> tuple[str, ...]:
    """All templates in order."""
    return tuple(text for group in groups for text in group)


def weights(groups: Groups) -> torch.Tensor:
    """`[contexts]` in float64: share of each template in the mean of group means; the sum is 1."""
    shares = [1 / (len(groups) * len(group)) for group in groups for _ in group]
    return torch.tensor(shares, dtype=torch.float64)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _template(text: Any, where: str) -> str:
    if not isinstance(text, str) or text.count(BARE) > 1:
        msg = f"{where}: a context is a text with at most one {BARE}; got {text!r}"
        raise ValueError(msg)
    return text if BARE in text else text + BARE


def _miniature_sentences(seed: int) -> list[str]:
    """The first sentences of training documents of the synthetic world."""
    from edit_sweeps.miniature import training_text

    found: dict[str, None] = {}
    n_documents = 4 * MINIATURE_CONTEXTS
    while len(found) < MINIATURE_CONTEXTS:
        for document in training_text(n_documents, seed):
            sentence = PLAIN_SENTENCE.match(document)
            if sentence and len(found) < MINIATURE_CONTEXTS:
                found[sentence[0]] = None
        n_documents *= 2
    return list(found)


def _sample(model: EditableModel, recipe: ContextRecipe) -> Iterator[list[str]]:
    """For each length, top-5 samples from every start; leaves the global random state alone."""
    kind = torch.accelerator.current_accelerator() or torch.device("cpu")
    accelerators = range(torch.accelerator.device_count())
    with torch.random.fork_rng(devices=accelerators, device_type=kind.type):
        torch.manual_seed(recipe.seed)
        for length, count in recipe.lengths:
            yield [
                text
                for start in recipe.starts
                for text in _continue(model, start, length=length, count=count)
            ]


def _continue(model: EditableModel, start: str, *, length: int, count: int) -> list[str]:
    from transformers import GenerationConfig

    tokenizer = model.tokenizer
    ids = tokenizer(start)["input_ids"] or [_first_token(tokenizer)]
    if length <= len(ids):
        msg = (
            f"editor.context_lengths asks for {length} tokens, but {start!r} alone has {len(ids)}; "
            "ask for more tokens or a shorter start"
        )
        raise ValueError(msg)
    rows = torch.tensor([ids] * count, device=model.device)
    settings = GenerationConfig(
        do_sample=True,
        top_k=5,
        top_p=1.0,
        temperature=1.0,
        repetition_penalty=1.0,
        min_new_tokens=length - len(ids),
        max_new_tokens=length - len(ids),
        pad_token_id=_first_token(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
    )
    out = model.network.generate(
        rows, attention_mask=torch.ones_like(rows), generation_config=settings
    )
    return [_clean(text) for text in tokenizer.batch_decode(out, skip_special_tokens=True)]


def _first_token(tokenizer: Any) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    msg = (
        "this tokenizer has no first token to start contexts from; give words instead: "
        "editor.context_starts=[The,Because,I]"
    )
    raise ValueError(msg)


def _clean(text: str) -> str:
    text = unicodedata.normalize("NFKD", text).replace("\n\n", " ")
    return text.replace("{", " ").replace("}", " ")
