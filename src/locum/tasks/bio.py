"""``BioTags``: typed spans as BIO (IOB2) tags of tokens, and scores of tags as spans again.

Notable: every token of a span is tagged, not only the first piece of each word, so that a span may end inside a word
and no knowledge of words is needed to train. Reading takes the most probable sequence that is well formed (Viterbi 1967
with hard constraints: nothing but ``B-X`` or ``I-X`` stands before ``I-X``), which on dev found more right spans than
repairing the best tag of each token, many more where the scores are weak (docs/log.md). Then a span grows to whole
words, where a word is letters with cases or digits in a row: a tokenizer's pieces are no place to cut a name. Not here:
scoring (``scoring.spans``), where the scores come from (``runtime``).

T tokens, C tags, K types.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.scoring.spans import Span

OUTSIDE = "O"
_CASED = ("Lu", "Ll")
_DIGIT = "Nd"


@dataclass(frozen=True)
class FoundSpan:
    """A span with how probable it is.

    Attributes:
        span: start, end, label; characters.
        probability: that exactly its tokens are tagged so, and that it goes no further; tokens taken as independent.
    """

    span: Span
    probability: float


@dataclass(frozen=True, eq=False)
class Reading:
    """What scores of tags say about one text.

    Attributes:
        spans: in order, without overlap.
        tags: of the most probable well-formed sequence, ``[T]``.
        probabilities: of every tag, ``[T, C]``.
    """

    spans: tuple[FoundSpan, ...]
    tags: NDArray[np.intp]
    probabilities: NDArray[np.float64]


class BioTags:
    """The tags of some types.

    Args:
        names: ``O``, and ``B-TYPE`` and ``I-TYPE`` of every type, in the order of the scores' columns.

    Raises:
        ValueError: other names, or a type without one of its two tags.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.types = tuple(dict.fromkeys(name[2:] for name in names if name != OUTSIDE))
        place = {name: column for column, name in enumerate(names)}
        needed = {OUTSIDE, *(f"{prefix}-{label}" for label in self.types for prefix in "BI")}
        if set(place) != needed or len(place) != len(self.names):
            raise ValueError(f"{', '.join(self.names[:6])}… are not O with B-TYPE and I-TYPE of every type")
        self.outside = place[OUTSIDE]
        self.begin = np.asarray([place[f"B-{label}"] for label in self.types], dtype=np.intp)
        self.inside = np.asarray([place[f"I-{label}"] for label in self.types], dtype=np.intp)

    @classmethod
    def of_types(cls, types: Sequence[str]) -> BioTags:
        """The tags of types, in their order."""
        return cls((OUTSIDE, *(f"{prefix}-{label}" for label in types for prefix in "BI")))

    def write(self, spans: Sequence[Span], offsets: NDArray[np.int64]) -> NDArray[np.intp]:
        """The tags of tokens.

        Args:
            spans: without overlap, of known types.
            offsets: start and end of each token, in characters, ``[T, 2]``.

        Returns:
            Columns, ``[T]``: a token that shares a character with a span belongs to it, the first one begins it.
        """
        tags = np.full(len(offsets), self.outside, dtype=np.intp)
        for start, end, label in spans:
            kind = self.types.index(label)
            covered = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))
            tags[covered] = self.inside[kind]
            tags[covered[:1]] = self.begin[kind]
        return tags

    def read(self, text: str, offsets: NDArray[np.int64], scores: NDArray[np.floating]) -> Reading:
        """The spans of a text.

        Args:
            text: the whole of it.
            offsets: start and end of each token in it, ``[T, 2]``.
            scores: before the softmax, ``[T, C]``.
        """
        wide = scores.astype(np.float64)
        powers = np.exp(wide - wide.max(axis=1, keepdims=True, initial=-np.inf))
        chances = powers / powers.sum(axis=1, keepdims=True)
        tags = self.best(np.log(np.maximum(chances, 1e-30)))
        found: list[FoundSpan] = []
        for first, stop, kind in self._runs(tags):
            reached = found[-1].span[1] if found else 0
            place = _whole(text, int(offsets[first, 0]), int(offsets[stop - 1, 1]), reached)
            if place is not None:
                probability = self._probability(chances, first, stop, kind)
                found.append(FoundSpan((*place, self.types[kind]), probability))
        return Reading(tuple(found), tags, chances)

    def best(self, scores: NDArray[np.float64]) -> NDArray[np.intp]:
        """The sequence of tags with the highest sum of scores ``[T, C]`` in which every ``I-X`` continues an X."""
        tokens = len(scores)
        came = np.zeros((tokens, len(self.types)), dtype=np.bool_)  # to I-X from I-X and not from B-X
        anything = np.zeros(tokens, dtype=np.intp)  # the best tag so far, from which O and every B-X come
        total = np.full(len(self.names), -np.inf)
        total[self.outside] = 0.0
        for token, row in enumerate(scores):
            anything[token] = total.argmax()
            begun, going = total[self.begin], total[self.inside]
            came[token] = going > begun
            following = row + total[anything[token]]
            following[self.inside] = row[self.inside] + np.maximum(begun, going)
            total = following
        tags = np.zeros(tokens, dtype=np.intp)
        tag = int(total.argmax())
        for token in range(tokens - 1, -1, -1):
            tags[token] = tag
            kinds = np.flatnonzero(self.inside == tag)
            if len(kinds):
                tag = int((self.inside if came[token, kinds[0]] else self.begin)[kinds[0]])
            else:
                tag = int(anything[token])
        return tags

    def _runs(self, tags: NDArray[np.intp]) -> list[tuple[int, int, int]]:
        """First token, the one after the last, and type of each span of a well-formed sequence."""
        begins = {int(column): kind for kind, column in enumerate(self.begin)}
        runs: list[tuple[int, int, int]] = []
        for first in np.flatnonzero(np.isin(tags, self.begin)):
            kind = begins[int(tags[first])]
            stop = int(first) + 1
            while stop < len(tags) and tags[stop] == self.inside[kind]:
                stop += 1
            runs.append((int(first), stop, kind))
        return runs

    def _probability(self, chances: NDArray[np.float64], first: int, stop: int, kind: int) -> float:
        within = chances[first, self.begin[kind]] * chances[first + 1 : stop, self.inside[kind]].prod()
        ends = 1 - chances[stop, self.inside[kind]] if stop < len(chances) else 1.0
        return float(within * ends)


def _whole(text: str, start: int, end: int, reached: int) -> tuple[int, int] | None:
    """A span grown to whole words, without white space at its ends, and not before ``reached``; None when empty."""
    while 0 < start < len(text) and _one_word(text[start - 1], text[start]):
        start -= 1
    while 0 < end < len(text) and _one_word(text[end - 1], text[end]):
        end += 1
    start = max(start, reached)
    kept = text[start:end]
    start, end = start + len(kept) - len(kept.lstrip()), end - len(kept) + len(kept.rstrip())
    return (start, end) if start < end else None


def _one_word(left: str, right: str) -> bool:
    """Whether no word ends between two characters: letters of a script with cases, or digits."""
    kinds = unicodedata.category(left), unicodedata.category(right)
    return all(kind in _CASED for kind in kinds) or all(kind == _DIGIT for kind in kinds)
