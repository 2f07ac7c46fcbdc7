"""The command that installs an optional part of Locum where it is running: a hint that works when it is pasted.

Notable: Locum is installed from a checkout, so a hint names that folder and its pinned versions. Not here: who needs
which part.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit


def install_command(extra: str = "") -> str:
    """The command that adds an extra to this environment.

    Args:
        extra: its name in ``pyproject.toml``: ``train``, ``tasks``, ``openvino``, ``bench``; empty: Locum itself.

    Returns:
        A line for a shell: of the checkout where Locum was installed from one, with its pinned versions; else of the
        archive or address that it came from; else of the package by its name.
    """
    checkout, wanted = _checkout(), f"[{extra}]" if extra else ""
    pip = f"{shlex.quote(sys.executable)} -m pip install"
    if checkout is None:
        return f"{pip} {shlex.quote(f'locum{wanted}')}"
    pins = checkout / "constraints.txt"
    pinned = f"{pip} --constraint {shlex.quote(str(pins))}" if pins.is_file() else pip
    command = f"{pinned} --editable {shlex.quote(f'{checkout}{wanted}')}"
    build = torch_for_cpu(pins.read_text(encoding="utf-8")) if extra == "train" and pins.is_file() else ""
    return f"{pip} {build} && {command}" if build else command


def torch_for_cpu(pins: str) -> str:
    """What pip is told to take PyTorch without CUDA.

    The usual build for Linux carries several gigabytes of CUDA, which a machine without an NVIDIA card cannot use.

    Args:
        pins: the text of ``constraints.txt``.

    Returns:
        Arguments of ``pip install``; empty where PyTorch is there already, or its usual build is the right one.
    """
    version = next((line[7:].strip() for line in pins.splitlines() if line.startswith("torch==")), "")
    there = importlib.util.find_spec("torch") is not None
    if not version or there or not sys.platform.startswith("linux") or has_nvidia_card():
        return ""
    return f"--no-deps --extra-index-url https://download.pytorch.org/whl/cpu torch=={version}+cpu"


def has_nvidia_card() -> bool:
    """Whether the driver of an NVIDIA card is loaded (Linux)."""
    return Path("/proc/driver/nvidia/version").exists()


def cuda_packages_mb() -> float:
    """Megabytes that packages of CUDA take in this environment, by what pip wrote down when it installed them."""
    names = ("nvidia-", "cuda-", "triton")
    packages = [found for found in metadata.distributions() if (found.name or "").lower().startswith(names)]
    return sum(file.size or 0 for found in packages for file in found.files or ()) / 1e6


def _checkout() -> Path | None:
    """The folder that Locum runs from, by what pip wrote down; else by where this file lies."""
    try:
        told = json.loads(metadata.distribution("locum").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        told = {}
    address = urlsplit(str(told.get("url", "")))
    folders = [Path(unquote(address.path))] if address.scheme == "file" else []
    folders.append(Path(__file__).resolve().parents[3])
    return next((folder for folder in folders if (folder / "pyproject.toml").is_file()), None)
