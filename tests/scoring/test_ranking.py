"""Rankings: scikit-learn's nDCG with linear gain, published cases by hand for the rest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from locum.core.errors import UserError
from locum.scoring.ranking import ndcg, recall, reciprocal_rank


def test_linear_ndcg_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        n = int(generator.integers(2, 15))
        grades, scores = generator.integers(0, 4, n), generator.permutation(n)
        names = [str(i) for i in range(n)]
        ranked = [names[i] for i in np.argsort(-scores)]
        relevance = {name: float(grade) for name, grade in zip(names, grades, strict=True)}
        k = int(generator.integers(1, n + 1))
        expected = ndcg_score([grades], [scores], k=k)
        assert ndcg(ranked, relevance, k, gain="linear") == pytest.approx(expected)


def test_the_example_of_jarvelin_and_kekalainen_grades_with_exponential_gain() -> None:
    """Grades 3 2 3 0 1 2: the worked example of many textbooks; DCG 13.848, ideal 14.595 (2^grade − 1)."""
    relevance = {"a": 3.0, "b": 2.0, "c": 3.0, "d": 0.0, "e": 1.0, "f": 2.0}
    gained = [7, 3, 7, 0, 1, 3]
    best = [7, 7, 3, 3, 1, 0]
    by_hand = sum(g / math.log2(i + 2) for i, g in enumerate(gained))
    ideal = sum(g / math.log2(i + 2) for i, g in enumerate(best))
    assert by_hand == pytest.approx(13.848, abs=1e-3)
    assert ndcg("abcdef", relevance, 6) == pytest.approx(by_hand / ideal)


def test_the_ideal_knows_documents_that_were_not_returned() -> None:
    assert ndcg(["a"], {"a": 1.0, "b": 1.0}, 2, gain="linear") == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_reciprocal_rank_and_recall_by_hand() -> None:
    relevance = {"b": 1.0, "d": 2.0, "x": 0.0}
    assert reciprocal_rank(["a", "b", "d"], relevance, 10) == 0.5
    assert reciprocal_rank(["a", "b", "d"], relevance, 1) == 0.0
    assert reciprocal_rank(["x", "d"], relevance, 10) == 0.5
    assert recall(["a", "b", "d"], relevance, 2) == 0.5
    assert recall(["a", "b", "d"], relevance, 3) == 1.0


@pytest.mark.parametrize("score", [ndcg, reciprocal_rank, recall])
def test_edges(score) -> None:
    assert score([], {"a": 1.0}, 5) == 0.0
    assert score(["a"], {}, 5) == 0.0
    assert score(["a"], {"a": 0.0}, 5) == 0.0
    assert score(["a", "a", "a"], {"a": 1.0}, 3) == 1.0  # a document counts once
    assert score(["x", "x", "a"], {"a": 1.0}, 2) > 0.0  # and takes one place
    with pytest.raises(UserError) as caught:
        score(["a"], {"a": 1.0}, 0)
    assert caught.value.code == "scoring-input"


def test_a_negative_grade_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        ndcg(["a"], {"a": -1.0}, 1)
    assert caught.value.code == "scoring-input"
