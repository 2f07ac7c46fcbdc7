"""What is answered: chat completions with a ``locum`` object, the same as headers, and as server-sent events.

Notable: an abstention is an HTTP 200 whose ``content`` is the empty string, which is no label, with the reason in
``message.refusal``, where OpenAI's clients look for one. Token counts of the student are not
counted and so not given. Not here: who answers (``bundle.student``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from locum.runtime.protocol import Completion
from locum.schema.certificate import Answer


@dataclass(frozen=True)
class Reply:
    """One finished answer, before it is written as JSON or as events.

    Attributes:
        certificate: first 12 characters of the hash of the certificate that covers this answer; None: none does.
        void: why the bundle's certificate does not hold; None when it does.
        ignored_messages: messages of the request that are not part of the input.
    """

    identifier: str
    model: str
    content: str
    route: str
    reason: str = ""
    confidence: float | None = None
    certificate: str | None = None
    void: str | None = None
    ignored_messages: int = 0
    finish_reason: str = "stop"
    refusal: str | None = None
    usage: dict[str, int] | None = None
    fingerprint: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))


def from_answer(
    answer: Answer, *, identifier: str, model: str, void: str | None, ignored_messages: int, fingerprint: str
) -> Reply:
    """What the cascade answered."""
    return Reply(
        identifier=identifier,
        model=model,
        content=answer.output or "",
        route=answer.route,
        reason=answer.reason,
        confidence=answer.confidence,
        certificate=answer.certificate,
        void=void,
        ignored_messages=ignored_messages,
        refusal=None if answer.output is not None else f"abstain: {answer.reason or 'nobody answered'}",
        fingerprint=fingerprint,
    )


def from_completion(completion: Completion, *, identifier: str, model: str) -> Reply:
    """What the LLM wrote, passed through."""
    usage = None
    if completion.input_tokens or completion.output_tokens:
        usage = {
            "prompt_tokens": completion.input_tokens,
            "completion_tokens": completion.output_tokens,
            "total_tokens": completion.input_tokens + completion.output_tokens,
        }
    return Reply(
        identifier=identifier,
        model=model,
        content=completion.text,
        route="llm",
        reason="asked for by name",
        finish_reason=completion.finish_reason,
        usage=usage,
        fingerprint=completion.model,
    )


def headers_of(reply: Reply) -> dict[str, str]:
    """Where the answer came from, for those who read no body."""
    headers = {
        "x-locum-route": reply.route,
        "x-locum-certificate": reply.certificate or ("void" if reply.void else "none"),
    }
    if reply.confidence is not None:
        headers["x-locum-confidence"] = f"{reply.confidence:.4f}"
    return headers


def locum_object(reply: Reply) -> dict[str, Any]:
    """The same, and why, in the body."""
    return {
        "route": reply.route,
        "confidence": None if reply.confidence is None else round(reply.confidence, 6),
        "certificate": reply.certificate,
        "certificate_void": reply.void,
        "reason": reply.reason,
        "ignored_messages": reply.ignored_messages,
    }


def completion_body(reply: Reply) -> dict[str, Any]:
    """The body of a ``chat.completion``."""
    message = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
    return {
        "id": reply.identifier,
        "object": "chat.completion",
        "created": reply.created,
        "model": reply.model,
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason, "logprobs": None}],
        "usage": reply.usage,
        "system_fingerprint": reply.fingerprint,
        "locum": locum_object(reply),
    }


def completion_events(reply: Reply, *, include_usage: bool) -> Iterator[bytes]:
    """The answer as ``chat.completion.chunk`` events: all of it, its end, usage when asked for, ``[DONE]``."""
    delta: dict[str, Any] = {"role": "assistant", "content": reply.content}
    if reply.refusal is not None:
        delta["refusal"] = reply.refusal
    yield _event(reply, [{"index": 0, "delta": delta, "finish_reason": None, "logprobs": None}], locum=True)
    yield _event(reply, [{"index": 0, "delta": {}, "finish_reason": reply.finish_reason, "logprobs": None}])
    if include_usage:
        yield _event(reply, [], usage=reply.usage)
    yield b"data: [DONE]\n\n"


def _event(reply: Reply, choices: list[dict[str, Any]], *, locum: bool = False, **extra: Any) -> bytes:
    body: dict[str, Any] = {
        "id": reply.identifier,
        "object": "chat.completion.chunk",
        "created": reply.created,
        "model": reply.model,
        "system_fingerprint": reply.fingerprint,
        "choices": choices,
        **extra,
    }
    if locum:
        body["locum"] = locum_object(reply)
    return b"data: " + json.dumps(body, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"


def models_body(names: list[str], created: int) -> dict[str, Any]:
    """The body of ``GET /v1/models``."""
    return {"object": "list", "data": [model_body(name, created) for name in names]}


def model_body(name: str, created: int) -> dict[str, Any]:
    """One entry of the list."""
    return {"id": name, "object": "model", "created": created, "owned_by": "locum"}
