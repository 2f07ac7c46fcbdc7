"""Streams over a real socket: failures on the way, clients that leave or stop reading, and what leaves first."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from locum.core.errors import LocumError, UpstreamError, UserError
from locum.gateway.settings import Settings
from locum.runtime import constraints
from locum.runtime.completion import Chunk, Completion, TokenLogprob, ToolCallDelta
from locum.runtime.llama_request import grammar_of
from locum.testing import ChunkGenerator, FakeGenerator, Scripted
from locum.testing.chunks import endless, final

pytestmark = pytest.mark.engines
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
PATHS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "tiny", "prompt": "hello"},
    "/v1/responses": {"model": "tiny", "input": "hello"},
}


def _events(text: str) -> list[tuple[str, Any]]:
    """Name and data of every event."""
    found = []
    for block in filter(None, text.split("\n\n")):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        data = lines["data"]
        found.append((lines.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return found


def _stream(gateway, path: str = "/v1/chat/completions", **fields: Any) -> httpx.Response:
    return gateway.http.post(path, json={**PATHS[path], "stream": True, **fields})


def _soon(condition, limit_s: float = 5.0) -> float:
    """Seconds until something holds."""
    start_s = time.monotonic()
    while not condition() and time.monotonic() - start_s < limit_s:
        time.sleep(0.005)
    assert condition(), "it did not come to be"
    return time.monotonic() - start_s


def _raw(gateway, path: str, body: dict) -> socket.socket:
    """A request on a socket of its own, which nobody reads."""
    host, port = gateway.url.removeprefix("http://").split(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect((host, int(port)))
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    raw.sendall(head.encode() + data)
    return raw


@pytest.mark.parametrize("path", PATHS)
def test_fault_58_an_answer_that_breaks_off_ends_in_an_error_event_and_no_fake_stop(start_model, path: str):
    broken = LocumError("runtime-child-died", "the process was killed")
    gateway = start_model(ChunkGenerator(["one ", "two ", 0.3, broken]))
    response = _stream(gateway, path)
    assert response.status_code == 200
    events = _events(response.text)
    assert events[-1][0] == "error"
    said = events[-1][1].get("error", events[-1][1])
    assert said["code"] == "engine_unavailable"
    assert "[DONE]" not in response.text and '"stop"' not in response.text and ".completed" not in response.text
    assert "one " in response.text and "two " in response.text, "what was written before came first"
    assert gateway.metric("locum_broken_off_total") == 1


@pytest.mark.parametrize("path", PATHS)
def test_fault_58_a_stream_without_an_end_is_a_failure_too(start_model, path: str):
    gateway = start_model(ChunkGenerator(["one ", 0.3]))
    assert _events(_stream(gateway, path).text)[-1][0] == "error"
    whole = gateway.http.post(path, json=PATHS[path])
    assert whole.status_code == 500 and whole.json()["error"]["code"] == "engine_failed"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UserError("runtime-too-long", "5,000 tokens, the context has 4,096"), 400, "context_length_exceeded"),
        (LocumError("runtime-child-died", "the process was killed"), 503, "engine_unavailable"),
        (LocumError("runtime-child-start", "it did not start"), 503, "engine_unavailable"),
        (LocumError("runtime-timeout", "no answer"), 504, "engine_timeout"),
        (LocumError("runtime-engine-failed", "0x7f /home/me"), 500, "engine_failed"),
        (UserError("runtime-unsupported-option", "no adapter 'law'"), 400, "unsupported_value"),
        (UpstreamError("upstream-timeout", "late"), 504, "llm_timeout"),
        (UpstreamError("runtime-too-long", "9000 tokens"), 400, "context_length_exceeded"),
        (ZeroDivisionError("secret"), 500, "internal_error"),
    ],
)
@pytest.mark.parametrize("when", ["opening", "first"])
def test_errors_before_the_first_byte_have_their_own_status(start_model, error, status: int, code: str, when: str):
    def script(_request):
        if when == "opening":
            raise error
        return [error]

    gateway = start_model(ChunkGenerator(script))
    for stream in (True, False):
        response = gateway.http.post("/v1/chat/completions", json={**CHAT, "stream": stream})
        assert response.status_code == status and response.json()["error"]["code"] == code
        assert "secret" not in response.text and "0x7f" not in response.text
        assert ("retry-after" in response.headers) == (status == 503)
        assert "x-locum-route" not in response.headers


_DEEP: dict[str, Any] = {"type": "string"}
for _ in range(18):
    _DEEP = {"type": "object", "properties": {"a": _DEEP}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "(" * 400 + "a" + ")" * 400},
        {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
        {"$ref": "http://169.254.169.254/schema"},
        {"type": 7},
        {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(20_000)}},
        _DEEP,
    ],
)
def test_fault_74_a_hostile_schema_is_a_400_and_harms_nobody(start_model, schema: dict):
    def script(request):
        grammar_of(request)  # what llama.cpp's adapter makes of it, before its process sees anything
        return ["ok", final("ok")]

    gateway = start_model(ChunkGenerator(script))
    schema_format = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    start_s = time.monotonic()
    response = gateway.http.post("/v1/chat/completions", json={**CHAT, "response_format": schema_format})
    if schema is not _DEEP:  # which is deep, and still within what a schema may be
        assert response.status_code == 400 and "169.254" not in response.headers.get("location", "")
    assert response.status_code in (200, 400) and time.monotonic() - start_s < 15
    assert gateway.http.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_fault_10_a_schema_beside_slow_ones_is_answered_and_what_finds_no_place_is_a_503(
    start_model, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constraints, "QUICK_S", 0.02)
    monkeypatch.setattr(constraints, "_COMPILER", constraints._Compiler())

    def script(request):
        grammar_of(request)
        return ["{}", final("{}")]

    gateway = start_model(ChunkGenerator(script))

    def ask(schema: dict) -> httpx.Response:
        schema_format = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
        return gateway.http.post("/v1/chat/completions", json={**CHAT, "response_format": schema_format})

    def slow(salt: int) -> dict:
        kinds = [{"type": "object", "properties": {f"k{salt}_{i}_{j}": {} for j in range(9)}} for i in range(15)]
        return {"anyOf": kinds}

    assert ask({"type": "null"}).status_code == 200
    with ThreadPoolExecutor(16) as pool:
        hostile = [pool.submit(ask, slow(salt)) for salt in range(24)]
        for number in range(4):
            start_s = time.monotonic()
            assert ask({"type": "string", "maxLength": number}).status_code == 200
            assert time.monotonic() - start_s < 5
        answers = [each.result() for each in hostile]
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 503)
    constraints._COMPILER.close()


def test_fault_89_an_engine_that_starts_again_is_a_503_and_then_answers(start_model):
    replies = [LocumError("runtime-child-died", "killed"), LocumError("runtime-child-start", "not yet"), "back"]
    gateway = start_model(FakeGenerator(replies))
    statuses = [gateway.http.post("/v1/chat/completions", json=CHAT).status_code for _ in range(3)]
    assert statuses == [503, 503, 200]


def test_fault_70_a_client_that_leaves_stops_its_stream_within_a_second(start_model):
    generator = ChunkGenerator(lambda _: endless(wait_s=0.02))
    gateway = start_model(generator)
    with gateway.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as response:
        next(response.iter_bytes())
    assert _soon(generator.streams[0].closed.is_set) < 1
    _soon(lambda: gateway.metric("locum_cancellations_total") == 1)
    assert gateway.http.get("/health").status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_fault_70_a_client_that_leaves_stops_a_whole_answer_too(start_model, path: str):
    generator = ChunkGenerator(lambda _: endless(wait_s=0.02))
    gateway = start_model(generator)
    raw = _raw(gateway, path, PATHS[path])
    _soon(lambda: generator.streams and generator.streams[0].given > 2)
    raw.close()
    assert _soon(generator.streams[0].closed.is_set) < 1
    _soon(lambda: gateway.metric("locum_in_flight") == 0)


def test_fault_70_a_client_that_leaves_before_the_first_piece_stops_it(start_model):
    generator = ChunkGenerator([30.0, "late"])
    gateway = start_model(generator)
    raw = _raw(gateway, "/v1/chat/completions", {**CHAT, "stream": True, "n": 3})
    _soon(lambda: len(generator.streams) == 3)
    raw.close()
    assert _soon(lambda: all(stream.closed.is_set() for stream in generator.streams)) < 1


def test_fault_70_a_client_that_leaves_while_the_engine_opens_stops_it_too(start_model):
    def script(_request):
        time.sleep(0.5)  # the engine takes its time to take the request
        return [30.0, "late"]

    generator = ChunkGenerator(script)
    gateway = start_model(generator)
    raw = _raw(gateway, "/v1/chat/completions", CHAT)
    _soon(lambda: len(generator.requests) == 1)
    raw.close()
    _soon(lambda: bool(generator.streams))
    assert _soon(generator.streams[0].closed.is_set) < 1


def test_fault_70_a_model_asked_before_the_client_left_is_not_asked_after(start_model, tmp_path: Path):
    generator = ChunkGenerator([0.5, "x", final("x")])
    gateway = start_model(generator, settings=Settings(threads=1, log_file=tmp_path / "log"))
    first = _raw(gateway, "/v1/chat/completions", CHAT)
    _soon(lambda: len(generator.streams) == 1)
    waiting = _raw(gateway, "/v1/chat/completions", CHAT)
    _soon(lambda: gateway.metric("locum_in_flight") == 2)
    waiting.close()
    _soon(lambda: gateway.metric("locum_in_flight") == 0)
    first.close()
    assert len(generator.streams) == 1


def test_fault_69_a_client_that_stops_reading_is_cut_off_and_its_answer_stopped(start_model, tmp_path: Path):
    generator = ChunkGenerator(lambda _: endless("x" * 10_000))
    gateway = start_model(generator, settings=Settings(write_s=0.5, log_file=tmp_path / "log"))
    raw = _raw(gateway, "/v1/chat/completions", {**CHAT, "stream": True})
    try:
        _soon(lambda: bool(generator.streams))
        stream = generator.streams[0]
        _soon(stream.closed.is_set, 20)
        assert stream.given * 10_000 < 60_000_000, "what nobody reads must not pile up"
        _soon(lambda: gateway.metric("locum_cancellations_total") == 1)
        assert gateway.http.get("/health").status_code == 200
    finally:
        raw.close()


def test_a_slow_reader_that_reads_gets_everything(start_model):
    pieces = [f"{number} " for number in range(3000)]
    gateway = start_model(ChunkGenerator([*pieces, final("".join(pieces))]))
    text = ""
    with gateway.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as response:
        for count, block in enumerate(response.iter_bytes(chunk_size=50_000)):
            time.sleep(0.02 if count < 10 else 0)
            text += block.decode()
    said = [event["choices"][0]["delta"].get("content", "") for _, event in _events(text) if event != "[DONE]"]
    assert "".join(said) == "".join(pieces)


def test_fault_76_a_prompt_over_the_context_is_headed_when_cut_and_counted(start_model):
    def script(request):
        if not request.truncate:
            raise UserError("runtime-too-long", "5,000 tokens, the context has 4,096")
        return [Chunk("cut", truncated_tokens=904), final("cut", truncated_tokens=904)]

    gateway = start_model(ChunkGenerator(script))
    for path, body in PATHS.items():
        refused = gateway.http.post(path, json=body)
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"
        whole = gateway.http.post(path, json={**body, "truncate": True})
        assert whole.headers["x-locum-truncated"] == "904" and whole.json()["locum"]["truncated_tokens"] == 904
        streamed = gateway.http.post(path, json={**body, "truncate": True, "stream": True})
        assert streamed.headers["x-locum-truncated"] == "904"
    assert gateway.metric("locum_truncations_total") == 6


def test_headers_say_where_a_streamed_answer_comes_from(start_model):
    gateway = start_model(FakeGenerator(["one two"]))
    for path in PATHS:
        headers = _stream(gateway, path).headers
        assert headers["x-locum-route"] == "local" and headers["x-locum-certificate"] == "none"
        assert headers["cache-control"] == "no-store" and headers["x-request-id"]
        assert "x-locum-truncated" not in headers and "x-locum-confidence" not in headers


def test_choices_stream_side_by_side_and_end_once_each(start_model):
    gateway = start_model(FakeGenerator(lambda request: f"seed {request.seed} says"))
    events = [event for _, event in _events(_stream(gateway, n=3, seed=10).text) if event != "[DONE]"]
    said: dict[int, str] = {0: "", 1: "", 2: ""}
    ends = []
    for event in events:
        for choice in event["choices"]:
            said[choice["index"]] += choice["delta"].get("content", "")
            ends += [choice["index"]] if choice["finish_reason"] else []
    assert said == {0: "seed 10 says", 1: "seed 11 says", 2: "seed 12 says"} and sorted(ends) == [0, 1, 2]


def test_one_choice_that_fails_stops_the_others(start_model):
    def script(request):
        return ["a", 0.1, LocumError("runtime-engine-failed", "x")] if request.seed == 1 else endless(wait_s=0.02)

    generator = ChunkGenerator(script)
    gateway = start_model(generator)
    assert gateway.http.post("/v1/chat/completions", json={**CHAT, "n": 3, "seed": 0}).status_code == 500
    _soon(lambda: all(stream.closed.is_set() for stream in generator.streams))
    assert _events(_stream(gateway, n=3, seed=0).text)[-1][0] == "error"
    _soon(lambda: all(stream.closed.is_set() for stream in generator.streams))


def test_tokens_times_and_speeds_are_counted(start_model):
    pieces = ["a ", "b ", 0.02, "c"]
    whole = Completion("a b c", "stop", 7, 3, "fake-llm", cached_tokens=4)
    gateway = start_model(ChunkGenerator([*pieces, Chunk(final=whole)]))
    _stream(gateway)
    gateway.http.post("/v1/chat/completions", json=CHAT)
    assert gateway.metric("locum_input_tokens_total") == 14 and gateway.metric("locum_output_tokens_total") == 6
    assert gateway.metric("locum_cached_tokens_total") == 8
    assert gateway.metric("locum_first_token_seconds_count") == 2
    assert gateway.metric("locum_tokens_per_second_count") == 2


def test_many_ready_pieces_share_a_write_and_lose_nothing(start_model):
    pieces = [f"{number}," for number in range(5000)]
    gateway = start_model(ChunkGenerator([*pieces, final("".join(pieces))]))
    response = _stream(gateway, stream_options={"include_usage": True})
    events = [event for _, event in _events(response.text) if event != "[DONE]"]
    said = [c["delta"].get("content", "") for event in events for c in event["choices"]]
    assert "".join(said) == "".join(pieces)
    assert events[-1]["usage"]["total_tokens"] == 2 and events[-1]["choices"] == []


def test_tool_calls_and_logprobs_stream_in_all_dialects(start_model):
    token = TokenLogprob("hi", -0.5, (("hi", -0.5), ("ho", float("-inf"))))
    steps = [
        Chunk("hi", (token,)),
        Chunk(tool_calls=(ToolCallDelta(0, '{"a"', "call_1", "add"),)),
        Chunk(tool_calls=(ToolCallDelta(0, ":1}"),)),
        final("hi", finish_reason="tool_calls"),
    ]
    gateway = start_model(ChunkGenerator(steps))
    chat = [event for _, event in _events(_stream(gateway, logprobs=True, top_logprobs=2).text) if event != "[DONE]"]
    tokens = [c["logprobs"]["content"] for event in chat for c in event["choices"] if c["logprobs"]]
    assert tokens[0][0]["token"] == "hi" and tokens[0][0]["top_logprobs"][1]["logprob"] == -9999.0
    calls = [call for event in chat for c in event["choices"] for call in c["delta"].get("tool_calls", [])]
    assert calls[0]["id"] == "call_1" and "".join(call["function"]["arguments"] for call in calls) == '{"a":1}'
    text = _events(_stream(gateway, "/v1/completions", logprobs=2).text)
    assert any(event != "[DONE]" and event["choices"][0]["logprobs"] for _, event in text)
    events = _events(_stream(gateway, "/v1/responses").text)
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
    assert all(name == event["type"] for name, event in events)
    assert {event["type"] for _, event in events} == {
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.function_call_arguments.delta",
        "response.function_call_arguments.done", "response.completed",
    }  # fmt: skip
    done = next(event for name, event in events if name == "response.function_call_arguments.done")
    assert done["arguments"] == '{"a":1}' and done["output_index"] == 1


def test_fault_57_the_llm_by_name_streams_and_its_failure_has_a_status(start):
    gateway = start(script=["one two three", Scripted(status=400)])
    body = {"model": "pico@llm", "messages": CHAT["messages"], "stream": True}
    streamed = gateway.http.post("/v1/chat/completions", json=body)
    assert streamed.headers["x-locum-route"] == "llm" and "three" in streamed.text
    refused = gateway.http.post("/v1/chat/completions", json=body)
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "llm_refused"
    assert gateway.metric("locum_llm_failures_total") == 1


def test_an_abstention_streams_in_all_dialects(start):
    gateway = start()
    turns = {"model": "pico", "stream": True}
    chat = gateway.http.post("/v1/chat/completions", json={**turns, "messages": CHAT["messages"]})
    assert chat.headers["x-locum-route"] == "abstain" and '"refusal":"abstain: ' in chat.text
    response = gateway.http.post("/v1/responses", json={**turns, "input": "hello"})
    names = [name for name, _ in _events(response.text)]
    assert "response.refusal.done" in names and names[-1] == "response.completed"
    text = gateway.http.post("/v1/completions", json={**turns, "prompt": "hello"})
    assert text.headers["x-locum-route"] == "abstain"
