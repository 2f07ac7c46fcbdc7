"""The letter case of tokens."""

from __future__ import annotations

import numpy as np
import pytest

from locum.runtime.letter_case import CASES, letter_cases, padded_cases


@pytest.mark.parametrize(
    ("piece", "case"),
    [
        ("", 0),
        ("42", 0),
        ("中文", 0),
        ("paris", 1),
        ("straße", 1),
        ("x1", 1),
        ("Paris", 2),
        ("A", 2),
        ("O'", 2),
        ("Éa", 2),
        ("IBAN", 3),
        ("DE89", 3),
        ("iPhone", 4),
        ("McA", 4),
    ],
)
def test_the_case_of_a_piece(piece: str, case: int) -> None:
    text = f"… {piece}!"
    assert letter_cases(text, np.array([[2, 2 + len(piece)]])) == [case]
    assert case < CASES


def test_rows_are_padded_with_no_case() -> None:
    assert padded_cases([[1, 2], [], [3]], 3).tolist() == [[1, 2, 0], [0, 0, 0], [3, 0, 0]]
