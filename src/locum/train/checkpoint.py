"""Checkpoints that survive a kill at any moment and a damaged disk: safetensors and JSON, never pickle.

A checkpoint is a folder ``step-00000120`` with ``state.safetensors`` and ``state.json``, which holds its
SHA-256. It is complete or absent; two are kept; a damaged newest one falls back to the one before, and says
so. The best weights so far stand beside them, in files that checkpoints name with their SHA-256.

Notable: tensors go from where they lie to the disk, so that saving takes no memory. Not here: what the tensors are
(``loop``).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from locum.core.files import atomic_folder, disk_errors, sha256_file, write_json
from locum.core.progress import warn

_KEPT = 2
_STATE = "state.safetensors"
_FACTS = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: tensors by name, and JSON-like facts."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of one job.

    Args:
        folder: created when the first is saved; leftovers of a killed save in it are removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.is_dir():
            for leftover in folder.glob(".*.partial"):
                shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Save a checkpoint and remove all but the newest two, and best weights that none of them names.

        Raises:
            DeviceError: the disk is full or read-only; earlier checkpoints are untouched.
        """
        with atomic_folder(self.folder / f"step-{step:08d}") as folder:
            _write(folder / _STATE, tensors)
            write_json(folder / _FACTS, {**facts, "sha256": sha256_file(folder / _STATE)})
        self._remove_old()

    def save_best(self, step: int, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Save the best weights so far.

        Returns:
            ``{"file", "sha256"}``, to be put in the facts of the next checkpoint as ``best``.
        """
        path = self.folder / f"best-{step:08d}.safetensors"
        partial = path.with_name(f".{path.name}.partial")
        with disk_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(partial, tensors)
            partial.replace(path)
        return {"file": path.name, "sha256": sha256_file(path)}

    def load_best(self, best: Mapping[str, str]) -> dict[str, Tensor]:
        """The tensors of ``save_best``."""
        from safetensors.torch import load_file

        return load_file(self.folder / best["file"])

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None; each damaged one that is passed over gets a warning."""
        for folder in reversed(self._folders()):
            fault = self._fault(folder)
            if fault is None:
                return self._read(folder)
            warn(f"checkpoint {folder.name} is damaged and passed over", reason=fault)
        return None

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []

    def _read(self, folder: Path) -> Checkpoint:
        from safetensors.torch import load_file

        facts = json.loads((folder / _FACTS).read_bytes())
        return Checkpoint(load_file(folder / _STATE), facts)

    def _fault(self, folder: Path) -> str | None:
        """Why a checkpoint cannot be used, or None."""
        try:
            facts = json.loads((folder / _FACTS).read_bytes())
            if sha256_file(folder / _STATE) != facts["sha256"]:
                return f"{_STATE} does not have its SHA-256"
            best = facts["best"]
            if sha256_file(self.folder / best["file"]) != best["sha256"]:
                return f"{best['file']} does not have its SHA-256"
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _remove_old(self) -> None:
        folders = self._folders()
        for folder in folders[:-_KEPT]:
            shutil.rmtree(folder)
        named: set[str] = set()
        for folder in folders[-_KEPT:]:
            try:
                named.add(json.loads((folder / _FACTS).read_bytes())["best"]["file"])
            except (OSError, ValueError, KeyError, TypeError):
                return  # a damaged checkpoint: remove nothing it may have named
        for best in self.folder.glob("best-*.safetensors"):
            if best.name not in named:
                best.unlink()


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
