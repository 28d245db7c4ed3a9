"""Answers found in text, and the entropy of its words."""

import math

import pytest

from edit_sweeps.edit_scores import contains_answer, ngram_entropy


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        (" Rome, Italy", "Rome", True),
        ("rome", "Rome", True),
        ("Romeo in Romero, then Rome.", "Rome", True),
        ("Romeo", "Rome", False),
        ("xRome", "Rome", False),
        ("in New \n York", "New York", True),
        ("1450", "45", False),
        ("45.", "45", True),
        ("the U.S. is", "U.S.", True),
        ("C++ code", "C++", True),
        ("彼は東京都に", "東京", True),
        ("Rene\u0301", "Ren\u00e9", True),
        ("Rene\u0301", "Rene", False),
        ("q\u0303uo", "q", False),
        ("Mary-Kate", "Mary", True),
        ("STRASSE", "straße", True),
        ("", "Rome", False),
    ],
)
def test_an_answer_is_found_as_whole_words(text, answer, found):
    assert contains_answer(text, answer) is found


def test_entropy_is_romes_formula_by_hand():
    # a b c d: three bigrams, two trigrams, all different.
    assert ngram_entropy("a b c d") == pytest.approx((2 / 3 * math.log2(3) + 4 / 3 * 1) / 2)
    # a b a b: ab twice, ba once; aba and bab once each.
    h2 = 2 / 3 * math.log2(3 / 2) + 1 / 3 * math.log2(3)
    assert ngram_entropy("a b  a\nb") == pytest.approx((2 / 3 * h2 + 4 / 3 * 1) / 2)
    assert ngram_entropy("a a a a a") == ngram_entropy("a") == ngram_entropy("") == 0
