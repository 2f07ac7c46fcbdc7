"""Named devices: profiles from data sheets, for students that will run elsewhere.

Notable: figures are nominal. ``matmul_gflops`` is half the theoretical fp32 peak (cores × clock × operations a
cycle), ``memory_gb_s`` 60 % of the memory bus, what well-tuned code usually gets. Measure on the device
itself before promising anything.
Not here: this machine (``fit.device``).
"""

from __future__ import annotations

from pathlib import Path

from locum.core.errors import DeviceError
from locum.core.registry import nearest
from locum.fit.device import profile_device
from locum.schema.device import DeviceProfile

_AVX2 = ("sse4_2", "avx", "avx2", "fma", "f16c", "bmi2")
_AVX512 = (*_AVX2, "avx512f", "avx512_vnni")
_PEAK_SHARE = 0.5
_BUS_SHARE = 0.6


def _nominal(
    name: str,
    cpu: str,
    architecture: str,
    *,
    cores: int,
    ghz: float,
    per_cycle: int,
    bus_gb_s: float,
    memory_mb: float,
    available_mb: float,
    instructions: tuple[str, ...],
) -> DeviceProfile:
    """A profile from a data sheet; ``per_cycle`` counts fp32 operations of one core (FMA is two)."""
    return DeviceProfile(
        name=name,
        source="nominal",
        system="Linux" if name != "phone-6gb" else "Android",
        cpu=cpu,
        architecture=architecture,
        cores=cores,
        memory_mb=memory_mb,
        available_mb=available_mb,
        instructions=instructions,
        matmul_gflops=_PEAK_SHARE * cores * ghz * per_cycle,
        memory_gb_s=_BUS_SHARE * bus_gb_s,
        assumptions=(
            f"{cores} cores at {ghz} GHz, {per_cycle} fp32 operations a cycle, {_PEAK_SHARE:.0%} of that reached",
            f"memory bus of {bus_gb_s} GB/s, {_BUS_SHARE:.0%} of that reached",
            f"{available_mb:,.0f} of {memory_mb:,.0f} MB free for the student",
        ),
    )


_NAMED = {
    profile.name: profile
    for profile in (
        _nominal(
            "raspberry-pi-5", "Broadcom BCM2712 (4 × Cortex-A76)", "aarch64",
            cores=4, ghz=2.4, per_cycle=16, bus_gb_s=17.1, memory_mb=8000, available_mb=6000,
            instructions=("neon", "dotprod"),
        ),
        _nominal(
            "phone-6gb", "mid-range phone (4 large cores used)", "aarch64",
            cores=4, ghz=2.4, per_cycle=16, bus_gb_s=34.1, memory_mb=6000, available_mb=2000,
            instructions=("neon", "dotprod"),
        ),
        _nominal(
            "laptop", "laptop with 8 cores and AVX2", "x86_64",
            cores=8, ghz=3.0, per_cycle=32, bus_gb_s=76.8, memory_mb=16000, available_mb=8000,
            instructions=_AVX2,
        ),
        _nominal(
            "server-cpu-2", "two cores of a server with AVX-512 VNNI", "x86_64",
            cores=2, ghz=2.6, per_cycle=64, bus_gb_s=40.0, memory_mb=8000, available_mb=7000,
            instructions=_AVX512,
        ),
    )
}  # fmt: skip


def device_names() -> tuple[str, ...]:
    """All names that ``find_device`` knows."""
    return ("this", *_NAMED)


def find_device(name: str, folder: Path | None = None, *, measure: bool = False) -> DeviceProfile:
    """The profile of a device by name; ``this`` is profiled now.

    Args:
        name: one of ``device_names()``.
        folder: for ``this``: where builds are written.
        measure: for ``this``: also measure speeds.

    Raises:
        DeviceError: no such device; the message has the nearest name.
    """
    if name == "this":
        return profile_device(folder, measure=measure)
    if name in _NAMED:
        return _NAMED[name]
    close = nearest(name, device_names())
    fix = f"did you mean {close!r}?" if close else f"known: {', '.join(device_names())}"
    raise DeviceError("fit-unknown-device", f"unknown device {name!r}", fix=fix)
