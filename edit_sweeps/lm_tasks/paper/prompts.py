"""The prompts of the paper's tasks, word for word, and what a model that knows everything writes next.

From JasonForJoy/Model-Editing-Hurt (arXiv 2401.04700), `test-task-code/`. Functions and not
templates in the task files: lm-eval compiles a template anew for each document, which takes a
millisecond; there are 26,000 documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]


def reasoning(doc: Document) -> str:
    """GSM8K with its rationale, which ends in a line break."""
    return (
        f"Q: {doc['question']} A:Let's think step by step. {doc['rationale']} "
        "Therefore, the answer (arabic numerals) is:"
    )


def reasoning_cot(doc: Document) -> str:
    """Not in the paper: its prompt up to where the rationale stands."""
    return f"Q: {doc['question']} A:Let's think step by step."


def nli(doc: Document) -> str:
    """RTE."""
    return f"{doc['sentence1']} entails the {doc['sentence2']}. True or False? answer:"


def nli_gold(doc: Document) -> str:
    """0 is entailment."""
    return ("True", "False")[doc["label"]]


def open_domain_qa(doc: Document) -> str:
    """NQ-open with a passage; no word asks for the answer."""
    return (
        "Refer to the passage below and answer the following question. "
        f"Passage: {doc['passage']} Question: {doc['question']}"
    )


def open_domain_qa_closed_book(doc: Document) -> str:
    """Not in the paper: its prompt less the passage, and "Answer:", as nothing else asks for one."""
    question = doc["question"].rstrip("? ")
    return f"Answer the following question. Question: {question}? Answer:"


def open_domain_qa_gold(doc: Document) -> str:
    """The first of the answers."""
    return str(doc["answer"][0])


def closed_domain_qa(doc: Document) -> str:
    """BoolQ."""
    return (
        "Please answer the given question based on the passage. The answer should be exact 'yes' or "
        f"'no'. passage: {doc['passage']} question: {doc['question']}. answer:"
    )


def closed_domain_qa_gold(doc: Document) -> str:
    """1 is yes."""
    return ("no", "yes")[doc["label"]]


def dialogue(doc: Document) -> str:
    """MuTual; "Chioces" is the paper's spelling."""
    a, b, c, d = doc["options"]
    return (
        f"Q: {doc['article']} Which choice is correct? Answer Chioces: (A){a}(B){b}(C){c}(D){d} "
        "A: Among A through D, the answer is"
    )


def summarization(doc: Document) -> str:
    """SAMSum."""
    return f"{doc['dialogue']}\nTL;DR:"


def ner(doc: Document) -> str:
    """CoNLL-2003; a document is a sentence and a type of entity."""
    return f"Please identify {doc['kind']} Entity from the given text. Text: {doc['text']} Entity:"


def ner_gold(doc: Document) -> str:
    """The names, or that there are none."""
    return "; ".join(doc["gold"]) or "None"


def sentiment(doc: Document) -> str:
    """SST-2, whose sentences end in a blank."""
    return (
        "For each snippet of text,label the sentiment of the text as positive or negative.The answer "
        f"should be exact 'positive' or 'negative'. text: {doc['sentence']} answer:"
    )


def sentiment_gold(doc: Document) -> str:
    """1 is positive."""
    return ("negative", "positive")[doc["label"]]
