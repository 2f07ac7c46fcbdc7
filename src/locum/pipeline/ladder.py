"""The ladder step: the device is measured once, the candidates are decided once, and a resumed build keeps both.

Notable: speeds are noisy, and a depth decided twice could differ; so the decision is a file like any other.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from locum.core.errors import SourceError
from locum.core.files import write_json
from locum.fit.device import profile_device
from locum.fit.devices import find_device
from locum.fit.ladder import DataSize, Machines, make_ladder, mixture_size
from locum.fit.written import CHARS_PER_TOKEN
from locum.pipeline.answer_limit import right_answers, writes
from locum.pipeline.built import Prepared
from locum.pipeline.made import base_inputs
from locum.pipeline.steps import Step
from locum.pipeline.workspace import Workspace
from locum.schema.candidate import Candidate
from locum.schema.data import DataCard
from locum.schema.device import DeviceProfile
from locum.schema.task import Task


def decide_ladder(work: Workspace, data: Prepared, card: DataCard) -> tuple[DeviceProfile, tuple[Candidate, ...]]:
    """Measure the device and decide the candidates, or find both decided.

    Raises:
        DeviceError: no device of the name in ``budget.device``.
    """
    task = work.task
    step = Step(
        "ladder",
        "measure the device and decide the ladder",
        {
            "data": data.key,
            "students": task.students if task.students == "auto" else [spec.to_json() for spec in task.students],
            "bases": _bases(work),
            "budget": task.budget.to_json(),
            "asked": task.instruction,
            "generation": task.generation.to_json(),
            "threads": work.threads,
            **({"mixture": data.mixture.key, "mixing": data.mixture.temperature} if data.mixture else {}),
        },
    )
    mixed = mixture_size(data.mixture.sizes, data.mixture.temperature) if data.mixture else None

    def decide(out: Path) -> None:
        device = profile_device(work.out, measure=True)
        machines = Machines(device, serves_on(task, device))
        ladder = make_ladder(task, data_size(task, data, card), machines, mixed, work.root)
        write_json(out / "device.json", device.to_json())
        write_json(out / "ladder.json", [candidate.to_json() for candidate in ladder])

    folder = work.steps.run(step, decide)
    device = DeviceProfile.from_json((folder / "device.json").read_bytes(), str(folder))
    listed = json.loads((folder / "ladder.json").read_text(encoding="utf-8"))
    return device, tuple(Candidate.model_validate(candidate) for candidate in listed)


def _bases(work: Workspace) -> list[dict[str, Any]]:
    """The bases that the task names, by content where they are on this machine: sizes and layers are read from them."""
    named = [] if work.task.students == "auto" else [spec.base for spec in work.task.students if spec.base]
    found: list[dict[str, Any]] = []
    for name in dict.fromkeys(named):
        try:
            found.append(base_inputs(work, name, may_fetch=False))
        except SourceError:  # what is wrong with it is said where candidates are decided
            found.append({"base": name})
    return found


def serves_on(task: Task, here: DeviceProfile) -> DeviceProfile:
    """The device that the student must run on: this machine, or the one named in the budget."""
    return here if task.budget.device == "this" else find_device(task.budget.device)


def data_size(task: Task, data: Prepared, card: DataCard) -> DataSize:
    """How much there is to learn from, and how long the median right answer is, guessed from its characters."""
    train = card.splits["train"]
    lengths = [len(answer) for answer in right_answers(task, data)]
    return DataSize(
        train_rows=train.rows,
        mean_chars=train.chars_p50,
        labels=len(card.labels),
        answer_tokens=max(1, round(median(lengths) / CHARS_PER_TOKEN)) if lengths else None,
        telling={"train": len(lengths), "dev": len(right_answers(task, data, "dev"))} if writes(task) else None,
    )
