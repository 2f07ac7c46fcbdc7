"""Under load: batches form, the rest is refused at once, health stays responsive, and a slow LLM harms nobody else."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from locum.core.errors import LocumError, UpstreamError
from locum.gateway.batching import BatchedClassifier, LimitedGenerator
from locum.gateway.settings import Settings
from locum.runtime.completion import CompletionRequest
from locum.schema.message import Message
from locum.testing import FakeClassifier, FakeGenerator, Scripted

SURE = "my card did not arrive, delivery was due"
UNSURE = "good morning"
LABELS = ("a", "b")


class _Counting(FakeClassifier):
    """Remembers the size of each call."""

    def __init__(self, **options):
        super().__init__(LABELS, lambda text: "a" if text.startswith("a") else "b", **options)
        self.sizes: list[int] = []

    def read(self, texts):
        self.sizes.append(len(texts))
        if "bad" in texts:
            raise LocumError("runtime-engine-failed", "a bad input")
        return super().read(texts)


def test_waiting_texts_are_read_in_batches_and_answers_do_not_mix():
    inner = _Counting(latency_s=0.02)
    batched = BatchedClassifier(inner, max_batch=8)
    texts = [("a" if i % 3 else "b") + str(i) for i in range(64)]
    with ThreadPoolExecutor(32) as pool:
        rows = list(pool.map(lambda text: batched.logits([text])[0], texts))
    batched.close()
    assert [LABELS[int(np.argmax(row))] for row in rows] == [text[0] for text in texts]
    assert max(inner.sizes) == 8 and len(inner.sizes) < 32 and sum(inner.sizes) == 64


def test_a_lone_request_does_not_wait_for_others():
    batched = BatchedClassifier(_Counting(), max_batch=64)
    start_s = time.perf_counter()
    batched.logits(["a"])
    assert time.perf_counter() - start_s < 0.5
    batched.close()


def test_one_bad_input_costs_its_own_caller_only():
    batched = BatchedClassifier(_Counting(latency_s=0.01), max_batch=16)

    def ask(text: str) -> str:
        try:
            return LABELS[int(np.argmax(batched.logits([text])[0]))]
        except LocumError as error:
            return error.code

    texts = ["a1", "bad", "b1", "a2", "bad", "b2"] * 4
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, texts))
    batched.close()
    assert answers == ["a", "runtime-engine-failed", "b", "a", "runtime-engine-failed", "b"] * 4


def test_closing_finishes_what_waits_and_refuses_what_comes_after():
    inner = _Counting(latency_s=0.05)
    batched = BatchedClassifier(inner, max_batch=1)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(batched.logits, ["a"]) for _ in range(4)]
        time.sleep(0.02)
        batched.close()
        assert all(future.result().shape == (1, 2) for future in running)
    with pytest.raises(LocumError) as caught:
        batched.logits(["a"])
    assert caught.value.code == "runtime-closed"
    batched.close()
    assert inner.closed


def test_the_llm_refuses_more_than_its_limit():
    limited = LimitedGenerator(FakeGenerator(latency_s=0.3), 2)
    request = CompletionRequest((Message("user", "x"),))

    def ask(_: int) -> str:
        try:
            return limited.complete(request).text
        except UpstreamError as error:
            return error.code

    with ThreadPoolExecutor(6) as pool:
        answers = sorted(pool.map(ask, range(6)))
    assert answers == ["gateway-llm-busy"] * 4 + ["ok"] * 2
    assert limited.complete(request).text == "ok"


class _Gate:
    """Around an engine: waits until it is opened."""

    def __init__(self, inner):
        self._inner = inner
        self.open = threading.Event()

    @property
    def spec(self):
        return self._inner.spec

    def read(self, texts):
        self.open.wait(20)
        return self._inner.read(texts)

    def close(self):
        self.open.set()
        self._inner.close()


@pytest.mark.engines
def test_fault_88_overload_is_refused_at_once_and_health_answers(start, tmp_path: Path):
    gates: list[_Gate] = []

    def gate(inner):
        gates.append(_Gate(inner))
        return gates[0]

    gateway = start(settings=Settings(threads=2, max_waiting=3, log_file=tmp_path / "log"), wrap=gate)
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(gateway.ask(SURE).status_code)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while gateway.metric("locum_in_flight") < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    refused = gateway.ask(SURE)
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "overloaded"
    start_s = time.perf_counter()
    assert gateway.http.get("/health").status_code == 200
    assert time.perf_counter() - start_s < 1
    gates[0].open.set()
    for thread in threads:
        thread.join(20)
    assert statuses == [200] * 5
    assert gateway.ask(SURE).status_code == 200


@pytest.mark.engines
def test_a_slow_llm_does_not_hold_up_local_answers(start, tmp_path: Path):
    settings = Settings(threads=4, llm_concurrency=2, log_file=tmp_path / "log")
    gateway = start(script=[Scripted(text="cash", delay_s=2)], settings=settings)
    with ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(gateway.ask, UNSURE) for _ in range(4)]
        time.sleep(0.5)
        start_s = time.perf_counter()
        assert gateway.ask(SURE).status_code == 200
        assert time.perf_counter() - start_s < 1
        statuses = sorted(future.result().status_code for future in slow)
    assert statuses == [200, 200, 503, 503]


@pytest.mark.engines
def test_fault_51_many_clients_at_once_each_get_their_own_answer(start):
    gateway = start()
    texts = {
        "my card did not arrive delivery": "card",
        "withdraw cash money atm": "cash",
        "forgot pin code blocked": "pin",
    }

    def ask(text: str) -> tuple[str, str]:
        with httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as http:
            body = {"model": "pico@local", "messages": [{"role": "user", "content": text}]}
            return text, http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]

    with ThreadPoolExecutor(12) as pool:
        for text, answer in pool.map(ask, list(texts) * 20):
            assert answer == texts[text]


@pytest.mark.engines
def test_an_engine_failure_is_a_typed_500_and_the_next_request_works(start):
    class Failing(_Gate):
        failing = True

        def read(self, texts):
            if self.failing:
                raise LocumError("runtime-engine-failed", "out of memory at 0x7f")
            return self._inner.read(texts)

    made: list[Failing] = []
    gateway = start(wrap=lambda inner: made.append(Failing(inner)) or made[0])
    response = gateway.ask(SURE)
    assert response.status_code == 500 and response.json()["error"]["code"] == "engine_failed"
    assert "0x7f" not in response.text
    made[0].failing = False
    assert gateway.ask(SURE).status_code == 200


@pytest.mark.engines
def test_an_unexpected_error_has_the_envelope_too(start):
    class Broken(_Gate):
        def read(self, texts):
            raise ZeroDivisionError(texts[0])

    response = start(wrap=Broken).ask(SURE)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert SURE not in response.text
