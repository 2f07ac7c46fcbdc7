"""Spans of a raw text keep their place when the text is normalised, or are refused."""

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.data.normalise import normalise
from locum.data.spans import place_spans
from locum.tasks.tag import GivenSpan
from locum.tasks.written import GoldFault


def placed(raw: str, *spans: tuple[int, int], kept: str | None = None) -> list[str]:
    """The texts that spans hold once they are placed."""
    text = normalise(raw) if kept is None else kept
    found = place_spans(raw, [GivenSpan(start, end, "X") for start, end in spans], text, lambda _name: None)
    return [text[start:end] for start, end, _ in found]


@pytest.mark.parametrize(
    ("raw", "span", "expected"),
    [
        ("plain Ann here", (6, 9), "Ann"),
        ("  \n Ann here", (4, 7), "Ann"),
        ("one\r\ntwo Ann", (9, 12), "Ann"),
        ("one\r\nAnn\r\nLee.", (5, 13), "Ann\nLee"),
        ("\ufeffA\u200bnn met", (1, 5), "Ann"),
        ("\u202eAnn\u202c met Bob", (10, 13), "Bob"),
        ("Zoe\u0308 met Bob", (0, 4), "Zo\u00eb"),
        ("Zoe\u0308 met Bob", (9, 12), "Bob"),
        ("Ann  ", (0, 5), "Ann"),
        ("\u2029Ann", (1, 4), "Ann"),
    ],
)
def test_a_span_moves_with_its_text(raw: str, span: tuple[int, int], expected: str) -> None:
    assert placed(raw, span) == [expected]


@pytest.mark.parametrize(
    ("raw", "span", "why"),
    [
        ("Zoe\u0308 met", (0, 3), "inside a character"),
        ("one\r\ntwo", (0, 4), "inside a character"),
        ("a \u200b b", (2, 3), "nobody can see"),
        ("  Ann", (0, 2), "nobody can see"),
        ("Ann", (0, 4), "not within the text"),
    ],
)
def test_a_span_that_cannot_be_placed_is_refused(raw: str, span: tuple[int, int], why: str) -> None:
    with pytest.raises(GoldFault, match=why):
        placed(raw, span)


def test_spans_beyond_the_cut_are_counted_and_left_out() -> None:
    counts = Counter[str]()
    spans = [GivenSpan(0, 3, "X"), GivenSpan(8, 11, "X"), GivenSpan(20, 23, "X")]
    found = place_spans("Ann met Bob and then Zoe", spans, "Ann met B", lambda name: counts.update([name]))
    assert found == [(0, 3, "X")]
    assert counts == {"span_beyond_cut": 2}


@given(st.text(alphabet="ab \r\n\u0308e\u200b\ufeffé\u2028", max_size=30), st.data())
def test_what_is_placed_is_the_normalised_text_of_the_span(raw: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, max(0, len(raw) - 1)))
    end = data.draw(st.integers(start, len(raw)))
    try:
        (found,) = placed(raw, (start, end))
    except GoldFault:
        return
    assert found.strip() == normalise(raw[start:end])
    assert unicodedata.is_normalized("NFC", found)
