"""What this installation can do on this machine: one document of findings, for ``locum doctor``.

Notable: nothing heavy is imported and nothing is sent anywhere unless ``online`` is asked for. A finding is ``broken``
only when the base install needs it; what is optional, or could be faster, is a note with the command that changes it.
Not here: measuring (``fit.device`` on request, ``bench``).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import locum
from locum.core.cpu import cgroup_quota, usable_cores
from locum.core.errors import DeviceError
from locum.core.extras import cuda_packages_mb, has_nvidia_card, install_command
from locum.fit.device import profile_device, require_engine
from locum.runtime.engines import EngineStatus, engine_statuses
from locum.runtime.llama_settings import SERVER_VARIABLE
from locum.schema.device import DeviceProfile
from locum.sources.cache import cache_folder, is_offline

State = Literal["ok", "note", "broken"]

PYTHON_MIN = (3, 11)
_FAST = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "neon", "i8mm", "sve")
_TRAINING = ("torch", "transformers", "safetensors", "onnx", "onnxscript", "gguf")
_MEMORY_MB = 1000
_DISK_MB = 2000
_CUDA_MB = 200
_ONLINE_S = 15


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        advice: what to do, or to know; empty when nothing.
    """

    name: str
    state: State
    value: str
    advice: str = ""


def examine_installation(*, online: bool = False) -> dict[str, Any]:
    """Look at everything.

    Args:
        online: also ask the package index and the model hub whether they answer.

    Returns:
        ``ok`` (nothing is broken), ``findings`` in order, and the same facts for programs: ``locum``, ``python``,
        ``device``, ``engines``, ``training`` (versions by package, None when absent), ``cache``.
    """
    device = profile_device(cache_folder())
    engines = engine_statuses(device.instructions)
    training = {name: _version(name) for name in _TRAINING}
    findings = [
        _python(),
        Finding("Locum", "ok", locum.__version__),
        *_processor(device),
        _memory(device),
        *(_engine(status, device) for status in engines),
        _training(training),
        *filter(None, [_cuda()]),
        _cache(cache_folder()),
        *([_index(), _hub()] if online else []),
    ]
    return {
        "ok": all(finding.state != "broken" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
        "locum": locum.__version__,
        "python": platform.python_version(),
        "device": device.to_json(),
        "engines": [status.to_json() for status in engines],
        "training": training,
        "cache": {"folder": str(cache_folder()), "offline": is_offline()},
    }


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info[:2] < PYTHON_MIN:
        wanted = ".".join(map(str, PYTHON_MIN))
        return Finding("Python", "broken", version, f"Locum needs {wanted} or later")
    return Finding("Python", "ok", f"{version} ({platform.python_implementation()}, {sys.executable})")


def _processor(device: DeviceProfile) -> list[Finding]:
    seen, quota = os.cpu_count() or 1, cgroup_quota()
    limit = "" if quota is None else f", the container's quota is {quota:g}"
    advice = "" if usable_cores() == seen else f"engines run {usable_cores()} threads, not one for each core they see"
    cores = Finding("cores", "note" if advice else "ok", f"{usable_cores()} usable of {seen}{limit}", advice)
    found = device.instructions
    if found is None:
        return [Finding("processor", "note", device.cpu, "the system does not say which instructions it has"), cores]
    fast = [name for name in found if name in _FAST]
    return [Finding("processor", "ok", f"{device.cpu}: {', '.join(fast) or 'no vector instructions'}"), cores]


def _memory(device: DeviceProfile) -> Finding:
    if device.memory_mb is None:
        return Finding("memory", "note", "unknown")
    free = "" if device.available_mb is None else f", {device.available_mb / 1000:.1f} GB free"
    value = f"{device.memory_mb / 1000:.1f} GB{free}"
    if (device.available_mb or device.memory_mb) < _MEMORY_MB:
        return Finding("memory", "note", value, "a decoder or a training may not fit; close other programs")
    return Finding("memory", "ok", value)


def _engine(status: EngineStatus, device: DeviceProfile) -> Finding:
    name = f"engine {status.name}"
    flags = f" [{' '.join(status.build)}]" if status.build else ""
    value = f"{status.version or 'not installed'}{flags}"
    if not status.available:
        return Finding(name, "broken" if status.needed else "note", value, status.reason)
    if status.name in ("linear", "onnx", "llamacpp") and not os.environ.get(SERVER_VARIABLE):
        try:
            require_engine(device, status.name)
        except DeviceError as error:
            state: State = "note" if status.name == "llamacpp" else "broken"
            return Finding(name, state, value, f"{error.cause}; {error.fix}")
    advice = "; ".join(part for part in (status.reason, status.advice) if part)
    return Finding(name, "note" if advice else "ok", value, advice)


def _training(versions: dict[str, str | None]) -> Finding:
    missing = [name for name, version in versions.items() if version is None]
    if not missing:
        return Finding("training", "ok", f"torch {versions['torch']}, transformers {versions['transformers']}")
    what = f"{', '.join(missing)} not installed"
    return Finding("training", "note", what, f"only linear students can be built; {install_command('train')}")


def _cuda() -> Finding | None:
    """CUDA that lies there for nothing; None where there is none, or a card that uses it."""
    size_mb = cuda_packages_mb()
    if has_nvidia_card() or size_mb < _CUDA_MB:
        return None
    advice = "nothing here uses it: a new virtual environment with PyTorch's build for processors is that much smaller"
    return Finding("CUDA", "note", f"{size_mb / 1000:.1f} GB of packages, and no NVIDIA card", f"{advice} (see README)")


def _cache(folder: Path) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free_mb = shutil.disk_usage(there).free / 1e6
    offline = ", downloads are switched off (LOCUM_OFFLINE)" if is_offline() else ""
    value = f"{folder}, {free_mb / 1000:.1f} GB free{offline}"
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding("cache", "broken", value, f"{there} cannot be written; set LOCUM_CACHE to another folder")
    if free_mb < _DISK_MB:
        return Finding("cache", "note", value, "larger bases will not fit; set LOCUM_CACHE to a folder on another disk")
    return Finding("cache", "ok", value)


def _index() -> Finding:
    """Whether the package index that pip is configured for answers; its address is the user's business."""
    command = [sys.executable, "-m", "pip", "index", "versions", "numpy", "--disable-pip-version-check"]

    def ask() -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ONLINE_S, check=False)
        return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no answer"])[-1]

    return _reachable("package index", ask, "pypi:// sources need it: check pip's own settings and the proxy")


def _hub() -> Finding:
    def ask() -> str:
        import httpx

        url = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        try:
            status = httpx.head(url, timeout=_ONLINE_S, follow_redirects=False).status_code
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return "" if status < 500 else f"it answers {status}"

    return _reachable("model hub", ask, "hf:// sources need it; bases with a pypi:// source do not")


def _reachable(name: str, ask: Callable[[], str], advice: str) -> Finding:
    try:
        problem = ask()
    except subprocess.TimeoutExpired:
        problem = f"no answer within {_ONLINE_S} s"
    return Finding(name, "note", f"not reachable: {problem}", advice) if problem else Finding(name, "ok", "reachable")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
