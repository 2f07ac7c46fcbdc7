"""Settings that a server refuses by name: left out and asked again, where they are no caller's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import pytest

from locum.core.errors import UpstreamError
from locum.runtime.completion import LEFT_OUT, CompletionRequest
from locum.runtime.openai import OpenAiGenerator
from locum.schema.message import Message
from locum.schema.task import LlmSpec
from locum.testing.upstream import FakeUpstream, Script, Scripted

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
ASKED = CompletionRequest(
    (Message("user", "x"),), stop=("\n",), seed=3, top_p=0.5, logprobs=2, json_schema=SCHEMA, flexible=True
)


@contextmanager
def asked_by(script: Script) -> Iterator[tuple[FakeUpstream, OpenAiGenerator]]:
    with FakeUpstream(script) as upstream:
        generator = OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m"), sleep=lambda _: None)
        with closing(generator):
            yield upstream, generator


def refusal(message: str, param: str | None = None, status: int = 400) -> Scripted:
    error = {"message": message, "type": "invalid_request_error", **({"param": param} if param else {})}
    return Scripted(status=status, body=json.dumps({"error": error}).encode())


@pytest.mark.parametrize(
    ("message", "param", "gone", "status"),
    [
        ("Unsupported value: 'temperature' does not support 0 with this model.", "temperature", "temperature", 400),
        ("Unsupported parameter: 'stop' is not supported with this model.", "stop", "stop", 400),
        ("`top_p` is deprecated for this model", None, "top_p", 400),
        ("property 'seed' is unsupported", None, "seed", 400),
        ("Unrecognized request argument supplied: logprobs", None, "logprobs", 400),
        ("Extra inputs are not permitted: seed", None, "seed", 422),
        ("temperature must be 1 for this model", None, "temperature", 400),
    ],
)
def test_what_is_refused_by_name_is_left_out_and_learned(
    message: str, param: str | None, gone: str, status: int
) -> None:
    def script(body: Mapping[str, Any]) -> Scripted:
        return refusal(message, param, status) if gone in body else Scripted("fine")

    with asked_by(script) as (upstream, generator):
        first, second = generator.complete(ASKED), generator.complete(ASKED)
    assert (first.text, first.extra[LEFT_OUT], second.extra[LEFT_OUT]) == ("fine", gone, gone)
    sent = [set(each.body) for each in upstream.received]
    assert [gone in body for body in sent] == [True, False, False]
    assert sent[0] - sent[1] == {gone}  # and nothing else


def test_many_refusals_one_after_the_other_are_no_failure() -> None:
    refused = ["temperature", "stop", "seed", "top_p", "logprobs", "top_logprobs"]

    def script(body: Mapping[str, Any]) -> Scripted:
        for name in refused:
            if name in body:
                return refusal(f"'{name}' is not supported", name)
        if "max_tokens" in body:
            return refusal("Use 'max_completion_tokens' instead of 'max_tokens'", "max_tokens")
        return Scripted("fine")

    with asked_by(script) as (upstream, generator):
        answer = generator.complete(ASKED)
    assert answer.text == "fine" and set(answer.extra[LEFT_OUT].split(",")) == set(refused)
    assert set(upstream.received[-1].body) == {"model", "messages", "max_completion_tokens", "response_format"}


def test_a_refused_schema_becomes_any_object_before_nothing() -> None:
    def script(body: Mapping[str, Any]) -> Scripted:
        kind = body.get("response_format", {}).get("type")
        return (
            refusal(f"response_format of type {kind} is not supported", "response_format") if kind else Scripted("{}")
        )

    with asked_by(script) as (upstream, generator):
        assert generator.complete(ASKED).extra[LEFT_OUT] == "json_schema,response_format"
    forms = [each.body.get("response_format", {}).get("type") for each in upstream.received]
    assert forms == ["json_schema", "json_object", None]


@pytest.mark.parametrize(
    ("message", "param", "flexible"),
    [
        ("'temperature' is not supported", "temperature", False),  # a caller's own setting is not dropped
        ("the messages are invalid: stop it", None, True),
        ("invalid image", "messages", True),
        ("temperature noted", None, True),
    ],
)
def test_other_refusals_are_told_as_they_are(message: str, param: str | None, flexible: bool) -> None:
    request = CompletionRequest((Message("user", "x"),), stop=("\n",), flexible=flexible)
    with asked_by([refusal(message, param)]) as (upstream, generator), pytest.raises(UpstreamError, match=message):
        generator.complete(request)
    assert len(upstream.received) == 1
