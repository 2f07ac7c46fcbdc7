"""A bounded pool of keep-alive connections to one server, for threads: one POST, its answer whole or as it comes.

Notable: the standard library's parser on sockets of our own, because a gateway's processor time goes into exactly
this (a POST costs about a fifth of what it does through httpx). One place, ``_Wire``, stands under every read: there
the deadline, the silence between two bytes and the size cap are kept, so that a server that trickles bytes, headers
included, cannot hold a thread. ``Exchange.abort`` stops a read from any thread. Redirects are answers like any other.
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
import io
import os
import socket
import ssl
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_HEADER_BYTES_MAX = 256 << 10
_READ_BYTES = 1 << 14
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


class _Wire(io.RawIOBase):
    """The bytes of one answer: each read waits no longer than the exchange allows."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        return self._exchange.receive_into(buffer)


class Exchange:
    """One request and its answer, on a connection of its own until it ends.

    One thread reads; any thread may ``abort``.

    Attributes:
        status: HTTP status.
        fresh: whether the connection was made for this request.
    """

    def __init__(self, pool: HttpPool, connection: socket.socket, deadline_s: float, cap: int, *, fresh: bool) -> None:
        self.fresh = fresh
        self.deadline_s = deadline_s
        self._pool = pool
        self._socket = connection
        self._left = cap + _HEADER_BYTES_MAX
        self._cap = cap
        self._received = False
        self._aborted = False
        self._ended = False
        self._state = threading.Lock()  # held while ending, so that no abort reaches a connection given to another
        self._turn = threading.Lock()  # held while reading, so that nobody closes a descriptor that is being read
        self._response = http.client.HTTPResponse(self, method="POST")  # pyright: ignore[reportArgumentType]

    @property
    def status(self) -> int:
        """HTTP status of the answer."""
        return self._response.status

    @property
    def any_byte(self) -> bool:
        """Whether a byte of the answer arrived."""
        return self._received

    def header(self, name: str) -> str:
        """A header of the answer; empty when absent."""
        return self._response.headers.get(name, "")

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What the parser reads from."""
        return io.BufferedReader(_Wire(self), _READ_BYTES)

    def begin(self, request: bytes) -> None:
        """Send, and read status and headers.

        Raises:
            PoolError: any of its kinds.
        """
        with self._reading():
            self._socket.settimeout(max(0.001, self.deadline_s - time.monotonic()))
            self._socket.sendall(request)
            self._response.begin()
            if (self._response.length or 0) > self._cap:
                raise SizeError

    def read(self) -> bytes:
        """The whole body; the connection is free for others afterwards.

        Raises:
            PoolError: any of its kinds.
        """
        with self._reading():
            body = self._response.read()
        self.finish()
        return body

    def read_some(self) -> bytes:
        """What has arrived, waiting for at least one byte; empty at the proper end of the body.

        Raises:
            PoolError: any of its kinds.
        """
        with self._reading():
            piece = self._response.read1(_READ_BYTES)
            if not piece and self._response.length:
                raise BrokenOffError(f"{self._response.length} bytes of the body are missing")
        return piece

    def finish(self) -> None:
        """Give the connection back when nothing more can come on it, else close it; a second call does nothing."""
        if not self._response.isclosed():  # the end of a stream: its last bytes are on the way at most
            self.deadline_s = min(self.deadline_s, time.monotonic() + _DRAIN_S)
            with contextlib.suppress(PoolError):
                self.read_some()
        self._end(reuse=self._response.isclosed() and not self._response.will_close)

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

    def receive_into(self, buffer: WriteableBuffer) -> int:
        """For ``_Wire``: bytes from the socket, within the limits of time and size."""
        left_s = self.deadline_s - time.monotonic()
        idle_s = self._pool.idle_s
        of_whole = not self._received or left_s < idle_s
        if left_s <= 0:
            raise SilenceError("total")
        self._socket.settimeout(left_s if of_whole else idle_s)
        try:
            count = self._socket.recv_into(buffer)
        except TimeoutError:
            raise SilenceError("total" if of_whole else "idle") from None
        if count:
            self._received = True
            self._left -= count
            if self._left < 0:
                raise SizeError
        return count

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
            except (OSError, http.client.HTTPException, ValueError) as error:  # a chunk size that is no number
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
        self._response.close()
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

    def post(self, request: bytes, deadline_s: float, cap: int) -> Exchange:
        """Send one request; returns when status and headers of the answer are there.

        A connection that the server had closed while it was unused is replaced by a fresh one, once, and only when
        no byte of an answer came on it.

        Args:
            request: request line, headers and body.
            deadline_s: on the monotonic clock; holds for the exchange to its end.
            cap: most bytes of the answer's body.

        Raises:
            PoolError: any of its kinds.
        """
        exchange = self._open(deadline_s, cap, fresh=False)
        try:
            exchange.begin(request)
        except BrokenOffError:
            if exchange.fresh or exchange.any_byte:
                raise
            exchange = self._open(deadline_s, cap, fresh=True)
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
