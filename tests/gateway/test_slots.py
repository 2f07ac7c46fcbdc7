"""More choices and clients than an engine has slots: nobody waits for ever, and nobody holds up the others."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest

from locum.core.errors import LocumError
from locum.runtime.completion import CompletionRequest
from locum.runtime.llama_slots import Slots
from locum.runtime.protocol import Stop
from locum.testing import ChunkGenerator
from locum.testing.chunks import ChunkStream, Step, final

pytestmark = pytest.mark.engines
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
LONG = "word " * 40


class SlotStream(ChunkStream):
    """A stream that frees its slot when it is closed."""

    def __init__(self, steps: Iterable[Step], free: Callable[[], None]) -> None:
        super().__init__(steps)
        self._free = free

    def close(self) -> None:
        if not self.closed.is_set():
            super().close()
            self._free()


class SlotGenerator(ChunkGenerator):
    """A script for each request, in so many slots."""

    def __init__(self, script: Iterable[Step] | Callable[[CompletionRequest], Iterable[Step]], slots: int) -> None:
        super().__init__(script)
        self.slots = Slots(slots)

    def stream(self, request: CompletionRequest, stop: Stop | None = None) -> ChunkStream:
        place = self.slots.take("hello", 30, stop)
        if place is None:
            raise LocumError("runtime-closed", "stopped, or every slot was busy")
        steps = self._script(request) if callable(self._script) else self._script
        stream = SlotStream(steps, lambda: self.slots.give_back(place))
        self.streams.append(stream)
        return stream


def _pieces(count: int) -> list[Step]:
    return [*[LONG] * count, final(LONG * count)]


def _said(text: str) -> dict[int, str]:
    """What each choice of a streamed chat says."""
    said: dict[int, str] = {}
    for block in text.split("\n\n"):
        data = block.removeprefix("data: ")
        for choice in json.loads(data)["choices"] if data.startswith("{") else ():
            said[choice["index"]] = said.get(choice["index"], "") + choice["delta"].get("content", "")
    return said


def test_more_choices_than_slots_stream_whole_however_long_they_are(start_model):
    gateway = start_model(SlotGenerator(_pieces(500), 2))
    start_s = time.monotonic()
    response = gateway.http.post("/v1/chat/completions", json={**CHAT, "stream": True, "n": 5})
    assert response.status_code == 200 and time.monotonic() - start_s < 10
    assert _said(response.text) == dict.fromkeys(range(5), LONG * 500), "each is longer than what may lie ready"
    assert response.text.endswith("data: [DONE]\n\n")
    assert gateway.http.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_choices_stream_while_a_neighbour_holds_the_slot_of_the_last_one(start_model):
    generator = SlotGenerator(_pieces(500), 4)
    gateway = start_model(generator)
    held = generator.slots.take("a neighbour", 0)
    assert held is not None
    received = b""
    with gateway.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True, "n": 4}) as response:
        for block in response.iter_bytes():
            if not received:
                threading.Timer(0.3, generator.slots.give_back, [held]).start()
            received += block
    assert _said(received.decode()) == dict.fromkeys(range(4), LONG * 500)


def test_a_choice_begins_to_stream_while_another_still_waits_for_its_slot(start_model):
    generator = SlotGenerator(["word ", 1.0, final("word ")], 2)
    gateway = start_model(generator)
    held = generator.slots.take("a neighbour", 0)
    assert held is not None
    with gateway.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True, "n": 2}) as response:
        blocks = response.iter_text()
        assert '"role":"assistant"' in next(blocks)
        assert len(generator.streams) == 1
        generator.slots.give_back(held)
        assert "".join(blocks).endswith("data: [DONE]\n\n")


def test_several_clients_with_several_choices_all_get_them(start_model):
    gateway = start_model(SlotGenerator(_pieces(100), 3))
    found: list[Any] = []

    def ask() -> None:
        with httpx.Client(base_url=gateway.url, timeout=15, trust_env=False) as http:
            response = http.post("/v1/chat/completions", json={**CHAT, "stream": True, "n": 4})
            found.append(_said(response.text))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [dict.fromkeys(range(4), LONG * 100)] * 4


def test_a_choice_that_fails_after_others_began_is_told_at_once_in_the_stream(start_model):
    def script(request: CompletionRequest) -> Iterable[Step]:
        if request.seed == 1:
            return [0.2, LocumError("runtime-timeout", "late")]
        return iter(lambda: "word ", None)  # without an end, and without a pause

    generator = SlotGenerator(script, 2)
    gateway = start_model(generator)
    response = gateway.http.post("/v1/chat/completions", json={**CHAT, "stream": True, "n": 2, "seed": 0}, timeout=10)
    assert response.status_code == 200
    *_, last, after = response.text.split("\n\n")
    assert last.startswith("event: error\n") and '"code":"engine_timeout"' in last and after == ""
    assert all(stream.closed.wait(2) for stream in generator.streams)
