"""``serve``: the gateway on a socket, until SIGTERM or Ctrl-C; then it drains and returns.

Notable: without a key it listens on this machine only. SIGTERM stops accepting, lets answers under way finish
within a deadline, closes the target and returns normally, so the process exits with 0. Connections are capped
below the limit of open files, so that a flood is shed here and not by a failing ``accept``. The first line on standard
error says where it serves, and every further one is a JSON object of the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import Any, cast

import uvicorn

from locum.core.errors import UserError
from locum.core.progress import note
from locum.core.text import one_line
from locum.gateway.app import create_app
from locum.gateway.asgi import AsgiApp
from locum.gateway.cors import parse_origins
from locum.gateway.crowd import Crowd
from locum.gateway.settings import KEY_CHARS_MIN, KEY_DISTINCT_MIN, KEY_VARIABLE, Settings
from locum.gateway.targets import Target
from locum.gateway.wire import GuardedHttp

_KEEP_ALIVE_S = 10
_SPARE_FILES = 64
_MAX_CONNECTIONS = 4096
_MAKE_KEY = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'


def serve(
    target: Target,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    settings: Settings | None = None,
    origins: Sequence[str] = (),
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until told to stop.

    Args:
        target: what is served; it is closed at the end.
        host: address to listen on; beyond loopback the environment variable ``LOCUM_API_KEY`` must hold a key.
        port: 0 takes a free one.
        settings: further limits; their host, port and key are replaced by the above.
        origins: of web pages that may ask beside those of this machine, such as ``https://app.example.org``.
        on_ready: called with the base URL once connections are accepted; by default it is printed to stderr.

    Raises:
        UserError: the host needs a key, or a better one, an origin is none, or the port cannot be listened on.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip() or None  # as callers' keys are; a file's line end is no part of it
    chosen = replace(settings or Settings(), host=host, port=port, api_key=key)
    try:
        chosen = replace(chosen, origins=(*chosen.origins, *parse_origins(origins)))
        check_exposure(chosen)
        listener = _listen(chosen)
    except UserError:
        target.close()
        raise
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listener.getsockname()[1]}/v1"
    config = server_config(create_app(target, settings=chosen), chosen)
    server = _Server(config, lambda: (on_ready or _announce(target, page=chosen.page))(url))
    note(f"serving {one_line(target.name)} at {url}")
    try:
        with _reported(), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve(sockets=[listener]))
    finally:
        listener.close()


def server_config(app: AsgiApp, settings: Settings) -> uvicorn.Config:
    """How uvicorn runs the application: the guarded protocol, no log of its own, a capped number of connections.

    Args:
        app: of ``create_app``.
        settings: deadlines, and how many connections a client may have.
    """
    most = _max_connections()
    spare = max(2, min(32, most // 8))  # for whoever asks how the process is while all others are taken
    crowd = Crowd(most - spare, max(4, min(settings.client_connections, 3 * most // 4)), spare)
    limits = {"header_s": settings.header_s, "receive_s": settings.receive_s, "write_s": settings.write_s}
    protocol = type("Http", (GuardedHttp,), {**limits, "crowd": crowd})
    return uvicorn.Config(
        cast("Any", app),
        http=protocol,
        loop="auto",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=settings.drain_s,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )


def check_exposure(settings: Settings) -> None:
    """Refuse to listen beyond this machine without a key that is hard to guess.

    Raises:
        UserError: ``gateway-host``, ``gateway-key``.
    """
    if settings.is_loopback:
        return
    key, where = settings.api_key, f"listening on {settings.host} lets other machines ask"
    if key is None:
        raise UserError(
            "gateway-host",
            f"{where}, and {KEY_VARIABLE} is not set",
            fix=f"export {KEY_VARIABLE}=$({_MAKE_KEY}) and let callers send it as a bearer token, "
            "or serve on 127.0.0.1",
        )
    if len(key) < KEY_CHARS_MIN or len(set(key)) < KEY_DISTINCT_MIN:
        raise UserError(
            "gateway-key",
            f"{where}, and the key in {KEY_VARIABLE} can be guessed: it has {len(key)} characters, {len(set(key))} "
            f"different ones; at least {KEY_CHARS_MIN} and {KEY_DISTINCT_MIN} are needed",
            fix=f"make one by chance: export {KEY_VARIABLE}=$({_MAKE_KEY})",
        )


@contextmanager
def _reported() -> Generator[None, None, None]:
    """What a thread or a destructor dies of becomes a line of the log, too, instead of a traceback."""
    before = threading.excepthook, sys.unraisablehook
    logger = logging.getLogger("locum.gateway")

    def of_thread(told: threading.ExceptHookArgs) -> None:
        if told.exc_value is not None and not isinstance(told.exc_value, SystemExit):
            logger.error("a thread ended in an error", exc_info=told.exc_value)

    def of_destructor(told: Any) -> None:
        logger.error("an error that nobody could take", exc_info=told.exc_value)

    threading.excepthook, sys.unraisablehook = of_thread, of_destructor
    logging.captureWarnings(True)
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = before
        logging.captureWarnings(False)


def _announce(target: Target, *, page: bool = False) -> Callable[[str], None]:
    def say(url: str) -> None:
        name = one_line(target.name)
        tried = f"; try it in a browser at {url.removesuffix('v1')}" if page else ""
        if target.certificate is None:
            state = "a plain model, nothing is certified"
        else:
            void = target.void
            state = f"nothing is answered locally: {one_line(void)}" if void else "its certificate is in force"
        with suppress(OSError, ValueError):  # nobody reads it, or its disk is full: no reason not to serve
            if sys.stderr is not None:  # None: it was closed when this process began
                sys.stderr.write(f"serving {name} at {url} ({state}){tried}; Ctrl-C stops\n")
                sys.stderr.flush()

    return say


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host.strip("[]"), settings.port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise UserError(
            "gateway-port",
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
            fix="choose another with --port, or 0 for a free one",
        ) from error
    return listener


def _max_connections() -> int:
    """Below the limit of open files, which sockets and model files share."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return _MAX_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(8, min(_MAX_CONNECTIONS, soft - _SPARE_FILES))


class _Server(uvicorn.Server):
    """A server that says when it is ready, and takes SIGTERM as a wish to stop, not as a death to repeat."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's, without raising the signal again at the end: a drained stop exits with 0."""
        try:
            before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not in the main thread: whoever runs the server there sets ``should_exit``
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.handle_exit(number, frame)
