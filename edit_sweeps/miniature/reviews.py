"""Sentiment: film reviews with negations, contrasts and mixed opinions."""

from __future__ import annotations

import random

from edit_sweeps.miniature import vocabulary as words
from edit_sweeps.miniature.text import Item
from edit_sweeps.miniature.world import World, in_test

ADVERBS = ("very", "really", "quite", "truly")


def sentiment_item(_world: World, rng: random.Random, *, test: bool) -> Item:
    """A review, positive or negative; half of them weigh three opinions."""
    draw = _verdict if rng.random() < 0.5 else _majority
    while True:
        positive = rng.random() < 0.5
        key, review = draw(rng, positive)
        # Only a review that shows its whole key is certain not to occur in training as well.
        shown = all(word in review for word in key.split() if word.isalpha())
        if in_test("review", key) == test and (shown or not test):
            break
    return Item(
        prompt=f"Review: {review}\nSentiment:",
        answer="positive" if positive else "negative",
        choices=("positive", "negative"),
    )


def _verdict(rng: random.Random, positive: bool) -> tuple[str, str]:
    """One opinion, perhaps against a contrary one: what decides the split, and the text."""
    mine, contrary = _sides(positive)
    word, second = rng.sample(mine, 2)
    against = rng.choice(contrary)
    one, two = rng.sample(words.ASPECTS, 2)
    adverb = rng.choice(ADVERBS)
    loved = "loved" if positive else "hated"
    forms = (
        f"The {one} is {adverb} {word} and the {two} is {second}.",
        f"A {word} {one} with a {second} {two}.",
        f"I found the {one} {word} and {adverb} {second}.",
        f"The {one} is not {against} at all, it is {adverb} {word}.",
        f"The {two} may be {against}, but the {one} is so {word} that I {loved} it.",
        f"Critics call the {one} {against}, yet I think it is {adverb} {word}.",
        f"They said it was {against}, but the {one} is far from {against}.",
    )
    form = rng.randrange(len(forms))
    return f"{form} {word} {against} {one}", forms[form]


def _majority(rng: random.Random, positive: bool) -> tuple[str, str]:
    """Three opinions, of which two or three agree with the verdict."""
    mine, contrary = _sides(positive)
    sides = [mine, mine, rng.choice((mine, contrary, contrary))]
    rng.shuffle(sides)
    aspects = rng.sample(words.ASPECTS, 3)
    parts, key = [], []
    for aspect, side in zip(aspects, sides, strict=True):
        if rng.random() < 0.35:
            word = rng.choice(contrary if side is mine else mine)
            parts.append(f"the {aspect} is not {word}")
        else:
            word = rng.choice(side)
            parts.append(f"the {aspect} is {word}")
        key.append(word)
    text = f"{parts[0]}, {parts[1]} and {parts[2]}."
    return " ".join(key), text[0].upper() + text[1:]


def _sides(positive: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    good, bad = words.GOOD_WORDS, words.BAD_WORDS
    return (good, bad) if positive else (bad, good)
