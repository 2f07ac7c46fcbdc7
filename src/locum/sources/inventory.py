"""What of the catalogue is in the cache: listed without reading it, verified file by file, removed.

Notable: only places that the cache itself would use are ever looked at or removed; a base that the user keeps in a
folder of their own is not the cache's. When a base was last verified stands in its record. Not here: fetching
(``sources.bases``).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from locum.core.files import disk_errors, sha256_file, write_json
from locum.sources.address import PathAddress, file_name
from locum.sources.cache import Slot, cache_folder, file_slot, folder_slot
from locum.sources.catalogue import Artefact, Base, Format

_VERIFIED = "verified_at"


@dataclass(frozen=True)
class Kept:
    """One form of a base that stands in the cache.

    Attributes:
        size_mb: on disk, MB (10^6 bytes).
        verified_at: when its hashes were last found right (UTC, ISO 8601): by ``verify``, or when it was fetched.
    """

    base: str
    format: Format
    slot: Slot
    size_mb: float
    verified_at: str | None


@dataclass(frozen=True)
class FileCheck:
    """One file of a base against what it must be.

    Attributes:
        expected: SHA-256 that is published or was recorded on first use; None when none is known.
        found: None when the file is not there.
    """

    name: str
    expected: str | None
    found: str | None

    @property
    def right(self) -> bool:
        """Whether it is what it must be; a file that nothing vouches for is not."""
        return self.expected is not None and self.found == self.expected


def kept(base: Base, cache: Path | None = None) -> list[Kept]:
    """The forms of a base that are in the cache, complete; nothing is hashed."""
    found: list[Kept] = []
    for artefact in base.artefacts:
        slot = next((slot for slot in _slots(artefact, cache_folder(cache)) if slot.path.exists()), None)
        if slot is not None:
            size_mb = sum(path.stat().st_size for path in _files(slot)) / 1e6
            found.append(Kept(base.name, artefact.format, slot, size_mb, _verified_at(slot)))
    return found


def verify(one: Kept) -> list[FileCheck]:
    """Hash every file again; when all are right, the record says that they were, and when.

    Files that nothing names (whatever was put there by hand) are reported too, as not vouched for.
    """
    slot = one.slot
    required = {**slot.recorded(), **{name: digest for name, digest in slot.expected.items() if digest}}
    there = {path.relative_to(slot.path).as_posix() if slot.is_folder else path.name: path for path in _files(slot)}
    checks = [
        FileCheck(name, required.get(name), sha256_file(there[name]) if name in there else None)
        for name in sorted({*required, *there})
    ]
    if all(check.right for check in checks):
        write_json(slot.record, {**_record(slot), _VERIFIED: datetime.now(UTC).isoformat(timespec="seconds")})
    return checks


def remove(one: Kept) -> None:
    """Take a base out of the cache; what it must be stays recorded, so that it cannot come back as something else.

    Raises:
        DeviceError: the cache cannot be written.
    """
    with one.slot.locked(), disk_errors(one.slot.path):
        if one.slot.is_folder:
            shutil.rmtree(one.slot.path)
        else:
            one.slot.path.unlink()
            one.slot.path.parent.rmdir()


def _slots(artefact: Artefact, cache: Path) -> list[Slot]:
    """Where ``ensure_base`` keeps an artefact, by source."""
    slots: list[Slot] = []
    for place in artefact.places():
        if isinstance(place, PathAddress):
            continue  # the user's own
        if artefact.format == "gguf":
            ((_, digest),) = artefact.files.items()
            slots.append(file_slot(cache, place.text, file_name(place), digest))
        else:
            slots.append(folder_slot(cache, place.text, artefact.files))
    return slots


def _files(slot: Slot) -> list[Path]:
    return sorted(path for path in slot.path.rglob("*") if path.is_file()) if slot.is_folder else [slot.path]


def _record(slot: Slot) -> dict[str, Any]:
    try:
        found: Any = json.loads(slot.record.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent or damaged: it is written anew
        return {}
    return found if isinstance(found, dict) else {}


def _verified_at(slot: Slot) -> str | None:
    """From the record, or when the record was written: content is verified right before."""
    found = _record(slot).get(_VERIFIED)
    if isinstance(found, str):
        return found
    try:
        return datetime.fromtimestamp(slot.record.stat().st_mtime, UTC).isoformat(timespec="seconds")
    except OSError:  # no record: nobody vouches for it
        return None
