"""Nothing that a client sends is a fault of the server: awkward values in every field of every endpoint."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from locum.gateway.chat import ChatRequest
from locum.gateway.completions import TextRequest
from locum.gateway.embeddings import EmbeddingRequest
from locum.gateway.errors import API_CODES
from locum.gateway.response_documents import ResponseRequest
from locum.testing import FakeEmbedder, FakeGenerator

pytestmark = pytest.mark.engines
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TURNS = [
    {"role": "developer", "content": [{"type": "text", "text": "d"}]},
    {"role": "user", "content": "good morning", "name": "eve"},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
    {"role": "tool", "tool_call_id": "c", "content": "4"},
]
ITEMS = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "u"}]},
    {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "s"}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "4"}]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "id": "m", "status": "completed"},
]
SCHEMA = {"name": "s", "schema": {"type": "object", "properties": {"a": {"enum": ["b"]}}}}
ENDPOINTS: list[tuple[str, Any, dict[str, Any]]] = [
    ("/v1/chat/completions", ChatRequest, {
        "messages": TURNS, "tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "auto",
        "response_format": {"type": "json_schema", "json_schema": SCHEMA}, "stop": ["x"], "metadata": {"a": "b"},
    }),
    ("/v1/completions", TextRequest, {"prompt": ["a", "b"], "stop": "x"}),
    ("/v1/responses", ResponseRequest, {
        "input": ITEMS, "tools": [{"type": "function", **FUNCTION}, {"type": "web_search"}],
        "text": {"format": {"type": "json_schema", **SCHEMA}}, "reasoning": {"effort": "low"},
        "tool_choice": {"type": "function", "name": "f"}, "include": ["reasoning.encrypted_content"],
    }),
    ("/v1/embeddings", EmbeddingRequest, {"input": ["a", "b"]}),
]  # fmt: skip
DEEP: Any = "x"
for _ in range(40):
    DEEP = [DEEP]
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 1.5, 1e308, -1e-320, 2**63 - 1, 2**64, "", " ", "x", "\0", "\ud83d\ude00",
    "<|im_end|>",
    "{}", "x" * 3000, [], [None], [""], [[]], [1, 2], ["x"] * 40, {}, {"": None}, {"type": "function"}, {"type": None},
    {"type": "object", "function": {}}, {"type": "message", "role": "user", "content": "x"}, DEEP,
]  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place within a document."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in inner:
        yield from _places(part, (*path, step))


def _with(body: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(body)
    here: Any = changed
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    return changed


def _bodies(document: Any, body: dict[str, Any]) -> Iterator[Any]:
    for name, value in itertools.product([*document.model_fields, "typo", "\x1b"], VALUES):
        yield {**body, name: value}
    for path in _places(body):
        if len(path) > 1:
            yield from (_with(body, path, value) for value in VALUES)
    yield from VALUES


def _check(answered: Any, sent: Any) -> None:
    said = (answered.status_code, json.dumps(sent, default=str)[:300], answered.text[:300])
    assert answered.status_code < 500, said
    if answered.status_code != 200:
        error = answered.json()["error"]
        assert error["code"] in API_CODES and error["message"] and "\x1b" not in answered.text, said


@pytest.mark.parametrize(("path", "document", "body"), ENDPOINTS)
def test_no_value_in_any_field_is_an_error_of_the_server(start_model, path: str, document: Any, body: dict[str, Any]):
    gateway = start_model(FakeGenerator(["one two three"]), FakeEmbedder())
    base = {"model": "tiny", **body}
    assert gateway.http.post(path, json=base).status_code == 200
    for sent in _bodies(document, base):
        raw = json.dumps(sent).encode()
        _check(gateway.http.post(path, content=raw, headers={"content-type": "application/json"}), sent)


@pytest.mark.parametrize("name", ["pico", "pico@local", "pico@llm"])
def test_nor_for_a_bundle(start, name: str):
    gateway = start(script=["cash"])
    for path, document, body in ENDPOINTS:
        bodies = list(_bodies(document, {"model": name, **body}))[::5]
        assert len(bodies) > 50
        for sent in bodies:
            _check(gateway.http.post(path, content=json.dumps(sent).encode()), sent)
