"""Rows of the applications benchmark: what says the answer must not stand in the input."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.mark.parametrize(
    ("program", "row"),
    [
        (
            'testOne]\nx: int\nx = ""  # E: Wrong \\\n        # N: a hint\ny = 1\n[builtins fixtures/list.pyi]\n',
            {"code": 'x: int\nx = ""\n\ny = 1', "has_error": True},
        ),
        ("testTwo]\nx = y\n[out]\nmain:1: error: Name is not defined\n", {"code": "x = y", "has_error": True}),
        ("testThree]\nreveal_type(1)  # N: Revealed type is int\n", {"code": "reveal_type(1)", "has_error": False}),
        ("testFour]\nimport m\n[file m.py]\nx = 1\n", None),
        ("testFive-skip]\nx = 1\n", None),
        ("testSix]\n[out]\n", None),
    ],
)
def test_a_program_is_shown_without_what_mypy_says(
    program: str, row: dict[str, object] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    from application_data import type_error

    assert type_error(program) == row
