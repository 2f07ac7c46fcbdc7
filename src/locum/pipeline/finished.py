"""``find_finished``: which steps of a build are done, found by hash, so that a plan and the build never disagree.

Notable: it runs the build's own functions over a cache that does no work, so a step counts as done exactly where the
build would take it as it is. Where that costs next to nothing, the choice is made again too, which tells what will not
be built at all. Nothing is fetched and nothing is written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from locum.core.cpu import usable_cores
from locum.core.errors import LocumError
from locum.core.progress import Event, listening
from locum.fit.ladder import Machines, make_ladder, mixture_size, training_budgets
from locum.pipeline.answer_limit import limit_answers, writes
from locum.pipeline.built import BuiltStudent, Prepared
from locum.pipeline.climb import climb
from locum.pipeline.held_out import answer_held_out
from locum.pipeline.ladder import data_size, decide_ladder, serves_on
from locum.pipeline.mixture import add_mixture
from locum.pipeline.others import TaskFiles
from locum.pipeline.pick import pick
from locum.pipeline.prepare import prepare_data
from locum.pipeline.rung import answer_split, build_rung
from locum.pipeline.steps import FinishedSteps, Unfinished
from locum.pipeline.workspace import Workspace
from locum.schema.candidate import Candidate
from locum.schema.data import DataCard, SplitName
from locum.schema.device import DeviceProfile

_LATER: tuple[SplitName, ...] = ("calibration", "test")


@dataclass(frozen=True)
class Finished:
    """What is there of a build.

    Attributes:
        steps: names of the steps that are done.
        card: of the data, once they are prepared.
        ladder: the candidates, once they are decided.
        not_built: by candidate, why it will not be built, where all others are done.
        whole: every step is done, the second training and the last answers included.
    """

    steps: frozenset[str] = frozenset()
    card: DataCard | None = None
    ladder: tuple[Candidate, ...] | None = None
    not_built: Mapping[str, str] = field(default_factory=dict[str, str])
    whole: bool = False


def find_finished(files: TaskFiles, out: Path, device: DeviceProfile) -> Finished:
    """What an earlier build in the folder left that one of this task would take as it is.

    Args:
        files: the task, and those that it learns from.
        out: folder of the build.
        device: this machine, for candidates that have not been decided yet.
    """
    if not (out / "work").is_dir():
        return Finished()
    with listening(_nobody):
        return _find(files, FinishedSteps(out.resolve() / "work"), out.resolve(), device)


def _nobody(_event: Event) -> None:
    """What the steps say was said when they were done."""


def _find(files: TaskFiles, steps: FinishedSteps, out: Path, device: DeviceProfile) -> Finished:
    work = Workspace(files.task, files.text, files.root, out, steps, usable_cores(), offline=True, others=files.others)
    card: DataCard | None = None
    ladder: tuple[Candidate, ...] | None = None
    try:
        data, card = prepare_data(work)
        data = add_mixture(work, data, card)
        ladder = _ladder(work, data, card, device)
        work = limit_answers(work, data, ladder)
    except (Unfinished, LocumError, OSError):  # a file that cannot be had is told where the data are planned
        return Finished(frozenset(steps.seconds), card, ladder)
    not_built: dict[str, str] = {}
    whole = False
    if not writes(work.task) and work.task.scorer is None:  # else scoring takes its time, runs programs, or costs money
        try:
            climbed = climb(work, data, ladder, card.noise_ceiling)
            not_built = {each.candidate.name: each.reason for each in climbed.outcomes if each.student is None}
            answer_held_out(work, data, climbed, pick(work, data, climbed))
            whole = True
        except (Unfinished, LocumError):
            pass
    built = _built(work, data, ladder, not_built)
    whole = whole or (writes(work.task) and built)
    return Finished(frozenset(steps.seconds), card, ladder, not_built, whole)


def _ladder(work: Workspace, data: Prepared, card: DataCard, device: DeviceProfile) -> tuple[Candidate, ...]:
    """The candidates as they were decided; or as they would be, where the students or the budget are others now."""
    try:
        return decide_ladder(work, data, card)[1]
    except Unfinished:
        mixed = mixture_size(data.mixture.sizes, data.mixture.temperature) if data.mixture else None
        machines = Machines(device, serves_on(work.task, device))
        return make_ladder(work.task, data_size(work.task, data, card), machines, mixed, work.root)


def _built(work: Workspace, data: Prepared, ladder: Sequence[Candidate], not_built: Collection[str]) -> bool:
    """Look at every rung, whatever became of the others; whether all are done, and the answers after the choice."""
    wanted = [each for each in ladder if each.skipped is None and each.name not in not_built]
    seconds = training_budgets(work.task.kind, [each.method for each in ladder], work.task.budget.build_minutes * 60)
    budgets = {each.name: budget_s for each, budget_s in zip(ladder, seconds, strict=True)}
    students: list[BuiltStudent] = []
    for candidate in wanted:
        try:
            students.append(build_rung(work, data, candidate, budgets[candidate.name], students))
        except (Unfinished, LocumError):
            continue
    answered: set[SplitName] = set()
    for student in students:
        for split in _LATER:
            try:
                answer_split(work, student, split)
                answered.add(split)
            except (Unfinished, LocumError):
                continue
    return len(students) == len(wanted) and answered == set(_LATER)
