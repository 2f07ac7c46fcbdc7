"""How tokens stand in a text: letter case, and the white space before them."""

from __future__ import annotations

import numpy as np
import pytest

from locum.runtime.surface import SURFACES, padded_forms, surface_forms


@pytest.mark.parametrize(
    ("piece", "case"),
    [
        ("42", 0),
        ("中文", 0),
        ("paris", 1),
        ("straße", 1),
        ("x1", 1),
        ("Paris", 2),
        ("A", 2),
        ("O'", 2),
        ("Éa", 2),
        ("İstanbul", 2),
        ("IBAN", 3),
        ("DE89", 3),
        ("iPhone", 4),
        ("McA", 4),
    ],
)
def test_the_case_of_a_piece(piece: str, case: int) -> None:
    assert surface_forms(f"({piece})", np.array([[1, 1 + len(piece)]])) == [case]


@pytest.mark.parametrize(
    ("before", "space"),
    [("(", 0), ("", 1), (" ", 1), ("one ", 1), ("one\u00a0 ", 1), ("one\n", 2), ("one \n  ", 2), ("one\t", 2)],
)
def test_the_white_space_before_a_token(before: str, space: int) -> None:
    start = len(before)
    (found,) = surface_forms(f"{before}two", np.array([[start, start + 3]]))
    assert divmod(found, 5) == (space, 1)
    assert found < SURFACES


def test_white_space_at_the_start_of_a_token_stands_before_it() -> None:
    text = "in Paris\nParis PARIS  "
    apart = [[0, 2], [3, 8], [9, 14], [15, 20], [21, 21]]
    joined = [[0, 2], [2, 8], [8, 14], [14, 20], [20, 22]]
    assert surface_forms(text, np.array(joined)) == surface_forms(text, np.array(apart)) == [6, 7, 12, 8, 0]


def test_tokens_without_width_have_no_form() -> None:
    assert surface_forms("A b", np.array([[0, 0], [0, 1], [2, 3], [3, 3]])) == [0, 7, 6, 0]


def test_rows_are_padded_with_nothing() -> None:
    assert padded_forms([[1, 2], [], [3]], 3).tolist() == [[1, 2, 0], [0, 0, 0], [3, 0, 0]]
