"""ROUGE as the package `rouge` 1.0.1 counts it, which the paper's authors used.

What differs from `rouge_score`, the maintained package: sentences are what stands between full
stops; words are what stands between blanks, so `pilot,` is not `pilot`, and `A` is not `a`; each
n-gram counts once, however often it occurs; ROUGE-L is that of summaries (Lin 2004, section 3.2)
with the words of all longest common subsequences taken as one set; 1e-8 is added to the
denominator of F. Written from the formulas; held against the package (tests/test_paper_released.py).
"""

from __future__ import annotations

from collections.abc import Sequence


def mean_f(summary: str, reference: str) -> float:
    """The mean F of ROUGE-1, ROUGE-2 and ROUGE-L; 0 where the package would raise an error."""
    ours, theirs = _sentences(summary), _sentences(reference)
    if not ours or not theirs:
        return 0.0
    scores = _rouge_n(ours, theirs, 1), _rouge_n(ours, theirs, 2), _rouge_l(ours, theirs)
    return sum(scores) / 3


def _sentences(text: str) -> list[list[str]]:
    """Words of each sentence; a sentence of blanks alone has one empty word."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _rouge_n(summary: list[list[str]], reference: list[list[str]], n: int) -> float:
    ours, theirs = _ngrams(summary, n), _ngrams(reference, n)
    return _f(len(ours & theirs), len(ours), len(theirs))


def _ngrams(sentences: list[list[str]], n: int) -> set[tuple[str, ...]]:
    """Distinct n-grams; they cross the ends of sentences."""
    words = [word for sentence in sentences for word in sentence]
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def _rouge_l(summary: list[list[str]], reference: list[list[str]]) -> float:
    common: set[str] = set()
    for sentence in reference:
        common = common.union(*(_common(sentence, ours) for ours in summary))
    return _f(len(common), len(_ngrams(summary, 1)), len(_ngrams(reference, 1)))


def _common(left: Sequence[str], right: Sequence[str]) -> set[str]:
    """Words of a longest common subsequence; of several, the one that the package finds."""
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, word in enumerate(left, 1):
        for j, other in enumerate(right, 1):
            best = max(table[i - 1][j], table[i][j - 1])
            table[i][j] = table[i - 1][j - 1] + 1 if word == other else best
    i, j, words = len(left), len(right), set()
    while i and j:
        if left[i - 1] == right[j - 1]:
            words.add(left[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return words


def _f(common: int, ours: int, theirs: int) -> float:
    precision = common / ours if ours else 0.0
    recall = common / theirs if theirs else 0.0
    return 2 * precision * recall / (precision + recall + 1e-8)
