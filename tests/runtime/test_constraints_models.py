"""Constraints with a real small model: what it writes is what the schema says, and llama.cpp takes every grammar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from locum.core.cpu import usable_cores
from locum.core.errors import UserError
from locum.runtime import Generator, open_generator
from locum.runtime.completion import CompletionRequest
from locum.schema.message import Message
from locum.schema.task import LlmSpec

pytestmark = [pytest.mark.models, pytest.mark.engines]

SHORT = {"type": "string", "maxLength": 12}
SCHEMAS: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "enum": {"enum": ["positive", "negative", "neutral", "mixed"]},
    "enum of all kinds": {"enum": ['a"b\\c', 3, 2.5, None, True, {"k": [1]}]},
    "integer in bounds": {"type": "integer", "minimum": -20, "maximum": 137},
    "number in bounds": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.75},
    "short text": {"type": "string", "minLength": 3, "maxLength": 8},
    "date": {"type": "string", "format": "date"},
    "date-time": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "email": {"type": "string", "format": "email"},
    "pattern": {"type": "string", "pattern": r"^[A-Z]{2}-\d{3,5}(/[a-f]+)?\.\w\"$"},
    "list": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 2, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}, {"const": "end"}], "minItems": 3},
    "object": {
        "type": "object",
        "properties": {"city": SHORT, "population": {"type": "integer", "minimum": 0}, "capital": {"type": "boolean"}},
        "required": ["city", "population", "capital"],
        "additionalProperties": False,
    },
    "optional properties": {
        "type": "object",
        "properties": {"a": SHORT, "b": {"type": "null"}, "c": {"enum": [1, 2]}, 'd "quoted"\n': {"type": "boolean"}},
        "required": ["c"],
        "additionalProperties": False,
    },
    "map": {"type": "object", "additionalProperties": {"enum": [True, False]}},
    "union by a mark": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"k": {"const": "circle"}, "r": {"type": "integer"}},
                "required": ["k", "r"],
            },
            {
                "type": "object",
                "properties": {"k": {"const": "square"}, "a": {"type": "integer"}},
                "required": ["k", "a"],
            },
        ]
    },
    "nullable references": {
        "type": "object",
        "properties": {
            "from": {"$ref": "#/$defs/place"},
            "to": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]},
        },
        "required": ["from", "to"],
        "$defs": {
            "place": {"type": "object", "properties": {"name": SHORT, "x": {"type": "number"}}, "required": ["name"]}
        },
    },
    "recursion": {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "next": {"type": "array", "items": {"$ref": "#"}, "maxItems": 1}},
        "required": ["n"],
    },
    "nested lists": {
        "type": "array",
        "items": {"type": "array", "items": {"type": ["integer", "null"]}, "minItems": 1, "maxItems": 3},
        "maxItems": 3,
    },
    "long text": {"type": "object", "properties": {"t": {"type": "string", "maxLength": 4000}}, "required": ["t"]},
}


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Generator]:
    generator = open_generator(LlmSpec(model=str(smollm2), timeout_s=250), threads=usable_cores(), n_ctx=2048)
    yield generator
    generator.close()


def ask(model: Generator, **fields: Any) -> tuple[str, str]:
    messages = (Message("user", "Give an example of what is asked for, as JSON."),)
    answer = model.complete(CompletionRequest(messages=messages, **fields))
    return answer.text, answer.finish_reason


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_answers_hold_to_their_schema(model: Generator, name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = SCHEMAS[name]
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    finished = 0
    for temperature, seed in ((0.0, 1), (1.5, 2)):
        text, finish = ask(model, json_schema=schema, temperature=temperature, seed=seed, max_tokens=160)
        if finish == "stop":  # what ran out of tokens is the beginning of an answer
            checker.validate(json.loads(text))
            finished += 1
    assert finished or name in ("long text", "recursion", "map")


GRAMMARS = {
    "moves": (
        r'root ::= move (" " move){2}\nmove ::= [a-h] [1-8] "-" [a-h] [1-8]'.replace(r"\n", "\n"),
        r"\w\d-\w\d( \w\d-\w\d){2}",
    ),
    "choice": ('root ::= "yes" | "no" | "maybe" [.!]?', "yes|no|maybe[.!]?"),
    "escapes": (r'root ::= "\x41\u00e9" [\]\-\\]{2}', r"Aé[\]\-\\]{2}"),
}


@pytest.mark.parametrize("name", list(GRAMMARS))
def test_answers_hold_to_their_grammar(model: Generator, name: str) -> None:
    import re

    grammar, expected = GRAMMARS[name]
    for seed in (1, 2, 3):
        text, finish = ask(model, grammar=grammar, temperature=1.5, seed=seed, max_tokens=60)
        assert finish == "stop" and re.fullmatch(expected, text), text


def test_fault_74_after_a_hostile_constraint_the_engine_answers_on(model: Generator) -> None:
    for fields in (
        {"json_schema": {"$ref": "#"}},
        {"json_schema": {"type": "string", "pattern": "(" * 300}},
        {"grammar": 'root ::= "a" root "b" | "a" root "c" | "a"'},
        {"grammar": "%llguidance {}\nstart: /(a+)+b/"},
    ):
        with pytest.raises(UserError) as caught:
            ask(model, **fields)
        assert caught.value.code.startswith("runtime-constraint-")
    assert json.loads(ask(model, json_schema={"type": "boolean"})[0]) in (True, False)
