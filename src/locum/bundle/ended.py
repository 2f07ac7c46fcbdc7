"""Certificates that were ended for good by what was seen while serving, in a file beside the bundle.

Notable: a bundle never changes while it is served, so the record stands next to it: ``NAME.ended.json``, by the
certificate's hash. Where it cannot be written the end holds for the life of the process. Not here: what ends one
(``cascade.router``).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from locum.core.errors import LocumError
from locum.core.files import write_json

_BYTES_MAX = 1 << 20


def why_ended(bundle: Path, certificate: str) -> str | None:
    """Why a certificate was ended for good; None when it was not.

    Args:
        bundle: the folder.
        certificate: the hash that the manifest names.

    Returns:
        The reason. A record that cannot be read ends every certificate, since nobody knows what it said.
    """
    path = _record(bundle)
    try:
        found = _read(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return f"the record of ended certificates cannot be read: {path}"
    entry = found.get(certificate)
    if entry is None:
        return None
    return str(entry.get("reason")) if isinstance(entry, dict) else "it was ended"  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def record_end(bundle: Path, certificate: str, reason: str) -> bool:
    """Write down that a certificate was ended, and why; whether that could be written."""
    path = _record(bundle)
    try:
        found = _read(path)
    except (OSError, ValueError):
        found = {}
    found[certificate] = {"reason": reason, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        write_json(path, found)
    except (OSError, LocumError):
        return False
    return True


def _record(bundle: Path) -> Path:
    whole = bundle.resolve()
    return whole.with_name(f"{whole.name}.ended.json")


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _BYTES_MAX:
        raise ValueError("too large")
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise ValueError("not an object")  # noqa: TRY004 - what is not an object cannot be read
    return found  # pyright: ignore[reportUnknownVariableType]
