"""Verdicts on two models."""

from __future__ import annotations

import numpy as np
import pytest

from locum.core.errors import CheckFailed
from locum.evaluate.compare import compare, compare_shares
from locum.evaluate.predictions import Predictions
from locum.evaluate.scored import Scored


def predictions(model: str, right: np.ndarray, ids: str = "same") -> Scored:
    gold = np.arange(len(right)) % 3
    logits = np.zeros((len(right), 3), np.float32)
    logits[np.arange(len(right)), np.where(right, gold, (gold + 1) % 3)] = 2.0
    return Predictions(model, "dev", ("a", "b", "c"), ids, logits, gold).scored(1.0)


def rights(n: int, wrong: int) -> np.ndarray:
    return np.arange(n) >= wrong


def test_a_clear_difference_is_said_with_its_interval() -> None:
    made = compare(predictions("small", rights(1000, 150)), predictions("large", rights(1000, 100)))
    assert made.difference.value == pytest.approx(-0.05)
    assert made.p_value is not None and made.p_value < 1e-6
    assert made.verdict.startswith("large is better than small by 5.0 points of accuracy on 1000 rows")
    assert "95 % interval 3.6 to 6.4, p < 0.001" in made.verdict
    assert made.test == "mcnemar-midp"


def test_no_difference_is_not_called_equal() -> None:
    made = compare_shares("a", rights(100, 10), "b", rights(100, 11))
    assert made.p_value == 0.5
    assert made.verdict.startswith("No difference was shown between a and b on 100 rows: +1.0 points of accuracy")


def test_equal_answers_and_one_row() -> None:
    same = compare_shares("a", rights(50, 5), "b", rights(50, 5))
    assert (same.difference.value, same.p_value) == (0.0, 1.0)
    one = compare_shares("a", rights(1, 0), "b", rights(1, 1))
    assert (one.difference.low, one.difference.high) == (-1.0, 1.0)
    assert "No difference was shown" in one.verdict


def test_macro_f1_by_paired_bootstrap() -> None:
    made = compare(predictions("a", rights(600, 20)), predictions("b", rights(600, 90)), "macro_f1")
    assert made.test == "paired-bootstrap" and made.p_value is None
    assert made.difference.low > 0
    assert "a is better than b by" in made.verdict and "macro-F1" in made.verdict


def test_other_rows_are_refused() -> None:
    with pytest.raises(CheckFailed, match="evaluate-different-rows"):
        compare(predictions("a", rights(10, 1)), predictions("b", rights(10, 1), ids="other"))
