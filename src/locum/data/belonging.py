"""A look for rows that belong together though the task does not say so: words that give the label away.

A customer's name stands in the ten messages of one conversation and nowhere else. Where such words decide, a student
is right on rows of conversations that it knows, and calibration is full of them.
Not here: keeping together what the task says belongs together (``splits``).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from locum.schema.data import Row

FEWEST_ROWS, MOST_ROWS = 2, 50
EXCESS = 0.6
"""Warn from this part of what chance leaves: (share − chance) / (1 − chance). Public sets of labels stay below 0.5
(prompt injections, whose attacks repeat phrases, reach that; the others 0.3), a set of conversations reaches 1."""
_MOST_CHANCE = 0.3
"""Where words so rare cover more than this by chance (long texts, two labels), only more frequent ones tell something.
Conversations of two or three rows under two labels cannot be told from chance."""
_LEAST_FEWEST = 10
_MOST_OF_LABEL = 0.1
"""A word of more than a tenth of its label's rows is what the label is about, and no name."""
_TRAIN_ROWS = 200_000
_HELD_OUT_CHARACTERS = 4_000_000
"""Of held-out texts, whose words wait in memory: their order is random, so the first rows are as good as any."""
_WORD = re.compile(r"\w+")
_SHOWN = 5


@dataclass(frozen=True)
class GivenAway:
    """Held-out rows whose label a rare word of train gives away: their share, the share by chance, some such words."""

    share: float
    chance: float
    words: tuple[str, ...]


def given_away(train: Iterable[Row], held_out: Iterable[Row]) -> GivenAway | None:
    """Whether words that occur in few rows, all of one label, cover more than half of the held-out rows.

    A word counts when it stands in train too and in 2 to 50 rows in all, each of the same label, of which these are a
    tenth at most. Rare words are of one
    label by chance as well: a word of k rows with probability Σ pₗᵏ over the labels' shares pₗ, taken as independent
    within a row. The excess over that is what decides, with words rare enough to be names and frequent enough to tell.

    Args:
        train: rows that a student learns from; the first 200,000 are looked at.
        held_out: rows of calibration in random order; the first 4,000,000 characters are looked at.

    Returns:
        What was found; None where there is little or nothing of it.
    """
    texts, golds, left = list[set[str]](), list[str](), _HELD_OUT_CHARACTERS
    for row in held_out:
        left -= len(row.input)
        if left < 0:
            break
        texts.append(set(_WORD.findall(row.input.casefold())))
        golds.append(row.output)
    asked = set[str]().union(*texts)
    counts, learned, label_of, mixed = Counter[str](), set[str](), dict[str, str](), set[str]()
    labels = Counter[str]()

    def count(words: set[str], label: str) -> None:
        labels[label] += 1
        for word in words:
            counts[word] += 1
            if label_of.setdefault(word, label) != label:
                mixed.add(word)

    for words, gold in zip(texts, golds, strict=True):
        count(words, gold)
    for row in islice(train, _TRAIN_ROWS):
        words = asked.intersection(_WORD.findall(row.input.casefold()))
        learned |= words
        count(words, row.output)
    rows = labels.total()
    by_chance = {k: sum((n / rows) ** k for n in labels.values()) for k in range(FEWEST_ROWS, MOST_ROWS + 1)}
    for fewest in range(FEWEST_ROWS, _LEAST_FEWEST + 1):
        rare = {word for word in learned if fewest <= counts[word] <= MOST_ROWS}
        misses = (math.prod(1 - by_chance[counts[word]] for word in rare & words) for words in texts)
        chance = 1 - sum(misses) / max(1, len(texts))
        if chance <= _MOST_CHANCE:
            break
    else:
        return None
    telling = {word for word in rare - mixed if counts[word] <= _MOST_OF_LABEL * labels[label_of[word]]}
    share = sum(not telling.isdisjoint(words) for words in texts) / max(1, len(texts))
    if share - chance <= EXCESS * (1 - chance):
        return None
    often = sorted(telling, key=lambda word: (-counts[word], word))
    return GivenAway(share, chance, tuple(often[:_SHOWN]))
