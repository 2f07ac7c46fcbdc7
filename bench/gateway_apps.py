"""The servers that ``gateway.py`` measures against, in raw ASGI: the mock LLM, and a bare pass-through to it.

Notable: run by uvicorn in the benchmark's own environment, not by Locum; needs nothing but aiohttp, the quickest of
the asynchronous HTTP clients measured (httpx's costs nine times its processor time). The pass-through reads the whole
body, posts it on a kept connection and hands the answer back: what a proxy costs that does nothing.

    uvicorn gateway_apps:mock                       the LLM
    UPSTREAM=http://… uvicorn gateway_apps:bare     the pass-through
"""

from __future__ import annotations

import json
import os
from typing import Any

import aiohttp

SAID = "The card is on its way and arrives in three days."
USAGE = {"prompt_tokens": 24, "completion_tokens": 12, "total_tokens": 36}


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    document = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1700000000, "model": "mock"}
    return b"data: " + json.dumps({**document, "choices": choices, **more}).encode() + b"\n\n"


ANSWER = json.dumps(
    {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "mock",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": SAID}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
).encode()
EVENTS = [
    *(_event([{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]) for word in SAID.split(" ")),
    _event([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    _event([], usage=USAGE),
    b"data: [DONE]\n\n",
]
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def mock(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """One answer to everything; as events, a word each, to whoever asks for a stream."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    if b'"stream":true' in (await _read(receive)).replace(b" ", b""):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for event in EVENTS:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


_session: aiohttp.ClientSession | None = None


async def bare(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Post the body on, hand the answer back."""
    global _session
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    body = await _read(receive)
    if _session is None:
        _session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
    headers = {"content-type": "application/json"}
    async with _session.post(os.environ["UPSTREAM"] + scope["path"], data=body, headers=headers) as response:
        answer = await response.read()
        status = response.status
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": answer})


async def _read(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
