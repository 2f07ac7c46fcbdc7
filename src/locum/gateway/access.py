"""Who may ask (key, host) and what is written down (one JSON object a line, never a request's text or key).

Notable: keys are compared in constant time, by their hashes, on raw bytes. Without a key, ``Host`` and ``Origin``
must name this machine: a web page open in a browser here could otherwise ask through a rebound name. A log that
cannot be written is counted and does not stop the service; what was half written is taken back. What the server and
its libraries have to say is a line of the same log, and of an exception only its type and where it came from.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import io
import ipaddress
import json
import logging
import os
import queue
import re
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from locum.core.text import one_line
from locum.gateway.errors import ApiError

Headers = Iterable[tuple[bytes, bytes]]
_LINES_WAITING = 4096
_CLOSE_S = 2.0
_GATHER_S = 0.25
"""A line waits so long for others: a thread that wakes for each of them costs the answers more than it does itself."""
_SHOWN = 400
"""Most characters of one value in a line."""
_FRAMES = 5
_AUTHORITY = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{0,5})?", re.IGNORECASE)
_ORIGIN = re.compile(rb"[a-z][a-z0-9+.-]*://(.*)", re.IGNORECASE)
_LOGGERS = ("uvicorn", "asyncio", "py.warnings", "locum")


class Gatekeeper:
    """Checks the key, or where there is none the host.

    Args:
        api_key: the key that callers must send; None for none.
        hosts: names allowed beside loopback.
        origins: of web pages that may ask beside those of allowed hosts, as browsers send them.
    """

    def __init__(self, api_key: str | None, hosts: Iterable[str], origins: Iterable[str] = ()) -> None:
        self._digest = hashlib.sha256(os.fsencode(api_key)).digest() if api_key else None
        self._hosts = frozenset(host.strip("[]").lower() for host in hosts)
        self._origins = frozenset(origin.encode("latin-1", "replace") for origin in origins)

    def check_key(self, headers: Headers) -> None:
        """Refuse a request without the right key.

        Raises:
            ApiError: 401 ``invalid_api_key``.
        """
        if not self.knows(headers):
            raise ApiError(401, "invalid_api_key", "the key is missing or wrong; send it as Authorization: Bearer KEY")

    def knows(self, headers: Headers) -> bool:
        """Whether a request has the right key, or none is asked for."""
        if self._digest is None:
            return True
        given = [value for name, value in headers if name == b"authorization"]
        token = given[0][7:].strip() if len(given) == 1 and given[0][:7].lower() == b"bearer " else b""
        return hmac.compare_digest(hashlib.sha256(token).digest(), self._digest)

    @staticmethod
    def check_framing(headers: Headers) -> None:
        """Refuse a body whose length is told in two ways, as request smuggling does.

        Raises:
            ApiError: 400 ``ambiguous_length``.
        """
        told = [name for name, _ in headers if name in (b"content-length", b"transfer-encoding")]
        if len(told) > 1:
            raise ApiError(400, "ambiguous_length", "Content-Length and Transfer-Encoding must not both be sent")

    def check_host(self, headers: Headers, http_version: str = "1.1") -> None:
        """Refuse requests that name no host, and, where no key is asked for, those that name another one.

        Raises:
            ApiError: 400 ``host_missing``, 403 ``host_not_allowed``.
        """
        hosts = 0
        for name, value in headers:
            if name == b"host":
                hosts += 1
                if self._digest is None and not self._is_here(value):
                    raise _not_allowed("Host", value, "set LOCUM_API_KEY to allow others")
            elif name == b"origin" and self._digest is None:
                self.check_origin(value)
        if hosts != 1 and (hosts or http_version != "1.0"):
            said = f"a request has one Host header (RFC 9112, 3.2), and this one has {hosts or 'none'}"
            raise ApiError(400, "host_missing", said)

    def check_origin(self, origin: bytes) -> None:
        """Refuse a web page that is neither of an allowed host nor named.

        Raises:
            ApiError: 403 ``host_not_allowed``.
        """
        if not self.allows_origin(origin):
            raise _not_allowed("Origin", origin, "name the origin of a page with --origin to let it ask")

    def allows_origin(self, origin: bytes) -> bool:
        """Whether a page may ask and read the answer."""
        return origin.lower() in self._origins or self._is_here(_without_scheme(origin))

    def _is_here(self, authority: bytes) -> bool:
        name = _host_name(authority)
        return name is not None and (name in self._hosts or _is_loopback(name))


@lru_cache(256)
def _host_name(authority: bytes) -> str | None:
    """The host of ``host:port``, in small letters and without brackets; None when it is written in any other way."""
    found = _AUTHORITY.fullmatch(authority)
    return None if found is None else found.group(1).decode("ascii").strip("[]").lower()


@lru_cache(256)
def _without_scheme(origin: bytes) -> bytes:
    found = _ORIGIN.fullmatch(origin)
    return b"" if found is None else found.group(1)


@lru_cache(256)
def _is_loopback(name: str) -> bool:
    """Whether it is the name of this machine itself, and not only begins like it (``127.0.0.1.example.org``)."""
    if name == "localhost":
        return True
    try:
        found = ipaddress.ip_address(name)
    except ValueError:
        return False
    return found == ipaddress.IPv6Address("::1") or (found.version == 4 and found.is_loopback)


def _not_allowed(header: str, value: bytes, fix: str) -> ApiError:
    shown = one_line(value.decode("latin-1"), 80)
    return ApiError(403, "host_not_allowed", f"{header} {shown!r} is not this gateway; {fix}")


class AccessLog:
    """Writes one JSON object a line, from a thread of its own: a disk or a terminal that hangs holds up no answer.

    Args:
        file: appended to, and created at once; None writes to standard error.
        on_failure: called when a line could not be written (a full disk), or had to be dropped.
    """

    def __init__(self, file: Path | None, on_failure: Callable[[], None]) -> None:
        self._on_failure = on_failure
        self._sink = LineSink(file)
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(_LINES_WAITING)
        self._closed = False
        self._hurry = threading.Event()
        try:
            self._sink.open()
        except OSError:
            on_failure()
        self._writer = threading.Thread(target=self._write_all, name="access-log", daemon=True)
        self._writer.start()

    def adopt(self) -> None:
        """Take what the server and its libraries report from now on, in place of another gateway's log."""
        handler = _Reports(self)
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            for other in [each for each in logger.handlers if isinstance(each, _Reports)]:
                logger.removeHandler(other)
            logger.addHandler(handler)

    def write(self, **facts: Any) -> None:
        """Write a line; control characters and non-ASCII are escaped by JSON. Does not block before ``close``."""
        timed = {"time": time.time(), **facts}
        if self._closed:
            self._write([timed])
            return
        try:
            self._lines.put_nowait(timed)
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
            lines = [facts for facts in batch if facts is not None]
            if lines:
                self._write(lines)
            for _ in batch:
                self._lines.task_done()
            if None in batch:
                self._sink.close()
                return

    def _write(self, lines: list[dict[str, Any]]) -> None:
        for _ in range(self._sink.write([_line(facts) for facts in lines])):
            self._on_failure()


class LineSink:
    """Where lines go: a file, or standard error; whole lines, whatever becomes of them.

    Args:
        file: appended to; None for standard error.
        mode: permissions of a file that is made, before the process's own mask.
    """

    def __init__(self, file: Path | None, mode: int = 0o666) -> None:
        self._file = file
        self._mode = mode
        self._number: int | None = None
        self._torn = False

    def open(self) -> int:
        """The file's number; it is opened when it is not.

        Raises:
            OSError: it cannot be opened, or standard error was closed.
        """
        if self._number is None:
            if self._file is None:
                return _standard_error()
            self._torn = self._torn or _ends_torn(self._file)
            self._number = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, self._mode)
        return self._number

    def write(self, lines: list[bytes]) -> int:
        """Write lines; how many of them are lost."""
        left = b"".join(lines)
        done = 0
        try:
            number = self.open()
            if self._torn:
                os.write(number, b"\n")
                self._torn = False
            while done < len(left):
                done += os.write(number, left[done:])
        except io.UnsupportedOperation:  # standard error is no file, but something that a program put there
            sys.stderr.write(left.decode("ascii"))
            sys.stderr.flush()
        except (OSError, ValueError):  # ValueError: standard error was closed meanwhile
            whole = left.rfind(b"\n", 0, done) + 1
            if done > whole:
                self._take_back(done - whole)
            self.close()
            return len(lines) - left.count(b"\n", 0, whole)
        return 0

    def _take_back(self, size: int) -> None:
        """Cut the half of a line off a file's end; where that cannot be, the next line begins a new one."""
        self._torn = True
        with contextlib.suppress(OSError, ValueError):
            number = self.open()
            end = os.lseek(number, 0, os.SEEK_CUR)
            if os.fstat(number).st_size == end:  # nobody else has written since
                os.ftruncate(number, end - size)
                os.lseek(number, end - size, os.SEEK_SET)
                self._torn = False

    def close(self) -> None:
        """Let go of the file; the next line opens it anew, when there may be space again."""
        number, self._number = self._number, None
        if number is not None:
            with contextlib.suppress(OSError):
                os.close(number)


def _ends_torn(file: Path) -> bool:
    """Whether a file ends within a line, as it does when whoever wrote it was killed."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return False
        with file.open("rb") as stream:
            return stream.seek(0, os.SEEK_END) > 0 and stream.seek(-1, os.SEEK_END) >= 0 and stream.read(1) != b"\n"
    except OSError:
        return False


class _Reports(logging.Handler):
    """Turns a record of Python's ``logging`` into a line of the log.

    The first line of its message is kept. An exception's words are not, because they may repeat a request.
    """

    def __init__(self, log: AccessLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write it."""
        try:
            said = record.getMessage().strip().partition("\n")[0]
        except Exception:  # noqa: BLE001 - a library's message that does not fit its arguments
            said = str(record.msg).partition("\n")[0]
        facts: dict[str, Any] = {"level": record.levelname.lower(), "logger": record.name, "message": said}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            facts |= {"error": type(error).__name__, "at": whereabouts(error)}
        self._log.write(**facts)


def whereabouts(error: BaseException) -> list[str]:
    """The last few places that an exception passed, the deepest last: ``app.py:120 _request``."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]


def say(level: str, message: str) -> None:
    """One line of JSON on standard error for whoever runs the service; nothing, where that cannot be written."""
    LineSink(None).write([_line({"time": time.time(), "level": level, "message": message})])


def _standard_error() -> int:
    if sys.stderr is None:  # it was closed when this process began
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    sys.stderr.flush()
    return sys.stderr.fileno()


def _line(facts: dict[str, Any]) -> bytes:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(facts["time"]))
    shown = {name: one_line(value, _SHOWN) if isinstance(value, str) else value for name, value in facts.items()}
    return json.dumps({**shown, "time": stamp}, ensure_ascii=True).encode("ascii") + b"\n"
