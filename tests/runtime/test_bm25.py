"""BM25 against a computation by hand and the formula as published; statistics that cannot be; words nobody counted."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from locum.core.errors import ModelFileError
from locum.core.files import write_json
from locum.runtime.bm25 import Bm25, Bm25Statistics, count_words, words_of
from locum.students.ranking import read_bm25

TEXTS = [
    "Hello there good man!",
    "It is quite windy in London",
    "How is the weather today?",
    "windy windy London, and the London weather",
]


def published(query: str, text: str, k1: float, b: float) -> float:
    """The formula written out over lists of words, one word after the other, with nothing prepared."""
    corpus = [words_of(each) for each in TEXTS]
    mean = sum(map(len, corpus)) / len(corpus)
    words, total = words_of(text), 0.0
    for word in words_of(query):
        holding = sum(word in each for each in corpus)
        idf = math.log(1 + (len(corpus) - holding + 0.5) / (holding + 0.5))
        frequency = words.count(word)
        total += idf * frequency * (k1 + 1) / (frequency + k1 * (1 - b + b * len(words) / mean))
    return total


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (2.0, 0.0), (0.6, 1.0), (0.1, 0.5)])
def test_scores_are_the_published_formulas(k1: float, b: float) -> None:
    bm25 = Bm25(count_words(TEXTS).model_copy(update={"k1": k1, "b": b}))
    for query in ("windy London", "weather today the the", "nothing of it", "is"):
        wanted = [published(query, text, k1, b) for text in TEXTS]
        np.testing.assert_allclose(bm25.scores(query, TEXTS), wanted, rtol=1e-12)


def test_one_score_by_hand() -> None:
    """Two texts of two and four words, mean 3; "red" stands in one of two, twice: idf = ln(1 + 1.5/1.5) = ln 2."""
    bm25 = Bm25(count_words(["blue sky", "red red roses bloom"]))
    slope = 1.2 * (1 - 0.75 + 0.75 * 4 / 3)
    assert bm25.scores("red", ["red red roses bloom"])[0] == pytest.approx(math.log(2) * 2 * 2.2 / (2 + slope))


def test_counts_take_an_equal_text_once_and_every_word_of_a_text_once() -> None:
    found = count_words(["a b", "a b", "b b c"])
    assert (found.texts, found.mean_length) == (2, 2.5)
    assert dict(zip(found.words, found.found_in, strict=True)) == {"a": 1, "b": 2, "c": 1}


def test_a_word_of_no_training_candidate_still_tells_candidates_apart() -> None:
    scores = Bm25(count_words(["one two", "two three"])).scores("zebra two", ["the zebra", "two", "none"])
    assert scores[0] > scores[1] > scores[2] == 0.0


def test_no_score_hangs_on_the_other_candidates() -> None:
    bm25 = Bm25(count_words(TEXTS))
    alone = [bm25.scores("windy London", [text])[0] for text in TEXTS]
    assert bm25.scores("windy London", TEXTS) == alone


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"found_in": [1]}, "runtime-mismatch"),
        ({"b": 1.5}, "schema-invalid"),
        ({"k1": -1.0}, "schema-invalid"),
        ({"mean_length": 0.0}, "schema-invalid"),
        ({"texts": "many"}, "schema-invalid"),
    ],
)
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, changed: dict[str, object], code: str) -> None:
    write_json(tmp_path / "bm25.json", {**count_words(TEXTS).to_json(), **changed})
    with pytest.raises(ModelFileError) as caught:
        read_bm25(tmp_path / "bm25.json")
    assert caught.value.code == code


def test_without_any_word_every_score_is_nothing() -> None:
    bm25 = Bm25(count_words(["", "…"]))
    assert bm25.statistics.mean_length == 1.0
    assert bm25.scores("anything", ["", "else"]) == [0.0, 0.0]
    assert isinstance(bm25.statistics, Bm25Statistics)
