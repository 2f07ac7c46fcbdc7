"""Steps with a cache: a step's folder is named by the hash of its inputs, and ``step.json`` in it is written last.

Notable: a killed build finds every finished step again and goes on with the first unfinished one; a changed
setting changes the hash of the steps it touches, and only those run anew. A resumable step (training) keeps
its unfinished folder with its checkpoints; any other unfinished folder is emptied first.
Not here: what the steps do (``pipeline.build``).
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import locum
from locum.core.files import content_hash, disk_errors, write_json
from locum.core.progress import note, track


@dataclass(frozen=True)
class Step:
    """One unit of work.

    Attributes:
        name: a word for the folder and the plan, e.g. ``train-tfidf``.
        label: what the user sees while it runs.
        inputs: everything the result depends on, as JSON-like values; its hash is the step's key.
        resumable: the work finds its own checkpoints in an unfinished folder.
    """

    name: str
    label: str
    inputs: Mapping[str, Any]
    resumable: bool = False

    @property
    def key(self) -> str:
        """SHA-256 of name, inputs and Locum's version."""
        return content_hash({"name": self.name, "inputs": dict(self.inputs), "locum": locum.__version__})


class StepCache:
    """The ``work`` folder of a build.

    Args:
        folder: where the steps' folders are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}

    def path(self, step: Step) -> Path:
        """The folder of a step, whether it is there or not."""
        return self.folder / f"{slug(step.name)}-{step.key[:12]}"

    def done(self, step: Step) -> bool:
        """Whether the step is finished."""
        return _seconds(self.path(step) / "step.json") is not None

    def run(self, step: Step, work: Callable[[Path], None]) -> Path:
        """Do the step unless it is done; return its folder.

        Args:
            step: what to do.
            work: called with the folder to fill.
        """
        folder = self.path(step)
        record = folder / "step.json"
        if (before := _seconds(record)) is not None:
            self.seconds[step.name] = before
            note(f"{step.label}: done before")
            return folder
        with disk_errors(folder):
            if folder.exists() and not step.resumable:
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
        start_s = time.monotonic()
        with track(step.label):
            work(folder)
        seconds = time.monotonic() - start_s
        self.seconds[step.name] = seconds
        write_json(record, {"name": step.name, "seconds": round(seconds, 3), "inputs": dict(step.inputs)})
        return folder

    @property
    def spent_s(self) -> float:
        """Seconds of all steps so far, earlier runs of the same build included."""
        return sum(self.seconds.values())


def slug(name: str) -> str:
    """A step's name as it begins the name of its folder."""
    return re.sub(r"[^a-zA-Z0-9.]+", "-", name).strip("-")


def _seconds(record: Path) -> float | None:
    """How long the finished step took; None while it is unfinished, or its record is damaged."""
    try:
        return float(json.loads(record.read_bytes())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
