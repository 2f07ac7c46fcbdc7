"""The cache of downloads: where it is, what lies in it, and whether it may still be trusted.

Notable: content is checked by SHA-256 each time it is handed out, so a damaged or changed cache is found
before it is used. Where no hash is published, the first download's hash is recorded and every later
download must match it (trust on first use).

    files/KEY/NAME      one file;  files/KEY.json  its record
    folders/KEY/        a folder;  folders/KEY.json  its record

KEY is the published SHA-256 where there is one, else the hash of the address.
Not here: downloading.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.core.errors import DeviceError, SourceError
from locum.core.files import content_hash, disk_errors, hash_folder, sha256_file, write_json
from locum.core.progress import note

_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
_LFS_POINTER_BYTES = 1024
_SPARE_BYTES = 64 << 20


def cache_folder(cache: Path | None = None) -> Path:
    """Where downloads are kept: the argument, else ``LOCUM_CACHE``, else the user's cache folder."""
    if cache is not None:
        return cache
    chosen = os.environ.get("LOCUM_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("locum"))


def is_offline(offline: bool = False) -> bool:
    """Whether downloads are switched off, by the argument or by ``LOCUM_OFFLINE=1``."""
    return offline or os.environ.get("LOCUM_OFFLINE", "").lower() in ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Slot:
    """The place of one file or folder in the cache.

    Attributes:
        path: where the content stands when it is complete.
        record: the JSON that says what it must be.
        expected: SHA-256 by relative name, None where none is published; one entry with the file's own
            name for a file, and an empty mapping for a folder whose names are not known beforehand.
        is_folder: whether ``path`` is a folder.
    """

    path: Path
    record: Path
    expected: Mapping[str, str | None]
    is_folder: bool

    def recorded(self) -> dict[str, str]:
        """SHA-256 by name as it was on first use; empty when it was never here."""
        try:
            value: Any = json.loads(self.record.read_text())
            return {str(name): str(digest) for name, digest in value["sha256"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, AttributeError):
            note(f"the cache's record {self.record.name} is damaged and is ignored")
            return {}

    def hit(self) -> Path | None:
        """The content, when it is here and still is what it must be; else None."""
        if not self.path.exists():
            return None
        required = {**self.recorded(), **{name: digest for name, digest in self.expected.items() if digest}}
        found = hash_folder(self.path) if self.is_folder else {self.path.name: sha256_file(self.path)}
        if required and all(found.get(name) == digest for name, digest in required.items()):
            return self.path
        note(f"{self.path.name} in the cache is not what it was; it is fetched again")
        return None

    def verify(self, candidate: Path, address: str) -> dict[str, str]:
        """Check fetched content before it is admitted.

        Args:
            candidate: the file or folder.
            address: where it came from, for the message.

        Returns:
            SHA-256 by name.

        Raises:
            SourceError: a hash differs, a file is missing, or a Git LFS pointer stands in its place.
        """
        files = sorted(path for path in candidate.rglob("*") if path.is_file()) if self.is_folder else [candidate]
        found: dict[str, str] = {}
        for path in files:
            name = path.relative_to(candidate).as_posix() if self.is_folder else self.path.name
            refuse_lfs_pointer(path, f"{address}{name}" if self.is_folder else address)
            found[name] = sha256_file(path)
        missing = [name for name in self.expected if name not in found]
        if missing:
            cause = f"{address} lacks {', '.join(missing)}"
            raise SourceError("source-unavailable", cause, fix="check the address")
        require_hashes(address, found, self.expected)
        for name, digest in self.recorded().items():
            if found.get(name) != digest:
                cause = f"{name} of {address} has SHA-256 {found.get(name)}, and had {digest} on first use"
                fix = f"if the change is intended, remove {self.record} and fetch again"
                raise SourceError("source-checksum", cause, fix=fix)
        return found

    def admit(self, address: str, found: Mapping[str, str]) -> None:
        """Record what was verified, before it is put in place: a kill in between costs a download, no trust."""
        first_use = sorted(name for name in found if not self.expected.get(name))
        if first_use and not self.recorded():
            shown = ", ".join(f"{name} {found[name][:12]}…" for name in first_use[:3])
            note(f"{address}: no SHA-256 is published; recorded on first use: {shown}")
        write_json(self.record, {"address": address, "sha256": dict(found), "first_use": first_use})

    @contextmanager
    def locked(self) -> Generator[None, None, None]:
        """Hold the slot, so that two processes do not fetch the same thing into one place."""
        from filelock import FileLock

        with disk_errors(self.record):
            self.record.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.record.with_suffix(".lock")):
                yield


def file_slot(cache: Path, address: str, name: str, sha256: str | None) -> Slot:
    """The slot of one file."""
    key = sha256 or content_hash({"address": address})
    folder = cache / "files" / key[:40]
    return Slot(folder / name, folder.with_suffix(".json"), {name: sha256}, is_folder=False)


def folder_slot(cache: Path, address: str, files: Mapping[str, str | None]) -> Slot:
    """The slot of a folder with the named files (an empty mapping: whatever the source has)."""
    published = bool(files) and all(files.values())
    key = content_hash(dict(files) if published else {"address": address, "files": dict(files)})
    folder = cache / "folders" / key[:40]
    return Slot(folder, folder.with_suffix(".json"), dict(files), is_folder=True)


def refuse_lfs_pointer(path: Path, address: str) -> None:
    """Refuse a Git LFS pointer where content should be.

    Raises:
        SourceError: the file is a pointer.
    """
    if path.stat().st_size > _LFS_POINTER_BYTES:
        return
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise SourceError(
                "source-lfs-pointer",
                f"{address} is a Git LFS pointer, not the file itself",
                fix="run `git lfs pull` in the clone, or use the /resolve/ address instead of /raw/",
                where=str(path),
            )


def require_hashes(address: str, found: Mapping[str, str], expected: Mapping[str, str | None]) -> None:
    """Hold found hashes against published ones.

    Raises:
        SourceError: one differs.
    """
    for name, digest in expected.items():
        if digest is not None and found[name] != digest:
            raise SourceError(
                "source-checksum",
                f"{name} of {address} has SHA-256 {found[name]}, and must have {digest}",
                fix="do not use it; fetch it again, and tell its owner if it stays so",
            )


def require_free(folder: Path, size_bytes: int) -> None:
    """Refuse before a download that the disk cannot hold.

    Raises:
        DeviceError: fewer bytes are free than are needed (with 64 MiB to spare).
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size_bytes + _SPARE_BYTES:
        raise DeviceError(
            "core-disk-full",
            f"{size_bytes / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free",
            fix="free some space, or set LOCUM_CACHE to a folder on another disk",
            where=str(folder),
        )
