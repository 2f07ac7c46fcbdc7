"""Resident memory of this process or of a child, for reports and budgets.

Notable: psutil is not needed; Linux is read from ``/proc``, elsewhere ``resource`` knows this process's
peak. Units are MB of 10^6 bytes, as everywhere in Locum. Not here: estimates before loading (``fit``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def resident_mb(pid: int | None = None) -> float | None:
    """Resident memory of a process now.

    Args:
        pid: a process of this user; None for this process.

    Returns:
        MB (10^6 bytes). Where the system has no ``/proc``: the peak of this process, or None for another
        process or when nothing is known.
    """
    own = pid is None or pid == os.getpid()
    value = _proc_mb(os.getpid() if pid is None else pid, "VmRSS")
    if value is None and own:
        return peak_resident_mb()
    return value


def peak_resident_mb(pid: int | None = None) -> float | None:
    """The largest resident memory a process has had; None when it is not known."""
    own = pid is None or pid == os.getpid()
    value = _proc_mb(os.getpid() if pid is None else pid, "VmHWM")
    if value is not None or not own or sys.platform == "win32":
        return value
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else peak * 1024) / 1e6


def _proc_mb(pid: int, field: str) -> float | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:  # no /proc here, or the process is gone
        return None
    for line in status.splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6  # the kernel writes kB and means 1024 bytes
    return None
