"""Steps with a cache: a step's folder is named by the hash of its inputs, and ``step.json`` in it is written last.

Notable: a killed build finds every finished step again and goes on with the first unfinished one; a changed
setting changes the hash of the steps it touches, and only those run anew. A resumable step (training) keeps
its unfinished folder with its checkpoints; any other unfinished folder is emptied first.
Files that a user may change in place are told apart by content (``FileHashes``).
Not here: what the steps do (``pipeline.build``).
"""

from __future__ import annotations

import glob
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import locum
from locum.core.files import content_hash, disk_errors, sha256_file, write_json
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
        self.hashes = FileHashes(folder / "file-hashes.json")

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


class FileHashes:
    """SHA-256 of files outside the build, remembered, so that large weights are not read again at each run.

    Notable: a file is taken as unchanged while path, size, inode, and the times of its last write and of its last
    change of any kind are the same. The last of these (``st_ctime_ns``) cannot be set, so a file that was written over
    in place and given its old time back is seen. A file that changed a moment ago is not remembered, because a second
    change within the clock's grain would not show (git's "racily clean" entries).

    Args:
        record: JSON file of what is remembered; made when there is something.
    """

    _SETTLED_NS = 2_000_000_000

    def __init__(self, record: Path) -> None:
        self._record = record

    def of(self, path: Path) -> dict[str, str]:
        """SHA-256 by name of a file and the other parts of a model in several, or of every file below a folder.

        What is hidden (``.git``, ``.cache``) is not read.

        Raises:
            OSError: a file cannot be read.
        """
        known = self._read()
        found: dict[str, str] = {}
        fresh: dict[str, list[Any]] = {}
        for file in _files_of(path):
            place, told = str(file.absolute()), file.stat()
            identity = [told.st_size, told.st_ino, told.st_mtime_ns, told.st_ctime_ns]
            entry = known.get(place)
            started_ns = time.time_ns()
            told_before = cast("list[Any]", entry) if isinstance(entry, list) else []
            same = told_before[:-1] == identity
            digest = str(told_before[-1]) if same else sha256_file(file)
            if not same and started_ns - max(told.st_ctime_ns, told.st_mtime_ns) > self._SETTLED_NS:
                fresh[place] = [*identity, digest]
            found[file.relative_to(path).as_posix() if path.is_dir() else file.name] = digest
        if fresh:
            write_json(self._record, {**known, **fresh})
        return found

    def _read(self) -> dict[str, Any]:
        try:
            known: Any = json.loads(self._record.read_bytes())
        except (OSError, ValueError):
            return {}  # absent or damaged: everything is read again
        return cast("dict[str, Any]", known) if isinstance(known, dict) else {}


_PART = re.compile(r"(.+)-\d{5}-of-\d{5}\.gguf")


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file())
        return sorted(file for file in files if not any(p.startswith(".") for p in file.relative_to(path).parts))
    part = _PART.fullmatch(path.name)
    if part is None:
        return [path]
    return sorted(path.parent.glob(f"{glob.escape(part.group(1))}-*-of-*.gguf"))


def slug(name: str) -> str:
    """A step's name as it begins the name of its folder."""
    return re.sub(r"[^a-zA-Z0-9.]+", "-", name).strip("-")


def _seconds(record: Path) -> float | None:
    """How long the finished step took; None while it is unfinished, or its record is damaged."""
    try:
        return float(json.loads(record.read_bytes())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
