"""The profile of this machine: cores, memory and instruction sets that may really be used.

Notable: a container's limits count, not the host's size: cgroup v1 and v2 quotas and limits are read at
every level up to the root, and the CPU affinity mask is honoured. Speeds are measured in under a second,
and only when asked.
Not here: other machines (``fit.devices``); what fits (``fit.memory``, ``fit.time``).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from locum.core.cpu import cgroup_quota
from locum.core.errors import DeviceError
from locum.schema.device import DeviceProfile

ROOT = Path("/")
_MEASURE_S = 0.2
_UNLIMITED_BYTES = 1 << 60

# our name of an instruction set → what Linux calls it in /proc/cpuinfo (x86 "flags", ARM "Features")
INSTRUCTIONS = {
    "sse4_2": "sse4_2",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "bmi2": "bmi2",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "neon": "asimd",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "sve": "sve",
}
# what each engine's wheels are compiled for: NumPy's x86-64-v2 baseline; ggml's default build options
_ENGINE_NEEDS = {
    "linear": {"x86_64": ("sse4_2",), "aarch64": ()},
    "onnx": {"x86_64": ("sse4_2",), "aarch64": ()},
    "llamacpp": {"x86_64": ("avx", "avx2", "fma", "f16c", "bmi2"), "aarch64": ("neon",)},
}
_ARCHITECTURES = {"amd64": "x86_64", "x86-64": "x86_64", "arm64": "aarch64"}


def profile_device(folder: Path | None = None, *, measure: bool = False, root: Path = ROOT) -> DeviceProfile:
    """Profile this machine.

    Args:
        folder: where builds are written, for the free disk; the working folder when None.
        measure: also measure matrix product and memory copy (under a second, all usable cores).
        root: where /proc and /sys are, for tests.

    Returns:
        The profile; what cannot be found out is None.
    """
    memory, available = memory_bytes(root)
    where = _existing(folder or Path.cwd())
    cores = core_share(root)
    return DeviceProfile(
        name="this",
        source="measured",
        system=f"{platform.system()} {platform.release()}",
        cpu=_cpu_name(root),
        architecture=architecture(),
        cores=cores,
        memory_mb=_megabytes(memory),
        available_mb=_megabytes(available),
        instructions=instruction_sets(root),
        disk_free_mb=shutil.disk_usage(where).free / 1e6,
        matmul_gflops=measure_gflops(cores) if measure else None,
        memory_gb_s=measure_memory_gb_s() if measure else None,
    )


def architecture() -> str:
    """The machine's architecture under one name on every system."""
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)


def core_share(root: Path = ROOT) -> float:
    """Cores that may be used at once: the least of affinity mask, cgroup quota and what is there.

    Returns:
        At least 0.01; a fraction when a quota gives less than whole cores.
    """
    there = float(os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        there = min(there, float(len(os.sched_getaffinity(0))))
    quota = cgroup_quota(root / "sys" / "fs" / "cgroup", root / "proc" / "self" / "cgroup")
    return max(0.01, there if quota is None else min(there, quota))


def memory_bytes(root: Path = ROOT) -> tuple[int | None, int | None]:
    """The most memory that may be used, and what of it is free now.

    Returns:
        (limit, available) in bytes: RAM and MemAvailable, or the tightest cgroup limit and what it leaves.
    """
    total, available = _meminfo(root)
    pairs = [_memory_v2(folder) for folder in _cgroup_folders(root, "")]
    pairs += [_memory_v1(folder) for folder in _cgroup_folders(root, "memory")]
    for limit, used in pairs:
        if limit is not None and limit < _UNLIMITED_BYTES:
            total = limit if total is None else min(total, limit)
            left = max(0, limit - (used or 0))
            available = left if available is None else min(available, left)
    return total, available


def instruction_sets(root: Path = ROOT) -> tuple[str, ...] | None:
    """Instruction sets of ``INSTRUCTIONS`` that the processor has; None where the system does not say."""
    words: set[str] = set()
    cpuinfo = _read(root / "proc" / "cpuinfo")
    if cpuinfo is not None:
        for line in cpuinfo.splitlines():
            label, _, value = line.partition(":")
            if label.strip() in ("flags", "Features"):
                words.update(value.split())
    elif platform.system() == "Darwin":
        words = _darwin_words()
    if not words:
        return None
    return tuple(name for name, word in INSTRUCTIONS.items() if word in words)


def require_engine(profile: DeviceProfile, engine: str) -> None:
    """Refuse an engine that the processor cannot run, before it dies of an illegal instruction.

    Args:
        profile: the device.
        engine: ``linear``, ``onnx`` or ``llamacpp``.

    Raises:
        DeviceError: the architecture is not supported, or instruction sets are missing; all are named.
        KeyError: no such engine (a mistake in Locum itself).
    """
    needs = _ENGINE_NEEDS[engine]
    if profile.architecture not in needs:
        raise DeviceError(
            "fit-instructions",
            f"there is no {engine} engine for {profile.architecture}",
            fix=f"use a machine with {' or '.join(needs)}",
        )
    if profile.instructions is None:
        return  # the system does not say; the engine itself will
    missing = [name for name in needs[profile.architecture] if name not in profile.instructions]
    if missing:
        other = " or choose an encoder student, which the onnx engine runs" if engine == "llamacpp" else ""
        raise DeviceError(
            "fit-instructions",
            f"{profile.cpu} lacks {', '.join(missing)}, which the {engine} engine needs",
            fix=f"use a newer processor (in a virtual machine, pass the host's CPU through){other}",
        )


def measure_gflops(cores: float, size: int = 768) -> float:
    """fp32 matrix product with NumPy's BLAS: 2·size³ operations by the processor time of one thread, times cores.

    Processor time does not see what else the machine is doing, so a busy moment does not make it look slow.

    Args:
        cores: that may be used at once.
        size: rows and columns of the matrices.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    left = np.full((size, size), 0.5, dtype=np.float32)
    out = np.empty_like(left)
    with threadpool_limits(limits=1):
        return cores * 2 * size**3 / _best_time_s(lambda: np.matmul(left, left, out=out)) / 1e9


def measure_memory_gb_s(megabytes: int = 64) -> float:
    """Memory copy on one thread: bytes read plus bytes written over the best time seen in 0.2 s."""
    import numpy as np

    source = np.ones(megabytes << 17, dtype=np.float64)
    target = np.empty_like(source)
    return 2 * source.nbytes / _best_time_s(lambda: np.copyto(target, source)) / 1e9


def _best_time_s(work: Callable[[], object]) -> float:
    """The least processor time of this thread that the work took, over 0.2 s of tries."""
    work()
    best, start = float("inf"), time.perf_counter()
    while True:
        before = time.thread_time()
        work()
        best = min(best, time.thread_time() - before)
        if time.perf_counter() - start > _MEASURE_S:
            return max(best, 1e-9)


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """The process's cgroup and its ancestors; ``controller`` is empty for version 2.

    Inside a container the path in /proc may be the host's while the mount shows the container as the
    root; levels that do not exist are left out, so both cases end at the right files.
    """
    mounted = root / "sys" / "fs" / "cgroup"
    for line in (_read(root / "proc" / "self" / "cgroup") or "").splitlines():
        _number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            bases = [mounted] if not controller else [mounted / controllers, mounted / controller]
            base = next((folder for folder in bases if folder.is_dir()), None)
            if base is None:
                return []
            here = base / path.strip("/")
            levels = [here, *here.parents]
            return [level for level in levels if level.is_relative_to(base) and level.is_dir()]
    return []


def _memory_v2(folder: Path) -> tuple[int | None, int | None]:
    return _number(folder / "memory.max"), _number(folder / "memory.current")


def _memory_v1(folder: Path) -> tuple[int | None, int | None]:
    return _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")


def _meminfo(root: Path) -> tuple[int | None, int | None]:
    found: dict[str, int] = {}
    for line in (_read(root / "proc" / "meminfo") or "").splitlines():
        label, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdecimal():
            found[label] = int(words[0]) * 1024
    if "MemTotal" not in found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["MemTotal"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return found.get("MemTotal"), found.get("MemAvailable")


def _cpu_name(root: Path) -> str:
    for line in (_read(root / "proc" / "cpuinfo") or "").splitlines():
        label, _, value = line.partition(":")
        if label.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def _darwin_words() -> set[str]:
    """Feature names of a Mac under the names that Linux uses; every Apple processor has NEON and dot products."""
    if architecture() == "aarch64":
        return {"asimd", "asimddp"}
    command = ["sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    return set(done.stdout.lower().replace("sse4.2", "sse4_2").replace("avx1.0", "avx").split())


def _existing(folder: Path) -> Path:
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def _megabytes(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def _number(path: Path) -> int | None:
    text = (_read(path) or "").strip()
    return int(text) if text.lstrip("-").isdecimal() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None  # not on this system, or not ours to read: unknown
