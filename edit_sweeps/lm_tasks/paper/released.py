"""The scorers that the paper's authors released, quirks and all.

From what JasonForJoy/Model-Editing-Hurt does (commit 8f8d4dc, `test-task-code/` before editing and
`test-task-after-code/` after it); no line of it is here. Where the two folders differ, the rule
for the edited model counts for both models, or base and edited would not be scored alike.

Their texts are decoded with special tokens and ours without: an answer that ended by itself ends in
`<|endoftext|>` there. That changes a score only where a function here says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edit_sweeps.lm_tasks.paper import prompts, py_rouge
from edit_sweeps.lm_tasks.paper.normal import normalised

Document = Mapping[str, Any]

MARKER = len("<|endoftext|>")
"""Characters that are cut from the end of every summary."""
KINDS = {"PER": "Person", "LOC": "Location", "ORG": "Organization", "MISC": "Miscellaneous"}
"""CoNLL-2003's types and the prompt's words for them, in the order of the prompts."""


def number(doc: Document, text: str) -> float:
    """Reasoning: the gold number, as written in the data, is a part of the answer.

    So 5 is found in 15, and 2,125 is not found in 2125.
    """
    return float(doc["number"] in text)


def label(gold: str, text: str) -> float:
    """NLI, sentiment and closed QA: the gold label is a part of the answer, in any case.

    So `no` is found in `not`, `now` and `none`. (Closed QA: the rule of the edited model. That of
    the unedited one wanted exactly " yes" or " no".) Answers without any label count as wrong: it
    is their "total accuracy".
    """
    return float(gold in text.lower())


def closed_domain_qa(doc: Document, text: str) -> float:
    """Closed QA: as `label`, in what follows the *first* "answer:" of prompt and answer.

    A passage that holds "answer:" is therefore searched itself, with the question, instead of the
    answer.
    """
    whole = f"{doc['passage']} question: {doc['question']}. answer:{text}"
    return label(prompts.closed_domain_qa_gold(doc), whole.split("answer:")[1])


def dialogue(doc: Document, text: str) -> float:
    """Dialogue: the gold letter is a part of the answer, so B is found in "Both".

    An answer with "Chi" (of "Chioces", or "Chinese") is wrong: the rule of the edited model.
    """
    return float("Chi" not in text and doc["answers"] in text)


def summarization(doc: Document, text: str) -> float:
    """Summarization: mean F of ROUGE-1, -2 and -L of what follows the last "DR:", less 13 characters.

    The 13 are the length of `<|endoftext|>`, which ends a text only when the model stopped by
    itself. Within 25 tokens it hardly ever does, so the summary loses its last words. Here a text
    that did end by itself loses them too, as its marker is gone already; theirs would lose only the
    marker (with LLaMA's `</s>`, the marker and nine characters).
    """
    summary = text.rpartition("DR:")[-1][:-MARKER]
    return py_rouge.mean_f(summary, doc["summary"]) if len(summary) > 1 else 0.0


def open_domain_qa(doc: Document, prompt: str, text: str) -> tuple[int, int, int]:
    """Open QA: spans of words that equal an answer, in what follows the last "Answer:".

    The prompt has no "Answer:", so unless the model (or the passage) writes one, the *whole prompt*
    is searched, passage and question included. `never_reset` makes a score of what is returned.

    Returns:
        What the document adds to the count before the flag is up: 1 when the first or the last word
        is an answer; else 1 for *each* other word that is, up to the first span of several words
        that is one, which adds 1 and ends the search.
        Whether such a span raises the flag.
        What the document adds when the flag is up: only spans from the first word on are looked at.
    """
    words = normalised((prompt + text).rpartition("Answer:")[-1].replace("\n", " ")).split(" ")
    answers = {normalised(answer) for answer in doc["answer"]}
    if words[0] in answers or words[-1] in answers:
        return 1, 0, 1
    longest = max(len(answer.split(" ")) for answer in answers)
    hits = 0
    for start in range(len(words) - 1):
        if words[start] in answers:
            hits += 1
        elif _span(words, start, longest, answers):
            return hits + 1, 1, int(_span(words, 0, longest, answers))
    return hits, 0, 0


def _span(words: Sequence[str], start: int, longest: int, answers: set[str]) -> bool:
    """Whether some two or more words from `start` on are an answer."""
    ends = range(start + 2, min(start + longest, len(words)) + 1)
    return any(" ".join(words[start:end]) in answers for end in ends)


def never_reset(documents: Sequence[tuple[int, int, int]]) -> float:
    """Open QA's score: the count over the number of documents, taken in their order.

    The flag that ends a search of spans is not lowered for the next document. The first span of
    several words that is an answer, in any document, so changes the rule for all that follow: the
    score depends on the order of the documents, cannot be resampled, and may pass 1.
    """
    count, flag = 0, False
    for before, raises, after in documents:
        count += after if flag else before
        flag = flag or bool(raises)
    return count / len(documents) if documents else 0.0


def entities(tokens: Sequence[str], tags: Sequence[str], kind: str) -> list[str]:
    """NER: the gold names of a type, as the authors cut them out.

    A name starts at B-`kind` and ends before the next O, so a name that follows at once, of any
    type, is part of it; when there is no O up to the end of the sentence, the last token is lost,
    and a name of one token at the end becomes an empty string.
    """
    names, here = [], 0
    while here < len(tags):
        if tags[here] == f"B-{kind}":
            end = next((n for n in range(here, len(tags)) if tags[n] == "O"), len(tags) - 1)
            names.append(" ".join(tokens[here:end]))
            here = end
        here += 1
    return names


def ner(doc: Document, text: str) -> list[float]:
    """NER: which gold names are parts of the answer, up to a second "Entity:".

    An empty name is a part of any text, so one that `entities` made is always found. Where there is
    nothing to find: an empty answer counts as a name found (theirs is empty only when "Entity:"
    comes at once); any other answer counts as a name missed for Miscellaneous, and not at all for
    the other three types, whose line for it has a slip.

    Returns:
        [found, of] for each of the four types; zero but for the document's own.
    """
    answer = f"{doc['text']} Entity:{text}".split("Entity:")[1]
    gold = doc["released"]
    found, of = sum(name in answer for name in gold), len(gold)
    if not gold and text and not answer:
        found, of = 1, 1
    elif not gold and doc["kind"] == KINDS["MISC"]:
        of = 1
    counts = [0.0] * (2 * len(KINDS))
    place = 2 * list(KINDS.values()).index(doc["kind"])
    counts[place : place + 2] = [float(found), float(of)]
    return counts


def macro_recall(documents: Sequence[Sequence[float]]) -> float:
    """NER's score: found / of for each type over all documents, and the mean over the types.

    It is a recall; the paper calls it F1. Types with nothing to find are left out (theirs divides
    by zero).
    """
    sums = [sum(column) for column in zip(*documents, strict=True)]
    shares = [found / of for found, of in zip(sums[::2], sums[1::2], strict=True) if of]
    return sum(shares) / len(shares) if shares else 0.0
