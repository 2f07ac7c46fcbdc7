"""The held-out rows that are answered once the choice is made: by the chosen student all of them, by the others test.

Notable: the choice sees dev alone, so where answers take their time nothing else is answered before it; the time goes
into training first. Calibration is read by the one student that is certified. Students that label or tag have answered
everything already.
"""

from __future__ import annotations

from dataclasses import replace

from locum.pipeline.built import BuiltStudent, Prepared
from locum.pipeline.climb import Climb
from locum.pipeline.pick import Chosen
from locum.pipeline.rung import answer_split
from locum.pipeline.workspace import Workspace
from locum.schema.data import SplitName


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
    served = _answered(work, chosen.student, tuple(split for split in data.splits if split not in ("train", "dev")))

    def answered(student: BuiltStudent) -> BuiltStudent:
        return served if student is chosen.student else _answered(work, student, ("test",))

    outcomes = tuple(
        replace(each, student=answered(each.student)) if each.student is not None else each for each in climbed.outcomes
    )
    return replace(climbed, outcomes=outcomes), replace(chosen, student=served)


def _answered(work: Workspace, student: BuiltStudent, splits: tuple[SplitName, ...]) -> BuiltStudent:
    for split in splits:
        student = answer_split(work, student, split)
    return student
