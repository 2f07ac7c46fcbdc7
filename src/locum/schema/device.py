"""``DeviceProfile``: what a student must run on, or is trained on; measured here or named."""

from __future__ import annotations

from typing import Literal

from locum.schema.base import Document


class DeviceProfile(Document):
    """One machine, as far as it matters for size and speed; None where it is not known.

    Attributes:
        name: ``this``, or a name of the table in ``fit.devices``.
        source: ``measured`` on the machine itself, or ``nominal`` from its data sheet.
        system: operating system and release.
        cpu: the processor's own name.
        architecture: ``x86_64``, ``aarch64``…
        cores: CPU time that may be used at once; a container's quota can make it a fraction.
        memory_mb: the most that may be used, in 10⁶ bytes: RAM or the container's limit, whichever is less.
        available_mb: what of it is free now.
        instructions: instruction sets of ``fit.device.INSTRUCTIONS`` that the processor has.
        disk_free_mb: free where builds are written.
        matmul_gflops: fp32 matrix product on all usable cores, 10⁹ operations a second.
        memory_gb_s: memory copy on one thread, 10⁹ bytes read and written a second.
        assumptions: what was taken for granted, in words for the report.
    """

    schema_version: Literal[1] = 1
    name: str
    source: Literal["measured", "nominal"]
    system: str
    cpu: str
    architecture: str
    cores: float
    memory_mb: float | None
    available_mb: float | None = None
    instructions: tuple[str, ...] | None
    disk_free_mb: float | None = None
    matmul_gflops: float | None = None
    memory_gb_s: float | None = None
    assumptions: tuple[str, ...] = ()
