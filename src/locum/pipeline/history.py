"""``History``: what the steps of earlier builds on this machine took, against what had been worked out for them.

Notable: a machine, and what else runs on it, make a step two or five times as long as arithmetic says; so the times of
each sort of step are kept in one small file of the cache folder, and the median of their latest ratios corrects the
next plan. No name of a task, file or label is in it. ``LOCUM_HISTORY`` names another file, or 0 for none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from locum.core.errors import LocumError
from locum.core.files import write_json
from locum.core.progress import note
from locum.pipeline.steps import StepCache
from locum.schema.base import Document
from locum.schema.plan import PlannedStep
from locum.schema.report import BuildReport
from locum.sources.cache import cache_folder

_ARITHMETIC = 2
"""Of what is worked out before a build; raised where that changes: a ratio to earlier sums says nothing of new ones."""
_BUILDS = 30
"""Most builds that are kept, the latest; older ones say little of what a machine does today."""
_LATEST = 12  # ratios of one sort of step that count
_LEAST_S = 2.0  # shorter steps are all start-up, and tell nothing of longer ones
TRAINING_START_S = 8.0
"""Of a process that trains or exports with PyTorch: its libraries, its weights, its texts."""
_MOST = 8.0  # a larger ratio, or one below 1/8, is an accident: a machine that was suspended, a step that was killed


class StepTime(Document):
    """One step of one build: its sort, what was worked out for it before, and what it took, in seconds."""

    sort: str
    planned_s: float
    took_s: float


@dataclass(frozen=True)
class History:
    """The steps of earlier builds, the latest build last."""

    builds: tuple[tuple[StepTime, ...], ...] = ()

    def factor(self, sort: str) -> float:
        """How much longer steps of a sort take than is worked out for them; 1 where none was seen."""
        ratios = [step.took_s / step.planned_s for steps in self.builds for step in steps if step.sort == sort]
        return median(ratios[-_LATEST:]) if ratios else 1.0


def history_file() -> Path | None:
    """Where it is kept; None where it is switched off."""
    chosen = os.environ.get("LOCUM_HISTORY")
    return None if chosen == "0" else Path(chosen) if chosen else cache_folder() / "step-times.json"


def read_history() -> History:
    """What is known; nothing where there is none, or it is damaged."""
    file = history_file()
    try:
        found: Any = json.loads(file.read_bytes()) if file else {}
        if found["arithmetic"] != _ARITHMETIC:
            return History()
        return History(tuple(tuple(map(StepTime.model_validate, steps)) for steps in found["builds"][-_BUILDS:]))
    except (OSError, ValueError, KeyError, TypeError):
        return History()


def times_taken(steps: StepCache, report: BuildReport) -> dict[str, float]:
    """Seconds by step, of those that a build did; a tuning's as if all its epochs had fitted into its time."""
    took_s = {name: steps.seconds[name] for name in steps.ran}
    for rung in report.ladder:
        name, told = f"train-{rung.candidate.name}", rung.trained.settings if rung.trained else {}
        planned, wanted = told.get("planned_epochs"), told.get("epochs")
        if name not in took_s or not isinstance(planned, int | float) or not isinstance(wanted, int | float):
            continue
        if 0 < planned < wanted:
            epochs_s = max(0.0, took_s[name] - TRAINING_START_S)
            took_s[name] += epochs_s * (wanted / planned - 1)
    return took_s


def remember(planned: Sequence[PlannedStep], took_s: Mapping[str, float]) -> None:
    """Keep what the steps of a build took; a file that cannot be written costs a build nothing.

    Args:
        planned: the plan's steps, as they were before the build.
        took_s: seconds by step, of those that ran.
    """
    file = history_file()
    steps = [
        StepTime(sort=step.sort, planned_s=step.plain_s, took_s=round(took_s[step.name], 1))
        for step in planned
        if step.sort and step.plain_s and not step.done and took_s.get(step.name, 0.0) >= _LEAST_S
    ]
    steps = [step for step in steps if 1 / _MOST <= step.took_s / step.planned_s <= _MOST]
    if file is None or not steps:
        return
    builds = [*read_history().builds, tuple(steps)][-_BUILDS:]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"arithmetic": _ARITHMETIC, "builds": [[step.to_json() for step in each] for each in builds]})
    except (LocumError, OSError) as error:
        note("what the steps took is not remembered", why=str(error))
