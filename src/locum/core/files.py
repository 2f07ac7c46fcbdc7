"""Files that are complete or absent: atomic writes, content hashes, and readable disk errors.

Notable: every write goes to a temporary neighbour, is flushed to disk and renamed, so a kill at any
moment leaves the old file or the new one. Hashes are SHA-256 in lower-case hex everywhere.
Not here: locks (``core.lock``), downloads (``sources``).
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from locum.core.errors import DeviceError, LocumError

_CHUNK_BYTES = 1 << 22
_AT_CWD, _RENAME_EXCHANGE = -100, 2  # of linux/fcntl.h and linux/fs.h
_REPLACING_S = 2.0
"""For how long a running process may have a folder aside before it is taken as stuck."""
_NOT_WRITABLE = (
    *(errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),  # a file where a folder must be…
)


_RUST_SAYS = re.compile(r"\(os error (\d+)\)")


def sha256_bytes(content: bytes) -> str:
    """SHA-256 of bytes, hex."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hex; reads 4 MiB at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, NaN refused.

    Raises:
        ValueError: the value holds NaN or infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON-like value in canonical form: the name of a step's folder, the key of a cache."""
    return sha256_bytes(canonical_json(value).encode())


def hash_folder(folder: Path) -> dict[str, str]:
    """SHA-256 of every regular file below a folder, by POSIX path relative to it, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


@contextmanager
def disk_errors(path: Path) -> Generator[None, None, None]:
    """Turn the disk's refusals (full, read-only, forbidden) into a DeviceError that names the path.

    Libraries in Rust (safetensors, tokenizers) raise errors of their own, which tell the system's number in their text.
    """
    try:
        yield
    except OSError as error:
        raise _disk_error(error, path) from error
    except Exception as error:
        told = None if isinstance(error, LocumError) else _RUST_SAYS.search(str(error))
        if told is None:
            raise
        raise _disk_error(OSError(int(told[1]), os.strerror(int(told[1]))), path) from error


def _disk_error(error: OSError, path: Path) -> LocumError | OSError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DeviceError(
            "core-disk-full",
            f"no space left on the disk that holds {path}",
            fix="free some space and run the same command again; finished steps are kept",
        )
    if error.errno in _NOT_WRITABLE:
        return DeviceError(
            "core-not-writable",
            f"cannot write {path}: {error.strerror}",
            fix="choose a folder you may write, for example --out runs/NAME",
        )
    return error


@contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Generator[IO[Any], None, None]:
    """Open a temporary neighbour of ``path`` for writing; rename it into place on success.

    On any exception the temporary file is removed and what stood at ``path`` is untouched.

    Raises:
        DeviceError: the disk is full, read-only or forbidden.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically."""
    with atomic_file(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document atomically, indented for people, NaN refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def atomic_folder(folder: Path) -> Generator[Path, None, None]:
    """Fill a temporary folder and put it in the place of ``folder`` on success: complete or absent.

    A folder that already stands there is exchanged for the new one in one step, where the system can do that, so at any
    moment one of the two stands there. Elsewhere it takes two; ``recover_folder`` mends a kill between them.

    Raises:
        DeviceError: the disk is full, read-only or forbidden.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    with disk_errors(folder):
        _clear_away(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if not folder.exists():
                temporary.rename(folder)
            elif not (folder.is_dir() and _exchange(temporary, folder)):
                old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
                folder.rename(old)
                temporary.rename(folder)
                shutil.rmtree(old)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # after an exchange it holds what stood there before


def recover_folder(folder: Path) -> bool:
    """Put back a folder that a killed process had moved aside to replace it, when none stands in its place.

    Returns:
        Whether it was put back.
    """
    until_s = time.monotonic() + _REPLACING_S
    while not folder.exists():
        aside = _left_behind(folder, "old")
        if not aside:
            return False
        alive = [path for path, pid in aside if _is_running(pid)]
        if not alive or time.monotonic() > until_s:
            try:
                aside[0][0].rename(folder)
            except OSError:  # another process was faster, or may write here and this one may not
                return folder.exists()
            return True
        time.sleep(0.01)  # it is being replaced this very moment
    return False


def _clear_away(folder: Path) -> None:
    """Remove what killed processes left beside a folder that stands."""
    recover_folder(folder)
    for ending in ("partial", "old"):
        for path, pid in _left_behind(folder, ending):
            if not _is_running(pid):
                shutil.rmtree(path, ignore_errors=True)


def _left_behind(folder: Path, ending: str) -> list[tuple[Path, int]]:
    """Temporary neighbours of a folder, and the processes that made them; the latest first."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.(\d+)\.{ending}")
    try:
        near = [(path, match) for path in folder.parent.iterdir() if (match := pattern.fullmatch(path.name))]
        near.sort(key=lambda each: each[0].stat().st_mtime, reverse=True)
    except OSError:
        return []
    return [(path, int(match[1])) for path, match in near]


def _is_running(pid: int) -> bool:
    """Whether a process of this machine has the number; this one counts as gone, since it asks."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # it is another user's
    return True


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step (Linux: ``renameat2`` with RENAME_EXCHANGE); False where that cannot be.

    Source: https://man7.org/linux/man-pages/man2/rename.2.html
    """
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    rename.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if rename(_AT_CWD, os.fsencode(first), _AT_CWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    fault = ctypes.get_errno()
    if fault in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False  # the kernel or the file system does not know it
    raise OSError(fault, os.strerror(fault), str(second))


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``: a hard link, or a copy where the file system allows none.

    Raises:
        DeviceError: the disk is full, read-only or forbidden.
    """
    with disk_errors(target):
        try:
            target.hardlink_to(source.resolve())
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, target)
