"""One POST on a connection of a pool, and its answer: whole, as it comes, or waited for by an event loop.

Notable: one place, ``Exchange._take``, stands behind every read, and the deadline, the silence between two bytes and
the size cap are kept there and around it, so that a server that trickles bytes, headers included, cannot hold a
thread. A length told in two ways is refused by the parser, llhttp (through httptools). ``Exchange.abort`` stops a read
from any thread. An event loop that has better to do than to keep a thread waiting sends with ``send_now``, watches the
descriptor and calls ``advance``; whatever it meets there that is not a plain answer is left to the thread that reads
the exchange afterwards, so failures have one path. Not here: connections (``http_pool``).

    PoolError
    ├── ConnectError     no connection: name, network, TLS, proxy
    ├── SilenceError     a time-out, between bytes or of the whole
    ├── BrokenOffError   the server ended the connection, or does not speak HTTP
    ├── SizeError        more bytes than the cap
    └── ClosedError      the pool was closed, or the exchange aborted, from this side
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Generator
from typing import Protocol

import httptools

_HEADER_BYTES_MAX = 128 << 10
_OVERHEAD_BYTES_MAX = 256 << 10  # headers, and what chunked encoding adds
_READ_BYTES = 1 << 16
_FEW_BYTES = 1 << 14  # a read before it is known how much is wanted
_PLAIN_BYTES_MAX = 64 << 10
_DRAIN_S = 0.05
_NO_ANSWER = "the server closed the connection without an answer"


class PoolError(Exception):
    """Why there is no answer."""


class ConnectError(PoolError):
    """There is no connection: name, network, TLS or proxy."""


class SilenceError(PoolError):
    """The server was silent for too long, or the deadline passed."""


class BrokenOffError(PoolError):
    """The server ended the connection before its answer was whole, or does not speak HTTP."""


class SizeError(PoolError):
    """The answer is larger than the cap."""


class ClosedError(PoolError):
    """The pool was closed, or the exchange aborted, from this side."""


class _Answer:
    """What llhttp calls while it reads an answer; interim answers (100, 103) are passed over."""

    def __init__(self, cap: int) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.begun = False  # status and headers are whole
        self.whole = False
        self.keeps = False  # the connection stays open afterwards
        self.surplus = False  # bytes after the end, which nobody asked for
        self.left = cap

    @property
    def ends_with_connection(self) -> bool:
        """Whether nothing but the connection's end marks the end of the body."""
        return b"content-length" not in self.headers and b"transfer-encoding" not in self.headers

    @property
    def announced(self) -> int:
        """The body's length as the headers tell it; 0 when they do not."""
        return int(self.headers.get(b"content-length", b"0"))

    def on_message_begin(self) -> None:
        self.surplus = self.whole
        self.headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.begun = self.status >= 200
        self.keeps = self.parser.should_keep_alive()
        if int(self.headers.get(b"content-length", b"0")) > self.left:
            raise SizeError

    def on_body(self, piece: bytes) -> None:
        self.left -= len(piece)
        if self.left < 0:
            raise SizeError
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.whole = self.begun


class Exchange:
    """One request and its answer, on a connection of its own until it ends.

    One thread reads; any thread may ``abort``.

    Attributes:
        fresh: whether the connection was made for this request.
        any_byte: whether a byte of the answer arrived.
        deadline_s: on the monotonic clock.
    """

    def __init__(self, pool: Home, connection: socket.socket, deadline_s: float, cap: int, *, fresh: bool) -> None:
        self.fresh = fresh
        self.any_byte = False
        self.deadline_s = deadline_s
        self._pool = pool
        self._socket = connection
        self._answer = _Answer(cap)
        self._cap = cap
        self._left = cap + _OVERHEAD_BYTES_MAX
        self._aborted = False
        self._ended = False
        self._sent = False
        self._failure: Exception | None = None  # met by whoever waited without a thread, raised for who reads
        self._state = threading.Lock()  # held while ending, so that no abort reaches a connection given to another
        self._turn = threading.Lock()  # held while reading, so that nobody closes a descriptor that is being read

    @property
    def status(self) -> int:
        """HTTP status of the answer."""
        return self._answer.status

    def header(self, name: str) -> str:
        """A header of the answer; empty when absent."""
        return self._answer.headers.get(name.encode(), b"").decode("latin-1")

    def begin(self, request: bytes) -> None:
        """Send, and read status and headers.

        Raises:
            PoolError: any of its kinds.
        """
        with self._reading():
            if self._failure is not None:
                raise self._failure
            if not self._sent:
                self._socket.settimeout(max(0.001, self.deadline_s - time.monotonic()))
                self._socket.sendall(request)
            while not self._answer.begun:
                if not self._receive(_FEW_BYTES):
                    raise BrokenOffError(_NO_ANSWER)

    def lower_cap(self, cap: int) -> None:
        """Read less of the body than was asked for at first, now that the headers say what it is.

        Raises:
            PoolError: it is larger already, or says that it will be; as any read.
        """
        spare = self._cap - cap
        with self._reading():
            if self._answer.announced > cap or self._answer.left < spare:
                raise SizeError
            self._cap, self._left = cap, self._left - spare
            self._answer.left -= spare

    def read(self) -> bytes:
        """The whole body; the connection is free for others afterwards.

        Raises:
            PoolError: any of its kinds.
        """
        with self._reading():
            while not self._answer.whole:
                self._receive()
        self.finish()
        return b"".join(self._answer.pieces)

    def read_start(self, most: int) -> bytes:
        """The beginning of the body; the connection is closed when there is more.

        Raises:
            PoolError: any of its kinds.
        """
        answer = self._answer
        with self._reading():
            while not answer.whole and self._cap - answer.left < most:
                self._receive(_FEW_BYTES)
        if answer.whole:
            self.finish()
        else:
            self.abort()
        return b"".join(answer.pieces)[:most]

    def read_some(self) -> bytes:
        """What has arrived, waiting for at least one byte; empty at the proper end of the body.

        Raises:
            PoolError: any of its kinds.
        """
        answer = self._answer
        with self._reading():
            while not answer.pieces and not answer.whole:
                self._receive()
            piece = b"".join(answer.pieces)
            answer.pieces.clear()
        return piece

    def send_now(self, request: bytes) -> bool:
        """Send without waiting; whether all of it could be sent. The answer is then waited for with ``advance``.

        Until ``release`` the exchange counts as being read, so that an abort does not close the descriptor under the
        loop that watches it.
        """
        self._turn.acquire()
        try:
            self._socket.setblocking(False)
            self._sent = self._socket.send(request) == len(request)
        except OSError:  # no room, or a connection that is dead
            self._sent = False
        if not self._sent:
            self.release()
            self._end(reuse=False)
        return self._sent

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is something for ``advance``."""
        return self._socket.fileno()

    @property
    def wait_s(self) -> float:
        """For how long nothing may come; after that, ``expire``."""
        left_s = max(0.0, self.deadline_s - time.monotonic())
        return min(left_s, self._pool.idle_s) if self.any_byte else left_s

    @property
    def is_plain(self) -> bool:
        """Whether the whole answer is here, small and with status 200: to read it takes no waiting and no retry."""
        answer = self._answer
        return answer.whole and self._failure is None and self.status == 200 and self._received <= _PLAIN_BYTES_MAX

    @property
    def _received(self) -> int:
        return self._cap + _OVERHEAD_BYTES_MAX - self._left

    def advance(self) -> bool:
        """Read what has come, without waiting; whether the loop is to wait no longer. After ``send_now`` only.

        It ends with the whole answer, with any failure, and when there is so much that a thread should read it.
        """
        try:
            while not self._answer.whole and self._received <= _PLAIN_BYTES_MAX:
                if time.monotonic() >= self.deadline_s:
                    raise SilenceError("total")
                if not self._take(self._socket.recv(_READ_BYTES)) and not self._answer.whole:
                    raise BrokenOffError(_NO_ANSWER)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except (PoolError, OSError) as error:
            self._failure = error
        return True

    def expire(self) -> None:
        """Nothing came within ``wait_s``: whoever reads is told."""
        late = not self.any_byte or time.monotonic() >= self.deadline_s
        self._failure = SilenceError("total" if late else "idle")

    def release(self) -> None:
        """The end of waiting without a thread: after ``advance`` said so, or to give up."""
        self._turn.release()

    def finish(self) -> None:
        """Give the connection back when nothing more can come on it, else close it; a second call does nothing."""
        answer = self._answer
        if not answer.whole and not self._ended:  # the end of a stream: its last bytes are on the way at most
            self.deadline_s = min(self.deadline_s, time.monotonic() + _DRAIN_S)
            with contextlib.suppress(PoolError), self._reading():
                self._receive()
        clean = answer.whole and not answer.surplus and not answer.ends_with_connection
        self._end(reuse=clean and answer.keeps)

    def abort(self) -> None:
        """Stop, from any thread; who reads gets a ClosedError. A second call does nothing."""
        with self._state:
            if self._ended:
                return
            self._aborted = True
            with contextlib.suppress(OSError):  # not SSLSocket's own, which would forget its TLS state under the reader
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        if self._turn.acquire(blocking=False):
            try:
                self._end(reuse=False)
            finally:
                self._turn.release()

    def _receive(self, most: int = _READ_BYTES) -> bool:
        """Read what comes next, within the limits of time and size; False at the connection's end.

        Raises:
            PoolError: any of its kinds; an end in the midst of an answer is a BrokenOffError.
        """
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise SilenceError("total")
        of_whole = not self.any_byte or left_s < self._pool.idle_s
        self._socket.settimeout(left_s if of_whole else self._pool.idle_s)
        try:
            piece = self._socket.recv(most)
        except TimeoutError:
            raise SilenceError("total" if of_whole else "idle") from None
        return self._take(piece)

    def _take(self, piece: bytes) -> bool:
        """Hand on what was received, nothing at the connection's end; False then.

        Raises:
            PoolError: an end in the midst of an answer, too much, or no HTTP.
        """
        answer = self._answer
        if not piece:
            if answer.begun and not answer.ends_with_connection:
                raise BrokenOffError("the server closed the connection in the midst of its answer")
            answer.whole = answer.begun
            return False
        self.any_byte = True
        self._left -= len(piece)
        if self._left < 0:
            raise SizeError
        try:
            answer.parser.feed_data(piece)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if isinstance(error.__context__, SizeError):  # raised in a callback, wrapped by the parser
                raise SizeError from None
            if not answer.whole:
                raise BrokenOffError(f"not HTTP: {told(error)}") from None
            answer.surplus = True
        if not answer.begun and self._received > _HEADER_BYTES_MAX:
            raise SizeError
        return True

    @contextlib.contextmanager
    def _reading(self) -> Generator[None, None, None]:
        """Foreign exceptions become ours, and whatever goes wrong ends the exchange."""
        with self._turn:
            try:
                if self._aborted:
                    raise ClosedError
                yield
            except PoolError:
                self._end(reuse=False)
                if self._aborted:
                    raise ClosedError from None
                raise
            except TimeoutError:
                self._end(reuse=False)
                raise SilenceError("total") from None
            except OSError as error:
                self._end(reuse=False)
                if self._aborted:
                    raise ClosedError from None
                raise BrokenOffError(told(error)) from error
            except BaseException:
                self._end(reuse=False)
                raise
        if self._aborted:  # between the last read and the release of the turn
            self.abort()
            raise ClosedError

    def _end(self, *, reuse: bool) -> None:
        with self._state:
            if self._ended:
                return
            self._ended = True
            reuse = reuse and not self._aborted
        self._pool.give_back(self, self._socket, reuse=reuse)


class Home(Protocol):
    """Where an exchange's connection comes from, and goes back to."""

    idle_s: float

    def give_back(self, exchange: Exchange, connection: socket.socket, *, reuse: bool) -> None:
        """Take the connection back."""
        ...


def told(error: Exception) -> str:
    """Type and text of a foreign exception."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
