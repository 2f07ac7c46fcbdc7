"""Extracted JSON: typed equality, lists as multisets, validity without fetching anything."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.core.errors import UserError
from locum.scoring import fields

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_every_value_equals_itself(value: object) -> None:
    again = json.loads(json.dumps(value))
    assert fields.exact_match(value, again) == 1.0
    hits, _, gold = fields.field_counts(value, again)
    assert hits == gold or value is None


@pytest.mark.parametrize(
    ("value", "gold", "equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        ("1", 1, False),
        (None, "None", False),
        (True, "True", False),
        (" New  York\n", "New York", True),
        ("new york", "New York", False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, 2, 2], [2, 1, 2], True),
        ([1, 2, 2], [1, 1, 2], False),
        ([], {}, False),
        ({}, None, False),
        ([{"a": 1}, {"a": 2}], [{"a": 2}, {"a": 1}], True),
        ([{"a": 1, "b": 3}, {"a": 2, "b": 4}], [{"a": 1, "b": 4}, {"a": 2, "b": 3}], False),
        (10**400, 10**400, True),
        (float("nan"), float("nan"), True),
    ],
)
def test_equality_knows_types(value: object, gold: object, equal: bool) -> None:
    assert fields.exact_match(value, gold) == equal
    assert fields.exact_match({"x": value}, {"x": gold}) == equal


@given(JSON, JSON)
def test_single_fields_are_right_as_often_as_they_are_counted(value: object, gold: object) -> None:
    plain = {"list": [value, value], "other": gold}  # keys with dots could give two fields one place
    right = fields.right_fields(plain, {"list": [gold, value]})
    if "." not in json.dumps(plain):
        assert sum(right.values()) == fields.field_counts(plain, {"list": [gold, value]})[0]


def test_a_field_is_right_where_the_gold_answer_has_it_as_often() -> None:
    gold = {"city": "Rome", "tags": ["a", "b"], "to": {"day": 3}}
    answer = {"city": " Rome", "tags": ["b", "c", "b"], "to": {"day": "3"}, "more": {}}
    assert fields.right_fields(answer, gold) == {
        "city": True, "tags[0]": True, "tags[1]": False, "tags[2]": False, "to.day": False, "more": False,
    }  # fmt: skip


def test_fields_are_counted_by_path() -> None:
    gold = {"name": "Ann", "address": {"city": "Bonn", "zip": "53111"}, "tags": ["a", "b", "b"]}
    answer = {"name": "Ann", "address": {"city": "Köln"}, "tags": ["b", "a"], "age": 3}
    assert fields.field_counts(answer, gold) == (3, 5, 6)
    assert fields.field_f1(answer, gold) == pytest.approx(6 / 11)
    assert fields.field_counts(gold, gold) == (6, 6, 6)


def test_a_key_with_a_dot_or_brackets_is_no_path() -> None:
    assert fields.field_counts({"a.b": 1}, {"a": {"b": 1}})[0] == 0
    assert fields.field_counts({"a": {"[]": 1}}, {"a": [1]})[0] == 0


def test_an_empty_list_is_a_field_and_nothing_parsed_is_none() -> None:
    assert fields.field_counts({"tags": []}, {"tags": []}) == (1, 1, 1)
    assert fields.field_counts(None, {"a": 1}) == (0, 0, 1)
    assert fields.field_f1(None, {"a": 1}) == 0.0


def test_a_bottomless_answer_is_scored_and_not_a_crash() -> None:
    deep = json.loads("[" * 500 + "]" * 500)
    assert fields.exact_match(deep, {"a": 1}) == 0.0
    assert fields.exact_match(deep, deep) == 1.0
    assert fields.field_counts(deep, {"a": 1}) == (0, 1, 1)


def test_rows_add_up_to_micro_f1() -> None:
    rows = fields.field_rows([{"a": 1}, None, {"a": 1, "b": 2}], [{"a": 1}, {"a": 2}, {"a": 3, "b": 2}])
    assert rows.counts.tolist() == [[1, 1, 1], [0, 0, 1], [1, 2, 2]]
    assert rows(np.array([[0, 1, 2]])) == pytest.approx([2 * 2 / (3 + 4)])
    with pytest.raises(UserError) as caught:
        fields.field_rows([{}], [])
    assert caught.value.code == "scoring-input"


SCHEMA = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/name"}, "people": {"type": "integer", "minimum": 0}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"name": {"type": "string", "minLength": 1}},
}


@pytest.mark.parametrize(
    ("value", "ok"),
    [
        ({"city": "Bonn", "people": 3}, True),
        ({"city": "Bonn", "people": 3.0}, True),
        ({"city": ""}, False),
        ({"people": 3}, False),
        ({"city": "Bonn", "mayor": "x"}, False),
        (None, False),
    ],
)
def test_validity(value: object, ok: bool) -> None:
    assert fields.valid(value, SCHEMA) == ok


def test_why_a_value_is_invalid_names_the_place() -> None:
    assert fields.why_invalid({"city": "Bonn"}, SCHEMA) is None
    assert fields.why_invalid({"city": "Bonn", "people": -1}, SCHEMA) == "$.people: -1 is less than the minimum of 0"


def test_a_bottomless_answer_is_invalid_and_not_a_crash() -> None:
    deep = json.loads("[" * 900 + "]" * 900)
    assert fields.valid(deep, {"type": "array", "items": {"$ref": "#"}}) == 0.0


@pytest.mark.parametrize("schema", [{"type": "objct"}, {"$ref": "http://127.0.0.1:9/x.json"}, {"$ref": "#/$defs/no"}])
def test_a_schema_that_cannot_be_used_is_refused(schema: dict[str, object]) -> None:
    with pytest.raises(UserError) as caught:
        fields.valid({}, schema)
    assert caught.value.code == "scoring-schema"
