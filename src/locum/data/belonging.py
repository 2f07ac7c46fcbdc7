"""A look for rows that belong together though the task does not say so: words that give the label away.

A customer's name stands in the ten messages of one conversation and nowhere else. Where such words decide, a student
is right on rows of conversations that it knows, and calibration is full of them.
Not here: keeping together what the task says belongs together (``splits``).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from locum.schema.data import Row

MOST_ROWS = 50
EXCESS = 0.5
"""Warn from this share of held-out rows on, beyond what labels given by chance would show. Public sets of labels stay
below 0.42 (prompt injections, whose attacks repeat phrases), a set of conversations reaches 1.0."""
_TRAIN_ROWS = 200_000
_WORD = re.compile(r"\w+")
_SHOWN = 5


@dataclass(frozen=True)
class GivenAway:
    """Held-out rows whose label a rare word of train gives away: their share, the share by chance, some such words."""

    share: float
    chance: float
    words: tuple[str, ...]


def given_away(train: Iterable[Row], held_out: Sequence[Row]) -> GivenAway | None:
    """Whether words that occur in few rows, all of one label, cover more than half of the held-out rows.

    A word counts when it stands in train too and in 2 to 50 rows in all, each of the same label. Rare words are of one
    label by chance as well: a word of k rows with probability Σ pₗᵏ over the labels' shares pₗ, taken as independent
    within a row. The excess over that is what decides.

    Args:
        train: rows that a student learns from; the first 200,000 are looked at.
        held_out: rows of calibration.

    Returns:
        What was found; None where the excess is at most a half.
    """
    texts = [set(_WORD.findall(row.input.casefold())) for row in held_out]
    asked = set[str]().union(*texts)
    counts, learned, label_of, mixed = Counter[str](), set[str](), dict[str, str](), set[str]()
    labels = Counter[str]()

    def count(words: set[str], label: str) -> None:
        labels[label] += 1
        for word in words:
            counts[word] += 1
            if label_of.setdefault(word, label) != label:
                mixed.add(word)

    for words, row in zip(texts, held_out, strict=True):
        count(words, row.output)
    for row in islice(train, _TRAIN_ROWS):
        words = asked.intersection(_WORD.findall(row.input.casefold()))
        learned |= words
        count(words, row.output)
    rows = labels.total()
    by_chance = {k: sum((amount / rows) ** k for amount in labels.values()) for k in range(2, MOST_ROWS + 1)}
    rare = {word for word in learned if counts[word] <= MOST_ROWS}
    telling = rare - mixed
    share = sum(not telling.isdisjoint(words) for words in texts) / max(1, len(texts))
    chance = sum(1 - math.prod(1 - by_chance[counts[w]] for w in rare & words) for words in texts) / max(1, len(texts))
    if share - chance <= EXCESS:
        return None
    often = sorted(telling, key=lambda word: (-counts[word], word))
    return GivenAway(share, chance, tuple(often[:_SHOWN]))
