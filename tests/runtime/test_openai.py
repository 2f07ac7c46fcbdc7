"""The LLM behind its URL, against a real server on loopback that misbehaves on demand."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from locum.core.errors import LocumError, UpstreamError, UserError
from locum.runtime import CompletionRequest, Message
from locum.runtime.breaker import BreakerSettings, CircuitBreaker
from locum.runtime.completion import TokenLogprob, Tool
from locum.runtime.openai import OpenAiGenerator
from locum.schema.message import ToolCall
from locum.schema.task import LlmSpec
from locum.testing import FakeUpstream, Scripted
from locum.testing.upstream import asking

REQUEST = CompletionRequest((Message("system", "Be brief."), Message("user", "Which label?")), max_tokens=5)
KEY = "sk-very-secret-4711"


def failure(generator: OpenAiGenerator) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        generator.complete(REQUEST)
    return caught.value


def fails(generator: OpenAiGenerator, code: str) -> UpstreamError:
    error = failure(generator)
    assert error.code == code, str(error)
    return error


def test_an_answer_with_its_tokens_and_fingerprint() -> None:
    with asking(Scripted("card", model="big-1-2025-01")) as (upstream, generator, _):
        completion = generator.complete(REQUEST)
        assert (completion.text, completion.finish_reason, completion.model) == ("card", "stop", "big-1-2025-01")
        assert (completion.input_tokens, completion.output_tokens) == (4, 1)
        assert completion.usable
        sent = upstream.received[0]
        assert sent.path == "/v1/chat/completions"
        assert "authorization" not in sent.headers
        assert sent.body == {
            "model": "big-1",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which label?"}],
            "max_tokens": 5,
            "temperature": 0.0,
        }


def test_stop_and_seed_are_sent_when_given() -> None:
    with asking() as (upstream, generator, _):
        generator.complete(CompletionRequest((Message("user", "x"),), stop=("\n",), seed=7))
        assert upstream.received[0].body["stop"] == ["\n"]
        assert upstream.received[0].body["seed"] == 7


def test_the_key_comes_from_the_environment_and_is_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY + "\n")
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode()
    with asking(Scripted(status=401, body=body), api_key_env="MY_KEY") as (upstream, generator, _):
        error = fails(generator, "upstream-refused-key")
        assert upstream.received[0].headers["authorization"] == f"Bearer {KEY}"
        assert KEY not in str(error) and KEY not in repr(error.args) and KEY not in repr(vars(error))
        assert "MY_KEY" in error.fix


@pytest.mark.parametrize("value", [None, "", "  ", "sk-\x00bad", "schlüssel"])
def test_a_missing_or_impossible_key(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None and "\x00" not in value:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(UserError) as caught:
        OpenAiGenerator(LlmSpec(base_url="https://example.com/v1", model="m", api_key_env="MY_KEY"))
    assert caught.value.code == "upstream-key-missing"
    assert not value or not value.strip() or value not in str(caught.value)


def test_fault_56_retry_after_is_honoured() -> None:
    with asking(Scripted(status=429, headers={"retry-after": "3"}), "card") as (_, generator, waits):
        completion = generator.complete(REQUEST)
        assert completion.text == "card" and completion.extra["attempts"] == "2"
        assert waits == [3.0]


def test_fault_56_a_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    with asking(Scripted(status=429, headers={"retry-after": "3600"})) as (upstream, generator, waits):
        assert failure(generator).code == "upstream-rate-limited"
        assert waits == [] and len(upstream.received) == 1


@pytest.mark.parametrize("value", ["9" * 400, "Mon, 01 Jan 2024 00:00:00 +99999999999999999999", "soon", "1.2.3"])
def test_fault_56_a_retry_after_that_says_nothing_is_as_none(value: str) -> None:
    with asking(Scripted(status=429, headers={"retry-after": value}), "card") as (_, generator, waits):
        assert generator.complete(REQUEST).text == "card"
        assert len(waits) == 1 and 0 <= waits[0] <= 1


def test_fault_42_a_date_to_retry_after_in_the_past_is_now() -> None:
    headers = {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}
    with asking(Scripted(status=503, headers=headers), "card") as (_, generator, waits):
        assert generator.complete(REQUEST).text == "card"
        assert waits == [0.0]


def test_fault_55_server_errors_are_retried_a_few_times_with_growing_jitter() -> None:
    with asking(Scripted(status=500, body=b"oops"), timeout_s=60) as (upstream, generator, waits):
        error = fails(generator, "upstream-server-error")
        assert "status 500: oops" in error.cause
        assert len(upstream.received) == 5 and len(waits) == 4
        assert all(0 <= wait_s <= 8 for wait_s in waits)


def test_fault_55_nobody_listens() -> None:
    with FakeUpstream() as upstream:
        url = upstream.base_url
    waits: list[float] = []
    generator = OpenAiGenerator(LlmSpec(base_url=url, model="m", timeout_s=30), sleep=waits.append)
    assert failure(generator).code == "upstream-unreachable"
    assert len(waits) == 4
    generator.close()


def test_fault_55_a_name_that_does_not_resolve() -> None:
    generator = OpenAiGenerator(LlmSpec(base_url="https://no-such-host.invalid/v1", model="m"), sleep=lambda _s: None)
    assert failure(generator).code == "upstream-unreachable"
    generator.close()


def test_a_dropped_connection_is_asked_again() -> None:
    with asking(Scripted(drop=True), "card") as (_, generator, _waits):
        assert generator.complete(REQUEST).text == "card"


def test_fault_59_a_truncated_body_is_asked_again() -> None:
    with asking(Scripted("x" * 500, truncate=True), "card") as (_, generator, _waits):
        assert generator.complete(REQUEST).text == "card"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Login</html>",
        b"{}",
        b"[]",
        b"null",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": [{}]}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_fault_59_what_is_no_completion_is_a_typed_error(body: bytes) -> None:
    with asking(Scripted(body=body)) as (upstream, generator, _):
        assert failure(generator).code == "upstream-bad-answer"
        assert len(upstream.received) == 1


@pytest.mark.parametrize("status", [200, 500])
def test_fault_59_an_endless_body_is_cut_off(status: int) -> None:
    with asking(Scripted(status=status, body=b"x" * (1 << 20), repeat=64)) as (_, generator, _waits):
        assert failure(generator).code == "upstream-too-large"


def test_fault_58_a_silent_server_is_given_up() -> None:
    with asking(Scripted(delay_s=3), timeout_s=0.3) as (_, generator, _waits):
        start_s = time.monotonic()
        assert failure(generator).code == "upstream-timeout"
        assert time.monotonic() - start_s < 2


def test_fault_58_a_body_that_trickles_is_given_up() -> None:
    with asking(Scripted(body=b" " * 100_000, drip_s=0.05), timeout_s=0.4) as (_, generator, _waits):
        start_s = time.monotonic()
        assert failure(generator).code == "upstream-timeout"
        assert time.monotonic() - start_s < 2


def test_fault_61_a_refusal_is_no_answer() -> None:
    with asking(Scripted(None, refusal="I cannot help with that.")) as (_, generator, _waits):
        completion = generator.complete(REQUEST)
        assert completion.finish_reason == "content_filter" and not completion.usable
        assert completion.extra["refusal"] == "I cannot help with that."


@pytest.mark.parametrize(
    "scripted", [Scripted(""), Scripted(None), Scripted(" \n"), Scripted("x", finish_reason="content_filter")]
)
def test_fault_61_empty_and_filtered_completions_are_no_answers(scripted: Scripted) -> None:
    with asking(scripted) as (_, generator, _waits):
        assert not generator.complete(REQUEST).usable


def test_fault_62_a_redirect_is_not_followed_and_the_key_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with FakeUpstream(["stolen"]) as thief:
        redirect = Scripted(status=307, headers={"location": thief.base_url + "/chat/completions"})
        with asking(redirect, api_key_env="MY_KEY") as (_, generator, _waits):
            error = fails(generator, "upstream-redirect")
        assert "127.0.0.1" in error.cause
        assert thief.received == []


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_rejected_request_is_not_repeated(status: int) -> None:
    body = json.dumps({"error": {"message": "no such model\x1b[31m"}}).encode()
    with asking(Scripted(status=status, body=body)) as (upstream, generator, _):
        error = fails(generator, "upstream-bad-request")
        assert "no such model" in error.cause and "\x1b" not in error.cause
        assert len(upstream.received) == 1


def test_servers_that_want_max_completion_tokens_get_it_from_then_on() -> None:
    body = json.dumps({"error": {"message": "Use 'max_completion_tokens' instead."}}).encode()
    with asking(Scripted(status=400, body=body), "card") as (upstream, generator, _):
        assert generator.complete(REQUEST).text == "card"
        generator.complete(REQUEST)
        assert ["max_completion_tokens" in received.body for received in upstream.received] == [False, True, True]


def test_parts_are_joined_and_missing_usage_is_said() -> None:
    parts = [{"type": "text", "text": "ca"}, {"type": "image"}, {"type": "text", "text": "rd"}]
    body = json.dumps({"choices": [{"message": {"content": parts}, "finish_reason": None}]}).encode()
    with asking(Scripted(body=body)) as (_, generator, _waits):
        completion = generator.complete(REQUEST)
        assert completion.text == "card" and completion.model == "big-1"
        assert (completion.input_tokens, completion.extra["usage"]) == (0, "missing")


def test_a_compressed_bomb_is_not_unpacked() -> None:
    with asking(Scripted(headers={"content-encoding": "gzip"})) as (_, generator, _waits):
        assert failure(generator).code == "upstream-bad-answer"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/v1",
        "http://8.8.8.8/v1",
        "https://user:pass@example.com/v1",
        "https://example.com/v1?key=abc",
        "https:///v1",
        "http://[::1",
    ],
)
def test_urls_that_would_leak_are_refused(url: str) -> None:
    with pytest.raises(UserError) as caught:
        OpenAiGenerator(LlmSpec(base_url=url, model="m"))
    assert caught.value.code == "upstream-url"
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/v1/",
        "http://localhost:1/v1",
        "http://[::1]:1/v1",
        "http://10.0.0.7/v1",
        "http://vllm:8000/v1",
    ],
)
def test_urls_that_are_fine(url: str) -> None:
    generator = OpenAiGenerator(LlmSpec(base_url=url, model="m"))
    generator.close()
    assert generator.model == "m"


def test_closing_twice_is_fine_and_asking_afterwards_is_not() -> None:
    with asking() as (_, generator, _waits):
        generator.close()
        generator.close()
        with pytest.raises(LocumError) as caught:
            generator.complete(REQUEST)
        assert caught.value.code == "runtime-closed"


# all of a request


def sent(request: CompletionRequest) -> Any:
    with asking() as (upstream, generator, _waits):
        generator.complete(request)
        return upstream.received[0].body


def test_options_that_are_off_are_not_sent() -> None:
    assert set(sent(REQUEST)) == {"model", "messages", "max_tokens", "temperature"}


def test_every_option_that_the_api_knows_is_sent() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    tool = Tool("find", "Finds.", {"type": "object"})
    call = ToolCall("c1", "find", "{}")
    body = sent(
        CompletionRequest(
            (Message("assistant", "", (call,)), Message("tool", "found", tool_call_id="c1"), Message("user", "x")),
            temperature=0.7,
            stop=("\n",),
            seed=7,
            top_p=0.9,
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            logprobs=3,
            json_schema=schema,
            tools=(tool,),
            tool_choice="find",
        )
    )
    assert body == {
        "model": "big-1",
        "messages": [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "found", "tool_call_id": "c1"},
            {"role": "user", "content": "x"},
        ],
        "max_tokens": 256,
        "temperature": 0.7,
        "stop": ["\n"],
        "seed": 7,
        "top_p": 0.9,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logprobs": True,
        "top_logprobs": 3,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}},
        "tools": [
            {
                "type": "function",
                "function": {"name": "find", "description": "Finds.", "parameters": {"type": "object"}},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "find"}},
    }


@pytest.mark.parametrize(("choice", "named"), [("auto", None), ("none", "none"), ("required", "required")])
def test_tool_choices(choice: str, named: str | None) -> None:
    body = sent(CompletionRequest((Message("user", "x"),), tools=(Tool("f", "", {}),), tool_choice=choice))
    assert body.get("tool_choice") == named


@pytest.mark.parametrize(
    "option",
    [
        {"top_k": 5},
        {"min_p": 0.1},
        {"repeat_penalty": 1.1},
        {"grammar": 'root ::= "a"'},
        {"adapter": "mine"},
        {"truncate": True},
        {"prompt": "x", "json_schema": {}},
        {"prompt": "x", "tools": (Tool("f", "", {}),)},
        {"tool_choice": "required"},
    ],
)
def test_an_option_that_the_api_lacks_is_refused_and_nothing_is_sent(option: dict[str, Any]) -> None:
    with asking() as (upstream, generator, _waits):
        for ask in (generator.complete, generator.stream):
            with pytest.raises(LocumError) as caught:
                ask(replace(REQUEST, **option))
            assert caught.value.code == "runtime-unsupported-option"
            assert next(iter(option)) in caught.value.cause or "with prompt" in caught.value.cause
        assert upstream.received == []


def test_a_prompt_goes_to_completions_with_its_own_form_of_logprobs() -> None:
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [None, -0.5], "top_logprobs": [None, {"c": -2.0, "b": -0.5}]}
    with asking(Scripted("ab", choice={"logprobs": logprobs})) as (upstream, generator, _waits):
        completion = generator.complete(CompletionRequest((), prompt="Once", logprobs=2))
        assert upstream.received[0].path == "/v1/completions"
        assert upstream.received[0].body["prompt"] == "Once" and upstream.received[0].body["logprobs"] == 2
        assert completion.text == "ab"
        assert completion.logprobs == (TokenLogprob("b", -0.5, (("b", -0.5), ("c", -2.0))),)


def test_tool_calls_logprobs_and_cached_tokens_are_read() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}}
    scripted = Scripted(
        None,
        finish_reason="tool_calls",
        message={"tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        choice={"logprobs": {"content": [{"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}]}},
        document={"usage": usage},
        usage=False,
    )
    with asking(scripted) as (_, generator, _waits):
        completion = generator.complete(REQUEST)
        assert completion.finish_reason == "tool_calls"
        assert completion.tool_calls == (ToolCall("c1", "f", "{}"),)
        assert completion.logprobs == (TokenLogprob("a", -1.0),)
        assert (completion.input_tokens, completion.output_tokens, completion.cached_tokens) == (9, 2, 8)


def test_text_that_utf8_cannot_hold_is_sent_in_escapes() -> None:
    assert sent(CompletionRequest((Message("user", "\ud800é"),)))["messages"][0]["content"] == "\ud800é"


# who answered, how often, and when to stop asking


def about(text: str) -> CompletionRequest:
    return replace(REQUEST, messages=(Message("user", text),))


def refused(generator: OpenAiGenerator, text: str) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        generator.complete(about(text))
    return caught.value


def test_fault_57_a_storm_of_errors_opens_the_circuit_for_all_threads() -> None:
    now_s = [0.0]
    breaker = CircuitBreaker(BreakerSettings(failures=3, open_s=30), clock=lambda: now_s[0])
    with FakeUpstream(lambda _body: Scripted(status=500, body=b"disk full") if now_s[0] < 31 else "well") as upstream:
        llm = LlmSpec(base_url=upstream.base_url, model="m")
        generator = OpenAiGenerator(llm, sleep=lambda _s: None, breaker=breaker)
        for caller in range(3):
            assert refused(generator, f"caller {caller}").code == "upstream-server-error"
        assert len(upstream.received) == 15
        error = refused(generator, "caller 4")
        assert error.code == "upstream-circuit-open" and error.retry_after_s == 30 and len(upstream.received) == 15
        assert "status 500: disk full [upstream-server-error]" in error.cause
        now_s[0] = 30.5
        assert refused(generator, "caller 5").code == "upstream-server-error"  # the probe, which is not repeated
        assert len(upstream.received) == 16
        now_s[0] = 91.0
        assert generator.complete(REQUEST).text == "well"
        assert breaker.state == "closed"
        generator.close()


def test_fault_12_one_text_that_fails_again_and_again_leaves_the_circuit_closed_for_others() -> None:
    def script(body: Any) -> str | Scripted:
        return Scripted(status=500) if body["messages"][0]["content"] == "unlucky" else "well"

    with FakeUpstream(script) as upstream:
        generator = OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m"), sleep=lambda _s: None)
        generator.breaker.several_callers = True
        for _ in range(30):
            assert refused(generator, "unlucky").code == "upstream-server-error"
        assert generator.complete(about("another caller's")).text == "well"
        assert generator.breaker.state == "closed"
        generator.close()


def test_fault_12_a_server_that_is_not_there_needs_no_second_text() -> None:
    with FakeUpstream() as upstream:
        url = upstream.base_url
    generator = OpenAiGenerator(LlmSpec(base_url=url, model="m"), sleep=lambda _s: None)
    generator.breaker.several_callers = True
    for _ in range(5):
        assert refused(generator, "the same").code == "upstream-unreachable"
    assert refused(generator, "the same").code == "upstream-circuit-open"
    generator.close()


@pytest.mark.parametrize("scripted", [Scripted(status=400), Scripted(status=401), Scripted(status=429)])
def test_fault_57_a_server_that_refuses_is_alive(scripted: Scripted) -> None:
    with asking(scripted) as (_, generator, _waits):
        for _turn in range(8):
            with pytest.raises(UpstreamError):
                generator.complete(REQUEST)
        assert generator.breaker.state == "closed"


def test_fault_56_when_to_ask_again_is_told() -> None:
    with asking(Scripted(status=429, headers={"retry-after": "3600"})) as (_, generator, _waits):
        assert fails(generator, "upstream-rate-limited").retry_after_s == 3600


def test_fault_63_a_spent_quota_is_not_asked_again() -> None:
    body = json.dumps({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}).encode()
    with asking(Scripted(status=429, body=body)) as (upstream, generator, waits):
        assert "quota" in fails(generator, "upstream-rate-limited").fix
        assert waits == [] and len(upstream.received) == 1


def test_fault_60_who_answered_is_told() -> None:
    renamed = Scripted("b", model="big-2", document={"system_fingerprint": "fp_9"})
    with asking(Scripted("a", model="big-1-2025"), renamed) as (_, generator, _waits):
        assert generator.fingerprint is None
        generator.complete(REQUEST)
        assert generator.fingerprint == "big-1-2025"
        assert generator.complete(REQUEST).extra["system_fingerprint"] == "fp_9"
        assert generator.fingerprint == "big-2/fp_9"


def test_fault_64_a_request_that_was_repeated_counts_once() -> None:
    with asking(Scripted(status=503), Scripted(drop=True), Scripted("one two", truncate=True), "one two") as (
        upstream,
        generator,
        _waits,
    ):
        completion = generator.complete(REQUEST)
        assert completion.output_tokens == 2 and completion.extra["attempts"] in ("3", "4")
        generator.complete(REQUEST)
        keys = [received.headers["idempotency-key"] for received in upstream.received]
        assert len(keys) == 5 and len(set(keys[:4])) == 1 and keys[4] != keys[3]


def test_a_conversation_beyond_the_context_is_told_as_such() -> None:
    body = json.dumps({"error": {"message": "too long", "code": "context_length_exceeded"}}).encode()
    with asking(Scripted(status=400, body=body)) as (_, generator, _waits):
        assert failure(generator).code == "runtime-too-long"


def test_fault_59_an_announced_gigabyte_is_refused_at_once() -> None:
    with asking(Scripted(body=b"x" * (1 << 20), repeat=1024)) as (_, generator, _waits):
        start_s = time.monotonic()
        assert failure(generator).code == "upstream-too-large"
        assert time.monotonic() - start_s < 2


def test_fault_59_a_gigabyte_without_announcement_is_cut_off() -> None:
    headers = {"content-length": "", "transfer-encoding": "chunked"}
    chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    with asking(Scripted(body=chunk, repeat=1024, headers=headers)) as (_, generator, _waits):
        assert failure(generator).code == "upstream-too-large"
