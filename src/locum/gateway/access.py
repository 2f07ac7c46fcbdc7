"""Who may ask (key, host) and what is written down (one JSON line a request, never its text or key).

Notable: keys are compared in constant time, by their hashes, on raw bytes. Without a key, ``Host`` and ``Origin``
must name this machine: a web page open in a browser here could otherwise ask through a rebound name. A log that
cannot be written is counted and does not stop the service.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from locum.core.text import one_line
from locum.gateway.errors import ApiError

Headers = Iterable[tuple[bytes, bytes]]
_LINES_WAITING = 4096
_CLOSE_S = 2.0
_GATHER_S = 0.25
"""A line waits so long for others: a thread that wakes for each of them costs the answers more than it does itself."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Gatekeeper:
    """Checks the key, or where there is none the host.

    Args:
        api_key: the key that callers must send; None for none.
        hosts: names allowed beside loopback.
    """

    def __init__(self, api_key: str | None, hosts: Iterable[str]) -> None:
        self._digest = hashlib.sha256(api_key.encode()).digest() if api_key else None
        self._hosts = _LOOPBACK | {host.strip("[]").lower() for host in hosts}

    def check_key(self, headers: Headers) -> None:
        """Refuse a request without the right key.

        Raises:
            ApiError: 401 ``invalid_api_key``.
        """
        if self._digest is None:
            return
        given = [value for name, value in headers if name == b"authorization"]
        token = given[0][7:].strip() if len(given) == 1 and given[0][:7].lower() == b"bearer " else b""
        if not hmac.compare_digest(hashlib.sha256(token).digest(), self._digest):
            raise ApiError(401, "invalid_api_key", "the key is missing or wrong; send it as Authorization: Bearer KEY")

    @staticmethod
    def check_framing(headers: Headers) -> None:
        """Refuse a body whose length is told in two ways, as request smuggling does.

        Raises:
            ApiError: 400 ``ambiguous_length``.
        """
        told = [name for name, _ in headers if name in (b"content-length", b"transfer-encoding")]
        if len(told) > 1:
            raise ApiError(400, "ambiguous_length", "Content-Length and Transfer-Encoding must not both be sent")

    def check_host(self, headers: Headers) -> None:
        """Where no key is asked for, refuse requests that name another host.

        Raises:
            ApiError: 403 ``host_not_allowed``.
        """
        if self._digest is not None:
            return
        for name, value in headers:
            if name == b"host" and _host_name(value.decode("latin-1")) not in self._hosts:
                raise _not_allowed("Host", value)
            if name == b"origin" and _origin_name(value.decode("latin-1")) not in self._hosts:
                raise _not_allowed("Origin", value)


def _host_name(value: str) -> str:
    return _origin_name(f"//{value}")


@lru_cache(256)
def _origin_name(value: str) -> str:
    try:
        return (urlsplit(value).hostname or "").lower()
    except ValueError:
        return ""


def _not_allowed(header: str, value: bytes) -> ApiError:
    shown = one_line(value.decode("latin-1"), 80)
    return ApiError(
        403, "host_not_allowed", f"{header} {shown!r} is not this gateway; set LOCUM_API_KEY to allow others"
    )


class AccessLog:
    """Writes one JSON object a line, from a thread of its own: a disk or a terminal that hangs holds up no answer.

    Args:
        file: appended to, and created at once; None writes to standard error.
        on_failure: called when a line could not be written (a full disk), or had to be dropped.
    """

    def __init__(self, file: Path | None, on_failure: Callable[[], None]) -> None:
        self._file = file
        self._on_failure = on_failure
        self._stream: IO[str] | None = None
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(_LINES_WAITING)
        self._closed = False
        self._hurry = threading.Event()
        try:
            self._open()
        except OSError:
            on_failure()
        self._writer = threading.Thread(target=self._write_all, name="access-log", daemon=True)
        self._writer.start()

    def write(self, **facts: Any) -> None:
        """Write a line; control characters and non-ASCII are escaped by JSON. Does not block."""
        try:
            self._lines.put_nowait({"time": time.time(), **facts})
        except queue.Full:
            self._on_failure()

    def drain(self, wait_s: float) -> bool:
        """Wait until all lines so far are written; whether they are."""
        deadline_s = time.monotonic() + wait_s
        self._hurry.set()
        while self._lines.unfinished_tasks and time.monotonic() < deadline_s:
            time.sleep(0.001)
        self._hurry.clear()
        return not self._lines.unfinished_tasks

    def close(self) -> None:
        """Write what waits, for a moment at most, and close the file; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self.drain(_CLOSE_S)
            with contextlib.suppress(queue.Full):
                self._lines.put_nowait(None)
            self._writer.join(_CLOSE_S)

    def _write_all(self) -> None:
        while True:
            batch = [self._lines.get()]
            if batch[0] is not None:
                self._hurry.wait(_GATHER_S)
            with contextlib.suppress(queue.Empty):
                while len(batch) < _LINES_WAITING:
                    batch.append(self._lines.get_nowait())
            lines = [_line(facts) for facts in batch if facts is not None]
            if lines:
                self._write(lines)
            for _ in batch:
                self._lines.task_done()
            if None in batch:
                self._drop()
                return

    def _write(self, lines: list[str]) -> None:
        try:
            stream = self._open()
            stream.write("".join(lines))
            stream.flush()
        except (OSError, ValueError):
            self._drop()
            for _ in lines:
                self._on_failure()

    def _open(self) -> IO[str]:
        stream = self._stream
        if stream is None:
            stream = sys.stderr if self._file is None else self._file.open("a", encoding="utf-8")
            self._stream = stream
        return stream

    def _drop(self) -> None:
        """Let go of the stream; the next line opens it anew, when there may be space again."""
        stream, self._stream = self._stream, None
        if stream is not None and stream is not sys.stderr:
            with contextlib.suppress(OSError):  # what was buffered is lost, as the line before it
                stream.close()


def _line(facts: dict[str, Any]) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(facts["time"]))
    shown = {name: one_line(value, 120) if isinstance(value, str) else value for name, value in facts.items()}
    return json.dumps({**shown, "time": stamp}, ensure_ascii=True) + "\n"
