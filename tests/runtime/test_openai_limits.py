"""What the client holds to whatever the LLM's server does: bytes read, times named, attempts made, numbers believed."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from locum.core.errors import UpstreamError
from locum.runtime import CompletionRequest, Message
from locum.runtime.http_exchange import Exchange
from locum.runtime.openai import OpenAiGenerator
from locum.schema.task import LlmSpec
from locum.testing import FakeUpstream, Scripted
from locum.testing.upstream import asking

REQUEST = CompletionRequest((Message("user", "Which label?"),), max_tokens=5)
MIB = 1 << 20


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all that was read from servers."""
    sizes: list[int] = []
    take = Exchange._take

    def counted(self: Exchange, piece: bytes) -> bool:
        sizes.append(len(piece))
        return take(self, piece)

    monkeypatch.setattr(Exchange, "_take", counted)
    return sizes


def fails(generator: OpenAiGenerator, code: str, *, stream: bool = False) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        if stream:
            with generator.stream(REQUEST) as chunks:
                list(chunks)
        else:
            generator.complete(REQUEST)
    assert caught.value.code == code, str(caught.value)
    return caught.value


def without_length(size: int, kind: str = "application/json", status: int = 200) -> Scripted:
    """A body of spaces in chunks, whose length nothing announces."""
    headers = {"content-length": "", "transfer-encoding": "chunked", "content-type": kind}
    return Scripted(status=status, headers=headers, body=b"10000\r\n" + b" " * 65536 + b"\r\n", repeat=size // 65536)


# bytes


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["application/json", "text/html", ""])
def test_fault_59_of_an_endless_whole_answer_no_more_is_read_than_the_cap(
    read_bytes: list[int], stream: bool, kind: str
) -> None:
    with asking(without_length(100 * MIB, kind)) as (upstream, generator, _waits):
        fails(generator, "upstream-too-large", stream=stream)
        assert 15 * MIB < sum(read_bytes) < 17 * MIB and len(upstream.received) == 1


def test_fault_14_a_document_that_says_how_large_it_is_is_not_read_at_all(read_bytes: list[int]) -> None:
    with asking(Scripted(body=b" " * MIB, repeat=100)) as (_, generator, _waits):
        fails(generator, "upstream-too-large", stream=True)
        assert sum(read_bytes) < MIB


def test_fault_14_a_document_within_the_cap_is_taken_as_the_answer() -> None:
    answer = json.dumps({"choices": [{"message": {"content": "card"}}], "padding": "x" * 2 * MIB}).encode()
    with asking(Scripted(body=answer)) as (_, generator, _waits), generator.stream(REQUEST) as chunks:
        assert "".join(chunk.text for chunk in chunks) == "card"


@pytest.mark.parametrize("stream", [False, True])
def test_fault_14_of_an_error_a_few_kilobytes_are_read_and_say_what_it_is(read_bytes: list[int], stream: bool) -> None:
    page = without_length(32 * MIB, "text/html", status=404)
    page = replace(page, body=(page.body or b"").replace(b" " * 20, b"no model is here... ", 1))
    with asking(page) as (_, generator, _waits):
        assert "no model is here" in fails(generator, "upstream-bad-request", stream=stream).cause
        assert sum(read_bytes) < MIB // 8


def test_fault_14_an_endless_error_that_may_pass_is_asked_again(read_bytes: list[int]) -> None:
    with asking(without_length(32 * MIB, status=503), "card") as (upstream, generator, _waits):
        assert generator.complete(REQUEST).text == "card"
        assert sum(read_bytes) < MIB // 8 and len(upstream.received) == 2


def test_fault_59_a_stream_of_endless_text_is_cut_off(read_bytes: list[int]) -> None:
    event = {"choices": [{"index": 0, "delta": {"content": "x" * 500_000}, "finish_reason": None}]}
    with asking(Scripted(events=[event], repeat=1000)) as (_, generator, _waits):
        fails(generator, "upstream-too-large", stream=True)
        assert sum(read_bytes) < 70 * MIB


# numbers

COUNTS: list[Any] = [-1, -(10**12), 10**18, 10**30, 1e300, 2.5, "many", True, [3]]


@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "cached_tokens"])
@pytest.mark.parametrize("count", COUNTS, ids=str)
def test_fault_13_a_count_that_is_none_is_a_bad_answer_and_a_failure_of_the_server(name: str, count: Any) -> None:
    usage: dict[str, Any] = {"prompt_tokens": 4, "completion_tokens": 1}
    usage |= {"prompt_tokens_details": {name: count}} if name == "cached_tokens" else {name: count}
    head = {"choices": [{"index": 0, "delta": {"content": "card"}, "finish_reason": "stop"}]}
    events = Scripted(events=[head, {"choices": [], "usage": usage}, b"data: [DONE]\n\n"])
    for stream, scripted in ((False, Scripted("card", document={"usage": usage}, usage=False)), (True, events)):
        with asking(scripted) as (upstream, generator, _waits):
            for _ in range(5):
                fails(generator, "upstream-bad-answer", stream=stream)
            assert len(upstream.received) == 5
            fails(generator, "upstream-circuit-open", stream=stream)


@pytest.mark.parametrize(("count", "taken"), [(None, 0), (0, 0), (7, 7), (7.0, 7)])
def test_fault_13_counts_in_every_usual_form_are_taken(count: Any, taken: int) -> None:
    with asking(Scripted("card", document={"usage": {"prompt_tokens": count}}, usage=False)) as (_, generator, _waits):
        assert generator.complete(REQUEST).input_tokens == taken


# times


def test_fault_56_no_request_of_any_caller_leaves_before_the_time_that_was_named() -> None:
    arrived_s: list[float] = []

    def script(_body: Any) -> str | Scripted:
        arrived_s.append(time.monotonic())
        return Scripted(status=429, headers={"retry-after": "1"}) if len(arrived_s) == 1 else "card"

    with FakeUpstream(script) as upstream:
        generator = OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m", timeout_s=20))
        with ThreadPoolExecutor(6) as pool:
            first = pool.submit(generator.complete, REQUEST)
            while not (arrived_s and generator._limit.left_s):
                time.sleep(0.001)
            others = [pool.submit(generator.complete, REQUEST) for _ in range(4)]
            with generator.stream(REQUEST) as chunks:
                assert "".join(chunk.text for chunk in chunks) == "card"
            assert {done.result().text for done in (first, *others)} == {"card"}
        assert len(arrived_s) == 7
        assert min(arrived_s[1:]) >= arrived_s[0] + 1, "a request left too early"
        generator.close()


def test_fault_56_what_would_wait_beyond_its_deadline_is_not_sent_and_says_for_how_long() -> None:
    with FakeUpstream([Scripted(status=429, headers={"retry-after": "3"}), "card"]) as upstream:
        generator = OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m", timeout_s=0.5))
        start_s = time.monotonic()
        for stream in (False, True, False):
            error = fails(generator, "upstream-rate-limited", stream=stream)
            assert error.retry_after_s is not None and 2 < error.retry_after_s <= 3
        assert time.monotonic() - start_s < 0.5 and len(upstream.received) == 1
        generator.close()


def test_fault_56_a_pause_that_grows_while_somebody_waits_is_kept_by_him_too() -> None:
    arrived_s: list[float] = []

    def script(_body: Any) -> str | Scripted:
        arrived_s.append(time.monotonic())
        return Scripted(status=429, headers={"retry-after": "1"}) if len(arrived_s) < 3 else "card"

    with FakeUpstream(script) as upstream:
        generator = OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m", timeout_s=20))
        with ThreadPoolExecutor(2) as pool:
            texts = [done.text for done in pool.map(generator.complete, [REQUEST] * 2)]
        assert texts == ["card", "card"]
        assert min(arrived_s[3:]) >= arrived_s[1] + 1
        generator.close()


# connections


@contextlib.contextmanager
def counted_refusals(greeting: bytes) -> Iterator[tuple[str, list[float]]]:
    """A server that says something which is no TLS and closes; when it was connected to."""
    listener = socket.create_server(("127.0.0.1", 0))
    accepted_s: list[float] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                accepted_s.append(time.monotonic())
                with connection, contextlib.suppress(OSError):
                    connection.sendall(greeting)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", accepted_s
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_fault_55_where_tls_fails_a_connection_is_tried_five_times_and_no_key_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[bytes] = []
    monkeypatch.setattr(Exchange, "begin", lambda _self, request: sent.append(request))
    with counted_refusals(b"hello, this is no TLS\r\n") as (host, accepted_s):
        generator = OpenAiGenerator(LlmSpec(base_url=f"https://{host}/v1", model="m"), sleep=lambda _s: None)
        fails(generator, "upstream-unreachable")
        assert len(accepted_s) == 5 and sent == []
        generator.close()


def test_fault_55_a_name_that_does_not_resolve_is_looked_up_five_times(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def lookup(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    generator = OpenAiGenerator(LlmSpec(base_url="https://llm.example/v1", model="m"), sleep=lambda _s: None)
    assert "Name or service" in fails(generator, "upstream-unreachable").cause
    assert asked == ["llm.example"] * 5
    generator.close()


def test_fault_55_retries_end_with_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locum.runtime.openai._backoff_s", lambda _attempt: 0.2)
    with FakeUpstream() as upstream:
        url = upstream.base_url
    generator = OpenAiGenerator(LlmSpec(base_url=url, model="m", timeout_s=0.5))
    start_s = time.monotonic()
    fails(generator, "upstream-unreachable")
    assert 0.3 < time.monotonic() - start_s < 0.5, "two waits fit, the third does not"
    generator.close()


def test_fault_21_an_answer_without_content_is_the_servers_failure() -> None:
    for status in (204, 202, 206):
        with asking(Scripted(status=status, body=b"")) as (upstream, generator, _waits):
            assert f"status {status}" in fails(generator, "upstream-bad-answer").cause
            assert len(upstream.received) == 1
