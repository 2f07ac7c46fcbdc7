"""The connection: HTTP/1.1 with headers that are small, in time, and refused in the gateway's own words.

Notable: the parser is llhttp (through httptools), which refuses a length told in two ways; uvicorn's protocol around
it sets no limit on headers, so both limits are here: bytes, and seconds until they are whole. The gateway finds in
``scope["extensions"]`` how to drop a connection whose client has stopped reading, how to be told that one is gone, and
how to send headers and body in one piece.
Not here: bodies (``asgi``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from locum.gateway.asgi import ABORT, GONE, TOGETHER
from locum.gateway.errors import ApiError

HEADER_BYTES_MAX = 32 << 10


class GuardedHttp(HttpToolsProtocol):
    """A connection whose headers have a size and a deadline."""

    header_s = 10.0
    _header_bytes = 0
    _kept_bytes = 0
    _in_headers = True
    _deadline: asyncio.TimerHandle | None = None
    _too_large = False
    _gone: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The clock of the first request's headers starts with the connection."""
        super().connection_made(transport)
        self._together = _Together(transport)
        self.transport = cast("asyncio.Transport", self._together)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock, and tell who wants to know."""
        self._disarm()
        super().connection_lost(exc)
        if self._gone is not None:
            self._gone()

    def when_gone(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call something when the client is gone, until what is returned is called.

        Cheaper for each request than a task that waits for it.
        """
        self._gone = call

        def forget() -> None:
            if self._gone is call:
                self._gone = None

        return forget

    def data_received(self, data: bytes) -> None:
        """Count what comes before the headers are whole."""
        if self._in_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._in_headers and self._header_bytes > HEADER_BYTES_MAX and not self.transport.is_closing():
            self._refuse_headers()

    def on_message_begin(self) -> None:
        """A request begins; its headers have their time from here."""
        self._in_headers = True
        self._kept_bytes = 0
        if self._deadline is None:
            self._arm()
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["extensions"] = {
            ABORT: self.transport.abort,
            GONE: self.when_gone,
            TOGETHER: self._together.held,
        }

    def on_header(self, name: bytes, value: bytes) -> None:
        """Refuse headers that came in one large piece, too."""
        super().on_header(name, value)
        self._kept_bytes += len(name) + len(value)
        if self._kept_bytes > HEADER_BYTES_MAX:
            self._too_large = True
            raise ValueError("headers too large")

    def on_headers_complete(self) -> None:
        """The headers are whole and in time."""
        self._in_headers = False
        self._header_bytes = 0
        self._disarm()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """The envelope instead of a line of text."""
        if self._too_large:
            self._refuse_headers()
            return
        self._send(ApiError(400, "invalid_value", "this is not a well-formed request"))

    def _refuse_headers(self) -> None:
        self._send(ApiError(431, "headers_too_large", f"the headers have more than {HEADER_BYTES_MAX} bytes"))

    def _late(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            said = f"the headers did not arrive within {self.header_s:g} s"
            self._send(ApiError(408, "receive_timeout", said))

    def _send(self, error: ApiError) -> None:
        body = error.to_bytes()
        head = (
            f"HTTP/1.1 {error.status} {_PHRASES[error.status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self.header_s, self._late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Together:
    """A transport that can hold back what is written to it, and send it in one piece."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """What is written meanwhile leaves in the end."""
        self._held = []
        try:
            yield
        finally:
            self._release()

    def write(self, data: bytes) -> None:
        """Send, or hold back."""
        if self._held is None:
            self._transport.write(data)
        else:
            self._held.append(data)

    def close(self) -> None:
        """Close once everything has left; the server does it with the last byte of an answer."""
        self._release()
        self._transport.close()

    def _release(self) -> None:
        held, self._held = self._held, None
        if held:
            self._transport.write(b"".join(held))


_PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
