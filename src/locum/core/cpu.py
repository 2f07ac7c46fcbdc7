"""How many processor cores this process may really use: scheduler affinity and the container's quota.

Notable: ``os.cpu_count`` answers for the machine. In a container with a quota of two cores on a machine
of 64, an engine with 64 threads is throttled to a crawl, so every engine of Locum asks here instead.
Not here: what the processor is or can do (``fit``).
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_PROC_CGROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Cores this process may use: the smallest of machine, affinity and cgroup quota, at least 1.

    A fractional quota is rounded down (2.5 cores run two threads without being throttled).
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    quota = cgroup_quota()
    if quota is not None:
        cores = min(cores, math.floor(quota))
    return max(1, cores)


def cgroup_quota(root: Path = _CGROUP_ROOT, proc: Path = _PROC_CGROUP) -> float | None:
    """The tightest CPU quota, in cores, of this process's control group and its ancestors.

    Args:
        root: where the cgroup file systems are mounted.
        proc: the file that lists this process's groups (``/proc/self/cgroup``).

    Returns:
        The quota in cores, or None when there is none, or this system has no control groups. Version 2
        reads ``cpu.max``, version 1 ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``
        (Linux kernel documentation, admin-guide/cgroup-v1 and cgroup-v2).
    """
    quotas: list[float] = []
    for version, mount, group in _groups(root, proc):
        folder = mount / group.lstrip("/")
        while True:
            quota = _quota_v2(folder) if version == 2 else _quota_v1(folder)
            if quota is not None:
                quotas.append(quota)
            if folder == mount or mount not in folder.parents:
                break
            folder = folder.parent
    return min(quotas, default=None)


def _groups(root: Path, proc: Path) -> list[tuple[int, Path, str]]:
    """(version, mount, group) of every hierarchy that can limit the processor; lines are ``id:controllers:path``."""
    found: list[tuple[int, Path, str]] = []
    for line in _read(proc).splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        controllers = parts[1].split(",") if parts[1] else []
        if not controllers:
            found.append((2, root, parts[2]))
        elif "cpu" in controllers:
            mounts = [root / parts[1], root / "cpu,cpuacct", root / "cpu"]
            found.extend((1, mount, parts[2]) for mount in mounts if mount.is_dir())
    return found


def _quota_v2(folder: Path) -> float | None:
    fields = _read(folder / "cpu.max").split()
    if len(fields) != 2 or not (fields[0].isdigit() and fields[1].isdigit()):
        return None
    return _share(int(fields[0]), int(fields[1]))


def _quota_v1(folder: Path) -> float | None:
    quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    if not (quota.isdigit() and period.isdigit()):  # -1 means no quota
        return None
    return _share(int(quota), int(period))


def _share(quota_us: int, period_us: int) -> float | None:
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # absent on this system, or not readable: then it tells us nothing
        return ""
