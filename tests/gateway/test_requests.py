"""Strict JSON and typed, bounded documents: what is refused, how it is named, and that nothing slips by."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.gateway.bundle_target import input_of
from locum.gateway.chat import ChatCall
from locum.gateway.completions import TextCall
from locum.gateway.embeddings import read_embedding_request
from locum.gateway.errors import API_CODES, ApiError
from locum.gateway.responses import ResponseCall
from locum.gateway.strict_json import parse_json
from locum.runtime.completion import CompletionRequest
from locum.schema.message import Message

GOOD = {"model": "pico", "messages": [{"role": "user", "content": "hello"}]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
ENDPOINTS = {
    "chat": (ChatCall.read, GOOD),
    "completions": (TextCall.read, {"model": "pico", "prompt": "hello"}),
    "responses": (ResponseCall.read, {"model": "pico", "input": "hello"}),
    "embeddings": (lambda body: read_embedding_request(body, lambda _model: None), {"model": "pico", "input": "hello"}),
}


def _refused(body: bytes | dict, code: str, param: str | None = None, endpoint: str = "chat") -> ApiError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ApiError) as caught:
        ENDPOINTS[endpoint][0](raw)
    assert (caught.value.status, caught.value.code) == (400, code), caught.value.message
    if param is not None:
        assert caught.value.param == param
    return caught.value


def _asked(endpoint: str = "chat", **fields: Any) -> list[CompletionRequest]:
    read, good = ENDPOINTS[endpoint]
    return read(json.dumps({**good, **fields}).encode()).requests(99)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b'{"a": 1',
        b'{"model": "a", "model": "b"}',
        b'{"x": {"y": 1, "y": 2}}',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": 1e999}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b"[" * 100_000,
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b'{"a": ["\\udfff"]}',
        b'{"a": [["\\ud800x"]]}',
    ],
)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_fault_71_hostile_json_is_a_400(body: bytes, endpoint: str):
    assert _refused(body, "invalid_json", endpoint=endpoint).message


def test_fault_71_brackets_inside_strings_are_not_depth():
    text = '{"[' * 100 + '\\"'
    assert parse_json(json.dumps({"a": text}).encode()) == {"a": text}


@given(st.binary(max_size=300))
def test_fault_71_any_bytes_end_in_an_object_or_a_400(body: bytes):
    try:
        assert isinstance(parse_json(body), dict)
    except ApiError as error:
        assert error.status == 400


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("n", 0, "invalid_value"),
        ("n", -1, "invalid_value"),
        ("n", 10**6, "invalid_value"),
        ("max_tokens", -5, "invalid_value"),
        ("max_tokens", 10**9, "invalid_value"),
        ("max_completion_tokens", 0, "invalid_value"),
        ("temperature", -0.1, "invalid_value"),
        ("temperature", "hot", "invalid_value"),
        ("top_p", 1.5, "invalid_value"),
        ("top_k", -1, "invalid_value"),
        ("min_p", 2, "invalid_value"),
        ("repeat_penalty", 0, "invalid_value"),
        ("seed", 10**18 * 9.9, "invalid_value"),
        ("stop", ["a"] * 5, "invalid_value"),
        ("stop", "x" * 600, "invalid_value"),
        ("stop", "", "invalid_value"),
        ("stop", [""], "invalid_value"),
        ("logprobs", 3, "invalid_value"),
        ("top_logprobs", 21, "invalid_value"),
        ("top_logprobs", -1, "invalid_value"),
        ("stream", "yes", "invalid_value"),
        ("messages", [], "invalid_value"),
        ("messages", "hello", "invalid_value"),
        ("response_format", {"type": "xml"}, "unsupported_value"),
        ("presence_penalty", 3, "invalid_value"),
        ("metadata", {"k": "v" * 600}, "invalid_value"),
        ("tools", [{"type": "retrieval"}], "unsupported_value"),
        ("tools", [{**TOOL, "function": {"name": "a b"}}], "invalid_value"),
        ("tools", [TOOL, TOOL], "invalid_value"),
        ("tools", [TOOL] * 200, "invalid_value"),
        ("tool_choice", "required", "invalid_value"),
        ("tool_choice", {"type": "function", "function": {"name": "gone"}}, "invalid_value"),
        ("grammar", "x" * 70_000, "invalid_value"),
        ("grammar", "", "invalid_value"),
        ("truncate", "auto", "invalid_value"),
        ("logit_bias", {"x": 1}, "invalid_value"),
        ("reasoning_effort", "lwo", "unsupported_value"),
        ("modalities", ["text", "audio"], "unsupported_value"),
    ],
)
def test_fault_73_values_out_of_bounds_are_named(field: str, value: object, code: str):
    error = _refused({**GOOD, field: value}, code)
    assert error.param is not None and error.param.startswith(field)


@pytest.mark.parametrize(
    ("endpoint", "fields", "code", "param"),
    [
        ("completions", {"n": 17}, "invalid_value", "n"),
        ("completions", {"prompt": ["a"] * 9, "n": 2}, "invalid_value", "n"),
        ("completions", {"prompt": [1, "a"]}, "invalid_value", "prompt.0"),
        ("completions", {"max_tokens": 0}, "invalid_value", "max_tokens"),
        ("completions", {"logprobs": -1}, "invalid_value", "logprobs"),
        ("completions", {"echo": True, "truncate": True}, "unsupported_value", "echo"),
        ("completions", {"best_of": 3}, "unsupported_value", "best_of"),
        ("completions", {"best_of": 1, "n": 2}, "invalid_value", "best_of"),
        ("completions", {"messages": []}, "unknown_field", "messages"),
        ("embeddings", {"input": [[1, 2]]}, "unsupported_value", "input"),
        ("embeddings", {"input": [1, 2]}, "unsupported_value", "input"),
        ("embeddings", {"input": ["a", 2]}, "invalid_value", "input.1"),
        ("embeddings", {"input": [[1], "a"]}, "invalid_value", "input.0"),
        ("embeddings", {"input": [1, "a"]}, "invalid_value", "input.0"),
        ("embeddings", {"input": [[]]}, "invalid_value", "input.0"),
        ("embeddings", {"input": []}, "invalid_value", "input"),
        ("embeddings", {"input": ["a", ""]}, "empty_input", "input"),
        ("embeddings", {"input": ["a"] * 2049}, "invalid_value", "input"),
        ("embeddings", {"dimensions": 0}, "invalid_value", "dimensions"),
        ("embeddings", {"encoding_format": "hex"}, "unsupported_value", "encoding_format"),
        ("responses", {"store": True}, "unsupported_value", "store"),
        ("responses", {"background": True}, "unsupported_value", "background"),
        ("responses", {"previous_response_id": "resp_1"}, "unsupported_value", "previous_response_id"),
        ("responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}, "unsupported_value", "input.0"),
        ("responses", {"input": [{"id": "msg_1"}]}, "unsupported_value", "input.0"),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, None, None),
        ("responses", {"tools": [{"type": "web_serch"}]}, "unsupported_value", "tools.0.type"),
        ("responses", {"max_output_tokens": -1}, "invalid_value", "max_output_tokens"),
        ("responses", {"text": {"format": {"type": "json_schema"}}}, "invalid_value", "text.format.schema"),
        ("responses", {"conversation": "conv_1"}, "unsupported_value", "conversation"),
    ],
)
def test_fault_73_every_endpoint_bounds_its_own(endpoint: str, fields: dict, code: str | None, param: str | None):
    with pytest.raises(ApiError) as caught:
        ENDPOINTS[endpoint][0](json.dumps({**ENDPOINTS[endpoint][1], **fields}).encode())
    assert caught.value.status == 400
    if code is not None:
        assert (caught.value.code, caught.value.param) == (code, param), caught.value.message


def test_unknown_fields_suggest_the_nearest():
    assert "'temperature'" in _refused({**GOOD, "temprature": 1}, "unknown_field", "temprature").message
    assert "does not take it" in _refused({**GOOD, "zzz": {}}, "unknown_field", "zzz").message
    part = {**GOOD, "messages": [{"role": "user", "contents": "x"}]}
    assert "'content'" in _refused(part, "unknown_field", "messages.0.contents").message


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("endpoint", "fields", "code", "param", "words"),
    [
        ("chat", {"stop": ["a"] * 5}, "invalid_value", "stop", "at most 4 items"),
        ("chat", {"stop": [""]}, "invalid_value", "stop.0", "at least 1 character"),
        ("chat", {"stop": 5}, "invalid_value", "stop", "a valid string or a valid list"),
        ("chat", {"messages": [{**USER, "content": []}]}, "invalid_value", "messages.0.content", "at least 1 item"),
        (
            "chat",
            {"messages": [{**USER, "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "unsupported_value",
            "messages.0.content.0.type",
            "'text'",
        ),
        ("chat", {"messages": [{**USER, "prompt": "y"}]}, "unknown_field", "messages.0.prompt", ""),
        ("chat", {"tool_choice": "x"}, "unsupported_value", "tool_choice", "'auto', 'none' or 'required'"),
        ("chat", {"tool_choice": {"type": "function"}}, "missing_field", "tool_choice.function", ""),
        ("completions", {"prompt": []}, "invalid_value", "prompt", "at least 1 item"),
        ("completions", {"prompt": ["a"] * 17}, "invalid_value", "prompt", "at most 16 items"),
        ("completions", {"prompt": None}, "invalid_value", "prompt", "a valid string or a valid list"),
        ("embeddings", {"input": []}, "invalid_value", "input", "at least 1 item"),
        ("responses", {"input": []}, "invalid_value", "input", "at least 1 item"),
        ("responses", {"input": [{"role": "user"}]}, "missing_field", "input.0.content", "required"),
        ("responses", {"input": [{"content": "x"}]}, "missing_field", "input.0.role", "required"),
        ("responses", {"input": [{**USER, "call_id": "c"}]}, "unknown_field", "input.0.call_id", ""),
        (
            "responses",
            {"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]},
            "missing_field",
            "input.0.call_id",
            "required",
        ),
        (
            "responses",
            {"input": [{"type": "function_call_output", "call_id": "c", "output": []}]},
            "invalid_value",
            "input.0.output",
            "at least 1 item",
        ),
        ("responses", {"input": [{"type": "web_search_call"}]}, "unsupported_value", "input.0", "function_call_output"),
        ("responses", {"input": ["x"]}, "unsupported_value", "input.0", "object"),
    ],
)
def test_a_fault_is_told_of_the_alternative_that_was_sent(
    endpoint: str, fields: dict, code: str, param: str, words: str
):
    error = _refused({**ENDPOINTS[endpoint][1], **fields}, code, param, endpoint)
    assert words in error.message
    assert f"did you mean {param.rsplit('.')[-1]!r}" not in error.message


def test_what_a_function_gave_may_come_in_parts():
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    parts = [{"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}]
    given = {"type": "function_call_output", "call_id": "c", "output": parts}
    (asked,) = _asked("responses", input=[USER, call, given])
    assert asked.messages[-1] == Message("tool", "one\ntwo", tool_call_id="c")


def test_a_refusal_of_an_earlier_turn_may_be_sent_back():
    turn = {"role": "assistant", "content": None, "refusal": "I cannot."}
    (asked,) = _asked("chat", messages=[USER, turn, USER])
    assert asked.messages[1] == Message("assistant", "I cannot.")
    part = {"type": "refusal", "refusal": "I cannot."}
    (asked,) = _asked("responses", input=[USER, {"role": "assistant", "content": [part]}, USER])
    assert asked.messages[1] == Message("assistant", "I cannot.")
    broken = {"input": [{"role": "assistant", "content": [{"type": "refusal"}]}]}
    _refused({**ENDPOINTS["responses"][1], **broken}, "missing_field", "input.0.content.0.refusal", "responses")


@pytest.mark.parametrize("field", ["api_base", "user_config", "chat_template", "extra_body"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_fault_75_fields_that_could_redirect_the_gateway_are_unknown(field: str, endpoint: str):
    body = {**ENDPOINTS[endpoint][1], field: {"api_base": "http://169.254.169.254/"}}
    assert "169.254" not in _refused(body, "unknown_field", field, endpoint).message


def test_fault_75_an_image_url_is_refused_and_not_fetched():
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    error = _refused({**GOOD, "messages": [{"role": "user", "content": [part]}]}, "unsupported_value")
    assert "169.254" not in error.message


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "x"},
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "user", "content": 5},
        {"role": "user", "content": []},
        {"role": "user", "content": "x", "images": []},
        {"role": "user", "content": "x", "tool_call_id": "c"},
        {"role": "user", "content": "x", "tool_calls": [{"id": "c", "type": "function", "function": {}}]},
        {"role": "assistant", "content": None},
        {"role": "robot", "content": "x"},
    ],
)
def test_messages_are_typed(message: dict):
    with pytest.raises(ApiError) as caught:
        ChatCall.read(json.dumps({**GOOD, "messages": [message]}).encode())
    assert caught.value.status == 400 and caught.value.param.startswith("messages.0")


def test_missing_fields_are_named():
    assert _refused({"messages": GOOD["messages"]}, "missing_field", "model").message
    assert _refused({"model": "pico"}, "missing_field", "messages").message
    assert _refused({"model": "pico"}, "missing_field", "prompt", "completions").message
    assert _refused({"model": "pico"}, "missing_field", "input", "responses").message


def test_fault_84_messages_never_repeat_the_content():
    error = _refused({**GOOD, "messages": [{"role": "user", "content": {"secret": "canary-7"}}]}, "invalid_value")
    assert "canary" not in error.message


def test_fault_83_a_field_name_with_escapes_is_spelled():
    assert "\x1b" not in _refused({**GOOD, "\x1b[31m": 1}, "unknown_field").message


def test_every_sampling_field_reaches_the_engine():
    fields = {
        "temperature": 0.3,
        "top_p": 0.9,
        "seed": 7,
        "top_k": 40,
        "min_p": 0.05,
        "repeat_penalty": 1.1,
        "grammar": "root ::= [a-z]+",
        "adapter": "law",
        "truncate": True,
    }
    for endpoint in ("chat", "completions", "responses"):
        (request,) = _asked(endpoint, **fields)
        assert {name: getattr(request, name) for name in fields} == fields
    (plain,) = _asked()
    assert plain.temperature == 1.0 and plain.max_tokens == 99 and not plain.truncate


def test_chat_options_reach_the_engine():
    (request,) = _asked(
        stop="x", max_tokens=5, presence_penalty=1, frequency_penalty=-1, logprobs=True, top_logprobs=2, tools=[TOOL]
    )
    assert request.stop == ("x",) and request.max_tokens == 5 and request.logprobs == 2
    assert request.presence_penalty == 1 and request.frequency_penalty == -1
    assert request.tools[0].name == "add" and request.tool_choice == "auto"
    (named,) = _asked(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "add"}})
    assert named.tool_choice == "add"
    (either,) = _asked(max_tokens=5, max_completion_tokens=6)
    assert either.max_tokens == 6


def test_choices_have_seeds_one_after_the_other_and_none_leaves_64_bits():
    assert [request.seed for request in _asked(n=3, seed=5)] == [5, 6, 7]
    assert [request.seed for request in _asked(n=2)] == [None, None]
    assert [request.seed for request in _asked(n=2, seed=2**63 - 1)] == [2**63 - 1, -(2**63)]
    asked = _asked("completions", prompt=["a", "b"], n=2, seed=1)
    assert [(request.prompt, request.seed) for request in asked] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_formats_become_schemas():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert _asked(response_format={"type": "json_object"})[0].json_schema == {"type": "object"}
    chat = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}
    assert _asked(response_format=chat)[0].json_schema == schema
    text = {"format": {"type": "json_schema", "name": "s", "schema": schema}}
    assert _asked("responses", text=text)[0].json_schema == schema
    _refused({**GOOD, "response_format": {"type": "json_schema"}}, "invalid_value", "response_format.json_schema")
    _refused({**GOOD, "response_format": chat, "grammar": "root ::= x"}, "invalid_value", "grammar")


def test_a_conversation_with_calls_in_both_dialects():
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    turns = [
        {"role": "developer", "content": "d"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]
    (chat,) = _asked(messages=turns)
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "3"},
    ]
    (response,) = _asked("responses", instructions="d", input=items)
    assert chat.messages == response.messages
    assert chat.messages[0] == Message("system", "d") and chat.messages[1] == Message("user", "a\nb")
    assert chat.messages[2].tool_calls[0].id == "c1" and chat.messages[3] == Message("tool", "3", (), "c1")


def test_truncation_auto_is_truncate():
    assert _asked("responses", truncation="auto")[0].truncate
    assert not _asked("responses", truncation="disabled")[0].truncate


def test_input_is_the_last_user_message():
    turns = (Message("user", "first"), Message("user", "last"), Message("assistant", "…"))
    assert input_of(CompletionRequest(turns), 100) == ("last", 2)
    assert input_of(CompletionRequest((), prompt="p"), 100) == ("p", 0)


@pytest.mark.parametrize("turns", [(Message("system", "x"),), (Message("user", " \n"),)])
def test_no_input_is_a_400(turns: tuple[Message, ...]):
    with pytest.raises(ApiError) as caught:
        input_of(CompletionRequest(turns), 100)
    assert caught.value.code == "empty_input"


def test_fault_76_a_long_input_is_refused_and_not_cut():
    with pytest.raises(ApiError) as caught:
        input_of(CompletionRequest((Message("user", "x" * 101),)), 100)
    assert caught.value.code == "input_too_long"


def test_every_code_is_listed_and_unknown_ones_cannot_be_raised():
    assert all(text.endswith(".") or ";" in text for text in API_CODES.values())
    with pytest.raises(KeyError):
        ApiError(400, "no_such_code", "x")
