"""Documents and scores of the paper's eight tasks; task files name these functions.

Each task gives a sound score (its headline), `released` (what the authors' scorer says, see
`released`) and `invalid`, whether the sound scorer found nothing that could be an answer.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer

from edit_sweeps import task_data
from edit_sweeps.lm_tasks.paper import prompts, released
from edit_sweeps.lm_tasks.paper.normal import normalised

Document = Mapping[str, Any]
Counts = tuple[int, int, int]
"""True positives, false positives and false negatives of one document."""

NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)])[-−])?\$?"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
)
NEXT_PROMPT = re.compile(r"Text:|Please identify")
"""Where an answer on entities ends, as the model goes on to write the next prompt."""
ITEM = re.compile(r"\s*(?:\d+[.)]|[-*•])\s")
"""The beginning of a line of a bulleted or numbered list."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s")
SEPARATOR = re.compile(r"[,;|\n\t]|\band\b")
"""What stands between two names of an answer."""
NO_ENTITY = frozenset({"none", "no", "no entity", "no entities", "nothing", "n/a"})


def load(source: str, splits: Sequence[str], **_metadata: Any) -> dict[str, Dataset]:
    """The documents of `task_data.load`; lm-eval hands over the task's metadata as well."""
    return task_data.load(source, splits)


def reasoning(doc: Document, results: list[str]) -> dict[str, float]:
    """Whether the *first* number of the answer equals the gold number: 1,450 is 1450 and 1450.00."""
    return _number(doc, results[0], first=True)


def reasoning_cot(doc: Document, results: list[str]) -> dict[str, float]:
    """Whether the *last* number of the model's own chain of thought equals the gold number."""
    return _number(doc, results[0], first=False)


def nli(doc: Document, results: list[str]) -> dict[str, float]:
    """Whether the first word of the answer that is "true" or "false" is the right one."""
    gold = prompts.nli_gold(doc).lower()
    right = _label(gold, ("true", "false"), results[0].lower())
    return {**right, "released": released.label(gold, results[0])}


def sentiment(doc: Document, results: list[str]) -> dict[str, float]:
    """Whether the first word of the answer that is "positive" or "negative" is the right one."""
    gold = prompts.sentiment_gold(doc)
    right = _label(gold, ("negative", "positive"), results[0].lower())
    return {**right, "released": released.label(gold, results[0])}


def closed_domain_qa(doc: Document, results: list[str]) -> dict[str, float]:
    """Whether the first word of the answer that is "yes" or "no" is the right one."""
    right = _label(prompts.closed_domain_qa_gold(doc), ("no", "yes"), results[0].lower())
    return {**right, "released": released.closed_domain_qa(doc, results[0])}


def dialogue(doc: Document, results: list[str]) -> dict[str, float]:
    """Whether the first word of the answer that is A, B, C or D (capitals) is the right letter."""
    right = _label(doc["answers"], ("A", "B", "C", "D"), results[0])
    return {**right, "released": released.dialogue(doc, results[0])}


def open_domain_qa(doc: Document, results: list[str]) -> dict[str, Any]:
    """Exact match and token F1 with the best of the answers; see `_answers` for what is read."""
    prompt = prompts.open_domain_qa(doc)
    return {
        **_short_answer(doc["answer"], results[0]),
        "released": released.open_domain_qa(doc, prompt, results[0]),
    }


def open_domain_qa_closed_book(doc: Document, results: list[str]) -> dict[str, Any]:
    """As `open_domain_qa`; this prompt ends in "Answer:", so the released scorer reads the answer."""
    return {
        **_short_answer(doc["answer"], results[0]),
        "released": released.open_domain_qa(doc, "Answer:", results[0]),
    }


def summarization(doc: Document, results: list[str]) -> dict[str, float]:
    """Mean F of ROUGE-1, ROUGE-2 and ROUGE-L of the whole answer (`rouge_score`, no stemming)."""
    scores = _rouge().score(doc["summary"], results[0])
    return {
        "rouge": sum(score.fmeasure for score in scores.values()) / len(scores),
        "released": released.summarization(doc, results[0]),
        "invalid": float(not re.search(r"\w", results[0])),
    }


def ner_documents(dataset: Dataset) -> Dataset:
    """Four documents for each sentence, one for each type of entity, as the paper asks for them.

    Returns:
        Documents with `text` (the sentence as the prompt shows it), `kind` (the prompt's word for
        the type), `gold` (names, one for each span of that type) and `released` (names as the
        authors cut them out).
    """
    return Dataset.from_list(
        [
            {
                "text": _sentence(row["tokens"]),
                "kind": word,
                "gold": _spans(row["tokens"], row["tags"], kind),
                "released": released.entities(row["tokens"], row["tags"], kind),
            }
            for row in dataset
            for kind, word in released.KINDS.items()
        ]
    )


def ner(doc: Document, results: list[str]) -> dict[str, Any]:
    """Names in the answer that are the names of that type in the sentence, one for each span.

    As in seqeval a name counts only when it is exact and of the right type (the prompt's), and each
    span counts: a name that the sentence has twice must be written twice, and one written too often
    is spurious.
    """
    gold = Counter(map(_name, doc["gold"]))
    lists = [_names(text, doc["gold"]) for text in _lists(results[0])]
    counts = [_counts(Counter(names), gold) for names in lists if names is not None]
    return {
        "f1": max(counts, key=_own_f1, default=_counts(Counter(), gold)),
        "released": released.ner(doc, results[0]),
        "invalid": float(not counts),
    }


def micro_f1(counts: Sequence[Counts]) -> float:
    """F1 over the entities of all documents."""
    hits, spurious, missed = (sum(column) for column in zip(*counts, strict=True))
    total = 2 * hits + spurious + missed
    return 2 * hits / total if total else 0.0


def _number(doc: Document, text: str, *, first: bool) -> dict[str, float]:
    numbers, (gold,) = _numbers(text), _numbers(doc["number"])
    right = bool(numbers) and numbers[0 if first else -1] == gold
    return {
        "exact_match": float(right),
        "released": released.number(doc, text),
        "invalid": float(not numbers),
    }


def _numbers(text: str) -> list[Decimal]:
    """Numbers in order; a minus counts where no word or number stands right before it."""
    return [
        (-1 if found["sign"] else 1) * Decimal(found["digits"].replace(",", ""))
        for found in NUMBER.finditer(text)
    ]


def _label(gold: str, labels: Sequence[str], text: str) -> dict[str, float]:
    given = next((word for word in re.findall(r"[^\W\d_]+", text) if word in labels), None)
    return {"acc": float(given == gold), "invalid": float(given is None)}


def _short_answer(answers: Sequence[str], text: str) -> dict[str, float]:
    """Against the best of `answers`; one that is nothing when normalised ("---") must be written so."""
    given = _answers(text)
    verbatim = any(ours in answers for ours in (text.strip(), *given))
    pairs = [(normalised(ours), normalised(gold)) for ours in given for gold in answers]
    overlaps = [_token_f1(ours.split(), gold.split()) for ours, gold in pairs]
    return {
        "exact_match": float(verbatim or any(gold and ours == gold for ours, gold in pairs)),
        "f1": max([float(verbatim), *overlaps]),
        "invalid": float(not (given or verbatim)),
    }


def _answers(text: str) -> list[str]:
    """What a text of 20 tokens, which never stops by itself, says as its answer.

    That is the first line with a word in it, of what stands before the next "Question:" (the model
    went on to another one) and after the first "Answer:", if the model wrote one. A model that
    answers and goes on in the same line must not lose by it, so the line's first sentence counts as
    well; the better of the two. Neither is there when the text has no word.
    """
    before, cue, after = text.partition("Question:")[0].partition("Answer:")
    lines = (after if cue else before).splitlines()
    line = next((line.strip() for line in lines if re.search(r"\w", line)), None)
    return [] if line is None else [line, re.split(r"(?<=[.!?])\s", line)[0]]


def _token_f1(ours: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of the words that two answers have in common; 0 without words."""
    common = (Counter(ours) & Counter(gold)).total()
    return 2 * common / (len(ours) + len(gold)) if common else 0.0


@functools.cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rouge1", "rouge2", "rougeL"])


def _sentence(tokens: Sequence[str]) -> str:
    """Tokens with blanks between them but for "," and ".", less the first character.

    The first character is a blank; of a sentence that starts with "," or "." it is that mark.
    """
    return "".join(token if token in {",", "."} else f" {token}" for token in tokens)[1:]


def _spans(tokens: Sequence[str], tags: Sequence[str], kind: str) -> list[str]:
    """Names of a type, as conlleval and seqeval cut them: I after another type starts a name too."""
    spans: list[list[str]] = []
    before = ""
    for token, tag in zip(tokens, tags, strict=True):
        prefix, _, this = tag.partition("-")
        if this == kind:
            if prefix == "B" or before != kind:
                spans.append([])
            spans[-1].append(token)
        before = this
    return [_sentence([*span]) for span in spans]


def _lists(text: str) -> list[str]:
    """What a text of 10 tokens, which never stops by itself, may mean as its list of names.

    That is the first line with a word in it, before the model repeats its prompt; where that line is
    an item of a list, the items that follow are part of it. A model that answers and goes on in the
    same line must not lose by it, so the list may also end with each sentence of that line ("U.S."
    ends one, "Paris." another): the best of them counts.
    """
    before = NEXT_PROMPT.split(text)[0]
    lines = [line for line in before.splitlines() if re.search(r"\w", line)]
    if not lines:
        return []
    items = list(itertools.takewhile(ITEM.match, lines))
    answer = "\n".join(items or lines[:1])
    ends = [end.start() for end in SENTENCE_END.finditer(answer)]
    return [answer, *(answer[:end] for end in ends)]


def _counts(found: Counter[str], gold: Counter[str]) -> Counts:
    hits = (found & gold).total()
    return hits, found.total() - hits, gold.total() - hits


def _own_f1(counts: Counts) -> tuple[float, int]:
    """F1 of one document; among equals the one with fewer spurious names is better."""
    return micro_f1([counts]), -counts[1]


def _names(text: str, gold: Sequence[str]) -> list[str] | None:
    """The names that an answer lists; None when it says nothing at all.

    Names stand between commas, semicolons, bars, ends of lines and "and". A gold name with one of
    these in it ("Trinidad and Tobago") is looked for first. "None" lists no names.
    """
    found: list[str] = []
    for name in sorted(filter(SEPARATOR.search, gold), key=len, reverse=True):
        if name in text:
            found.append(name)
            text = text.replace(name, ";", 1)
    found += [piece for piece in SEPARATOR.split(text) if _name(piece)]
    named = [_name(p) for p in found if " ".join(p.split()).strip(" .").lower() not in NO_ENTITY]
    return named if found else None


def _name(piece: str) -> str:
    """A name without bullet, blanks, and marks at its ends: what is compared."""
    bare = re.sub(r"^\s*\d+[.)]\s+", "", piece)
    return re.sub(r"\s+", "", re.sub(r"^[\W_]+|[\W_]+$", "", bare))
