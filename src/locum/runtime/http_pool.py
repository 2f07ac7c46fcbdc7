"""A bounded pool of keep-alive connections to one server: straight, through a proxy, with TLS.

Notable: sockets of our own, because a gateway's processor time goes into exactly this: a POST costs a tenth of what it
does through httpx. A kept connection is used again only when nothing came on it in between. Redirects are answers like
any other. Not here: a request and its answer (``http_exchange``), retries, keys, what the bodies mean
(``runtime.openai``).
"""

from __future__ import annotations

import base64
import http.client
import os
import socket
import ssl
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from locum.runtime.http_exchange import BrokenOffError, ClosedError, ConnectError, Exchange, SilenceError, told

_AHEAD_BYTES_MAX = 16 << 10  # fits a socket's buffer


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

    def ahead(self, request: bytes, deadline_s: float, cap: int) -> Exchange | None:
        """Send a small request on a kept connection, without waiting; None when it cannot be sent at once.

        Whoever has an event loop waits with ``Exchange.advance``, then releases the exchange and hands it to ``post``.
        """
        if self.closed or len(request) > _AHEAD_BYTES_MAX or not self._places.acquire(blocking=False):
            return None
        connection = self._unused()
        if connection is None:
            self._places.release()
            return None
        try:
            exchange = self._begun(connection, deadline_s, cap, fresh=False)
        except ClosedError:
            return None
        return exchange if exchange.send_now(request) else None

    def post(
        self,
        request: bytes,
        deadline_s: float,
        cap: int,
        watch: Callable[[Exchange], object] = lambda _: None,
        ahead: Exchange | None = None,
    ) -> Exchange:
        """Send one request; returns when status and headers of the answer are there.

        A connection that the server had closed while it was unused is replaced by a fresh one, once, and only when
        no byte of an answer came on it.

        Args:
            request: request line, headers and body.
            deadline_s: on the monotonic clock; holds for the exchange to its end.
            cap: most bytes of the answer's body.
            watch: told of each exchange before anything is sent, so that another thread can abort it.
            ahead: the request was sent already, by ``ahead``; this is its exchange.

        Raises:
            PoolError: any of its kinds.
        """
        exchange = ahead or self._open(deadline_s, cap, fresh=False)
        try:
            watch(exchange)
            exchange.begin(request)
        except BrokenOffError:
            if exchange.fresh or exchange.any_byte:
                raise
            exchange = self._open(deadline_s, cap, fresh=True)
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
        return self._begun(connection, deadline_s, cap, fresh=made)

    def _begun(self, connection: socket.socket, deadline_s: float, cap: int, *, fresh: bool) -> Exchange:
        exchange = Exchange(self, connection, deadline_s, cap, fresh=fresh)
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
            raise ConnectError(told(error)) from error
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
