"""Streams of the LLM: the parser of events byte by byte, and whole answers from a server that misbehaves."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.core.errors import LocumError, UpstreamError
from locum.runtime import CompletionRequest, Message
from locum.runtime.completion import Chunk, ToolCallDelta
from locum.runtime.http_exchange import SizeError
from locum.runtime.openai import OpenAiGenerator
from locum.runtime.openai_stream import EventParser
from locum.runtime.protocol import Stop
from locum.schema.message import ToolCall
from locum.schema.task import LlmSpec
from locum.testing import FakeUpstream, Scripted

REQUEST = CompletionRequest((Message("user", "Which label?"),), max_tokens=5)
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
DONE = b"data: [DONE]\n\n"


def piece(text: str, **choice: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None, **choice}]}


def opened(upstream: FakeUpstream, **llm: Any) -> OpenAiGenerator:
    return OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m", **llm), sleep=lambda _s: None)


def streamed(scripted: Scripted, request: CompletionRequest = REQUEST, **llm: Any) -> list[Chunk]:
    with FakeUpstream([scripted]) as upstream:
        generator = opened(upstream, **llm)
        try:
            with generator.stream(request) as stream:
                return list(stream)
        finally:
            generator.close()


def fails(scripted: Scripted, code: str, **llm: Any) -> tuple[list[Chunk], UpstreamError]:
    """The chunks that came before the error, and the error."""
    with FakeUpstream([scripted]) as upstream:
        generator = opened(upstream, **llm)
        chunks: list[Chunk] = []
        with pytest.raises(UpstreamError) as caught, generator.stream(REQUEST) as stream:
            chunks.extend(stream)
        assert caught.value.code == code, str(caught.value)
        assert len(upstream.received) == 1, "a stream that was begun is never asked for again"
        generator.close()
        return chunks, caught.value


# the parser


def parsed(*pieces: bytes) -> list[tuple[str, bytes]]:
    parser = EventParser()
    return [(event.kind, event.data) for piece in pieces for event in parser.feed(piece)]


def test_events_with_comments_several_lines_and_kinds() -> None:
    text = b": hello\n\ndata: a\ndata:b\ndata:  c\nid: 7\nretry: 5\n\n"
    text += b"event: error\ndata: x\n\ndata: y\n\nevent: z\n\ndata\n\n"
    assert parsed(text) == [("message", b"a\nb\n c"), ("error", b"x"), ("message", b"y"), ("message", b"")]


def test_an_event_without_its_empty_line_is_not_one() -> None:
    assert parsed(b"data: a\n") == []


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=8), max_size=5),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.data(),
)
def test_packets_may_end_anywhere(texts: list[str], end: bytes, data: st.DataObject) -> None:
    lines = [b"\xef\xbb\xbf: a byte order mark may come first"]
    lines += [line for text in texts for line in (b"data: " + text.encode(), b"")]
    whole = end.join([*lines, b""])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert [event for _, event in parsed(*pieces)] == [text.encode() for text in texts]


def test_fault_59_a_line_without_end_is_refused() -> None:
    parser = EventParser()
    with pytest.raises(SizeError):
        for _ in range(100):
            parser.feed(b"x" * 65536)
    parser = EventParser()
    with pytest.raises(SizeError):
        for _ in range(100):
            parser.feed(b"data: " + b"x" * 65536 + b"\n")


# whole answers


def test_words_then_the_whole_with_its_counts() -> None:
    chunks = streamed(Scripted("red or blue", model="m-2", document={"system_fingerprint": "fp_1"}))
    assert [chunk.text for chunk in chunks[:-1]] == ["red ", "or ", "blue"]
    final = chunks[-1].final
    assert final is not None and [chunk.final for chunk in chunks[:-1]] == [None] * 3
    assert (final.text, final.finish_reason, final.model) == ("red or blue", "stop", "m-2")
    assert (final.input_tokens, final.output_tokens) == (2, 3)
    assert final.extra == {"attempts": "1", "system_fingerprint": "fp_1"}


def test_a_prompt_is_streamed_from_the_completions_endpoint() -> None:
    with FakeUpstream(["a b"]) as upstream:
        generator = opened(upstream)
        with generator.stream(CompletionRequest((), prompt="once", max_tokens=4)) as stream:
            assert "".join(chunk.text for chunk in stream) == "a b"
        assert upstream.received[0].path == "/v1/completions"
        assert upstream.received[0].body["stream_options"] == {"include_usage": True}
        generator.close()


def test_characters_split_between_packets() -> None:
    event = b"data: " + json.dumps(piece("你好 🙂"), ensure_ascii=False).encode() + b"\r\n\r\n"
    packets = [event[start : start + 1] for start in range(len(event))]
    chunks = streamed(Scripted(events=[*packets, STOP, DONE]))
    assert chunks[0].text == "你好 🙂"


def test_tool_calls_are_put_together() -> None:
    def call(**fields: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"tool_calls": [fields]}}]}

    events = [
        call(index=0, id="c1", type="function", function={"name": "find", "arguments": ""}),
        call(index=0, function={"arguments": '{"q":'}),
        call(index=1, id="c2", function={"name": "stop", "arguments": "{}"}),
        call(index=0, function={"arguments": "1}"}),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        DONE,
    ]
    chunks = streamed(Scripted(events=events))
    assert chunks[0].tool_calls == (ToolCallDelta(0, "", "c1", "find"),)
    assert chunks[1].tool_calls == (ToolCallDelta(0, '{"q":'),)
    final = chunks[-1].final
    assert final is not None and final.finish_reason == "tool_calls"
    assert final.tool_calls == (ToolCall("c1", "find", '{"q":1}'), ToolCall("c2", "stop", "{}"))


def test_logprobs_and_a_refusal() -> None:
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -1.5}]}]}
    chunks = streamed(Scripted(events=[piece("a", logprobs=logprobs), STOP, DONE]))
    final = chunks[-1].final
    assert final is not None
    assert chunks[0].logprobs == final.logprobs and final.logprobs[0].top == (("b", -1.5),)
    final = streamed(Scripted("", refusal="no"))[-1].final
    assert final is not None and final.finish_reason == "content_filter" and final.extra["refusal"] == "no"


def test_a_server_that_does_not_stream_is_taken_as_it_is() -> None:
    body = json.dumps({"choices": [{"message": {"content": "card"}, "finish_reason": "stop"}]}).encode()
    chunks = streamed(Scripted(body=body))
    assert [chunk.text for chunk in chunks] == ["card", ""]
    assert chunks[1].final is not None and chunks[1].final.extra["attempts"] == "1"


def test_a_server_that_does_not_know_stream_options() -> None:
    body = json.dumps({"error": {"message": "unknown field: stream_options"}}).encode()
    with FakeUpstream([Scripted(status=400, body=body), "card"]) as upstream:
        generator = opened(upstream)
        for _ in range(2):
            with generator.stream(REQUEST) as stream:
                final = list(stream)[-1].final
            assert final is not None and final.text == "card" and final.extra["usage"] == "missing"
        assert ["stream_options" in received.body for received in upstream.received] == [True, False, False]
        generator.close()


def test_the_connection_is_used_again_after_a_stream() -> None:
    with FakeUpstream(["a b"]) as upstream:
        generator = opened(upstream)
        for _ in range(3):
            with generator.stream(REQUEST) as stream:
                list(stream)
        assert upstream.connections == 1
        generator.close()


# faults


def test_fault_58_a_hang_within_a_stream_is_an_error_and_no_stop() -> None:
    start_s = time.monotonic()
    chunks, error = fails(Scripted("red or blue", hang_after=3), "upstream-timeout", idle_timeout_s=0.2)
    assert time.monotonic() - start_s < 3
    assert [chunk.text for chunk in chunks] == ["red ", "or "]
    assert all(chunk.final is None for chunk in chunks)
    assert "0.2 s" in error.cause


def test_fault_58_a_stream_that_trickles_ends_at_the_deadline() -> None:
    start_s = time.monotonic()
    fails(Scripted("word " * 200, drip_s=0.05), "upstream-timeout", timeout_s=0.5)
    assert time.monotonic() - start_s < 3


def test_fault_59_a_stream_that_breaks_off_is_an_error() -> None:
    chunks, _ = fails(Scripted("red or blue", truncate=True), "upstream-broken-off")
    assert chunks[0].text == "red "


@pytest.mark.parametrize("events", [[piece("red"), DONE], [piece("red")], [DONE], []])
def test_fault_59_an_end_without_a_reason_is_an_error(events: list[Any]) -> None:
    _, error = fails(Scripted(events=events), "upstream-broken-off")
    assert error.code == "upstream-broken-off"


def test_an_end_without_done_is_fine_once_the_reason_was_given() -> None:
    assert streamed(Scripted(events=[piece("red"), STOP]))[-1].final is not None


@pytest.mark.parametrize(
    "event",
    [
        b"data: {not json\n\n",
        b"data: \xff\n\n",
        b"data: 7\n\n",
        b"data: " + b"[" * 5000 + b"\n\n",
        {"choices": 7},
        {"choices": [{"delta": {"content": {"a": 1}}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 10**6}]}}]},
    ],
)
def test_fault_59_what_is_no_chunk_is_a_typed_error(event: Any) -> None:
    chunks, _ = fails(Scripted(events=[piece("red"), event]), "upstream-bad-answer")
    assert [chunk.text for chunk in chunks] == ["red"]


def test_fault_59_a_page_instead_of_a_stream() -> None:
    page = Scripted(body=b"<html>Login</html>", headers={"content-type": "text/html"})
    assert fails(page, "upstream-bad-answer")[0] == []


def test_fault_59_an_endless_line_is_cut_off() -> None:
    endless = Scripted(events=[b"x" * (1 << 16)], repeat=64)
    assert fails(endless, "upstream-too-large")[0] == []


@pytest.mark.parametrize(
    "event",
    [
        {"error": {"message": "overloaded\x1b[31m", "code": 500}},
        b'event: error\ndata: {"message": "overloaded"}\n\n',
    ],
)
def test_fault_58_an_error_within_the_stream(event: Any) -> None:
    chunks, error = fails(Scripted(events=[piece("red"), event, STOP, DONE]), "upstream-server-error")
    assert [chunk.text for chunk in chunks] == ["red"]
    assert "overloaded" in error.cause and "\x1b" not in error.cause


def test_fault_56_before_the_first_byte_a_stream_is_asked_for_again() -> None:
    with FakeUpstream([Scripted(drop=True), Scripted(status=429, headers={"retry-after": "0"}), "card"]) as upstream:
        generator = opened(upstream)
        with generator.stream(REQUEST) as stream:
            final = list(stream)[-1].final
        assert final is not None and final.extra["attempts"] == "3"
        keys = {received.headers["idempotency-key"] for received in upstream.received}
        assert len(keys) == 1
        generator.close()


@pytest.mark.parametrize("whose", ["stream", "generator"])
def test_close_from_another_thread_stops_within_a_second(whose: str) -> None:
    with FakeUpstream([Scripted("red or blue", hang_after=2)]) as upstream:
        generator = opened(upstream)
        stream = generator.stream(REQUEST)
        assert next(stream).text == "red "
        closer = threading.Timer(0.2, stream.close if whose == "stream" else generator.close)
        closer.start()
        start_s = time.monotonic()
        if whose == "stream":
            assert next(stream, None) is None
        else:
            with pytest.raises(LocumError) as caught:
                next(stream)
            assert caught.value.code == "runtime-closed"
        assert time.monotonic() - start_s < 1
        assert upstream.gone.wait(1), "the server never learned that nobody listens"
        closer.join()
        stream.close()
        generator.close()


@pytest.mark.parametrize(
    ("scripted", "sent"),
    [(Scripted(delay_s=5), 6), (Scripted(status=429, headers={"retry-after": "6"}), 1)],  # the pause is for all
)
def test_a_stop_ends_the_opening_within_a_second_and_is_no_failure(scripted: Scripted, sent: int) -> None:
    with FakeUpstream([scripted]) as upstream:
        generator = OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m"))
        for _ in range(6):
            stop = Stop()
            threading.Timer(0.15, stop.set).start()
            start_s = time.monotonic()
            with pytest.raises(LocumError) as caught:
                generator.stream(REQUEST, stop)
            assert caught.value.code == "runtime-closed" and time.monotonic() - start_s < 1.2
        assert len(upstream.received) == sent, "nobody is asked again for a caller who has left"
        assert generator.breaker.state == "closed"
        generator.close()


def test_a_whole_answer_that_is_stopped_between_two_attempts_is_not_asked_for_again() -> None:
    with FakeUpstream([Scripted(status=429, headers={"retry-after": "1"})]) as upstream:
        generator = OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m"))
        stream = generator.stream(replace(REQUEST, whole=True))
        threading.Timer(0.2, stream.close).start()
        start_s = time.monotonic()
        assert list(stream) == []
        assert time.monotonic() - start_s < 0.9 and len(upstream.received) == 1
        generator.close()


def test_closing_the_generator_ends_the_wait_between_two_attempts() -> None:
    with FakeUpstream([Scripted(status=429, headers={"retry-after": "6"})]) as upstream:
        generator = OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m"))
        threading.Timer(0.2, generator.close).start()
        start_s = time.monotonic()
        with pytest.raises(LocumError) as caught:
            generator.stream(REQUEST)
        assert caught.value.code == "runtime-closed" and time.monotonic() - start_s < 1.2


def test_closing_early_frees_the_place_and_is_no_failure() -> None:
    with FakeUpstream([Scripted("word " * 50, drip_s=0.01)]) as upstream:
        generator = opened(upstream)
        for _ in range(70):  # more than there are places
            with generator.stream(REQUEST) as stream:
                next(stream)
        assert generator.breaker.state == "closed"
        generator.close()


def test_fault_57_streams_that_fail_open_the_circuit() -> None:
    with FakeUpstream([Scripted("red or blue", truncate=True)]) as upstream:
        generator = opened(upstream)
        for _ in range(5):
            with pytest.raises(UpstreamError), generator.stream(REQUEST) as stream:
                list(stream)
        with pytest.raises(UpstreamError) as caught:
            generator.stream(REQUEST)
        assert caught.value.code == "upstream-circuit-open"
        assert len(upstream.received) == 5
        generator.close()


# answers that nobody reads piece by piece


def test_a_whole_answer_is_asked_for_in_one_piece() -> None:
    with FakeUpstream(["a b"]) as upstream:
        generator = opened(upstream)
        with generator.stream(replace(REQUEST, whole=True)) as stream:
            assert upstream.received == []
            chunks = list(stream)
        assert "stream" not in upstream.received[0].body
        assert [chunk.text for chunk in chunks] == ["a b", ""]
        assert chunks[1].final is not None and chunks[1].final.extra["attempts"] == "1"
        generator.close()


def test_a_whole_answer_can_be_stopped_while_it_is_waited_for() -> None:
    with FakeUpstream([Scripted(delay_s=2)]) as upstream:
        generator = opened(upstream)
        stream = generator.stream(replace(REQUEST, whole=True))
        threading.Timer(0.2, stream.close).start()
        start_s = time.monotonic()
        assert list(stream) == []
        assert time.monotonic() - start_s < 1.2
        assert generator.breaker.state == "closed"
        stream.close()
        assert list(stream) == []
        generator.close()


def test_a_whole_answer_that_fails_says_why_with_its_first_chunk() -> None:
    with FakeUpstream([Scripted(status=400)]) as upstream:
        generator = opened(upstream)
        with generator.stream(replace(REQUEST, whole=True)) as stream, pytest.raises(UpstreamError) as caught:
            next(stream)
        assert caught.value.code == "upstream-bad-request"
        with pytest.raises(LocumError) as refused:
            generator.stream(replace(REQUEST, whole=True, top_k=3))
        assert refused.value.code == "runtime-unsupported-option"
        generator.close()
