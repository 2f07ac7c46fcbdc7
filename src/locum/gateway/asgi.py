"""The few parts of ASGI that the gateway speaks: types, reading a body in time, sending a reply or a stream.

Notable: no web framework. The gateway has a dozen fixed paths, and a framework's layers cost more per request than
all of its own work. Whoever writes bytes does so with a deadline, because a reader that stops reading holds a
generation, a thread and memory. Not here: paths (``app``), the socket (``wire``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from locum.gateway.errors import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = "application/json"
EVENTS = "text/event-stream"
ABORT = "locum.abort"
"""Where ``wire`` puts the function that drops the connection at once, in ``scope["extensions"]``."""
GONE = "locum.gone"
"""Where ``wire`` puts the function that takes what to call when the client is gone, and gives how to call it off."""
TOGETHER = "locum.together"
"""Where ``wire`` puts the function whose context sends all that is written in it as one piece."""
ANSWERS = "locum.answers"
"""Where ``wire`` puts the function to call when an answer begins: one to half a request ends the connection."""
RECEIVED = "locum.received"
"""Where ``wire`` puts the function that tells how many bytes the body has had so far, those between its pieces too."""
WHOLE = "locum.whole"
"""Where ``wire`` puts the function that tells whether all of the request is here."""
SPARE = "locum.spare"
"""What ``wire`` sets on a connection beyond their limit: it is only answered how the process is."""


class ClientGone(Exception):
    """The client closed the connection, or stopped reading; nobody waits for the answer."""


@dataclass(frozen=True)
class Reply:
    """A whole response.

    Attributes:
        headers: beside ``content-type`` and ``content-length``; values in ASCII.
    """

    body: bytes
    status: int = 200
    media_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def encode_headers(headers: dict[str, str], media_type: str) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI wants them; what is not Latin-1 is replaced, so that no value can fail late."""
    pairs = [(b"content-type", media_type.encode())]
    pairs.extend((name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items())
    return pairs


async def send_reply(scope: Scope, send: Send, reply: Reply) -> None:
    """Send a whole response, in one piece where the server can: a client that wakes for headers waits again."""
    headers = encode_headers(reply.headers, reply.media_type)
    headers.append((b"content-length", b"%d" % len(reply.body)))
    if reply.status == 204:  # has no content, nor headers about it (RFC 9110, 8.6)
        headers = [pair for pair in headers if not pair[0].startswith(b"content-")]
    with scope.get("extensions", {}).get(TOGETHER, nullcontext)():
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})


async def in_time(sending: Awaitable[None], limit_s: float) -> None:
    """Wait until something is sent.

    Raises:
        ClientGone: the client did not read it within ``limit_s``.
    """
    try:
        async with asyncio.timeout(limit_s):
            await sending
    except TimeoutError:
        raise ClientGone("the client stopped reading") from None


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has closed the connection; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def content_length(scope: Scope) -> int | None:
    """The length that the client announced; None when it announced none that is a number."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 20 else None
    return None


async def read_body(scope: Scope, receive: Receive, limit: int, deadline_s: float) -> bytes:
    """The body, refused as soon as it is too large or too slow.

    Args:
        scope: of the request.
        receive: where its body comes from.
        limit: most bytes.
        deadline_s: the whole body must be here by then, however steadily it drips.

    Raises:
        ApiError: 413 ``body_too_large``, 408 ``receive_timeout``.
        ClientGone: the client left before it was whole.
    """
    announced = content_length(scope) or 0
    if announced > limit:
        raise ApiError(413, "body_too_large", f"the body has {announced} bytes; at most {limit} are read")
    extensions = scope.get("extensions", {})
    received = extensions.get(RECEIVED)
    if WHOLE in extensions and extensions[WHOLE]():
        return await _read(receive, limit, received)  # nothing to wait for, and a clock costs more than the rest
    try:
        async with asyncio.timeout(deadline_s):
            return await _read(receive, limit, received)
    except TimeoutError:
        raise ApiError(408, "receive_timeout", f"the body did not arrive within {deadline_s:g} s") from None


async def _read(receive: Receive, limit: int, received: Callable[[], int] | None) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client left before its request was whole")
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit or (received is not None and received() > limit):
            raise ApiError(413, "body_too_large", f"the body is larger than {limit} bytes, as it was sent")
        if part:
            parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
