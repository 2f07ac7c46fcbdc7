"""BM25: how much the words of a query say about a text, from counts alone; the first rung of a ranking's ladder.

Notable: nothing is indexed, because what is to be ranked comes with the query; the statistics of words (in how many
texts each stands, how long texts are) are those of the training candidates, so a score does not hang on its neighbours.
A word that no training candidate has counts as one that stands in none. One JSON file holds it all.

    score(q, d) = Σ over words w of q: idf(w) · f(w, d) · (k1 + 1) / (f(w, d) + k1 · (1 - b + b · |d| / mean length))
    idf(w) = ln(1 + (N - n(w) + ½) / (n(w) + ½))

f(w, d) is how often w stands in d, n(w) in how many of the N training candidates it stands. A word that stands twice
in a query counts twice.

Source: Robertson, Walker, Jones, Hancock-Beaulieu and Gatford 1995, Okapi at TREC-3; the idf that is never negative is
Lucene's. Not here: choosing k1 and b (``train.ranking``).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from locum.runtime.ngrams import TOKEN_PATTERNS
from locum.schema.base import Document

_WORDS = re.compile(TOKEN_PATTERNS[1])


class Bm25Statistics(Document):
    """What ``bm25.json`` holds.

    Attributes:
        k1: how soon a word that stands often in a text says no more.
        b: how much a text's length is held against it, 0 to 1.
        texts: N, training candidates counted.
        mean_length: of a training candidate, in words.
        words: the words of the training candidates.
        found_in: in how many of these each word stands, in the same order.
    """

    schema_version: Literal[1] = 1
    k1: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.2
    b: Annotated[float, Field(ge=0, le=1)] = 0.75
    texts: Annotated[int, Field(ge=0)]
    mean_length: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    words: tuple[str, ...]
    found_in: tuple[Annotated[int, Field(ge=0)], ...]


class Bm25:
    """BM25 with given statistics; safe to use from several threads.

    Args:
        statistics: of the training candidates, and k1 and b.

    Raises:
        ValueError: not one count a word.
    """

    def __init__(self, statistics: Bm25Statistics) -> None:
        self.statistics = statistics
        if len(statistics.words) != len(statistics.found_in):
            raise ValueError(f"{len(statistics.found_in)} counts for {len(statistics.words)} words")
        self._idf: Mapping[str, float] = {
            word: _idf(statistics.texts, count)
            for word, count in zip(statistics.words, statistics.found_in, strict=True)
        }
        self._unseen = _idf(statistics.texts, 0)

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """The score of each text, at least 0."""
        asked = words_of(query)
        return [self.score(asked, Counter(words_of(text))) for text in texts]

    def score(self, query: Iterable[str], counts: Counter[str]) -> float:
        """The score of a text whose words are counted already.

        Args:
            query: words of the query, each as often as it stands there.
            counts: how often each word stands in the text.
        """
        k1, b = self.statistics.k1, self.statistics.b
        slope = k1 * (1 - b + b * counts.total() / self.statistics.mean_length)
        total = 0.0
        for word in query:
            count = counts[word]
            if count:
                total += self._idf.get(word, self._unseen) * count * (k1 + 1) / (count + slope)
        return total


def count_words(texts: Iterable[str]) -> Bm25Statistics:
    """The statistics of some texts, each of which counts once, with the usual k1 and b.

    Args:
        texts: training candidates; an equal text is not counted again.
    """
    found_in: Counter[str] = Counter()
    number = length = 0
    for text in dict.fromkeys(texts):
        words = words_of(text)
        found_in.update(set(words))
        number += 1
        length += len(words)
    ordered = sorted(found_in)
    return Bm25Statistics(
        texts=number,
        mean_length=max(1.0, length / max(1, number)),
        words=tuple(ordered),
        found_in=tuple(found_in[word] for word in ordered),
    )


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case: runs of letters, digits and underscores."""
    return _WORDS.findall(text.lower())


def _idf(texts: int, found_in: int) -> float:
    return math.log1p((max(0, texts - found_in) + 0.5) / (found_in + 0.5))
