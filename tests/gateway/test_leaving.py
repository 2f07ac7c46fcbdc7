"""Clients that leave before their answer has begun: whoever works or waits for them is told within a second."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from locum.bundle.student import open_bundle
from locum.gateway.bundle_target import BundleTarget
from locum.runtime.completion import CompletionRequest
from locum.runtime.llama_slots import Slots
from locum.runtime.protocol import Stop
from locum.testing import ChunkGenerator, FakeGenerator
from locum.testing.bundles import pico_bundle, pico_task
from locum.testing.chunks import ChunkStream, final

pytestmark = pytest.mark.engines
LIMITED = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 2\r\ncontent-length: 0\r\n\r\n"


def _soon(condition: Callable[[], object], limit_s: float = 5.0) -> float:
    start_s = time.monotonic()
    while not condition() and time.monotonic() - start_s < limit_s:
        time.sleep(0.005)
    assert condition(), "it did not come to be"
    return time.monotonic() - start_s


def _begun(gateway: Any, model: str, **fields: Any) -> socket.socket:
    """A chat on a socket of its own."""
    host, port = gateway.url.removeprefix("http://").split(":")
    raw = socket.create_connection((host, int(port)))
    data = json.dumps({"model": model, "messages": [{"role": "user", "content": "good morning"}], **fields}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    raw.sendall(head.encode() + data)
    return raw


class Reluctant:
    """A server that gives every request the same bytes, which may be none, and notes when connections end."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.asked = self.left = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=[self._listener.accept()[0]], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while connection.recv(1 << 16):
                self.asked += 1
                connection.sendall(self._answer)
            self.left += 1


@pytest.fixture
def before(tmp_path: Path, start_model: Any) -> Iterator[Callable[[bytes], tuple[Any, Reluctant]]]:
    """A bundle's gateway before a reluctant LLM."""
    with contextlib.ExitStack() as stack:

        def begin(answer: bytes) -> tuple[Any, Reluctant]:
            upstream = stack.enter_context(contextlib.closing(Reluctant(answer)))
            pico_bundle(tmp_path / "b", task_text=pico_task(base_url=upstream.base_url, model="big", timeout_s=15))
            return start_model(BundleTarget(open_bundle(tmp_path / "b", threads=1))), upstream

        yield begin


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["pico", "pico@llm"])
def test_the_connection_to_an_llm_that_has_said_nothing_is_closed(before: Any, model: str, stream: bool):
    gateway, upstream = before(b"")
    raw = _begun(gateway, model, stream=stream)
    _soon(lambda: upstream.asked)
    assert upstream.left == 0
    raw.close()
    assert _soon(lambda: upstream.left) < 1
    _soon(lambda: gateway.metric("locum_in_flight") == 0)
    assert gateway.metric("locum_llm_failures_total") == 0, "the LLM did nothing wrong"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["pico", "pico@llm"])
def test_an_llm_that_wants_to_be_asked_later_is_not_asked_for_nobody(before: Any, model: str, stream: bool):
    gateway, upstream = before(LIMITED)
    raw = _begun(gateway, model, stream=stream)
    _soon(lambda: upstream.asked)
    raw.close()
    time.sleep(2.4)
    assert upstream.asked == 1
    assert gateway.metric("locum_llm_failures_total") == 0


def test_an_llm_in_a_file_is_told_too_and_its_place_is_free_again(tmp_path: Path, start_model: Any):
    slow = FakeGenerator(latency_s=20, model="file")
    pico_bundle(tmp_path / "b", task_text=pico_task(base_url="http://127.0.0.1:9/v1", model="m"))
    gateway = start_model(BundleTarget(open_bundle(tmp_path / "b", slow, threads=1)))
    raw = _begun(gateway, "pico@llm", stream=True)
    _soon(lambda: slow.requests)
    answering = [each for each in threading.enumerate() if each.name.startswith("answer-")]
    raw.close()
    _soon(lambda: gateway.metric("locum_in_flight") == 0)
    slow._latency_s = 0
    assert gateway.ask("good morning", "pico@llm").status_code == 200
    assert {each.name for each in threading.enumerate() if each.name.startswith("answer-")} == {
        each.name for each in answering
    }, "the thread of the one that left answers the next"


class OneSlot(ChunkGenerator):
    """A generator with one slot, which remembers who got it."""

    def __init__(self) -> None:
        super().__init__(["ok", final("ok")])
        self.slots = Slots(1)
        self.waiting = self.taken = 0

    def stream(self, request: CompletionRequest, stop: Stop | None = None) -> ChunkStream:
        self.waiting += 1
        place = self.slots.take("x", 30, stop)
        self.waiting -= 1
        if place is not None:
            self.taken += 1
            time.sleep(0.2)  # the beginning of a prompt is read before anybody can stop it
            self.slots.give_back(place)
        return super().stream(request, stop)


@pytest.mark.parametrize("stream", [True, False])
def test_those_who_left_do_not_take_the_slot_before_those_who_wait(start_model: Any, stream: bool):
    generator = OneSlot()
    gateway = start_model(generator)
    held = generator.slots.take("a long answer", 0)
    assert held is not None
    clients = [_begun(gateway, "tiny", stream=stream) for _ in range(15)]
    _soon(lambda: generator.waiting == 15)
    for raw in clients:
        raw.close()
    assert _soon(lambda: generator.waiting == 0) < 1
    generator.slots.give_back(held)
    start_s = time.monotonic()
    assert gateway.ask("hello", "tiny").status_code == 200
    assert time.monotonic() - start_s < 1 and generator.taken == 1
