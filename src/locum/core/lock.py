"""One process at a time in an output folder.

Notable: the operating system holds the lock (``flock``, or ``msvcrt.locking`` on Windows), so it ends with
its process however that dies, and a stale file never blocks anyone. The file's content only serves the
message that says who holds it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from locum.core.errors import BusyError
from locum.core.files import disk_errors
from locum.core.progress import note

LOCK_NAME = ".locum.lock"


@contextmanager
def folder_lock(folder: Path) -> Generator[None, None, None]:
    """Hold ``folder`` for this process while the block runs.

    A lock file left by a process that died is taken over, and a note says so.

    Raises:
        BusyError: a living process holds it; the message has its pid, host and since when.
        DeviceError: the folder cannot be written.
    """
    path = folder / LOCK_NAME
    with disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        file.seek(0)
        holder = _parse(file.read())
        if not _try_lock(file):
            raise BusyError(
                "core-locked",
                f"{folder} is in use by process {holder.get('pid', '?')} on {holder.get('host', '?')}"
                f" since {holder.get('since', '?')}",
                fix="wait for it to end, or choose another --out",
            )
        if holder:
            note(f"took over {folder} from process {holder.get('pid')}, which ended without cleaning up")
        with disk_errors(path):
            _write_holder(file)
        try:
            yield
        finally:
            file.seek(0)
            file.truncate()
            file.flush()


def _parse(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {"pid": "?", "host": "?"}  # a torn write by a process that died
    return value if isinstance(value, dict) else {}


def _write_holder(file: IO[str]) -> None:
    file.seek(0)
    file.truncate()
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    record = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    os.write(file.fileno(), record.encode())  # past the buffer, which a full disk would keep for the file's closing


if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def _try_lock(file: IO[str]) -> bool:
        try:
            file.seek(1 << 20)  # beyond the content, so that others can still read who holds it
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
