"""HTTP to the engine's process on this machine: one connection a running request, kept for the next one.

Notable: written on the socket, because the engine's cores are this process's cores too. Processor time measured
here on a busy machine: a request 40 µs (http.client 180, httpx 750), a streamed token with its JSON below 40 µs, most
of it the kernel waking the thread (httpx 55). A stream can be closed by any thread: its socket is shut down, which
llama.cpp notices and stops writing. Not here: HTTP to anything else, which has to expect other servers (``openai``).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson

_CONNECT_S = 5.0
_IDLE_MAX_S = 3.0  # the server closes a connection that was idle for 5 s
_LINE_BYTES_MAX = 1 << 16
_BODY_BYTES_MAX = 1 << 28
_LEAST_WAIT_S = 0.001


class EngineGoneError(Exception):
    """The connection ended before the answer did: the process died, or this side closed."""


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
            TimeoutError: nothing came for as long as may be.
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

    def wait(self, deadline_s: float, idle_s: float) -> None:
        """From now on, reading ends at a moment of the monotonic clock, and after this long without a byte."""
        self._connection.deadline_s, self._connection.idle_s = deadline_s, idle_s

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

    Attributes:
        heard_s: when any request last heard a byte, on the monotonic clock.
    """

    def __init__(self, port: int, key: str) -> None:
        self._address = ("127.0.0.1", port)
        self._head = (
            f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        ).encode()
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()
        self.heard_s = time.monotonic()

    def post(self, path: str, body: dict[str, Any], *, deadline_s: float, idle_s: float) -> dict[str, Any]:
        """Send a request and return its whole answer.

        Args:
            path: begins with a slash.
            body: sent as JSON.
            deadline_s: moment of the monotonic clock when the whole answer must be here.
            idle_s: longest silence.

        Raises:
            TimeoutError, EngineGoneError, EngineRefusedError: as they say.
        """
        connection = self._ask(path, body, deadline_s, idle_s)
        try:
            document = orjson.loads(b"".join(connection.chunks()))
        except BaseException:
            connection.abort()
            raise
        self.keep(connection)
        return document

    def stream(self, path: str, body: dict[str, Any], *, deadline_s: float, idle_s: float) -> Exchange:
        """Send a request whose answer comes as events; arguments and errors as ``post``.

        Returns once the engine has taken the request.
        """
        return Exchange(self, self._ask(path, body, deadline_s, idle_s))

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

    def _ask(self, path: str, body: dict[str, Any], deadline_s: float, idle_s: float) -> _Connection:
        content = orjson.dumps(body)
        message = b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (
            path.encode(),
            self._head,
            len(content),
            content,
        )
        connection = self._kept()
        if connection is not None:
            try:
                return self._exchange(connection, message, deadline_s, idle_s)
            except EngineGoneError:  # most likely closed while it was idle; a dead engine refuses the next one too
                pass
        try:
            opened = socket.create_connection(self._address, timeout=_CONNECT_S)
        except OSError as error:
            raise EngineGoneError(f"cannot connect: {error}") from error
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._exchange(_Connection(opened, self._heard), message, deadline_s, idle_s)

    def _exchange(self, connection: _Connection, message: bytes, deadline_s: float, idle_s: float) -> _Connection:
        connection.deadline_s, connection.idle_s = deadline_s, idle_s
        try:
            connection.send(message)
            status = connection.read_head()
            if status != 200:
                raise _refusal(status, _document(b"".join(connection.chunks())))
        except EngineRefusedError:
            self.keep(connection)
            raise
        except (EngineGoneError, TimeoutError):
            connection.abort()
            raise
        return connection

    def _kept(self) -> _Connection | None:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if time.monotonic() - connection.used_s < _IDLE_MAX_S:
                    return connection
                connection.abort()
        return None

    def _heard(self) -> None:
        self.heard_s = time.monotonic()


class _Connection:
    """A socket, and the HTTP/1.1 that llama.cpp's server speaks (RFC 9112)."""

    def __init__(self, opened: socket.socket, heard: Callable[[], None]) -> None:
        self._socket = opened
        self._file = opened.makefile("rb", buffering=1 << 16)
        self._heard = heard
        self._length: int | None = None  # None: in chunks
        self.reusable = True
        self.used_s = 0.0
        self.deadline_s = 0.0
        self.idle_s = 0.0
        self._timeout_s = 0.0

    def send(self, message: bytes) -> None:
        try:
            self._limit(max(_LEAST_WAIT_S, min(self.idle_s, self.deadline_s - time.monotonic())))
            self._socket.sendall(message)
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
            yield self._wait(self._body)
            return
        while chunk := self._wait(self._chunk):
            yield chunk

    def abort(self) -> None:
        with contextlib.suppress(OSError):  # the other side was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._file.close()  # waits for whoever reads, whom the shutdown woke
        self._socket.close()

    def _line(self) -> bytes:
        line = self._wait(lambda: self._file.readline(_LINE_BYTES_MAX))
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

    def _wait(self, read: Callable[[], bytes]) -> bytes:
        left_s = max(_LEAST_WAIT_S, min(self.idle_s, self.deadline_s - time.monotonic()))
        try:
            if left_s < 0.95 * self._timeout_s:  # a system call, so only when it matters
                self._limit(left_s)
            content = read()
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:  # ValueError: closed by another thread
            raise EngineGoneError(str(error)) from error
        self._heard()
        return content

    def _limit(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._socket.settimeout(timeout_s)


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    return document if isinstance(document, dict) else {"error": body[:300].decode("utf-8", "replace")}


def _refusal(status: int, document: dict[str, Any]) -> EngineRefusedError:
    error = document.get("error", document)
    return EngineRefusedError(status, error if isinstance(error, dict) else {"message": str(error)})
