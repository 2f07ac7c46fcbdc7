"""A bounded pool of keep-alive connections to one server, for threads: one POST, its answer whole or as it comes.

Notable: llhttp (through httptools) on sockets of our own, because a gateway's processor time goes into exactly this: a
POST costs a tenth of what it does through httpx. One place, ``Exchange._receive``, stands under every read: there the
deadline, the silence between two bytes and the size cap are kept, so that a server that trickles bytes, headers
included, cannot hold a thread. A length told in two ways is refused by the parser.
``Exchange.abort`` stops a read from any thread. Redirects are answers like any other.
Not here: retries, keys, what the bodies mean (``runtime.openai``).

    PoolError
    ├── ConnectError     no connection: name, network, TLS, proxy
    ├── SilenceError     a time-out, between bytes or of the whole
    ├── BrokenOffError   the server ended the connection, or does not speak HTTP
    ├── SizeError        more bytes than the cap
    └── ClosedError      the pool was closed, or the exchange aborted, from this side
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
import ssl
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import httptools

_HEADER_BYTES_MAX = 128 << 10
_OVERHEAD_BYTES_MAX = 256 << 10  # headers, and what chunked encoding adds
_READ_BYTES = 1 << 16
_DRAIN_S = 0.05


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


@dataclass(frozen=True)
class Address:
    """A server, and the proxy on the way to it.

    Attributes:
        proxy: ``http://[user:password@]host:port``; None goes straight.
    """

    host: str
    port: int
    tls: bool
    proxy: str | None = None

    @property
    def netloc(self) -> str:
        """Host and, when it is not the scheme's own, port; as in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def proxy_of(host: str, scheme: str) -> str | None:
    """The proxy that the environment names for a host (``HTTPS_PROXY``, ``NO_PROXY`` and the system's settings)."""
    if urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(scheme) or proxies.get("all")


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
        self._left = cap

    @property
    def ends_with_connection(self) -> bool:
        """Whether nothing but the connection's end marks the end of the body."""
        return b"content-length" not in self.headers and b"transfer-encoding" not in self.headers

    def on_message_begin(self) -> None:
        self.surplus = self.whole
        self.headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.begun = self.status >= 200
        self.keeps = self.parser.should_keep_alive()
        if int(self.headers.get(b"content-length", b"0")) > self._left:
            raise SizeError

    def on_body(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._left < 0:
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

    def __init__(self, pool: HttpPool, connection: socket.socket, deadline_s: float, cap: int, *, fresh: bool) -> None:
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
            self._socket.settimeout(max(0.001, self.deadline_s - time.monotonic()))
            self._socket.sendall(request)
            while not self._answer.begun:
                if not self._receive():
                    raise BrokenOffError("the server closed the connection without an answer")

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

    def _receive(self) -> bool:
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
            piece = self._socket.recv(_READ_BYTES)
        except TimeoutError:
            raise SilenceError("total" if of_whole else "idle") from None
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
                raise BrokenOffError(f"not HTTP: {_said(error)}") from None
            answer.surplus = True
        if not answer.begun and self._cap + _OVERHEAD_BYTES_MAX - self._left > _HEADER_BYTES_MAX:
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
                raise BrokenOffError(_said(error)) from error
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


class HttpPool:
    """Connections to one server.

    Args:
        address: the server.
        connections: most at once; further requests wait for one.
        connect_s: how long a connection may take.
        idle_s: how long the server may be silent within an answer.
        keep_s: how long an unused connection is kept.
    """

    def __init__(
        self, address: Address, *, connections: int, connect_s: float, idle_s: float, keep_s: float = 30.0
    ) -> None:
        self.idle_s = idle_s
        self._address = address
        self._connect_s = connect_s
        self._keep_s = keep_s
        self._places = threading.BoundedSemaphore(connections)
        self._idle: deque[tuple[socket.socket, float]] = deque()  # the last used is taken first
        self._busy: set[Exchange] = set()
        self._lock = threading.Lock()
        self._tls = _tls_context() if address.tls else None
        self.closed = False

    def post(
        self, request: bytes, deadline_s: float, cap: int, watch: Callable[[Exchange], None] | None = None
    ) -> Exchange:
        """Send one request; returns when status and headers of the answer are there.

        A connection that the server had closed while it was unused is replaced by a fresh one, once, and only when
        no byte of an answer came on it.

        Args:
            request: request line, headers and body.
            deadline_s: on the monotonic clock; holds for the exchange to its end.
            cap: most bytes of the answer's body.
            watch: told of each exchange before anything is sent, so that another thread can abort it.

        Raises:
            PoolError: any of its kinds.
        """
        exchange = self._open(deadline_s, cap, fresh=False)
        try:
            if watch is not None:
                watch(exchange)
            exchange.begin(request)
        except BrokenOffError:
            if exchange.fresh or exchange.any_byte:
                raise
            exchange = self._open(deadline_s, cap, fresh=True)
            if watch is not None:
                watch(exchange)
            exchange.begin(request)
        return exchange

    def give_back(self, exchange: Exchange, connection: socket.socket, *, reuse: bool) -> None:
        """For ``Exchange``: its connection is free, or done with."""
        with self._lock:
            self._busy.discard(exchange)
            keep = reuse and not self.closed
            if keep:
                self._idle.append((connection, time.monotonic()))
        if not keep:
            connection.close()
        self._places.release()

    def close(self) -> None:
        """Stop what is under way and close all connections; a second call does nothing."""
        with self._lock:
            self.closed = True
            busy, idle = list(self._busy), list(self._idle)
            self._idle.clear()
        for exchange in busy:
            exchange.abort()
        for connection, _ in idle:
            connection.close()

    def _open(self, deadline_s: float, cap: int, *, fresh: bool) -> Exchange:
        if self.closed:
            raise ClosedError
        if not self._places.acquire(timeout=max(0.0, deadline_s - time.monotonic())):
            raise SilenceError("pool")
        try:
            connection = None if fresh else self._unused()
            made = connection is None
            if connection is None:
                connection = self._connect(deadline_s)
        except BaseException:
            self._places.release()
            raise
        exchange = Exchange(self, connection, deadline_s, cap, fresh=made)
        with self._lock:
            self._busy.add(exchange)
            closed = self.closed
        if closed:
            exchange.abort()
            raise ClosedError
        return exchange

    def _unused(self) -> socket.socket | None:
        """A kept connection that is still open, the last used first."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection, since_s = self._idle.pop()
            if time.monotonic() - since_s < self._keep_s and _is_quiet(connection):
                return connection
            connection.close()

    def _connect(self, deadline_s: float) -> socket.socket:
        limit_s = min(self._connect_s, max(0.001, deadline_s - time.monotonic()))
        try:
            link = self._link(limit_s)
            link.connect()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ConnectError(_said(error)) from error
        return link.sock

    def _link(self, limit_s: float) -> http.client.HTTPConnection:
        """The library's connection, used only to connect: it knows tunnels and TLS."""
        to = self._address
        if self._tls is None:
            return http.client.HTTPConnection(to.host, to.port, timeout=limit_s)
        if to.proxy is None:
            return http.client.HTTPSConnection(to.host, to.port, timeout=limit_s, context=self._tls)
        proxy = urlsplit(to.proxy)
        link = http.client.HTTPSConnection(proxy.hostname or "", proxy.port or 80, timeout=limit_s, context=self._tls)
        headers: dict[str, str] = {}
        if proxy.username is not None:
            pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
            headers["Proxy-Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        link.set_tunnel(to.host, to.port, headers)
        return link


def _tls_context() -> ssl.SSLContext:
    """Verified against the system's store, or certifi's where Python knows no system store (macOS installers)."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if os.name != "nt" and not (paths.cafile or paths.capath):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _is_quiet(connection: socket.socket) -> bool:
    """Whether nothing came on an unused connection: neither its end nor bytes that nobody asked for."""
    connection.setblocking(False)
    try:
        socket.socket.recv(connection, 1, socket.MSG_PEEK)  # SSLSocket's own takes no flags
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _said(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
