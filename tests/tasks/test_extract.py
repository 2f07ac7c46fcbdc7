"""Extraction: reading JSON out of what a model wrote, its one form, and its scores."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from task_toys import PERSON_SCHEMA, make_kind, make_row, make_rows

from locum.core.errors import UserError
from locum.schema.prompt import Prompt
from locum.stats.rowwise import value
from locum.tasks.json_answer import found_json, one_form, read_json

ANN = '{"name":"Ann","age":41}'
CALL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"enum": ["get_weather", "search"]}, "arguments": {"type": "object"}},
    "required": ["name", "arguments"],
}


@pytest.mark.parametrize(
    "completion",
    [
        ANN,
        '{"age": 41,\n "name": "Ann"}',
        'Here it is:\n```json\n{"age": 41, "name": "Ann"}\n```\nAnything else?',
        'I read {this} first. {"name": "Ann", "age": 41}',
        '{"wrong": 1} {"name": "Ann", "age": 41}',
        '<think>{"name": "Bob", "age": 1}</think>{"name": "Ann", "age": 41}',
        'thought aloud {"name": "Bob", "age": 1}</think>{"name": "Ann", "age": 41}',
    ],
)
def test_an_object_is_found_wherever_a_model_puts_it_and_has_one_form(completion: str) -> None:
    assert make_kind("extract").parse(completion, "") == ANN


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "I cannot help with that.",
        '{"name": "Ann", "age": ',
        '{"name": "Ann"}',
        '{"name": "Ann", "age": "41"}',
        '["Ann", 41]',
        '{"name": "Ann", "age": NaN}',
        '{"name": "Ann", "age": 1, "age": 2}',
        '{"a":' * 100_000,
        "{" * 100_000,
        '<think>{"name": "Ann", "age": 41}',
        '{"name": "\\ud800", "age": 3}',
    ],
)
def test_what_the_schema_does_not_allow_is_no_answer(completion: str) -> None:
    assert make_kind("extract").parse(completion, "") is None


def test_engines_are_held_to_the_schema_and_the_prompt_shows_it() -> None:
    kind = make_kind("extract")
    assert kind.decoding.json_schema == PERSON_SCHEMA
    system, user = kind.messages("Ann is 41.")
    assert json.loads(system.content.splitlines()[-1]) == PERSON_SCHEMA
    assert user.content == "Ann is 41."
    assert kind.prompt_hash != make_kind("extract", answer_schema=CALL_SCHEMA).prompt_hash
    assert make_kind("extract", generation={"max_tokens": 7}).decoding.max_tokens == 7


def test_a_student_learns_the_one_form_and_worked_examples_show_it() -> None:
    row = make_row('{ "age" : 41, "name": "Ann"}', "Ann is 41.")
    kind = make_kind("extract", prompt=Prompt(instruction="Who?", examples=(row,)))
    assert kind.target(row) == ANN
    assert [message.content for message in kind.messages("x")[1:3]] == ["Ann is 41.", ANN]
    assert kind.parse(kind.target(row) or "", "x") == ANN


def test_scores_count_fields_and_an_unreadable_answer_counts_nothing() -> None:
    kind = make_kind("extract")
    outputs = ['{"name":"Ann","age":41}', '{"name":"Ann","age":40}', None, '{"name":"Bob","age":7}']
    scores = kind.score(outputs, make_rows(ANN, ANN, ANN, '{"age":7.0,"name":"Bob"}'))
    assert value(scores["accuracy"]) == 0.5
    assert value(scores["valid"]) == 0.75
    assert value(scores["field_f1"]) == pytest.approx(2 * 5 / (6 + 8))
    assert set(scores) == {"field_f1", "accuracy", "valid"}


@pytest.mark.parametrize(
    ("gold", "why"),
    [
        ("Ann, 41", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"name": "Ann"}', "'age' is a required property"),
        ('{"name": "Ann", "age": "old"}', r"\$.age: 'old' is not of type 'integer'"),
        ('{"name": "Ann", "age": NaN}', "NaN is not JSON"),
    ],
)
def test_a_gold_answer_that_the_schema_does_not_allow_says_why(gold: str, why: str) -> None:
    fault = make_kind("extract").fault(make_row(gold))
    assert fault is not None
    assert re.search(why, fault)
    assert make_kind("extract").fault(make_row(ANN)) is None


def test_a_malformed_schema_is_told_when_the_kind_is_opened() -> None:
    with pytest.raises(UserError) as caught:
        make_kind("extract", answer_schema={"type": "objekt"})
    assert caught.value.code == "scoring-schema"
    with pytest.raises(UserError) as caught:
        make_kind("extract", answer_schema={"$ref": "https://example.org/schema.json"})
    assert caught.value.code == "scoring-schema"


def test_features_say_how_much_of_the_answer_stands_in_the_input() -> None:
    kind = make_kind("extract")
    assert kind.features("ann\n is 41", ANN) == {"fields": 2.0, "fields_in_input": 1.0}
    assert kind.features("Bob is 41", ANN) == {"fields": 2.0, "fields_in_input": 0.0}
    assert set(kind.features("", '{"name":"","age":1}')) == {"fields", "fields_in_input"}


def test_answers_are_the_same_when_their_fields_are() -> None:
    kind = make_kind("extract")
    assert kind.same(ANN, '{"age":41.0,"name":"Ann"}')
    assert not kind.same(ANN, '{"name":"Ann","age":40}')
    assert not kind.same(ANN, None)


def test_a_tool_call_is_an_extraction() -> None:
    kind = make_kind("extract", answer_schema=CALL_SCHEMA)
    gold = '{"name": "get_weather", "arguments": {"city": "Rome", "days": 3}}'
    said = kind.parse('{"name": "get_weather", "arguments": {"days": 3, "city": "Rome"}}', "")
    assert value(kind.score([said], make_rows(gold))["accuracy"]) == 1.0
    assert kind.parse('{"name": "delete_all", "arguments": {}}', "") is None


def test_keys_follow_the_schema_through_references_and_branches() -> None:
    point = {"type": "object", "properties": {"y": {}, "x": {}}}
    schema = {
        "properties": {
            "b": {"anyOf": [{"$ref": "#/$defs/point"}, {"type": "null"}]},
            "a": {"type": "array", "items": {"$ref": "#/$defs/point"}},
        },
        "$defs": {"point": point},
    }
    value = {"z": 1, "a": [{"x": 1, "y": 2}], "b": {"x": 3, "y": 4}}
    assert one_form(value, schema) == '{"b":{"y":4,"x":3},"a":[{"y":2,"x":1}],"z":1}'
    assert one_form({"b": None, "é": 1}) == '{"b":null,"é":1}'
    loop = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    assert one_form({"b": 1, "a": 2}, loop) == '{"a":2,"b":1}'


def test_found_json_tells_places_and_stops_trying() -> None:
    text = 'a {"x": {"y": 1}} b [1] {"z": 2}'
    assert [(found.value, text[found.start : found.end]) for found in found_json(text)] == [
        ({"x": {"y": 1}}, '{"x": {"y": 1}}'),
        ({"z": 2}, '{"z": 2}'),
    ]
    assert [found.value for found in found_json(text, "[")] == [[1]]
    assert list(found_json("{" * 50 + '{"a": 1}')) == []
    with pytest.raises(ValueError, match="no JSON"):
        read_json("{} {}")
