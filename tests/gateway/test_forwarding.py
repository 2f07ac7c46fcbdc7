"""Requests that go on to an LLM: whole answers without a thread, hand-overs, embeddings; and clients that leave."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from locum.bundle.student import open_bundle
from locum.core.errors import LocumError, UpstreamError, UserError
from locum.gateway.batching import LimitedGenerator
from locum.gateway.bundle_target import BundleTarget
from locum.gateway.errors import ApiError
from locum.gateway.pool import DaemonPool
from locum.gateway.settings import Settings
from locum.runtime.completion import Chunk, Completion, CompletionRequest, FinishedStream, RequestFault, ToolCallDelta
from locum.schema.message import Message, ToolCall
from locum.testing import ChunkGenerator, FakeEmbedder, FakeGenerator, Scripted
from locum.testing.bundles import pico_bundle, pico_task
from locum.testing.chunks import final

UNSURE = "good morning"
SLOW = Scripted(body=b" " * 1024, drip_s=0.05, repeat=400)
"""An answer that takes 20 seconds, whose client is missed as soon as it is gone."""


def _soon(condition: Any, limit_s: float = 5.0) -> float:
    start_s = time.monotonic()
    while not condition() and time.monotonic() - start_s < limit_s:
        time.sleep(0.005)
    assert condition(), "it did not come to be"
    return time.monotonic() - start_s


def _begun(gateway: Any, path: str, body: dict) -> socket.socket:
    """A request on a socket of its own."""
    host, port = gateway.url.removeprefix("http://").split(":")
    raw = socket.create_connection((host, int(port)))
    data = json.dumps(body).encode()
    raw.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    return raw


def _chat(model: str, text: str = UNSURE) -> dict:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pools that were given work."""
    names: list[str] = []
    submit = DaemonPool.submit

    def counted(self: DaemonPool, work: Any) -> Any:
        names.append(self._name)
        return submit(self, work)

    monkeypatch.setattr(DaemonPool, "submit", counted)
    return names


@pytest.mark.engines
def test_a_whole_answer_takes_no_thread_once_there_is_a_connection(start, submitted: list[str]):
    gateway = start(script=["first", "second", "third"])
    assert gateway.ask(model="pico@llm").json()["choices"][0]["message"]["content"] == "first"
    assert submitted.count("answer") == 1
    for text in ("second", "third"):
        response = gateway.ask(model="pico@llm")
        assert response.json()["choices"][0]["message"]["content"] == text
        assert (response.headers["x-locum-route"], response.headers["x-locum-certificate"]) == ("llm", "none")
    assert submitted.count("answer") == 1
    assert gateway.upstream.connections == 1
    assert gateway.metric('locum_requests_total{route="llm",status="200"}') == 3


@pytest.mark.engines
def test_fault_51_forwarded_answers_do_not_mix(start):
    def said(body: Any) -> Scripted:
        text = body["messages"][-1]["content"]
        return Scripted(text, delay_s=0.001 * (len(text) % 7))

    gateway = start(script=said)
    texts = ["x" * length for length in range(1, 25)] * 10
    with ThreadPoolExecutor(24) as pool:
        for text, response in zip(texts, pool.map(lambda text: gateway.ask(text, "pico@llm"), texts), strict=True):
            assert response.json()["choices"][0]["message"]["content"] == text


@pytest.mark.engines
@pytest.mark.parametrize("model", ["pico@llm", "pico"])
def test_a_client_that_leaves_stops_the_llm_within_a_second(start, model: str):
    gateway = start(script=["cash", SLOW, "cash"])
    gateway.ask(UNSURE, "pico@llm")
    raw = _begun(gateway, "/v1/chat/completions", _chat(model))
    _soon(lambda: len(gateway.upstream.received) == 2)
    raw.close()
    assert _soon(gateway.upstream.gone.is_set) < 1
    _soon(lambda: gateway.metric("locum_cancellations_total") == 1)
    assert gateway.metric("locum_llm_failures_total") == 0, "the LLM did nothing wrong"
    assert gateway.ask(UNSURE, model).status_code == 200
    assert gateway.metric("locum_in_flight") == 0


@pytest.mark.engines
def test_a_failure_while_the_loop_waits_is_told_and_counted(start):
    gateway = start(script=["a", Scripted(status=400, body=b'{"error":{"message":"no such model"}}'), "b"])
    gateway.ask(model="pico@llm")
    failed = gateway.ask(model="pico@llm")
    assert failed.status_code == 400 and failed.json()["error"]["code"] == "llm_refused"
    assert "no such model" in failed.json()["error"]["message"]
    assert gateway.metric("locum_llm_failures_total") == 1
    assert gateway.ask(model="pico@llm").status_code == 200


@pytest.mark.engines
def test_the_limit_of_requests_with_the_llm_holds_without_threads(start, tmp_path: Path):
    settings = Settings(llm_concurrency=2, log_file=tmp_path / "log")
    gateway = start(script=[Scripted("ok", delay_s=0.4)], settings=settings)
    for _ in range(2):
        with ThreadPoolExecutor(6) as pool:
            found = sorted(pool.map(lambda _: gateway.ask(model="pico@llm").status_code, range(6)))
        assert found == [200, 200, 503, 503, 503, 503]
    assert gateway.ask(model="pico@llm").status_code == 200


ASKED = CompletionRequest((Message("user", UNSURE),), whole=True)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (LocumError("runtime-child-died", "killed at /home/me"), 502, "llm_failed"),
        (LocumError("runtime-engine-failed", "0xdead"), 502, "llm_failed"),
        (UserError("runtime-chat-template", "it has none"), 502, "llm_failed"),
        (LocumError("runtime-too-long", "4,000 tokens do not fit 2,048"), 400, "context_length_exceeded"),
    ],
)
def test_an_llm_in_a_file_that_fails_a_hand_over_is_named(tmp_path: Path, error: LocumError, status: int, code: str):
    pico_bundle(tmp_path / "b", task_text=pico_task(base_url="http://127.0.0.1:9/v1", model="m"))
    target = BundleTarget(open_bundle(tmp_path / "b", FakeGenerator([error], model="qwen-file"), threads=1))
    with pytest.raises(ApiError) as caught:
        target.open("pico", ASKED)
    assert (caught.value.status, caught.value.code) == (status, code)
    if status == 502:
        assert "'qwen-file'" in caught.value.message and error.code in caught.value.message
        assert "/home" not in caught.value.message and "0xdead" not in caught.value.message
    target.close()


def test_an_llm_in_a_file_that_breaks_off_is_not_the_students_engine():
    broken = LocumError("runtime-child-died", "the process was killed")
    limited = LimitedGenerator(ChunkGenerator(["one ", broken]), 1)
    with limited.stream(ASKED) as stream:
        assert next(stream).text == "one "
        with pytest.raises(UpstreamError) as caught:
            next(stream)
    assert caught.value.code == "runtime-child-died"
    limited.stream(ASKED).close()


class _SlowEmbedder(FakeEmbedder):
    """Takes a while for each call, and counts its texts."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.pause_s = 0.2

    def embed(self, texts):
        self.sizes.append(len(texts))
        time.sleep(self.pause_s)
        return super().embed(texts)


@pytest.mark.engines
def test_embeddings_of_many_texts_are_the_same_in_parts(start_model):
    embedder = _SlowEmbedder()
    gateway = start_model(None, embedder)
    texts = [f"text {number}" for number in range(70)]
    body = {"model": "tiny", "input": texts}
    data = gateway.http.post("/v1/embeddings", json=body).json()
    assert embedder.sizes == [32, 32, 6]
    rows = np.array([each["embedding"] for each in data["data"]], dtype=np.float32)
    assert np.array_equal(rows, FakeEmbedder().embed(texts))
    assert data["usage"]["prompt_tokens"] == sum(len(text.split()) for text in texts)


@pytest.mark.engines
def test_two_thousand_texts_are_embedded_and_hold_nobody_up(start_model, tmp_path):
    embedder = _SlowEmbedder()
    gateway = start_model(None, embedder, Settings(threads=1, log_file=tmp_path / "log"))
    texts = [f"text {number} " + "x" * 900 for number in range(2048)]  # together more than a body of another endpoint
    many = _begun(gateway, "/v1/embeddings", {"model": "tiny", "input": texts})
    _soon(lambda: embedder.sizes)
    assert gateway.http.post("/v1/embeddings", json={"model": "tiny", "input": "a"}).status_code == 200
    assert 1 in embedder.sizes[:4]  # after one batch or two of the others, not after all 64
    many.close()
    embedder.pause_s = 0.0
    data = gateway.http.post("/v1/embeddings", json={"model": "tiny", "input": texts}, timeout=60).json()["data"]
    assert [each["index"] for each in data] == list(range(2048))
    assert np.array_equal(np.float32([each["embedding"] for each in data[-3:]]), FakeEmbedder().embed(texts[-3:]))


@pytest.mark.engines
def test_bodies_of_texts_have_a_limit_too_and_few_large_ones_are_held_at_once(start_model, tmp_path):
    settings = Settings(max_embedding_bytes=1 << 21, large_requests=1, log_file=tmp_path / "log")
    gateway = start_model(None, FakeEmbedder(), settings)
    assert gateway.http.post("/v1/embeddings", content=b"x" * ((1 << 21) + 1)).status_code == 413
    body = b'{"model": "tiny", "input": ["a", "b"]}'
    padded = body + b" " * (1 << 20)
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(padded)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))) as held:
        held.sendall(head + body)
        _soon(lambda: gateway.http.post("/v1/embeddings", content=padded).status_code == 503)
        refused = gateway.http.post("/v1/embeddings", content=padded)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert gateway.http.post("/v1/embeddings", json={"model": "tiny", "input": "a"}).status_code == 200
        held.sendall(b" " * (len(padded) - len(body)))
        assert held.recv(15) == b"HTTP/1.1 200 OK"
    assert _soon(lambda: gateway.http.post("/v1/embeddings", content=padded).status_code == 200) < 2


@pytest.mark.engines
def test_token_arrays_are_refused_in_words_that_name_the_clients_switch(start_model):
    asked = {"model": "tiny", "input": [[1, 2], [3]]}
    said = start_model(None, FakeEmbedder()).http.post("/v1/embeddings", json=asked).json()["error"]
    assert "check_embedding_ctx_length=False" in said["message"] and said["param"] == "input"
    said = start_model(FakeGenerator()).http.post("/v1/embeddings", json=asked).json()["error"]
    assert "does not embed" in said["message"] and said["param"] == "model"


@pytest.mark.engines
def test_embeddings_stop_when_the_client_leaves(start_model):
    embedder = _SlowEmbedder()
    gateway = start_model(None, embedder)
    raw = _begun(gateway, "/v1/embeddings", {"model": "tiny", "input": ["a text"] * 512})
    _soon(lambda: embedder.sizes)
    raw.close()
    assert _soon(lambda: gateway.metric("locum_cancellations_total") == 1) < 1
    done = len(embedder.sizes)
    time.sleep(0.6)
    assert len(embedder.sizes) <= done + 1 < 16
    assert gateway.metric('locum_requests_total{route="none",status="499"}') == 1
    assert gateway.http.post("/v1/embeddings", json={"model": "tiny", "input": "a"}).status_code == 200


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALLS = tuple(ToolCall(f"call_{number}", "weather", f'{{"day":{number}}}') for number in range(3))


@pytest.mark.engines
@pytest.mark.parametrize(("wish", "count"), [(None, 3), (True, 3), (False, 1)])
def test_parallel_tool_calls_false_gives_one_call_whatever_the_engine_does(start_model, wish: bool | None, count: int):
    seen: list[bool | None] = []

    def calls(request: CompletionRequest) -> list[Chunk]:
        seen.append(request.parallel_tool_calls)
        deltas = [ToolCallDelta(place, call.arguments, call.id, call.name) for place, call in enumerate(CALLS)]
        return [*(Chunk(tool_calls=(delta,)) for delta in deltas), final(finish_reason="tool_calls", tool_calls=CALLS)]

    gateway = start_model(ChunkGenerator(calls))
    fields = {} if wish is None else {"parallel_tool_calls": wish}
    body = {**_chat("tiny"), "tools": [TOOL], **fields}
    whole = gateway.http.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert len(whole["message"]["tool_calls"]) == count and whole["finish_reason"] == "tool_calls"
    with gateway.client().chat.completions.stream(model="tiny", messages=body["messages"], tools=[TOOL], **fields) as s:
        streamed = s.get_final_completion().choices[0].message.tool_calls
    assert [call.function.arguments for call in streamed or ()] == [call.arguments for call in CALLS[:count]]
    tool = {"type": "function", **TOOL["function"]}
    made = {"model": "tiny", "input": "hi", "tools": [tool], **fields}
    response = gateway.http.post("/v1/responses", json=made).json()
    assert sum(item["type"] == "function_call" for item in response["output"]) == count
    assert response["parallel_tool_calls"] is (wish is not False)
    assert seen == [wish] * 3


def test_the_wish_for_one_call_reaches_every_engine():
    from locum.runtime.completion import Tool
    from locum.runtime.openai_wire import request_body

    for wish in (True, False):
        request = CompletionRequest(
            ASKED.messages, tools=(Tool("f", "", {"type": "object"}),), parallel_tool_calls=wish
        )
        assert request_body(request, "m")["parallel_tool_calls"] is wish
    assert "parallel_tool_calls" not in request_body(CompletionRequest(ASKED.messages, parallel_tool_calls=True), "m")


RIVER = {"type": "object", "properties": {"name": {"type": "string"}}}
FORMATS = [
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "river", "schema": RIVER}},
    {
        "type": "json_schema",
        "json_schema": {"name": "river", "description": "One river.", "schema": RIVER, "strict": False},
    },
    {"type": "json_schema", "json_schema": {"name": "river", "schema": RIVER, "strict": True}},
]


@pytest.mark.parametrize("asked", FORMATS)
def test_the_llm_by_name_is_asked_for_a_format_in_the_callers_words(start, asked: dict):
    gateway = start(script=["{}"])
    assert gateway.ask("hi", model="pico@llm", response_format=asked).status_code == 200
    text = {"format": {"type": asked["type"], **asked.get("json_schema", {})}}
    sent = {"model": "pico@llm", "input": "hi", "text": text}
    assert gateway.http.post("/v1/responses", json=sent).status_code == 200
    assert [request.body["response_format"] for request in gateway.upstream.received] == [asked, asked]


@pytest.mark.parametrize("strict", [True, False, None])
def test_the_llm_by_name_hears_whether_a_tool_is_strict(start, strict: bool | None):
    gateway = start(script=["ok"])
    function = {"name": "f", "parameters": RIVER} | ({} if strict is None else {"strict": strict})
    tools = [{"type": "function", "function": function}]
    assert gateway.ask("hi", model="pico@llm", tools=tools).status_code == 200
    assert gateway.upstream.received[0].body["tools"][0]["function"].get("strict") is strict


def test_what_the_llm_rejects_is_the_callers_when_he_asked_for_it_by_name(start):
    gateway = start(script=[Scripted(status=400, body=b'{"error": {"message": "bad schema"}}')])
    with gateway.client() as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="pico@llm", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "llm_refused" and "bad schema" in caught.value.message


WHY = "I cannot help with that."


def test_what_the_llm_refuses_is_told_in_every_form(start):
    gateway, model = start(script=[Scripted(None, refusal=WHY)]), "pico@llm"
    ask = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    with gateway.client() as client:
        whole = client.chat.completions.create(**ask)
        assert whole.choices[0].message.refusal == WHY
        pieces = [chunk.choices[0] for chunk in client.chat.completions.create(**ask, stream=True)]
        assert "".join(piece.delta.refusal or "" for piece in pieces) == WHY
        assert not any(piece.delta.content for piece in pieces)
        response = client.responses.create(model=model, input="hi", store=False)
        assert response.status == "completed" and response.output_text == ""
        assert [(part.type, part.refusal) for part in response.output[0].content] == [("refusal", WHY)]
        with client.responses.stream(model=model, input="hi", store=False) as events:
            seen = list(events)
            final_response = events.get_final_response()
    told = [event for event in seen if event.type.startswith("response.refusal")]
    assert "".join(event.delta for event in told[:-1]) == WHY and told[-1].refusal == WHY
    done = next(event for event in seen if event.type == "response.output_item.done")
    assert done.item.content[0].refusal == WHY
    assert final_response.output[0].content[0].refusal == WHY
    assert not any(event.type == "response.output_text.delta" for event in seen)


def test_a_refusal_after_text_is_a_part_of_its_own(start_model):
    script = [
        Chunk("Well. "),
        Chunk(refusal=WHY),
        final("Well. ", finish_reason="content_filter", extra={"refusal": WHY}),
    ]
    gateway = start_model(ChunkGenerator(script))
    body = {"model": "tiny", "input": "hi", "stream": True}
    lines = gateway.http.post("/v1/responses", json=body).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    parts = [
        (event["content_index"], event["part"]) for event in events if event["type"] == "response.content_part.done"
    ]
    assert [(place, part["type"]) for place, part in parts] == [(0, "output_text"), (1, "refusal")]
    assert parts[0][1]["text"] == "Well. " and parts[1][1]["refusal"] == WHY
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [part for _, part in parts] == done[0]["content"] == events[-1]["response"]["output"][0]["content"]


def test_what_a_hand_over_cost_is_counted(start):
    gateway = start(script=["card"])
    turns = {"model": "pico", "messages": [{"role": "user", "content": UNSURE}]}
    paid = gateway.ask(UNSURE, "pico@llm").json()["usage"]
    before = gateway.metric("locum_output_tokens_total"), gateway.metric("locum_input_tokens_total")
    whole = gateway.ask(UNSURE)
    usage = whole.json()["usage"]
    assert whole.headers["x-locum-route"] == "llm" and usage["completion_tokens"] == paid["completion_tokens"] > 0
    assert usage["prompt_tokens"] > paid["prompt_tokens"], "with the task's instruction"
    body = {**turns, "stream": True, "stream_options": {"include_usage": True}}
    lines = gateway.http.post("/v1/chat/completions", json=body).text.splitlines()
    assert json.loads(lines[-4].removeprefix("data: "))["usage"] == usage
    response = gateway.http.post("/v1/responses", json={"model": "pico", "input": UNSURE}).json()
    assert response["usage"]["output_tokens"] == usage["completion_tokens"]
    assert gateway.metric("locum_output_tokens_total") == before[0] + 3 * usage["completion_tokens"]
    assert gateway.metric("locum_input_tokens_total") == before[1] + 3 * usage["prompt_tokens"]


@pytest.mark.engines
def test_what_a_call_is_not_held_to_is_told_and_one_that_was_cut_is_no_call(start_model):
    """Of a function with a keyword that no grammar has; a stream of a call that the limit cut."""

    class Held(FinishedStream):
        unenforced = ("tools.0.function.parameters.properties.day.multipleOf",)

    class Holding(FakeGenerator):
        def stream(self, request, stop=None):
            return Held(self.complete(request))

    cut = Completion("", "length", 3, 2, "m", cut_call=ToolCall("c1", "weather", '{"day": 1'))
    gateway = start_model(Holding(lambda _request: cut))
    whole = gateway.http.post("/v1/chat/completions", json={**_chat("tiny"), "tools": [TOOL]}).json()
    assert whole["locum"]["left_out"] == list(Held.unenforced)
    choice = whole["choices"][0]
    assert choice["finish_reason"] == "length" and not choice["message"].get("tool_calls")
    item = gateway.http.post("/v1/responses", json={"model": "tiny", "input": "x", "store": False}).json()["output"][0]
    assert (item["type"], item["status"], item["arguments"]) == ("function_call", "incomplete", '{"day": 1')


@pytest.mark.engines
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_whole_is_completed_though_the_limit_cut_the_next(start_model, stream: bool):
    calls = (ToolCall("c1", "weather", '{"day": 1}'),)
    cut = ToolCall("c2", "weather", '{"day"')
    deltas = [ToolCallDelta(at, call.arguments, call.id, call.name) for at, call in enumerate((*calls, cut))]
    end = Completion("", "length", 3, 9, "m", tool_calls=calls, cut_call=cut)
    gateway = start_model(ChunkGenerator([Chunk("", (), tuple(deltas)), Chunk(final=end)]))
    said = gateway.http.post("/v1/responses", json={"model": "tiny", "input": "x", "stream": stream})
    if not stream:
        items = said.json()["output"]
    else:
        events = [json.loads(line[6:]) for line in said.text.splitlines() if line.startswith("data: ")]
        items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert events[-1]["response"]["output"] == items
    assert [(item["call_id"], item["status"]) for item in items] == [("c1", "completed"), ("c2", "incomplete")]


@pytest.mark.engines
def test_a_fault_of_a_tool_is_told_in_the_fields_of_its_endpoint(start_model):
    place = "tools.0.function.parameters.properties.day.multipleOf"
    fault = RequestFault("runtime-constraint-unsupported", f"{place}: cannot be enforced").about(place)
    gateway = start_model(FakeGenerator([fault]))
    for path, body, own in (
        ("chat/completions", _chat("tiny"), place),
        ("responses", {"model": "tiny", "input": "x", "store": False}, place.replace(".function", "")),
    ):
        said = gateway.http.post(f"/v1/{path}", json=body)
        assert (said.status_code, said.json()["error"]["param"]) == (400, own) and own in said.json()["error"][
            "message"
        ]
