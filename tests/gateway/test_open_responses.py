"""``/v1/responses`` in the form that Open Responses (openresponses.org) and OpenAI's types require, each event too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from locum.core.errors import LocumError
from locum.runtime.completion import Chunk, Completion, TokenLogprob, ToolCallDelta
from locum.schema.message import ToolCall
from locum.testing import ChunkGenerator

pytestmark = pytest.mark.engines
TEXT, NUMBER, COUNT, YES, LIST, OBJECT, NONE = str, (int, float), int, bool, list, dict, type(None)
MAYBE_TEXT, MAYBE_COUNT = (str, NONE), (int, NONE)
RESPONSE: dict[str, Any] = {
    "id": TEXT, "object": TEXT, "created_at": COUNT, "completed_at": MAYBE_COUNT, "status": TEXT,
    "incomplete_details": (dict, NONE), "model": TEXT, "previous_response_id": MAYBE_TEXT, "instructions": MAYBE_TEXT,
    "output": LIST, "error": (dict, NONE), "tools": LIST, "tool_choice": (str, dict), "truncation": TEXT,
    "parallel_tool_calls": YES, "text": OBJECT, "top_p": NUMBER, "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER, "top_logprobs": COUNT, "temperature": NUMBER, "reasoning": (dict, NONE),
    "usage": (dict, NONE), "max_output_tokens": MAYBE_COUNT, "max_tool_calls": MAYBE_COUNT, "store": YES,
    "background": YES, "service_tier": TEXT, "metadata": OBJECT, "safety_identifier": MAYBE_TEXT,
    "prompt_cache_key": MAYBE_TEXT,
}  # fmt: skip
ITEM: dict[str, dict[str, Any]] = {
    "message": {"id": TEXT, "status": TEXT, "role": TEXT, "content": LIST},
    "function_call": {"id": TEXT, "call_id": TEXT, "name": TEXT, "arguments": TEXT, "status": TEXT},
}
PART: dict[str, dict[str, Any]] = {"output_text": {"text": TEXT, "annotations": LIST}, "refusal": {"refusal": TEXT}}
_IN_PART = {"item_id": TEXT, "output_index": COUNT, "content_index": COUNT}
EVENT: dict[str, dict[str, Any]] = {
    "response.created": {"response": OBJECT}, "response.in_progress": {"response": OBJECT},
    "response.completed": {"response": OBJECT}, "response.incomplete": {"response": OBJECT},
    "response.output_item.added": {"output_index": COUNT, "item": OBJECT},
    "response.output_item.done": {"output_index": COUNT, "item": OBJECT},
    "response.content_part.added": {**_IN_PART, "part": OBJECT},
    "response.content_part.done": {**_IN_PART, "part": OBJECT},
    "response.output_text.delta": {**_IN_PART, "delta": TEXT},
    "response.output_text.done": {**_IN_PART, "text": TEXT},
    "response.refusal.delta": {**_IN_PART, "delta": TEXT}, "response.refusal.done": {**_IN_PART, "refusal": TEXT},
    "response.function_call_arguments.delta": {"item_id": TEXT, "output_index": COUNT, "delta": TEXT},
    "response.function_call_arguments.done": {"item_id": TEXT, "output_index": COUNT, "arguments": TEXT},
    "error": {"error": OBJECT},
}  # fmt: skip
TOOL = {"description": MAYBE_TEXT, "name": TEXT, "parameters": (dict, NONE), "strict": (bool, NONE)}
USAGE = {"input_tokens": COUNT, "output_tokens": COUNT, "total_tokens": COUNT, "input_tokens_details": OBJECT}
FUNCTION: Any = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


def _holds(value: dict[str, Any], fields: dict[str, Any]) -> None:
    for name, kind in fields.items():
        assert name in value and isinstance(value[name], kind), (name, value)


def _check_response(body: dict[str, Any]) -> None:
    _holds(body, RESPONSE)
    TypeAdapter(Response).validate_python(body)
    for item in body["output"]:
        _check_item(item)
    for tool in body["tools"]:
        _holds(tool, TOOL)
    _holds(body["text"], {"format": OBJECT})
    if body["usage"] is not None:
        _holds(body["usage"], USAGE)
    assert (body["completed_at"] is None) == (body["status"] != "completed")
    assert body["status"] == "in_progress" or body["usage"] is not None


def _check_item(item: dict[str, Any]) -> None:
    _holds(item, ITEM[item["type"]])
    for part in item.get("content", ()):
        _holds(part, PART[part["type"]])


def _events(gateway, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream, each held against both descriptions."""
    body = {"model": "tiny", "input": "hi", "stream": True, **fields}
    blocks = gateway.http.post("/v1/responses", json=body).text.split("\n\n")
    events: list[dict[str, Any]] = []
    for number, block in enumerate(blocks[:-1]):
        head, _, data = block.partition("\n")
        event = json.loads(data.removeprefix("data: "))
        assert head == f"event: {event['type']}" and event["sequence_number"] == number
        _holds(event, EVENT[event["type"]])
        TypeAdapter[Any](ResponseStreamEvent).validate_python(event)
        if "response" in event:
            _check_response(event["response"])
        if "item" in event:
            _check_item(event["item"])
        if "part" in event:
            _holds(event["part"], PART[event["part"]["type"]])
        events.append(event)
    return events


def _says(request: Any) -> list[Chunk]:
    read = {"input_tokens": 3, "output_tokens": 2, "model": "m"}
    if request.tools:
        call = ToolCall("call_1", "weather", "{}")
        deltas = (ToolCallDelta(0, "", "call_1", "weather"), ToolCallDelta(0, "{}"))
        return [Chunk(tool_calls=deltas), Chunk(final=Completion("", "tool_calls", tool_calls=(call,), **read))]
    if "cut" in request.messages[-1].content:
        return [Chunk("one"), Chunk(final=Completion("one", "length", **read))]
    tokens = (TokenLogprob("one", -0.5, (("one", -0.5),)),)
    return [Chunk("one", tokens), Chunk(" two"), Chunk(final=Completion("one two", "stop", logprobs=tokens, **read))]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"input": [{"type": "message", "role": "system", "content": "s"}, {"role": "user", "content": "u"}]},
        {"input": "cut", "max_output_tokens": 1},
        {"tools": [FUNCTION]},
        {"tools": [FUNCTION, {"type": "web_search"}], "tool_choice": {"type": "function", "name": "weather"}},
        {"top_logprobs": 1, "include": ["message.output_text.logprobs"]},
        {"instructions": "i", "metadata": {"a": "b"}, "max_tool_calls": 2, "safety_identifier": "s"},
        {"reasoning": {"effort": "high"}, "text": {"verbosity": "low", "format": {"type": "json_object"}}},
        {"text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}}, "temperature": 0},
    ],
)
def test_every_required_field_stands_in_whole_answers_and_in_each_event(start_model, fields: dict[str, Any]):
    gateway = start_model(ChunkGenerator(_says))
    answered = gateway.http.post("/v1/responses", json={"model": "tiny", "input": "hi", **fields})
    assert answered.status_code == 200, answered.text
    whole = answered.json()
    _check_response(whole)
    assert whole["output"] and whole["status"] in ("completed", "incomplete")
    events = _events(gateway, **fields)
    last = events[-1]
    assert last["type"] == f"response.{whole['status']}"
    kept = {name: value for name, value in whole.items() if name not in ("id", "created_at", "completed_at", "output")}
    assert {name: last["response"][name] for name in kept} == kept
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["id"] for item in added] == [item["id"] for item in done] and done == last["response"]["output"]


def test_an_abstention_and_an_error_have_their_fields(start, start_model):
    gateway = start()
    body = {"model": "pico", "input": "good morning"}
    whole = gateway.http.post("/v1/responses", json=body).json()
    _check_response(whole)
    assert whole["output"][0]["content"][0]["type"] == "refusal"
    kinds = [event["type"] for event in _events(gateway, **body)]
    assert "response.refusal.done" in kinds and kinds[-1] == "response.completed"
    broken = start_model(ChunkGenerator(["one", 0.2, LocumError("runtime-child-died", "killed")]))
    error = _events(broken)[-1]
    assert error["type"] == "error" and error["error"]["code"] == error["code"] == "engine_unavailable"
    _holds(error["error"], {"type": TEXT, "code": MAYBE_TEXT, "message": TEXT, "param": MAYBE_TEXT})
