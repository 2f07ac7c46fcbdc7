"""JSON from strangers: the standard and nothing beside, in linear time."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.core.strict_json import NotStrictJson, parse_object

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), VALUES, max_size=4), st.booleans())
def test_what_a_writer_wrote_is_read(value: dict[str, object], ascii_only: bool) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=ascii_only).encode(), max_depth=64) == value


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "beyond what a float"),
        (b'{"a": 12345678901234567890}', "more than 19 digits"),
        (b'{"a": 0.' + b"1" * 500 + b"}", "more than 400 characters"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b'{"a": {"b": 1, "\\u0062": 2}}', "stands twice"),
        (b'{"a": "\\ud800"}', "lone surrogate"),
        (b'{"\\udfff": 1}', "lone surrogate"),
        (b'{"a": "\xff"}', "at byte 7"),
        (b'\xef\xbb\xbf{"a": 1}', "at character 0"),
        (b"[1]", "must be a JSON object"),
        (b"", "at character 0"),
        (b'{"a": 1,}', "at character"),
        (b"{'a': 1}", "at character 1"),
        (b'{"a": "' + b"\n" + b'"}', "at character"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "nested deeper than 16"),
        (b"[" * 10_000_000, "nested deeper than 16"),
    ],
)
def test_fault_71_what_the_standard_does_not_have_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(NotStrictJson, match=why):
        parse_object(body)


def test_fault_71_brackets_inside_strings_are_text() -> None:
    body = json.dumps({"a": "[" * 100 + '"\\"{'}).encode()
    assert parse_object(body) == {"a": "[" * 100 + '"\\"{'}


@pytest.mark.parametrize("unit", [b'\\"', b'"', b"\\", b'"\\', b"[]", b'{"a":', b'"",'])
def test_fault_71_no_bytes_take_more_than_linear_time(unit: bytes) -> None:
    start_s = time.perf_counter()
    with pytest.raises(NotStrictJson):
        parse_object(b'{"a":' + unit * (1_000_000 // len(unit)))
    assert time.perf_counter() - start_s < 5
