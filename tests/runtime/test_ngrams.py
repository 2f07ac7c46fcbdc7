"""Own TF-IDF against scikit-learn's, feature by feature."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from locum.runtime.ngrams import TOKEN_PATTERNS, Ngrams, Tfidf

TEXTS = [
    "My card never arrived, where is it?",
    "I forgot my PIN code… I forgot my PIN!",
    "  white \t\n space   everywhere ",
    "Crème brûlée façade — naïve coöperation",
    "a b c dd eee ffff",
    "ÅNGSTRÖM ﬁne İstanbul straße",
    "数字 123 四五六 🙂🙂",
    "",
]

CASES: list[dict[str, Any]] = [
    {"analyzer": "word", "ngram_range": (1, 2)},
    {"analyzer": "word", "ngram_range": (2, 3), "token_pattern": TOKEN_PATTERNS[1]},
    {"analyzer": "word", "ngram_range": (1, 1), "token_pattern": TOKEN_PATTERNS[2], "sublinear_tf": False},
    {"analyzer": "char_wb", "ngram_range": (2, 5)},
    {"analyzer": "char_wb", "ngram_range": (1, 3), "lowercase": False, "norm": None},
    {"analyzer": "char", "ngram_range": (1, 4), "strip_accents": "unicode"},
    {"analyzer": "char", "ngram_range": (3, 3)},
]


def both(case: dict[str, Any], texts: list[str]) -> tuple[Any, Tfidf]:
    theirs = TfidfVectorizer(**{"sublinear_tf": True, **case}).fit(TEXTS)
    ours = Tfidf(Ngrams(**case, vocabulary=tuple(theirs.get_feature_names_out())), theirs.idf_.astype(np.float64), 0)
    return theirs.transform(texts).toarray(), ours


def dense(ours: Tfidf, texts: list[str], width: int) -> Any:
    rows = np.zeros((len(texts), width))
    for row, text in zip(rows, texts, strict=True):
        columns, values = ours.features(text)
        assert len(set(columns)) == len(columns)
        row[columns] = values
    return rows


@pytest.mark.parametrize("case", CASES, ids=[f"{case['analyzer']}-{case['ngram_range']}" for case in CASES])
def test_equals_scikit_learn(case: dict[str, Any]) -> None:
    texts = [*TEXTS, "words that nobody has seen", "card " * 50]
    theirs, ours = both(case, texts)
    np.testing.assert_allclose(dense(ours, texts, theirs.shape[1]), theirs, atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=60), st.sampled_from(CASES))
def test_equals_scikit_learn_on_any_text(text: str, case: dict[str, Any]) -> None:
    theirs, ours = both(case, [text])
    np.testing.assert_allclose(dense(ours, [text], theirs.shape[1]), theirs, atol=1e-12)


def test_columns_start_at_the_offset() -> None:
    block = Tfidf(Ngrams(analyzer="word", ngram_range=(1, 1), vocabulary=("aa", "bb")), np.ones(2, np.float32), 10)
    assert sorted(block.features("bb aa")[0]) == [10, 11]


@pytest.mark.parametrize(
    ("changes", "idf", "words"),
    [
        ({"ngram_range": (0, 1)}, 2, "ngram_range"),
        ({"ngram_range": (2, 1)}, 2, "ngram_range"),
        ({"ngram_range": (1, 99)}, 2, "ngram_range"),
        ({"token_pattern": "(a+)+$"}, 2, "token_pattern"),
        ({"vocabulary": ("aa", "aa")}, 2, "twice"),
        ({}, 3, "idf"),
    ],
)
def test_unusable_blocks_say_why(changes: dict[str, Any], idf: int, words: str) -> None:
    fields: dict[str, Any] = {"analyzer": "word", "ngram_range": (1, 1), "vocabulary": ("aa", "bb"), **changes}
    with pytest.raises(ValueError, match=words):
        Tfidf(Ngrams(**fields), np.ones(idf, np.float32), 0)
