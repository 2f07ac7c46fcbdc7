"""Requests that are sent without waiting, for an event loop: the same answers, limits and errors as with a thread."""

from __future__ import annotations

import select
import time

import pytest

from locum.core.errors import LocumError, UpstreamError
from locum.runtime import CompletionRequest, Message
from locum.runtime.openai import OpenAiGenerator
from locum.runtime.protocol import Forwarded, forwarder_of
from locum.schema.task import LlmSpec
from locum.testing import FakeGenerator, FakeUpstream, Scripted
from locum.testing.upstream import asking

REQUEST = CompletionRequest((Message("user", "Which label?"),), max_tokens=5, whole=True)


def arrive(sent: Forwarded | None) -> Forwarded:
    """Wait as an event loop does."""
    assert sent is not None
    arrival = sent.arrival
    give_up_s = time.monotonic() + 10
    while time.monotonic() < give_up_s:
        if not select.select([arrival], [], [], arrival.wait_s)[0]:
            arrival.release()
            arrival.expire()
            return sent
        if arrival.advance():
            arrival.release()
            return sent
    raise AssertionError("it never arrived")


def text_of(sent: Forwarded) -> str:
    with sent.stream as stream:
        return next(chunk.final for chunk in stream if chunk.final is not None).text


def test_the_answer_is_the_one_that_a_thread_gets_on_the_same_connection() -> None:
    with asking("a", "b", "c") as (upstream, generator, _waits):
        assert generator.forward(REQUEST) is None, "there is no connection yet"
        generator.complete(REQUEST)
        for text in ("b", "c"):
            sent = arrive(generator.forward(REQUEST))
            assert sent.arrival.is_plain
            assert text_of(sent) == text
        assert generator.complete(REQUEST).extra["attempts"] == "1"
        assert upstream.connections == 1 and len(upstream.received) == 4
        first, second = upstream.received[:2]
        assert first.body == second.body
        assert first.headers["idempotency-key"] != second.headers["idempotency-key"]


def test_what_cannot_be_sent_at_once_is_left_to_a_thread() -> None:
    with asking("a", Scripted("b", delay_s=0.3)) as (_, generator, _waits):
        generator.complete(REQUEST)
        long = CompletionRequest((Message("user", "x" * 20_000),), whole=True)
        assert generator.forward(long) is None
        busy = generator.forward(REQUEST)
        assert generator.forward(REQUEST) is None, "the only connection is busy"
        arrive(busy).stream.close()
    assert generator.forward(REQUEST) is None, "it is closed"
    assert forwarder_of(FakeGenerator()) is None and forwarder_of(generator) is generator


@pytest.mark.parametrize(
    ("scripted", "code"),
    [
        (Scripted(status=401), "upstream-refused-key"),
        (Scripted(body=b"<html>"), "upstream-bad-answer"),
        (Scripted(headers={"content-encoding": "gzip"}), "upstream-bad-answer"),
        (Scripted(body=b"x", repeat=17 << 20), "upstream-too-large"),
    ],
)
def test_a_failure_is_the_one_that_a_thread_meets(scripted: Scripted, code: str) -> None:
    with asking("a", scripted) as (_, generator, _waits):
        generator.complete(REQUEST)
        sent = arrive(generator.forward(REQUEST))
        with pytest.raises(UpstreamError) as caught:
            text_of(sent)
        assert caught.value.code == code


@pytest.mark.parametrize("first", [Scripted(status=503), Scripted(truncate=True), Scripted(status=429)])
def test_what_may_pass_is_tried_again_as_the_second_attempt(first: Scripted) -> None:
    with asking("a", first, "b") as (upstream, generator, waits):
        generator.complete(REQUEST)
        sent = arrive(generator.forward(REQUEST))
        assert not sent.arrival.is_plain, "the loop must not wait for a second attempt"
        final = next(chunk.final for chunk in sent.stream if chunk.final is not None)
        assert (final.text, final.extra["attempts"], len(waits)) == ("b", "2", 1)
        keys = {received.headers["idempotency-key"] for received in upstream.received[1:]}
        assert len(keys) == 1


def test_a_connection_that_is_closed_under_the_request_is_replaced_within_the_attempt() -> None:
    with asking("a", Scripted(drop=True), "b") as (upstream, generator, waits):
        generator.complete(REQUEST)
        assert text_of(arrive(generator.forward(REQUEST))) == "b"
        assert waits == [] and len(upstream.received) == 3


@pytest.mark.parametrize(
    ("scripted", "limits", "said"),
    [
        (Scripted(delay_s=2), {"timeout_s": 0.4, "idle_timeout_s": 9}, "no whole answer"),
        (Scripted("x", drip_s=0.15, repeat=50, body=b" " * 1024), {"timeout_s": 0.5, "idle_timeout_s": 9}, "no whole"),
        (
            Scripted("x", drip_s=1.5, repeat=3, body=b" " * 1024),
            {"timeout_s": 9, "idle_timeout_s": 0.3},
            "nothing more",
        ),
    ],
)
def test_fault_58_deadline_and_silence_hold_without_a_thread(scripted: Scripted, limits: dict, said: str) -> None:
    with FakeUpstream(["a", scripted]) as upstream:
        generator = OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m", **limits))
        generator.complete(REQUEST)
        start_s = time.monotonic()
        sent = arrive(generator.forward(REQUEST))
        with pytest.raises(UpstreamError, match=said) as caught:
            text_of(sent)
        assert caught.value.code == "upstream-timeout"
        assert time.monotonic() - start_s < 1.3
        generator.close()


def test_a_large_answer_is_read_by_a_thread() -> None:
    with asking("a", "b" * 200_000) as (_, generator, _waits):
        generator.complete(REQUEST)
        sent = arrive(generator.forward(REQUEST))
        assert not sent.arrival.is_plain
        assert text_of(sent) == "b" * 200_000


def test_giving_up_stops_the_server_and_the_next_request_works() -> None:
    with asking("a", Scripted(delay_s=3, repeat=200, body=b" " * 1024), "c") as (upstream, generator, _waits):
        generator.complete(REQUEST)
        sent = generator.forward(REQUEST)
        assert sent is not None
        until_s = time.monotonic() + 10
        while len(upstream.received) < 2 and time.monotonic() < until_s:
            time.sleep(0.01)  # given up before it was read, the next one would get its answer
        sent.arrival.release()
        sent.stream.close()
        assert list(sent.stream) == []
        assert generator.complete(REQUEST).text == "c"
        assert upstream.connections == 2


def test_closing_the_generator_ends_the_wait_and_leaves_the_descriptor_to_the_loop() -> None:
    with asking("a", Scripted(delay_s=3)) as (_, generator, _waits):
        generator.complete(REQUEST)
        sent = generator.forward(REQUEST)
        assert sent is not None
        generator.close()
        assert sent.arrival.fileno() >= 0, "closed only when nobody watches it any more"
        with pytest.raises(LocumError) as caught:
            text_of(arrive(sent))
        assert caught.value.code == "runtime-closed"


def test_an_open_circuit_sends_nothing() -> None:
    with asking("a", Scripted(status=500)) as (upstream, generator, _waits):
        generator.complete(REQUEST)
        for _ in range(5):
            with pytest.raises(UpstreamError):
                generator.complete(REQUEST)
        assert not generator.breaker.is_closed
        count = len(upstream.received)
        assert generator.forward(REQUEST) is None
        assert len(upstream.received) == count


def test_fault_56_nothing_is_sent_ahead_before_the_time_that_the_server_named() -> None:
    with asking("a", Scripted(status=429, headers={"retry-after": "3600"})) as (upstream, generator, _waits):
        generator.complete(REQUEST)
        with pytest.raises(UpstreamError):
            generator.complete(REQUEST)
        assert generator.forward(REQUEST) is None and len(upstream.received) == 2
