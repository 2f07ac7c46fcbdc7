"""The connection: HTTP/1.1, one request at a time, each part of it with a size and a deadline.

Notable: the parser is llhttp (through httptools). It is fed no further than the end of one request; what comes after
that waits, unread, until the answer has left. One timer for each connection serves all deadlines: it is moved by
writing down when it is due, and looks at that when it fires. An answer that comes before its request is whole ends the
connection, and what still arrives is thrown away for a moment, so that the client can read why.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from locum.gateway.asgi import ABORT, ANSWERS, GONE, RECEIVED, SPARE, TOGETHER, WHOLE, Scope, content_length
from locum.gateway.crowd import Crowd
from locum.gateway.errors import ApiError

HEADER_BYTES_MAX = 32 << 10
_HELD_BYTES_MAX = 32 << 10
"""Bytes of later requests that are kept before reading stops; what one read gives comes on top."""
_LINGER_S = 2.0
"""How long what a client still sends is thrown away after its answer: a closed socket would reset the connection,
and the answer with it."""
_LINGER_BYTES = 4 << 20
"""Most that is thrown away; whoever sends more is cut off."""
_SPARE_S = 2.0
"""For headers on a connection that is only answered how the process is."""
_NEVER = math.inf

# What a connection waits for.
_HEAD, _BODY, _ANSWER, _SENT, _LEAVING = range(5)
"""The headers of a request; its body; its answer; that what was answered leaves; its end."""


class GuardedHttp(HttpToolsProtocol):
    """A connection that nobody can hold for nothing.

    Attributes:
        header_s: headers must be whole by then, from the connection's beginning or the first byte after an answer.
        receive_s: a body must be whole by then; whoever reads it answers, and this is kept for want of a reader.
        write_s: a client that reads nothing of an answer for so long is cut off.
        crowd: counts the connections.
    """

    header_s = 10.0
    receive_s = 20.0
    write_s = 20.0
    crowd = Crowd(4096, 4096, 16)
    _phase = _HEAD
    _begun = False
    _first = True
    _head_bytes = 0
    _tail = b""
    _left: int | None = None
    _body_bytes = 0
    _thrown_bytes = 0
    _held = b""
    _deaf = False
    _upgrading = False
    _spare = False
    _address = ""
    _since_s = 0.0
    _due_s = _NEVER
    _unsent = 0
    _timer: asyncio.TimerHandle | None = None
    _gone: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Find it a place; the clock of the first request's headers starts now."""
        self._together = _Together(transport)
        self._together.on_close = self._leave
        super().connection_made(cast("asyncio.Transport", self._together))
        self._socket = transport
        self._extensions: dict[str, Any] = {
            ABORT: self._abandon,
            ANSWERS: self._answers,
            GONE: self.when_gone,
            RECEIVED: self._received,
            TOGETHER: self._together.held,
            WHOLE: self._whole,
        }
        self._since_s = self.loop.time()
        self._address = self.client[0] if self.client else ""
        answered = self.crowd.enter(self, self._address)
        if answered is None:
            self.drop()
            return
        if not answered:
            self._spare = self._extensions[SPARE] = True
        self._set_due(min(self.header_s, _SPARE_S) if self._spare else self.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock, and tell who wants to know."""
        self._phase = _LEAVING
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._held = b""
        self.crowd.leave(self, self._address)
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

    # Who is connected: ``crowd.Connection``

    @property
    def quiet_since_s(self) -> float | None:
        """Since when it could be closed without taking an answer from anybody who waits for one."""
        return None if self._phase == _ANSWER else self._since_s

    def drop(self) -> None:
        """Close at once, to make room."""
        self._phase = _LEAVING
        self.crowd.leave(self, self._address)
        self._socket.abort()

    # Bytes from the client

    def data_received(self, data: bytes) -> None:
        """Read on, to the end of one request at most."""
        if self._phase <= _BODY:
            self._read(data)
        elif self._phase == _LEAVING:
            self._thrown_bytes += len(data)
            if self._thrown_bytes > _LINGER_BYTES:
                self._socket.abort()
        else:
            self._hold(data)

    def _read(self, data: bytes) -> None:
        first = not self._begun
        self._begun = True
        while data and self._phase <= _BODY:
            if self._phase == _HEAD:
                size = self._head_size(data)
                self._head_bytes += size
                if self._head_bytes > HEADER_BYTES_MAX:
                    said = f"the request line and the headers have more than {HEADER_BYTES_MAX} bytes"
                    self._refuse(ApiError(431, "headers_too_large", said))
                    return
            else:
                size = len(data) if self._left is None else min(self._left, len(data))
                self._body_bytes += size
            if size == len(data):
                part, data = data, b""
            else:
                part, data = data[:size], data[size:]
            self._parse(part, size)
        if self._phase == _HEAD:
            if first:
                self._set_due(self.header_s)  # however many bytes follow, and whatever they are
        elif self._phase == _BODY:
            if self._due_s == _NEVER:
                self._set_due(self.receive_s + _LINGER_S)
        elif data:
            self._hold(data)

    def _head_size(self, data: bytes) -> int:
        """How many bytes belong to the headers: up to the first empty line, which two pieces may share."""
        if self._tail:
            shared = (self._tail + data[:3]).find(b"\r\n\r\n")
            if shared >= 0:
                size = shared + 4 - len(self._tail)
                self._tail = b""
                return size
        found = data.find(b"\r\n\r\n")
        if found >= 0:
            self._tail = b""
            return found + 4
        self._tail = (self._tail + data[-3:])[-3:]
        return len(data)

    def _parse(self, part: bytes, size: int) -> None:
        in_body = self._phase == _BODY
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            self._without_upgrade()
        except httptools.HttpParserError:
            if self._phase == _ANSWER:  # more than one request; the first of them is answered
                self.cycle.keep_alive = False
                self._deaf = True
            else:
                self._refuse(ApiError(400, "invalid_value", "this is not a well-formed request"))
            return
        if self._phase == _BODY:
            if not in_body:
                self._left = content_length(cast("Scope", self.scope))
            elif self._left is not None:
                self._left -= size
            else:
                self.cycle.message_event.set()  # its reader counts the bytes around the pieces, too

    def _without_upgrade(self) -> None:
        """Read the headers again without ``Upgrade``, which a server may ignore.

        The parser would take the body for the other protocol, and a client that offers HTTP/2 so would lose it.
        """
        version, method = self.parser.get_http_version().encode(), self.parser.get_method()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines.extend(b"%s: %s" % pair for pair in self.headers if pair[0] != b"upgrade")
        self._upgrading = False
        self.parser = httptools.HttpRequestParser(self)
        try:
            self.parser.feed_data(b"\r\n".join(lines) + b"\r\n\r\n")
        except httptools.HttpParserUpgrade:  # CONNECT, which this is no proxy for
            self._refuse(ApiError(400, "invalid_value", "this is not a well-formed request"))

    def _hold(self, data: bytes) -> None:
        """Keep what belongs to later requests; much of it stops the reading, so that it waits with the client."""
        if not self._deaf:
            self._held += data
            if len(self._held) > _HELD_BYTES_MAX:
                self._together.stop_reading()

    # What the parser finds

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._phase != _HEAD:
            raise ValueError("a request begins before the last one was answered")
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["extensions"] = self._extensions

    def on_headers_complete(self) -> None:
        """The headers are whole and in time."""
        if self.parser.should_upgrade():
            self._upgrading = True
            return
        super().on_headers_complete()
        self._phase = _BODY
        self._first = False
        self._body_bytes = 0
        self._due_s = _NEVER
        self.headers = []  # those after a body are no part of the request
        if self._spare:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The request is whole."""
        if not self._upgrading:
            self._phase = _ANSWER
            self._due_s = _NEVER
            super().on_message_complete()

    # What the application does

    def _answers(self) -> None:
        """An answer begins; one before its request is whole is the connection's last."""
        if self._phase == _BODY:
            self.cycle.keep_alive = False

    def _received(self) -> int:
        return self._body_bytes

    def _whole(self) -> bool:
        return self._phase == _ANSWER

    def _abandon(self) -> None:
        """Nobody waits for the answer."""
        if self._phase != _LEAVING:
            self.cycle.disconnected = True
            self._socket.abort()

    def on_response_complete(self) -> None:
        """The answer is written; once it has left, the next request is read."""
        self.server_state.total_requests += 1
        if self._together.is_closing():
            return
        if self._phase == _BODY:
            self._together.close()
            return
        self._phase = _SENT
        self._together.when_written(self._written)

    def _written(self) -> None:
        if self._phase != _SENT:
            return
        if self.flow.write_paused:
            self._unsent = self._socket.get_write_buffer_size()
            self._set_due(self.write_s)
            return
        self._phase = _HEAD
        self._begun = False
        self._head_bytes = 0
        self._since_s = self.loop.time()
        self._set_due(self.timeout_keep_alive)
        self.flow.resume_reading()
        if self._held:
            held, self._held = self._held, b""
            self._together.read_on()
            self.data_received(held)

    def resume_writing(self) -> None:
        """The client reads."""
        super().resume_writing()
        self._written()

    # Deadlines

    def _set_due(self, seconds: float) -> None:
        """The one deadline of this phase; the timer stays as it is unless it would fire too late."""
        self._due_s = self.loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= self._due_s:
                return
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._tick)

    def _tick(self) -> None:
        self._timer = None
        left_s = self._due_s - self.loop.time()
        if left_s == _NEVER:
            return
        if left_s > 0:
            self._timer = self.loop.call_later(max(left_s, 0.001), self._tick)
        else:
            self._overdue()

    def _overdue(self) -> None:
        self._due_s = _NEVER
        if self._phase == _HEAD:
            if self._begun or self._first:
                said = f"the headers did not arrive within {self.header_s:g} s"
                self._refuse(ApiError(408, "receive_timeout", said))
            else:
                self._together.close()
        elif self._phase == _LEAVING and not self._socket.is_closing():
            self._unsent = self._socket.get_write_buffer_size()
            self._socket.close()  # the client has had its time to read
            self._set_due(self.write_s)
        elif self._phase in (_SENT, _LEAVING) and (size := self._socket.get_write_buffer_size()) < self._unsent:
            self._unsent = size
            self._set_due(self.write_s)
        else:
            self._socket.abort()

    # The end

    def send_400_response(self, msg: str) -> None:
        """The envelope instead of a line of text."""
        self._refuse(ApiError(400, "invalid_value", "this is not a well-formed request"))

    def _refuse(self, error: ApiError) -> None:
        """Answer in the application's place, and close."""
        if self._phase == _BODY:
            if self.cycle.response_started:
                self._abandon()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = error.to_bytes()
        head = (
            f"HTTP/1.1 {error.status} {_PHRASES[error.status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self._together.write(head.encode() + body)
        self._together.close()

    def _leave(self) -> None:
        """Close once everything has left, and where more is on its way, once that was let in for a moment."""
        unread = self._phase == _BODY or self._deaf or bool(self._held) or (self._phase == _HEAD and self._begun)
        self._phase = _LEAVING
        self._held = b""
        if self._socket.is_closing():
            return
        if unread and self._socket.can_write_eof():
            try:
                self._socket.write_eof()
            except OSError:  # the client has reset the connection: there is nobody to read why
                self._socket.abort()
                return
            self._socket.resume_reading()
            self._set_due(_LINGER_S)
        else:
            self._unsent = self._socket.get_write_buffer_size()
            self._socket.close()
            self._set_due(self.write_s)


class _Together:
    """A transport that can hold back what is written to it, and send it in one piece.

    Attributes:
        on_close: called instead of closing the transport, which is then closed by whoever is called.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] | None = None
        self._full = False
        self._closed = False
        self._then: Callable[[], None] | None = None
        self.on_close: Callable[[], None] = transport.close

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

    def when_written(self, call: Callable[[], None]) -> None:
        """Call something now, or once what is held back was sent."""
        if self._held is None:
            call()
        else:
            self._then = call

    def close(self) -> None:
        """Close once everything has left; the server does it with the last byte of an answer."""
        self._release()
        self._closed = True
        self.on_close()

    def is_closing(self) -> bool:
        """Whether it was closed, though its socket may stay for a moment."""
        return self._closed or self._transport.is_closing()

    def stop_reading(self) -> None:
        """Read nothing until ``read_on``, whoever else resumes."""
        if not self._full:
            self._full = True
            self._transport.pause_reading()

    def read_on(self) -> None:
        """Read again, if reading was stopped."""
        if self._full:
            self._full = False
            self._transport.resume_reading()

    def resume_reading(self) -> None:
        """Read again, unless reading was stopped."""
        if not self._full:
            self._transport.resume_reading()

    def _release(self) -> None:
        held, self._held = self._held, None
        if held:
            self._transport.write(b"".join(held))
        then, self._then = self._then, None
        if then is not None:
            then()


_PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
