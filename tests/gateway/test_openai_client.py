"""The official client against a real server: what its users see of the cascade."""

from __future__ import annotations

import json

import openai
import pytest

from locum.testing import Scripted
from locum.testing.bundles import pico_task

SURE = "my card did not arrive, delivery was due"
UNSURE = "good morning"

pytestmark = pytest.mark.engines


def _ask(client: openai.OpenAI, text: str, model: str = "pico", **more):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)


def test_a_sure_answer_is_local_and_certified(start):
    gateway = start()
    with gateway.client() as client:
        raw = client.chat.completions.with_raw_response.create(
            model="pico", messages=[{"role": "user", "content": SURE}], temperature=0, max_tokens=16
        )
        completion = raw.parse()
    assert completion.choices[0].message.content == "card"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.object == "chat.completion" and completion.model == "pico"
    certificate = gateway.student.certificate.hash()[:12]
    assert raw.headers["x-locum-route"] == "local"
    assert raw.headers["x-locum-certificate"] == certificate
    assert float(raw.headers["x-locum-confidence"]) > 0.9
    said = completion.model_extra["locum"]
    assert said["route"] == "local" and said["certificate"] == certificate and said["certificate_void"] is None


def test_an_unsure_answer_comes_from_the_llm(start):
    gateway = start(script=["cash"])
    with gateway.client() as client:
        completion = _ask(client, UNSURE)
    assert completion.choices[0].message.content == "cash"
    assert completion.model_extra["locum"]["route"] == "llm"
    assert completion.model_extra["locum"]["certificate"] is None
    assert "below" in completion.model_extra["locum"]["reason"]
    assert len(gateway.upstream.received) == 1


def test_without_an_llm_it_abstains_with_an_empty_answer(start):
    with start().client() as client:
        completion = _ask(client, UNSURE)
    message = completion.choices[0].message
    assert message.content == "" and message.refusal.startswith("abstain: ")
    assert completion.model_extra["locum"]["route"] == "abstain"


def test_local_model_never_asks_the_llm(start):
    gateway = start(script=["cash"])
    with gateway.client() as client:
        completion = _ask(client, UNSURE, "pico@local")
    assert completion.choices[0].message.content in gateway.student.labels
    assert completion.model_extra["locum"]["route"] == "local"
    assert completion.model_extra["locum"]["certificate"] is None, "nothing uncertified may look certified"
    assert gateway.upstream.received == []


def test_llm_model_passes_the_conversation_through(start):
    gateway = start(script=["A whole sentence."])
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": [{"type": "text", "text": "Say"}, {"type": "text", "text": "more"}]},
    ]
    with gateway.client() as client:
        completion = client.chat.completions.create(model="pico@llm", messages=turns, max_tokens=50, temperature=0.5)
    assert completion.choices[0].message.content == "A whole sentence."
    assert completion.usage.completion_tokens == 3
    sent = gateway.upstream.received[0].body
    assert [m["role"] for m in sent["messages"]] == ["system", "user", "assistant", "user"]
    assert sent == {"model": "big", "messages": turns, "max_tokens": 50, "temperature": 0.5}


def test_streaming_gives_the_same_answer(start):
    with start().client() as client:
        chunks = list(_ask(client, SURE, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "card"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[0].model_extra["locum"]["route"] == "local"
    assert chunks[-1].choices == []


def test_stream_is_well_formed_to_the_byte(start):
    response = start().ask(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-locum-route"] == "local"
    events = response.text.split("\n\n")
    assert events[-1] == "" and events[-2] == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: ")) for event in events[:-2])


async def _async_answer(url: str) -> str | None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        completion = await client.chat.completions.create(model="pico", messages=[{"role": "user", "content": SURE}])
        return completion.choices[0].message.content


def test_the_asynchronous_client(start):
    import asyncio

    assert asyncio.run(_async_answer(start().url)) == "card"


def test_models_are_listed_and_retrieved(start):
    gateway = start(script=["cash"])
    with gateway.client() as client:
        assert [m.id for m in client.models.list()] == ["pico", "pico@local", "pico@llm"]
        assert client.models.retrieve("pico@local").owned_by == "locum"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-5")
    with start().client() as client:
        assert [m.id for m in client.models.list()] == ["pico", "pico@local"]


def test_an_unknown_model_suggests_the_nearest(start):
    with start().client() as client, pytest.raises(openai.NotFoundError) as caught:
        _ask(client, SURE, "piko")
    assert caught.value.code == "model_not_found" and "'pico'" in caught.value.message


def test_asking_for_an_llm_that_is_not_there(start):
    with start().client() as client, pytest.raises(openai.BadRequestError) as caught:
        _ask(client, SURE, "pico@llm")
    assert caught.value.code == "llm_not_configured"


def test_the_last_user_message_is_the_input_and_the_rest_is_counted(start):
    gateway = start()
    turns = [
        {"role": "system", "content": "forgot pin code blocked"},
        {"role": "user", "content": "cash atm withdraw money"},
        {"role": "assistant", "content": "cash"},
        {"role": "user", "content": [{"type": "text", "text": "my card did not"}, {"type": "text", "text": "arrive"}]},
    ]
    with gateway.client() as client:
        completion = client.chat.completions.create(model="pico", messages=turns)
    assert completion.choices[0].message.content == "card"
    assert completion.model_extra["locum"]["ignored_messages"] == 3


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (Scripted(status=500), 502, "llm_failed"),
        (Scripted(status=401), 502, "llm_failed"),
        (Scripted(status=400), 502, "llm_failed"),
        (Scripted(body=b"<html>hello</html>"), 502, "llm_failed"),
        (Scripted(drop=True), 502, "llm_failed"),
        (Scripted(delay_s=4), 504, "llm_timeout"),
    ],
)
def test_fault_57_a_failing_llm_is_a_typed_error_and_never_an_uncertified_answer(start, reply, status, code):
    gateway = start(script=[reply], task_text=None)
    gateway.student.wrap(None, lambda llm: _quick(llm))
    response = gateway.ask(UNSURE)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.json()["error"]["type"] == "upstream_error"
    assert "x-locum-route" not in response.headers
    assert gateway.metric("locum_llm_failures_total") == 1
    assert gateway.ask(SURE).status_code == 200, "what the student may answer it still answers"


def _quick(llm):
    """The same LLM that does not wait between retries, so that only a silent server meets the deadline."""
    inner = llm._inner
    inner._sleep = lambda _seconds: None
    inner._llm = inner._llm.model_copy(update={"timeout_s": 1.5})
    return llm


def test_fault_61_what_is_no_label_is_an_abstention(start):
    gateway = start(script=["I cannot help with that."])
    body = gateway.ask(UNSURE).json()
    assert body["choices"][0]["message"]["content"] == ""
    assert body["locum"]["route"] == "abstain" and "no answer to the task" in body["locum"]["reason"]


def test_fault_90_a_void_certificate_hands_everything_over_and_says_so(start):
    gateway = start(script=["cash"], hashes={"task": "f" * 64})
    response = gateway.ask(SURE)
    assert response.headers["x-locum-route"] == "llm" and response.headers["x-locum-certificate"] == "void"
    assert "another task" in response.json()["locum"]["certificate_void"]
    assert gateway.metric("locum_certificate_valid") == 0
    ready = gateway.http.get("/ready").json()
    assert ready["status"] == "ready" and "another task" in ready["certificate_void"]


def test_fault_65_without_a_key_for_the_llm_local_answers_still_come(start, monkeypatch):
    monkeypatch.delenv("PICO_KEY", raising=False)
    gateway = start(task_text=pico_task(base_url="https://llm.invalid/v1", model="m", api_key_env="PICO_KEY"))
    assert gateway.ask(SURE).headers["x-locum-route"] == "local"
    assert gateway.ask(UNSURE).headers["x-locum-route"] == "abstain"
    assert "PICO_KEY" in gateway.http.get("/ready").json()["llm_problem"]
