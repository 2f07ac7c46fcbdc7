"""Steps with a cache: a step's folder is named by the hash of its inputs, and ``step.json`` in it is written last.

Notable: a killed build finds every finished step again and goes on with the first unfinished one; a changed
setting changes the hash of the steps it touches, and only those run anew. A time budget is part of the hash, too, but
a result that says under which budgets it would have been the same is found under all of them (``settled``).
A resumable step (training) keeps its unfinished folder with its checkpoints. Not here: what the steps do (``build``).
"""

from __future__ import annotations

import glob
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import locum
from locum.core.files import content_hash, disk_errors, sha256_file, write_json
from locum.core.progress import note, track
from locum.pipeline.overall import Overall
from locum.schema.training import Budgets


@dataclass(frozen=True)
class Step:
    """One unit of work.

    Attributes:
        name: a word for the folder and the plan, e.g. ``train-tfidf``.
        label: what the user sees while it runs.
        inputs: everything the result depends on, as JSON-like values; its hash is the step's key.
        resumable: the work finds its own checkpoints in an unfinished folder.
        budget_s: the time that the work may take, where its result depends on that.
    """

    name: str
    label: str
    inputs: Mapping[str, Any]
    resumable: bool = False
    budget_s: float | None = None

    @property
    def key(self) -> str:
        """SHA-256 of name, inputs, time budget and Locum's version."""
        budget = {} if self.budget_s is None else {"budget_s": float(self.budget_s)}
        return content_hash({"name": self.name, "inputs": dict(self.inputs), **budget, "locum": locum.__version__})


class StepCache:
    """The ``work`` folder of a build.

    Args:
        folder: where the steps' folders are.

    Attributes:
        seconds: by step, of those that were done or found.
        ran: those that were done now.
        overall: who tells how far the build is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.ran: set[str] = set()
        self.overall: Overall | None = None
        self.hashes = FileHashes(folder / "file-hashes.json")

    def path(self, step: Step) -> Path:
        """The folder of a step, whether it is there or not."""
        return self.folder / f"{slug(step.name)}-{step.key[:12]}"

    def done(self, step: Step) -> bool:
        """Whether the step is finished."""
        return _seconds(self.path(step) / "step.json") is not None

    def settled(self, step: Step) -> Step:
        """The step; or, where it is not done, a finished one that differs in its time budget and not in its result.

        That one's own record says under which budgets the result is the same, and the name of its folder, which is the
        hash of all its inputs, that nothing else differs.
        """
        if step.budget_s is None or self.done(step):
            return step
        for record in sorted(self.folder.glob(f"{slug(step.name)}-*/step.json")):
            budget_s, same_for = _budgets(record)
            other = replace(step, budget_s=budget_s)
            if same_for is not None and same_for.hold(step.budget_s) and self.path(other) == record.parent:
                return other
        return step

    def run(self, step: Step, work: Callable[[Path], Budgets | None]) -> Path:
        """Do the step unless it is done; return its folder.

        Args:
            step: what to do.
            work: called with the folder to fill; returns the time budgets that its result is the same for, where it
                knows them.
        """
        folder = self.path(step)
        record = folder / "step.json"
        if (before := _seconds(record)) is not None:
            self.seconds[step.name] = before
            if self.overall:
                self.overall.end(step.name)
            note(f"{step.label}: done before")
            return folder
        with disk_errors(folder):
            if folder.exists() and not step.resumable:
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
        start_s = time.monotonic()
        if self.overall:
            self.overall.begin(step.name, step.label)
        with track(step.label):
            same_for = work(folder)
        seconds = time.monotonic() - start_s
        self.seconds[step.name] = seconds
        self.ran.add(step.name)
        if self.overall:
            self.overall.end(step.name, seconds)
        told: dict[str, Any] = {"name": step.name, "seconds": round(seconds, 3), "inputs": dict(step.inputs)}
        if step.budget_s is not None:
            told |= {"budget_s": step.budget_s, "same_for": same_for.to_json() if same_for else None}
        write_json(record, told)
        return folder

    @property
    def spent_s(self) -> float:
        """Seconds of all steps so far, earlier runs of the same build included."""
        return sum(self.seconds.values())


class Unfinished(Exception):
    """A step is not done, and nothing is to be done now."""


class FinishedSteps(StepCache):
    """The same folder, looked at by who does no work, such as a plan; ``seconds`` has what was found."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.hashes = FileHashes(folder / "file-hashes.json", keep=False)

    def run(self, step: Step, work: Callable[[Path], Budgets | None]) -> Path:
        """The folder of a finished step.

        Raises:
            Unfinished: it is not finished.
        """
        if not self.done(step):
            raise Unfinished(step.name)
        return super().run(step, work)


class FileHashes:
    """SHA-256 of files outside the build, remembered, so that large weights are not read again at each run.

    Notable: a file is taken as unchanged while path, size, inode, and the times of its last write and of its last
    change of any kind are the same. The last of these (``st_ctime_ns``) cannot be set, so a file that was written over
    in place and given its old time back is seen. A file that changed a moment ago is not remembered, because a second
    change within the clock's grain would not show (git's "racily clean" entries).

    Args:
        record: JSON file of what is remembered; made when there is something.
        keep: whether what is found is remembered.
    """

    _SETTLED_NS = 2_000_000_000

    def __init__(self, record: Path, *, keep: bool = True) -> None:
        self._record, self._keep = record, keep

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
        if fresh and self._keep:
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


def _budgets(record: Path) -> tuple[float | None, Budgets | None]:
    """The time that a finished step was given, and the times that give its result; None for what is not known."""
    try:
        told = json.loads(record.read_bytes())
        return float(told["budget_s"]), Budgets.model_validate(told["same_for"]) if told["same_for"] else None
    except (OSError, ValueError, KeyError, TypeError):  # of an earlier version, or damaged
        return None, None


def _seconds(record: Path) -> float | None:
    """How long the finished step took; None while it is unfinished, or its record is damaged."""
    try:
        return float(json.loads(record.read_bytes())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
