"""Strict JSON and typed, bounded documents: what is refused, how it is named, and that nothing slips by."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.gateway.errors import API_CODES, ApiError
from locum.gateway.requests import as_completion_request, input_of, parse_json, read_chat_request

GOOD = {"model": "pico", "messages": [{"role": "user", "content": "hello"}]}


def _refused(body: bytes | dict, code: str, param: str | None = None) -> ApiError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ApiError) as caught:
        read_chat_request(raw)
    assert (caught.value.status, caught.value.code) == (400, code), caught.value.message
    if param is not None:
        assert caught.value.param == param
    return caught.value


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
def test_fault_71_hostile_json_is_a_400(body: bytes):
    assert _refused(body, "invalid_json").message


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
        ("n", 2, "unsupported_value"),
        ("n", -1, "unsupported_value"),
        ("max_tokens", -5, "invalid_value"),
        ("max_tokens", 10**9, "invalid_value"),
        ("max_completion_tokens", 0, "invalid_value"),
        ("temperature", -0.1, "invalid_value"),
        ("temperature", "hot", "invalid_value"),
        ("top_p", 1.5, "invalid_value"),
        ("seed", 10**18 * 9.9, "invalid_value"),
        ("stop", ["a"] * 5, "invalid_value"),
        ("stop", "x" * 600, "invalid_value"),
        ("logprobs", True, "unsupported_value"),
        ("stream", "yes", "invalid_value"),
        ("messages", [], "invalid_value"),
        ("messages", "hello", "invalid_value"),
        ("response_format", {"type": "json_object"}, "unsupported_value"),
        ("presence_penalty", 3, "invalid_value"),
        ("metadata", {"k": "v" * 600}, "invalid_value"),
    ],
)
def test_fault_73_values_out_of_bounds_are_named(field: str, value: object, code: str):
    error = _refused({**GOOD, field: value}, code)
    assert error.param is not None and error.param.startswith(field)


def test_unknown_fields_suggest_the_nearest():
    assert "'temperature'" in _refused({**GOOD, "temprature": 1}, "unknown_field", "temprature").message
    assert "does not take it" in _refused({**GOOD, "tools": []}, "unknown_field", "tools").message


@pytest.mark.parametrize("field", ["api_base", "user_config", "chat_template", "extra_body"])
def test_fault_75_fields_that_could_redirect_the_gateway_are_unknown(field: str):
    assert _refused({**GOOD, field: {"api_base": "http://169.254.169.254/"}}, "unknown_field").message


def test_fault_75_an_image_url_is_refused_and_not_fetched():
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    error = _refused({**GOOD, "messages": [{"role": "user", "content": [part]}]}, "unknown_field")
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
    ],
)
def test_messages_are_typed(message: dict):
    with pytest.raises(ApiError) as caught:
        read_chat_request(json.dumps({**GOOD, "messages": [message]}).encode())
    assert caught.value.status == 400 and caught.value.param.startswith("messages.0")


def test_missing_fields_are_named():
    assert _refused({"messages": GOOD["messages"]}, "missing_field", "model").message
    assert _refused({"model": "pico"}, "missing_field", "messages").message


def test_fault_84_messages_never_repeat_the_content():
    error = _refused({**GOOD, "messages": [{"role": "user", "content": {"secret": "canary-7"}}]}, "invalid_value")
    assert "canary" not in error.message


def test_fault_83_a_field_name_with_escapes_is_spelled():
    assert "\x1b" not in _refused({**GOOD, "\x1b[31m": 1}, "unknown_field").message


def test_input_is_the_last_user_message():
    turns = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": "last"},
        {"role": "assistant", "content": "…"},
    ]
    request = read_chat_request(json.dumps({**GOOD, "messages": turns}).encode())
    assert input_of(request, 100) == ("last", 2)


@pytest.mark.parametrize("turns", [[{"role": "system", "content": "x"}], [{"role": "user", "content": " \n"}]])
def test_no_input_is_a_400(turns: list):
    request = read_chat_request(json.dumps({**GOOD, "messages": turns}).encode())
    with pytest.raises(ApiError) as caught:
        input_of(request, 100)
    assert caught.value.code == "empty_input"


def test_fault_76_a_long_input_is_refused_and_not_cut():
    request = read_chat_request(json.dumps({**GOOD, "messages": [{"role": "user", "content": "x" * 101}]}).encode())
    with pytest.raises(ApiError) as caught:
        input_of(request, 100)
    assert caught.value.code == "input_too_long"


def test_conversation_for_the_llm():
    body = {**GOOD, "messages": [{"role": "developer", "content": "d"}, *GOOD["messages"]], "stop": "x", "seed": 3}
    made = as_completion_request(read_chat_request(json.dumps(body).encode()))
    assert [m.role for m in made.messages] == ["system", "user"]
    assert made.stop == ("x",) and made.seed == 3 and made.temperature == 1.0


def test_every_code_is_listed_and_unknown_ones_cannot_be_raised():
    assert all(text.endswith(".") or ";" in text for text in API_CODES.values())
    with pytest.raises(KeyError):
        ApiError(400, "no_such_code", "x")
