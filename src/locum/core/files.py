"""Files that are complete or absent: atomic writes, content hashes, and readable disk errors.

Notable: every write goes to a temporary neighbour, is flushed to disk and renamed, so a kill at any
moment leaves the old file or the new one. Hashes are SHA-256 in lower-case hex everywhere.
Not here: locks (``core.lock``), downloads (``sources``).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from locum.core.errors import DeviceError, LocumError

_CHUNK_BYTES = 1 << 22
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
    """Fill a temporary folder and rename it to ``folder`` on success: complete or absent.

    A folder that already stands there is replaced; the old one goes only once the new one is whole.

    Raises:
        DeviceError: the disk is full, read-only or forbidden.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    with disk_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if folder.exists():
                old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
                folder.rename(old)
                temporary.rename(folder)
                shutil.rmtree(old)
            else:
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


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
