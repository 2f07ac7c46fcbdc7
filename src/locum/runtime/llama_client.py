"""HTTP to the engine's process on this machine: one connection a running request, kept for the next one.

Notable: written on the socket, because the engine's cores are this process's cores too (``bench/llm_client.py``). A
request waits on while the engine tells anybody anything, because llama.cpp may leave it for minutes until a neighbour's
prompt is read; it hangs when it told nobody anything. A stream can be closed by any thread: its socket is shut down,
which llama.cpp notices and stops writing. Not here: HTTP to anything else, which has to expect other servers
(``openai``).
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from locum.runtime.protocol import Stop

_CONNECT_S = 5.0
_IDLE_MAX_S = 3.0  # the server closes a connection that was idle for 5 s
_LINE_BYTES_MAX = 1 << 16
_BODY_BYTES_MAX = 1 << 28
_LEAST_WAIT_S = 0.001
_BESIDE = ("/tokenize", "/detokenize", "/apply-template")
"""Answered by threads of their own, also when the one that computes hangs."""


class EngineGoneError(Exception):
    """The connection ended before the answer did: the process died, or this side closed."""


class EngineSilentError(TimeoutError):
    """The engine told nobody anything for as long as may be.

    Args:
        seconds: for how long.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"silent for {seconds:.3g} s")
        self.seconds = seconds


class EngineRefusedError(Exception):
    """The engine answered with an error.

    Args:
        status: of HTTP.
        error: its ``error`` object.
    """

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message", "")) or f"status {status}")
        self.status = status
        self.error = error


class Exchange:
    """One request and its answer, on a connection of its own for that time.

    Args:
        client: whose connection it uses.
        connection: the connection; the request is sent, the answer's head is read.
    """

    def __init__(self, client: LlamaClient, connection: _Connection) -> None:
        self._client = client
        self._connection = connection
        self._lock = threading.Lock()
        self._done = False

    def events(self) -> Iterator[dict[str, Any]]:
        """The data of each server-sent event as it comes (WHATWG HTML, 9.2), without the closing ``[DONE]``.

        Raises:
            TimeoutError: the deadline passed, or as EngineSilentError nobody heard anything for too long.
            EngineGoneError: the connection ended.
            EngineRefusedError: an event tells of an error.
        """
        rest = b""
        for chunk in self._connection.chunks():
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                if not event.startswith(b"data: {"):
                    continue  # a comment, or [DONE]
                document = orjson.loads(event[6:])
                if "error" in document:
                    raise _refusal(500, document)
                yield document
        self._finish()

    def close(self) -> None:
        """End it, whatever it is doing; any thread may, at any time."""
        with self._lock:
            if not self._done:
                self._done = True
                self._connection.abort()

    def _finish(self) -> None:
        with self._lock:
            if not self._done:
                self._done = True
                self._client.keep(self._connection)


class LlamaClient:
    """Requests to one engine process.

    Args:
        port: on the loopback interface.
        key: that it wants to see.
    """

    def __init__(self, port: int, key: str) -> None:
        self._address = ("127.0.0.1", port)
        self._head = (
            f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        ).encode()
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()
        self._silence = _Silence()

    def post(self, path: str, body: dict[str, Any], *, deadline_s: float, idle_s: float) -> dict[str, Any]:
        """Send a request and return its whole answer.

        Args:
            path: begins with a slash.
            body: sent as JSON.
            deadline_s: moment of the monotonic clock when the whole answer must be here.
            idle_s: for how long the engine may tell nobody anything; ``EngineSilentError`` then.

        Raises:
            TimeoutError: the deadline passed.
            EngineSilentError, EngineGoneError, EngineRefusedError: as they say.
        """
        connection = self._ask(path, body, deadline_s, idle_s, Stop())
        try:
            document = orjson.loads(b"".join(connection.chunks()))
        except BaseException:
            connection.abort()
            raise
        self.keep(connection)
        return document

    def stream(
        self, path: str, body: dict[str, Any], *, deadline_s: float, idle_s: float, stop: Stop | None = None
    ) -> Exchange:
        """Send a request whose answer comes as events; arguments and errors as ``post``.

        Returns once the engine has taken the request. ``stop`` ends the wait for that, with ``EngineGoneError``.
        """
        stop = stop or Stop()
        exchange = Exchange(self, self._ask(path, body, deadline_s, idle_s, stop))
        if stop.is_set:
            exchange.close()
            raise EngineGoneError("stopped")
        return exchange

    def keep(self, connection: _Connection) -> None:
        """Take a connection back whose answer was read to its end."""
        connection.used_s = time.monotonic()
        if connection.reusable:
            with self._lock:
                self._idle.append(connection)
        else:
            connection.abort()

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.abort()

    def _ask(self, path: str, body: dict[str, Any], deadline_s: float, idle_s: float, stop: Stop) -> _Connection:
        content = orjson.dumps(body)
        message = b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (
            path.encode(),
            self._head,
            len(content),
            content,
        )
        limits = _Limits(deadline_s, idle_s, computes=path not in _BESIDE)
        connection = self._kept()
        if connection is not None:
            try:
                return self._exchange(connection, message, limits, stop)
            except EngineGoneError:  # most likely closed while it was idle; a dead engine refuses the next one too
                pass
        try:
            opened = socket.create_connection(self._address, timeout=_CONNECT_S)
        except OSError as error:
            raise EngineGoneError(f"cannot connect: {error}") from error
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._exchange(_Connection(opened, self._silence), message, limits, stop)

    def _exchange(self, connection: _Connection, message: bytes, limits: _Limits, stop: Stop) -> _Connection:
        call_off = stop.calls(connection.abort)
        try:
            connection.send(message, limits)
            status = connection.read_head()
            if status != 200:
                raise _refusal(status, _document(b"".join(connection.chunks())))
        except EngineRefusedError:
            self.keep(connection)
            raise
        except (EngineGoneError, TimeoutError):
            connection.abort()
            raise
        finally:
            call_off()
        return connection

    def _kept(self) -> _Connection | None:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if time.monotonic() - connection.used_s < _IDLE_MAX_S:
                    return connection
                connection.abort()
        return None


class _Silence:
    """For how long the engine told nobody anything while somebody waited; shared by all connections.

    What requests waited that gave up before anything was heard counts, so that a hang is noticed when each request
    has less time than the silence may last.
    """

    def __init__(self) -> None:
        self._heard_s = 0.0
        self._waited_s = 0.0

    def seconds(self, asked_s: float) -> float:
        """The silence that a request hears, from when it was asked."""
        return self._waited_s + time.monotonic() - max(asked_s, self._heard_s)

    def broken(self) -> None:
        """Somebody heard something."""
        self._heard_s, self._waited_s = time.monotonic(), 0.0

    def given_up(self, asked_s: float) -> None:
        """A request waits no longer, though the silence goes on."""
        self._waited_s, self._heard_s = self.seconds(asked_s), time.monotonic()


@dataclass(frozen=True)
class _Limits:
    """How long a request waits.

    Attributes:
        deadline_s: to this moment of the monotonic clock.
        idle_s: for this long while nobody hears anything.
        computes: whether its answer shows that the engine computes.
        asked_s: when it was asked.
    """

    deadline_s: float
    idle_s: float
    computes: bool = True
    asked_s: float = field(default_factory=time.monotonic)


class _Link(io.RawIOBase):
    """A socket whose reads wait for as long as the limits of its request allow."""

    def __init__(self, opened: socket.socket, silence: _Silence) -> None:
        self._socket = opened
        self._silence = silence
        self._limits = _Limits(0.0, 0.0)
        self._timeout_s = 0.0

    def send(self, message: bytes, limits: _Limits) -> None:
        self._limits = limits
        try:
            self._limit(limits.deadline_s - time.monotonic())
            self._socket.sendall(message)
        except TimeoutError:
            raise self._late() from None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        limits = self._limits
        left_s = min(limits.idle_s, limits.deadline_s - time.monotonic())
        if left_s < 0.95 * self._timeout_s:  # a system call, so only when it matters
            self._limit(left_s)
        while True:
            try:
                count = self._socket.recv_into(buffer)
            except TimeoutError:
                quiet_s = self._silence.seconds(limits.asked_s)
                left_s = min(limits.idle_s - quiet_s, limits.deadline_s - time.monotonic())
                if left_s <= 0:
                    raise self._late() from None
                self._limit(left_s)
            else:
                if limits.computes:
                    self._silence.broken()
                return count

    def shutdown(self) -> None:
        """Wake whoever reads."""
        with contextlib.suppress(OSError):  # the other side was faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        self._socket.close()

    def _late(self) -> TimeoutError:
        quiet_s = self._silence.seconds(self._limits.asked_s)
        if quiet_s >= self._limits.idle_s:
            return EngineSilentError(quiet_s)
        self._silence.given_up(self._limits.asked_s)
        return TimeoutError("the deadline passed")

    def _limit(self, timeout_s: float) -> None:
        self._timeout_s = max(_LEAST_WAIT_S, timeout_s)
        self._socket.settimeout(self._timeout_s)


class _Connection:
    """A socket, and the HTTP/1.1 that llama.cpp's server speaks (RFC 9112)."""

    def __init__(self, opened: socket.socket, silence: _Silence) -> None:
        self._link = _Link(opened, silence)
        self._file = io.BufferedReader(self._link, 1 << 16)
        self._length: int | None = None  # None: in chunks
        self.reusable = True
        self.used_s = 0.0

    def send(self, message: bytes, limits: _Limits) -> None:
        try:
            self._link.send(message, limits)
        except TimeoutError:
            raise
        except OSError as error:
            raise EngineGoneError(str(error)) from error

    def read_head(self) -> int:
        first = self._line()
        if not first.startswith(b"HTTP/1.1 "):
            raise EngineGoneError("the connection ended")
        status = int(first[9:12])
        self._length = 0
        while line := self._line().rstrip(b"\r\n"):
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip().lower()
            if name == b"content-length":
                self._length = int(value)
            elif name == b"transfer-encoding" and value == b"chunked":
                self._length = None
            elif name == b"connection" and value == b"close":
                self.reusable = False
        return status

    def chunks(self) -> Iterator[bytes]:
        if self._length is not None:
            yield self._read(self._body)
            return
        while chunk := self._read(self._chunk):
            yield chunk

    def abort(self) -> None:
        self._link.shutdown()
        self._file.close()  # and the link; waits for whoever reads

    def _line(self) -> bytes:
        line = self._read(lambda: self._file.readline(_LINE_BYTES_MAX))
        if not line.endswith(b"\n"):
            raise EngineGoneError("the connection ended")
        return line

    def _body(self) -> bytes:
        length = self._length or 0
        content = self._file.read(length) if length <= _BODY_BYTES_MAX else b""
        if len(content) < length:
            raise EngineGoneError("the connection ended")
        return content

    def _chunk(self) -> bytes:
        """The next chunk; empty after the last one."""
        size = int(self._file.readline(_LINE_BYTES_MAX).split(b";", 1)[0] or b"-1", 16)
        if not 0 <= size <= _BODY_BYTES_MAX:
            raise EngineGoneError("the connection ended")
        chunk = self._file.read(size + 2)
        if len(chunk) < size + 2:
            raise EngineGoneError("the connection ended")
        return chunk[:-2]

    def _read(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:  # ValueError: closed by another thread
            raise EngineGoneError(str(error)) from error


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    return document if isinstance(document, dict) else {"error": body[:300].decode("utf-8", "replace")}


def _refusal(status: int, document: dict[str, Any]) -> EngineRefusedError:
    error = document.get("error", document)
    return EngineRefusedError(status, error if isinstance(error, dict) else {"message": str(error)})
