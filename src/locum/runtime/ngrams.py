"""Character and word n-grams and TF-IDF, as scikit-learn computes them, without scikit-learn.

Notable: one dictionary lookup an n-gram and no sparse matrices, so a short message takes a fraction of a
millisecond, and serving loads no scikit-learn. ``tests/runtime/test_ngrams.py`` holds it to
``sklearn.feature_extraction.text.TfidfVectorizer`` feature by feature. Not here: the classifier
(``linear``), fitting (``train``).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from locum.schema.base import Document

Analyzer = Literal["word", "char", "char_wb"]

TOKEN_PATTERNS = (r"(?u)\b\w\w+\b", r"(?u)\b\w+\b", r"(?u)\b\w+\b|[^\w\s]", r"(?u)\w+|[^\w\s]")
"""Regular expressions a word analyzer may use: a file brings none of its own, which could run for ever."""

_SPACES = re.compile(r"\s\s+")


class Ngrams(Document):
    """How one block of features is read from a text; fields mean what they mean in ``TfidfVectorizer``.

    Attributes:
        vocabulary: the n-grams, in the order of the block's columns.
    """

    analyzer: Analyzer
    ngram_range: tuple[int, int]
    token_pattern: str = TOKEN_PATTERNS[0]
    lowercase: bool = True
    strip_accents: Literal["unicode"] | None = None
    sublinear_tf: bool = True
    norm: Literal["l2"] | None = "l2"
    vocabulary: tuple[str, ...]


class Tfidf:
    """One block of features, ready to use.

    Args:
        ngrams: how to read a text.
        idf: inverse document frequency by column, ``[len(vocabulary)]``.
        offset: column of the block's first feature in the whole.

    Raises:
        ValueError: token pattern, n-gram range or lengths are not usable; the message says which.
    """

    def __init__(self, ngrams: Ngrams, idf: NDArray[np.float32], offset: int) -> None:
        low, high = ngrams.ngram_range
        if not 1 <= low <= high <= 16:
            raise ValueError(f"ngram_range {ngrams.ngram_range} is not within 1 to 16")
        if ngrams.token_pattern not in TOKEN_PATTERNS:
            raise ValueError(f"token_pattern {ngrams.token_pattern!r} is not one of {TOKEN_PATTERNS}")
        if idf.shape != (len(ngrams.vocabulary),):
            raise ValueError(f"{len(ngrams.vocabulary)} n-grams but idf of shape {list(idf.shape)}")
        self._ngrams = ngrams
        self._words = re.compile(ngrams.token_pattern)
        self._columns: Mapping[str, int] = {term: column for column, term in enumerate(ngrams.vocabulary)}
        if len(self._columns) != len(ngrams.vocabulary):
            raise ValueError("an n-gram stands twice in the vocabulary")
        self._idf: list[float] = idf.astype(np.float64).tolist()
        self._offset = offset

    def features(self, text: str) -> tuple[list[int], list[float]]:
        """Columns and TF-IDF values of a text's known n-grams, each column once."""
        counts: dict[int, int] = {}
        known = self._columns.get
        for terms, times in self._terms(text):
            for term in terms:
                column = known(term)
                if column is not None:
                    counts[column] = counts.get(column, 0) + times
        weigh = _sublinear if self._ngrams.sublinear_tf else float
        values = [weigh(count) * self._idf[column] for column, count in counts.items()]
        if self._ngrams.norm == "l2":
            length = math.sqrt(sum(value * value for value in values))
            if length > 0:
                values = [value / length for value in values]
        return [self._offset + column for column in counts], values

    def _terms(self, text: str) -> list[tuple[list[str], int]]:
        """Lists of n-grams, each with how often it stands in the text: a word that is repeated is cut up once."""
        if self._ngrams.lowercase:
            text = text.lower()
        if self._ngrams.strip_accents == "unicode":
            text = strip_accents(text)
        low, high = self._ngrams.ngram_range
        if self._ngrams.analyzer == "word":
            return [(_word_ngrams(self._words.findall(text), low, high), 1)]
        text = _SPACES.sub(" ", text)
        if self._ngrams.analyzer == "char":
            return [([text[start : start + n] for n in range(low, high + 1) for start in range(len(text) - n + 1)], 1)]
        return [(_char_wb_ngrams(word, low, high), times) for word, times in Counter(text.split()).items()]


def _sublinear(count: int) -> float:
    return 1.0 + math.log(count)


def strip_accents(text: str) -> str:
    """Remove combining marks after NFKD, as ``sklearn.feature_extraction.text.strip_accents_unicode``."""
    if text.isascii():
        return text
    return "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))


def _word_ngrams(tokens: list[str], low: int, high: int) -> list[str]:
    terms = list(tokens) if low == 1 else []
    for n in range(max(2, low), high + 1):
        terms.extend(" ".join(tokens[start : start + n]) for start in range(len(tokens) - n + 1))
    return terms


def _char_wb_ngrams(word: str, low: int, high: int) -> list[str]:
    """n-grams inside a word padded with a space; a word shorter than n is counted once, whole."""
    terms: list[str] = []
    padded = f" {word} "
    length = len(padded)
    for n in range(low, high + 1):
        if length <= n:
            terms.append(padded)
            break
        terms.extend([padded[start : start + n] for start in range(length - n + 1)])
    return terms
