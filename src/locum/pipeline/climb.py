"""Climbing the ladder: candidates in order of cost, until the next one is not worth building.

Notable: every candidate ends in the report, built or not, with the reason. A base that cannot be had, rows that teach a
student nothing, a job that runs out of memory or of time, a loss that is no number, an export that cannot be written or
does not answer as what was trained, an engine that cannot run it: each costs its candidate and not the build. Training
keeps its time: a prompt is not tried where that would take the time of what is still to be trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from locum.core.errors import CheckFailed, LocumError, ModelFileError, SourceError, UserError
from locum.core.progress import note, warn
from locum.evaluate import choose
from locum.fit.ladder import training_budgets
from locum.pipeline.built import BuiltStudent, Prepared
from locum.pipeline.made import OUT_OF_MEMORY
from locum.pipeline.rung import build_rung, start_of
from locum.pipeline.workspace import Workspace
from locum.schema.candidate import Candidate
from locum.schema.data import SplitName
from locum.schema.kinds import PROMPTED

_NOTHING_LEARNED = ("train-no-time", "train-no-gain")
"""Codes of a tuning that ends where it starts, which is another candidate: no fault, and nothing to export."""


@dataclass(frozen=True)
class Outcome:
    """What became of one candidate; ``student`` is None unless it was built.

    Attributes:
        start: of a tuning that ended where it started, the student that it started from.
    """

    candidate: Candidate
    student: BuiltStudent | None
    reason: str = ""
    start: BuiltStudent | None = None

    @property
    def status(self) -> str:
        """built, skipped or failed."""
        if self.student is not None:
            return "built"
        return "failed" if self.reason.startswith("failed: ") else "skipped"


@dataclass(frozen=True)
class Climb:
    """The ladder after the build, in its order."""

    outcomes: tuple[Outcome, ...]
    stopped_early: str | None

    @property
    def students(self) -> tuple[BuiltStudent, ...]:
        """Those that were built."""
        return tuple(outcome.student for outcome in self.outcomes if outcome.student is not None)


def climb(work: Workspace, data: Prepared, ladder: Sequence[Candidate], noise_ceiling: float) -> Climb:
    """Build the candidates in order.

    Args:
        work: the build.
        data: its prepared data.
        ladder: candidates, cheapest first; those with ``skipped`` set are reported and not built.
        noise_ceiling: the best accuracy that the labels allow.

    Raises:
        LocumError: the only candidate could not be built, the failure would hit every candidate, or the build was
            stopped.
        UserError: every candidate was ruled out or failed.
        CheckFailed: the same, and some failed a check: their export did not answer as they did.
    """
    build_s = work.task.budget.build_minutes * 60
    seconds = training_budgets(work.task.kind, [candidate.method for candidate in ladder], build_s)
    budgets = {candidate.name: s for candidate, s in zip(ladder, seconds, strict=True)}
    outcomes: list[Outcome] = []
    stopped: str | None = None
    failures: list[LocumError] = []
    for place, candidate in enumerate(ladder):
        built = [outcome.student for outcome in outcomes if outcome.student is not None]
        left_s = build_s - work.steps.spent_s - due_s(data, built)
        reason = (
            candidate.skipped
            or _no_time(candidate, left_s, budgets[candidate.name], build_s)
            or _training_first(work, candidate, built, ladder[place + 1 :], left_s, budgets)
        )
        if reason is None and work.task.students == "auto":
            reason = _not_worth_it(work, candidate, outcomes, noise_ceiling)
            stopped = stopped or reason
        if reason is not None:
            outcomes.append(_not_built(work, candidate, reason))
            continue
        try:
            outcomes.append(Outcome(candidate, build_rung(work, data, candidate, budgets[candidate.name], built)))
        except LocumError as error:
            if not costs_only_the_candidate(error):
                raise
            failures.append(error)
            if error.code in _NOTHING_LEARNED:
                start = start_of(work.task.kind, candidate, built)
                same = next((each for each in built if each.candidate.name == start), None)
                outcomes.append(replace(_not_built(work, candidate, error.cause), start=same))
                continue
            warn(f"{candidate.name}: {error}")
            outcomes.append(Outcome(candidate, None, f"failed: {error.cause}"))
    if not any(outcome.student for outcome in outcomes):
        if failures and len(outcomes) == 1:
            raise failures[0]
        raise _nothing_built(outcomes, failures) from (failures[-1] if failures else None)
    return Climb(tuple(outcomes), stopped)


def _not_built(work: Workspace, candidate: Candidate, reason: str) -> Outcome:
    note(f"{candidate.name}: not built, {reason}")
    if work.steps.overall:
        work.steps.overall.drop(candidate.name)
    return Outcome(candidate, None, reason)


def as_rung(student: BuiltStudent) -> choose.Rung:
    """The student as the choice sees it."""
    return choose.Rung(student.candidate, student.measured.size_mb, student.scored("dev"))


def costs_only_the_candidate(error: LocumError) -> bool:
    """Whether an error is a candidate's own, so that the build goes on without it.

    What happens while a candidate is exported (``compress-``) or run by its engine (``runtime-``) is its own: another
    base has another architecture, tokenizer, template and size.
    """
    own = (*_NOTHING_LEARNED, "train-nan", "train-no-rows", "data-nothing-to-learn", *OUT_OF_MEMORY)
    rooms = ("compress-", "runtime-")
    return isinstance(error, SourceError | ModelFileError) or error.code in own or error.code.startswith(rooms)


def _nothing_built(outcomes: Sequence[Outcome], failures: Sequence[LocumError]) -> UserError | CheckFailed:
    reasons = "; ".join(f"{outcome.candidate.name}: {outcome.reason}" for outcome in outcomes)
    unlike = any(isinstance(failure, CheckFailed) for failure in failures)
    return (CheckFailed if unlike else UserError)(
        "pipeline-nothing-built",
        f"no candidate can be built: {reasons}",
        fix="mend what the reasons name, raise the budget in the task file, or name other students",
    )


def due_s(data: Prepared, students: Sequence[BuiltStudent]) -> float:
    """Seconds that answers take which must still be given: calibration and test by the one that will be chosen.

    Which one that is shows when all are built, so the slowest is counted. Of tasks that are learned together every
    student answers test, because what that did to them is what the build is to tell.
    """
    later: list[SplitName] = [split for split in data.splits if split not in ("train", "dev")]
    slowest_s = max((sum(student.answering_s(split) for split in later) for student in students), default=0.0)
    if data.mixture is None:
        return slowest_s
    return slowest_s + sum(student.answering_s("test") for student in students)


def _no_time(candidate: Candidate, left_s: float, budget_s: float, build_s: float) -> str | None:
    """Why there is no time for a candidate: less than half of what it was given is left of the build's."""
    if left_s >= 0.5 * budget_s:
        return None
    what = "search" if candidate.method in PROMPTED else "training"
    return f"{max(0.0, left_s):.0f} s of {build_s:.0f} s are left, and its {what} was to get {budget_s:.0f} s"


def _training_first(
    work: Workspace,
    candidate: Candidate,
    built: Sequence[BuiltStudent],
    later: Sequence[Candidate],
    left_s: float,
    budgets: Mapping[str, float],
) -> str | None:
    """Why a prompt is not tried: taking as long as the last one, it would leave later training less than half."""
    prompted = [student.candidate.name for student in built if student.candidate.method in PROMPTED]
    trained = [each for each in later if each.skipped is None and each.method not in PROMPTED]
    if candidate.method not in PROMPTED or not prompted or not trained:
        return None
    takes_s = sum(s for step, s in work.steps.seconds.items() if step.endswith(f"-{prompted[-1]}"))
    kept_s = sum(budgets[each.name] for each in trained)
    if left_s - takes_s >= 0.5 * kept_s:
        return None
    names = ", ".join(each.name for each in trained)
    tried = f"{prompted[-1]} took {takes_s:.0f} s to try"
    return f"{max(0.0, left_s):.0f} s are left, {tried}, and {kept_s:.0f} s are for training {names}"


def _not_worth_it(
    work: Workspace, candidate: Candidate, outcomes: Sequence[Outcome], noise_ceiling: float
) -> str | None:
    """Why a candidate is not tried; a tuning that ended where it started gained nothing, which tells, too."""
    found = [(outcome.candidate, outcome.student or outcome.start) for outcome in outcomes]
    built = [replace(as_rung(student), candidate=tried) for tried, student in found if student is not None]
    return choose.skip_reason(
        candidate, built, metric=work.task.metric, at_least=work.task.target.at_least, noise_ceiling=noise_ceiling
    )
