"""An LLM that fails behind a gateway: what callers get, what they share, and what nobody sends."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from locum.testing import FakeUpstream, Scripted
from locum.testing.bundles import pico_task

pytestmark = pytest.mark.engines
UNSURE = "good morning"
MODELS = ["pico", "pico@llm"]


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locum.runtime.openai._backoff_s", lambda _attempt: 0.0)


def _said(body: Any) -> str:
    return body["messages"][-1]["content"]


@pytest.mark.parametrize("model", MODELS)
def test_fault_12_a_text_that_fails_for_one_caller_is_no_failure_for_another(start, model: str):
    gateway = start(script=lambda body: Scripted(status=500) if "bad luck" in _said(body) else "cash")
    for _ in range(8):
        assert gateway.ask("bad luck", model).status_code == 502
    with httpx.Client(base_url=gateway.url, trust_env=False) as other:
        body = {"model": model, "messages": [{"role": "user", "content": UNSURE}]}
        answered = other.post("/v1/chat/completions", json=body)
    assert answered.status_code == 200 and answered.headers["x-locum-route"] == "llm"


@pytest.mark.parametrize("model", MODELS)
def test_fault_12_failures_of_several_callers_open_it_and_the_cause_is_told(start, model: str):
    gateway = start(script=[Scripted(status=500, body=b"the disk is full")])
    for number in range(5):
        assert gateway.ask(f"good morning {number}", model).status_code == 502
    count = len(gateway.upstream.received)
    assert count == 25, "five attempts each, and none of them opened the circuit"
    refused = gateway.ask("good morning 6", model)
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
    assert "the disk is full" in refused.json()["error"]["message"]
    assert len(gateway.upstream.received) == count


@pytest.mark.parametrize("model", MODELS)
def test_fault_12_a_pause_that_one_caller_was_told_holds_for_all(start, model: str):
    gateway = start(script=[Scripted(status=429, headers={"retry-after": "30"}), "cash"])
    with ThreadPoolExecutor(4) as pool:
        first = gateway.ask(UNSURE, model)
        others = list(pool.map(lambda number: gateway.ask(f"good morning {number}", model), range(8)))
    for refused in (first, *others):
        assert refused.status_code == 503 and 25 <= int(refused.headers["retry-after"]) <= 30
    assert len(gateway.upstream.received) == 1


@pytest.mark.parametrize("count", [-5, 10**30])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_fault_13_a_count_that_is_none_ends_a_stream_with_an_error_event(start, path: str, count: int):
    usage = {"prompt_tokens": 1, "completion_tokens": count}
    head = {"choices": [{"index": 0, "delta": {"content": "card"}, "finish_reason": "stop"}]}
    events = [head, {"choices": [], "usage": usage}, b"data: [DONE]\n\n"]
    gateway = start(script=[Scripted(events=events, drip_s=0.3)])  # else it may be a 502, before anything has left
    asked = {"messages": [{"role": "user", "content": UNSURE}]} if "chat" in path else {"input": UNSURE}
    streamed = gateway.http.post(path, json={"model": "pico@llm", "stream": True, **asked})
    assert streamed.status_code == 200 and "card" in streamed.text
    last = streamed.text.strip().split("\n\n")[-1]
    assert "upstream-bad-answer" in json.loads(last.split("data: ", 1)[1]).__repr__()
    assert gateway.metric("locum_llm_failures_total") == 1


@pytest.mark.parametrize("model", MODELS)
def test_fault_13_a_count_that_is_none_is_a_502(start, model: str):
    gateway = start(script=[Scripted("cash", document={"usage": {"completion_tokens": -5}}, usage=False)])
    for number in range(5):
        failed = gateway.ask(f"good morning {number}", model)
        assert failed.status_code == 502 and "upstream-bad-answer" in failed.json()["error"]["message"]
    assert gateway.ask(UNSURE, model).status_code == 503, "the circuit heard of them"


@pytest.mark.parametrize("model", MODELS)
def test_fault_21_a_204_of_the_llm_is_not_the_callers_mistake(start, model: str):
    gateway = start(script=[Scripted(status=204, body=b"")])
    for stream in (False, True):
        failed = gateway.ask(UNSURE, model, stream=stream)
        assert failed.status_code == 502 and "status 204" in failed.json()["error"]["message"]


@pytest.mark.parametrize("model", MODELS)
def test_fault_55_an_llm_that_is_not_there_is_a_typed_502_and_no_local_answer(start, model: str):
    with FakeUpstream() as closed:
        url = closed.base_url
    gateway = start(task_text=pico_task(base_url=url, model="big", timeout_s=5))
    failed = gateway.ask(UNSURE, model)
    assert failed.status_code == 502 and "upstream-unreachable" in failed.json()["error"]["message"]
    assert "x-locum-route" not in failed.headers
    assert gateway.ask(model="pico@local").status_code == 200
