"""The held-out rows that are answered once the choice is made: by the chosen student all of them, by the others test.

Notable: the choice sees dev alone, so where answers take their time nothing else is answered before it; the time goes
into training first. Calibration is read by the one student that is certified. The others answer test, cheapest first,
while the build has time; who does not is told, and stands in the report with its dev score. Students that label or tag
have answered everything already. Not here: the time that is kept for the chosen one (``pipeline.climb``).
"""

from __future__ import annotations

from dataclasses import replace

from locum.core.progress import note
from locum.pipeline.built import BuiltStudent, Prepared
from locum.pipeline.climb import Climb, Outcome
from locum.pipeline.pick import Chosen
from locum.pipeline.rung import answer_split
from locum.pipeline.workspace import Workspace


def answer_held_out(work: Workspace, data: Prepared, climbed: Climb, chosen: Chosen) -> tuple[Climb, Chosen]:
    """The ladder and the choice with the answers that certificate and report need.

    Args:
        work: the build.
        data: its prepared data.
        climbed: the ladder, built.
        chosen: the student that is served.

    Raises:
        LocumError: an engine failed.
    """
    served = chosen.student
    for split in data.splits:
        if split not in ("train", "dev"):
            served = answer_split(work, served, split)

    def answered(outcome: Outcome) -> Outcome:
        if outcome.student is chosen.student:
            return replace(outcome, student=served)
        return outcome if outcome.student is None else _tested(work, data, outcome, outcome.student)

    return replace(climbed, outcomes=tuple(map(answered, climbed.outcomes))), replace(chosen, student=served)


def _tested(work: Workspace, data: Prepared, outcome: Outcome, student: BuiltStudent) -> Outcome:
    """A student that is not served, with its answers to test if there is time, or else with why not."""
    needed_s = student.answering_s("test")
    left_s = work.task.budget.build_minutes * 60 - work.steps.spent_s
    if data.mixture is None and needed_s > max(0.0, left_s):
        why = f"not asked on test: that takes {needed_s:.0f} s, and {max(0.0, left_s):.0f} s of the build are left"
        note(f"{outcome.candidate.name}: {why}")
        return replace(outcome, reason=why)
    return replace(outcome, student=answer_split(work, student, "test"))
