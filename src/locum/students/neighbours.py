"""``Neighbours``: the rows of a pool that stand nearest to an input, as worked examples (Liu et al. 2021).

Notable: near is the cosine of TF-IDF vectors of words and word pairs; nothing is downloaded and a pool of ten thousand
rows is indexed in a second. Words have two characters or more; an input without any (``1 + 2``) is read by its single
characters. An input never gets itself as an example. Not here: which rows are in the pool.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from locum.schema.data import Row

_WORD = re.compile(r"\b\w\w+\b")
_CHARACTER = re.compile(r"\S")


class Neighbours:
    """An index over a pool of rows.

    Args:
        rows: the pool, at least one row.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._rows = tuple(rows)
        self._vectorizer: Any = TfidfVectorizer(
            tokenizer=_words,
            token_pattern=None,  # pyright: ignore[reportArgumentType]  (None says that it is not used)
            ngram_range=(1, 2),
            sublinear_tf=True,
            max_features=50_000,
        )
        self._matrix: Any = self._vectorizer.fit_transform([row.input for row in self._rows])

    def nearest(self, text: str, count: int) -> tuple[Row, ...]:
        """The nearest rows, the nearest last, so that it stands right before the input.

        Args:
            text: the input.
            count: how many; fewer when the pool is smaller.
        """
        likeness = np.asarray((self._matrix @ self._vectorizer.transform([text]).T).todense()).ravel()
        order = np.argsort(-likeness, kind="stable")[: count + 1]
        kept = [int(index) for index in order if self._rows[index].input != text][:count]
        return tuple(self._rows[index] for index in reversed(kept))


def _words(text: str) -> list[str]:
    """The words of a text; its characters where it has none."""
    return _WORD.findall(text) or _CHARACTER.findall(text)
