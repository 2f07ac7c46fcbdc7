from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.data.normalise import NotText, normalise


@pytest.mark.parametrize(
    ("text", "form", "change"),
    [
        ("a\r\nb\rc", "a\nb\nc", "line_ends"),
        ("a\x00b", "ab", "nul_removed"),
        ("a\x07b", "ab", "control_removed"),
        ("user\u202egpj.exe", "usergpj.exe", "bidi_removed"),
        ("zero\u200bwidth", "zerowidth", "zero_width_removed"),
        ("cafe\u0301", "café", "nfc"),
    ],
)
def test_each_change_is_made_and_counted(text: str, form: str, change: str) -> None:
    counts: Counter[str] = Counter()
    assert normalise(text, lambda name: counts.update([name])) == form
    assert counts == {change: 1}


def test_joiners_and_ordinary_text_stay() -> None:
    for text in ("می\u200cخواهم", "👩\u200d💻", "tabs\tand\nlines", "naïve – “quotes” € 日本語"):
        assert normalise(text) == text


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(NotText):
        normalise("a\udcffb")


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    try:
        once = normalise(text)
    except NotText:
        return
    assert normalise(once) == once
