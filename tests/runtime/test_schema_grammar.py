"""JSON schemas as grammars: what is enforced is enforced exactly, what cannot be is refused by name."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.core.errors import UserError
from locum.runtime.compile_worker import compile_text
from locum.runtime.grammar_check import read_grammar
from locum.runtime.grammar_walk import accepts
from locum.runtime.schema_limits import check_limits
from locum.runtime.schema_pattern import PatternFault, pattern_expression
from locum.runtime.schema_scalars import integer_expression, length_expression, number_expression


def compiled(schema: Any) -> str:
    return compile_text("schema", check_limits(schema))


def allows(schema: Any, *texts: str) -> list[bool]:
    grammar = read_grammar(compiled(schema))
    return [accepts(grammar, text) for text in texts]


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}, "tags": {"type": "array"}},
    "required": ["age"],
}


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        ({}, ["1", "{}", '"a"', "null", '[1, {"a": []}]'], ["", "{", "01", "'a'", "1e999"]),
        ({"type": "boolean"}, ["true", "false"], ["null", "1"]),
        ({"type": "null"}, ["null"], ["0"]),
        ({"type": "integer"}, ["0", "-7", "123456789012345"], ["1.0", "01", "+1", "1e3"]),
        ({"type": "number"}, ["0", "-7.25", "1e-3", "2E+09"], ["1.", ".5", "1e999", "NaN"]),
        ({"type": ["string", "null"]}, ['"a"', "null"], ["1"]),
        ({"type": "string"}, ['""', '"\\n\\u00e9 é"'], ['"\n"', '"\\ud800"', '"\\x"', '"a']),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"\\u0041bc"'], ['"a"', '"abcd"']),
        ({"type": "string", "minLength": 1}, ['"a"'], ['""']),
        ({"const": {"a": [1, None]}}, ['{"a": [1, null]}'], ['{"a":[1]}', "1"]),
        ({"enum": ["a", "ab", 1, None, 'q"\\']}, ['"a"', '"ab"', "1", "null", '"q\\"\\\\"'], ['"b"', "2", '"abc"']),
        ({"type": "string", "enum": ["a", 1]}, ['"a"'], ["1"]),
        (PERSON, ['{"age": 3}', '{"name": "x", "age": 0}', '{"age":1,"tags":[1]}'], ['{"name": "x"}', '{"age": -1}']),
        (
            PERSON,
            ['{\n  "name": "a",\n  "age": 1\n}'],
            ['{"age": 1, "name": "a"}', '{"age": 1, "b": 2}', '{"age": 1,}'],
        ),
        ({"type": "object"}, ["{}", '{"a": {"b": 1}}'], ["[]"]),
        ({"type": "object", "additionalProperties": False}, ["{}", "{ }"], ['{"a": 1}']),
        ({"additionalProperties": {"type": "integer"}}, ["{}", '{"x": 1, "y": 2}'], ['{"x": "1"}']),
        ({"properties": {"a": {}, "b": {}}}, ["{}", '{"a": 1}', '{"b": 2}', '{"a": 1, "b": 2}'], ['{"b": 1, "a": 2}']),
        ({"type": "array", "items": {"type": "integer"}}, ["[]", "[1, 2]"], ['["a"]', "[1,]"]),
        (
            {"type": "array", "items": {}, "minItems": 2, "maxItems": 3},
            ["[1,2]", "[1, 2, 3]"],
            ["[]", "[1]", "[1,2,3,4]"],
        ),
        ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
        ({"type": "array", "minItems": 1}, ["[1]", "[1,2]"], ["[]"]),
        ({"prefixItems": [{"type": "integer"}, {"type": "string"}]}, ['[1, "a"]'], ["[1]", '["a", 1]', '[1, "a", 2]']),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, ["1", "null"], ['"a"']),
        ({"oneOf": [{"type": "integer"}, {"const": "a"}]}, ["1", '"a"'], ['"b"']),
        ({"allOf": [{"$ref": "#/$defs/a~1b"}], "$defs": {"a/b": {"type": "null"}}}, ["null"], ["1"]),
        ({"$ref": "#/definitions/x%20y", "definitions": {"x y": {"const": 1}}}, ["1"], ["2"]),
        ({"type": "string", "format": "date"}, ['"2024-02-28"'], ['"2024-02-30"', '"2024-13-01"', '"24-01-01"']),
        ({"type": "string", "format": "date-time"}, ['"2024-12-31T23:59:59Z"'], ['"2024-12-31"']),
        ({"type": "string", "format": "uuid"}, ['"123e4567-e89b-12d3-a456-426614174000"'], ['"123e4567"']),
        ({"type": "string", "format": "email"}, ['"a.b@example.org"'], ['"a"', '"@b.c"']),
        ({"type": "string", "format": "ipv4"}, ['"10.0.0.255"'], ['"10.0.0.256"', '"1.2.3"']),
        ({"type": "string", "title": "t", "description": "d", "x-ui": 1}, ['"a"'], ["1"]),
    ],
)
def test_keywords_are_enforced(schema: dict[str, Any], yes: list[str], no: list[str]) -> None:
    assert allows(schema, *yes) == [True] * len(yes)
    assert allows(schema, *no) == [False] * len(no)


def test_recursion_is_followed() -> None:
    tree = {
        "type": "object",
        "properties": {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["value"],
    }
    assert allows(tree, '{"value": 1, "children": [{"value": 2}, {"value": 3, "children": []}]}') == [True]
    assert allows(tree, '{"value": 1, "children": [{"children": []}]}') == [False]


def test_unions_told_apart_by_a_property() -> None:
    def part(kind: str, more: dict[str, Any]) -> dict[str, Any]:
        return {"type": "object", "properties": {"kind": {"const": kind}, **more}, "required": ["kind", *more]}

    schema = {
        "oneOf": [part("a", {"x": {"type": "integer"}}), {"$ref": "#/$defs/b"}],
        "discriminator": {"propertyName": "kind"},
        "$defs": {"b": part("b", {"y": {"type": "boolean"}})},
    }
    assert allows(schema, '{"kind": "a", "x": 1}', '{"kind": "b", "y": true}', '{"kind": "a", "y": true}') == [
        *(True, True, False)
    ]


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {"type": "integer"}}, "contains"),
        ({"type": "object", "patternProperties": {"a": {}}}, "patternProperties"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "'b'"),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "null"}}, "additionalProperties"),
        ({"type": "integer", "multipleOf": 5}, "multipleOf"),
        ({"type": "integer", "minLength": 5}, "minLength"),
        ({"type": "string", "minLengt": 5}, "minLengt"),
        ({"type": "string", "format": "hostname"}, "date-time"),
        ({"type": "string", "pattern": "^a$", "maxLength": 5}, "maxLength with pattern"),
        ({"type": "number", "minimum": 1, "exclusiveMinimum": 0}, "exclusiveMinimum"),
        ({"type": "number", "minimum": 1e-30}, "decimals"),
        ({"not": {"type": "string"}}, "'not'"),
        ({"if": {}, "then": {}}, "'if'"),
        ({"anyOf": [{}], "type": "string"}, "beside anyOf"),
        ({"$ref": "#/$defs/a", "minimum": 2, "$defs": {"a": {}}}, "minimum"),
        ({"$ref": "https://example.org/schema.json"}, "within the schema"),
        ({"$ref": "other.json#/a"}, "within the schema"),
        ({"allOf": [{"type": "object"}, {"required": ["a"]}]}, "allOf"),
        ({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}, "may fit its parts 0 and 1"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "may fit"),
        ({"minItems": 1, "minLength": 1}, "several types"),
        ({"prefixItems": [{}, {}], "minItems": 3}, "another length"),
        ({"properties": {"a": {"$id": "x"}}}, r"\$id"),
        ({"type": "string", "pattern": r"^(?!a)b$"}, "look-around"),
        ({"type": "string", "pattern": r"^\bb$"}, "boundary"),
        ({"type": "string", "pattern": r"^(a)\1$"}, "back-reference"),
        ({"type": "string", "pattern": r"\p{L}"}, "property"),
    ],
)
def test_fault_74_what_cannot_be_enforced_is_refused_by_name(schema: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        compiled(schema)
    assert caught.value.code == "runtime-constraint-unsupported"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "text"},
        {"type": []},
        {"type": 5},
        {"enum": []},
        {"enum": "a"},
        {"anyOf": []},
        {"properties": [1]},
        {"properties": {"a": 3}},
        {"properties": {"a": False}},
        {"required": "a", "properties": {"a": {}}},
        {"type": "string", "minLength": -1},
        {"type": "string", "minLength": "3"},
        {"type": "string", "minLength": 5, "maxLength": 3},
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "integer", "minimum": 0.1, "maximum": 0.9},
        {"type": "number", "exclusiveMinimum": 1, "maximum": 1},
        {"type": "number", "minimum": 10**16},
        {"type": "string", "const": 1},
        {"$ref": "#/$defs/none"},
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "string", "pattern": "^(a*)*$"},
        {"const": "\ud800"},
        {"minimum": float("nan")},
        {"const": float("inf")},
        {"const": 2**70},
        {1: 2},
        {"const": {1, 2}},
        [],
        "string",
    ],
)
def test_fault_74_what_is_no_schema_or_allows_nothing_is_refused(schema: Any) -> None:
    with pytest.raises(UserError) as caught:
        compiled(schema)
    assert caught.value.code == "runtime-constraint-schema"


BOUNDS = st.none() | st.decimals(-2000, 2000, places=3).map(Decimal.normalize)
NUMBERS = st.decimals(-2100, 2100, places=4) | st.integers(-2100, 2100).map(Decimal)


@settings(max_examples=300, deadline=None)
@given(BOUNDS, st.booleans(), BOUNDS, st.booleans(), st.lists(NUMBERS, min_size=5, max_size=5), st.booleans())
def test_bounds_of_numbers_are_exact(
    least: Decimal | None, above: bool, most: Decimal | None, below: bool, tried: list[Decimal], whole: bool
) -> None:
    def within(value: Decimal) -> bool:
        low = least is None or (value > least if above else value >= least)
        return low and (most is None or (value < most if below else value <= most))

    tried += [bound + step for bound in (least, most) if bound is not None for step in (0, Decimal("0.0001"), -1)]
    texts = {str(int(each)) for each in tried} if whole else {f"{each:f}" for each in tried}
    texts = {text for text in texts if not re.fullmatch("-0(.0*)?", text)}  # minus zero is not written; it need not be
    expression = (integer_expression if whole else number_expression)(least, above, most, below)
    if expression is None:
        assert not any(within(Decimal(text)) for text in texts)
        return
    grammar = read_grammar(f"root ::= {expression}")
    assert {text: accepts(grammar, text) for text in texts} == {text: within(Decimal(text)) for text in texts}


@pytest.mark.parametrize(
    ("least", "most"),
    [(0, 5), (0, 1500), (150, 1500), (1234, 1300), (999, 5000), (0, 100_000), (3, None), (250, None), (1, 1099)],
)
def test_lengths_are_exact_however_long(least: int, most: int | None) -> None:
    grammar = read_grammar(f'root ::= {length_expression(least, most)}\nchar ::= "a"\nblock ::= char{{100}}')
    high = least + 500 if most is None else most
    for length in sorted({0, 1, least - 1, least, least + 1, least + 100, high - 1, high, high + 1} - {-1}):
        if length < 6000:
            assert accepts(grammar, "a" * length) == (least <= length and (most is None or length <= most)), length


SAMPLES = [
    "",
    "a",
    "ab",
    "aab",
    "abc",
    "b",
    "1",
    "42",
    "a-1",
    "A_",
    "x.y",
    " ",
    "aaaa",
    "ba",
    "cab",
    "é",
    "a\nb",
    'a"b',
    "\\",
]


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "^a$",
            "a",
            "^a",
            "b$",
            "^a*b?$",
            "^(a|b)+$",
            "^[a-c]{1,3}$",
            r"^\d+$",
            r"^\w*$",
            r"^[^a]*$",
            r"^x\.y$",
            "^.{2}$",
        ),
        *(
            r"^[A-Z_]+$",
            "^(?:ab?)*?$",
            r"^a-\d$",
            r"^\s?$",
            "",
            "^$",
            "^(aa){1,2}$",
            r'^a"b$',
            r"^\\$",
            r"^[\\\n\"a-b]+$",
        ),
    ],
)
def test_patterns_match_what_they_match_elsewhere(pattern: str) -> None:
    try:
        grammar = read_grammar('root ::= "\\"" ' + pattern_expression(pattern) + ' "\\""')
    except UserError as error:
        assert "may be empty" in error.cause and pattern == "^(?:ab?)*?$"
        return
    wide = {"", "a", "^a", "b$", "^[^a]*$", "^.{2}$"}  # where any character may stand, those that need an escape do not
    for sample in SAMPLES:
        found = accepts(grammar, json.dumps(sample, ensure_ascii=False))
        expected = re.search(pattern.replace("$", r"\Z"), sample, re.ASCII) is not None
        assert found == expected or (pattern in wide and not found and json.dumps(sample)[1:-1] != sample), sample


@pytest.mark.parametrize(
    ("pattern", "no"),
    [(".", "\u2028\u2029"), (r"\S", "\u1680\u2003\u2028\u202f\u205f\u3000\ufeff"), (r"[^\s]", "\u00a0\u2009")],
)
def test_line_ends_and_spaces_are_those_of_ecma_262(pattern: str, no: str) -> None:
    grammar = read_grammar("root ::= " + pattern_expression(f"^{pattern}$"))
    assert accepts(grammar, "x") and accepts(grammar, "\u200b")
    assert [char for char in no if accepts(grammar, char)] == []


@pytest.mark.parametrize(
    "pattern",
    ["a" * 600, "(" * 20, "a{2,1}", "a**", "[", "(a", "a)", "*a", "a|^b$", "[z-a]", r"[!-\d]", "\\", "a{x}", "^a|b$"],
)
def test_fault_74_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(PatternFault):
        pattern_expression(pattern)
