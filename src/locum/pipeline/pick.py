"""Picking the student that is served: chosen on dev, then trained once more on train and dev together.

Notable: a tenth of the labels is set aside for choosing; once everything is chosen, the student may learn from it too.
Calibration and test stay untouched, so the certificate and the report are about what is served; what is said of dev,
and the confidence that was fitted there, are those of the student before. It is done where it fits what is left of the
build's time, and the report says whether it was. For students that label or tag. Not here: the rule of the choice
(``evaluate.choose``), how a training takes over another's choices (``train.repeat``).
"""

from __future__ import annotations

from dataclasses import dataclass

from locum.core.errors import LocumError
from locum.core.progress import note, warn
from locum.data.load import iterate
from locum.evaluate import choose
from locum.pipeline.built import BuiltStudent, Prepared
from locum.pipeline.climb import Climb, as_rung, costs_only_the_candidate
from locum.pipeline.make_classifier import make_classifier
from locum.pipeline.make_tagger import make_tagger
from locum.pipeline.rung import measure_student
from locum.pipeline.workspace import Workspace

_MAKE_AGAIN = {"classify": make_classifier, "tag": make_tagger}
_SLOWER = 1.15  # two trainings of one length differ by this much on a machine that does other things


@dataclass(frozen=True)
class Chosen:
    """The student that is served.

    Attributes:
        student: refitted, or as it was chosen.
        why: why it was chosen, one sentence.
        refit: on how many rows it was trained again, or why not, one sentence; empty where that is not done.
    """

    student: BuiltStudent
    why: str
    refit: str = ""


def pick(work: Workspace, data: Prepared, climbed: Climb) -> Chosen:
    """Choose a student on dev, and train it again on train and dev if there is time.

    Args:
        work: the build.
        data: its prepared data.
        climbed: the ladder, built.

    Raises:
        LocumError: the students did not answer the same rows, or a failure that is not the refit's own.
    """
    choice = choose.choose(
        [as_rung(student) for student in climbed.students],
        metric=work.task.metric,
        at_least=work.task.target.at_least,
    )
    student = next(student for student in climbed.students if student.candidate.name == choice.name)
    if work.task.kind not in _MAKE_AGAIN or student.training is None or student.trained is None:
        return Chosen(student, choice.why)
    served, said = _refit(work, data, student, student.trained.train_s)
    return Chosen(served, choice.why, said)


def _refit(work: Workspace, data: Prepared, student: BuiltStudent, train_s: float) -> tuple[BuiltStudent, str]:
    """The student trained on train and dev, or as it was; and a sentence about it."""
    counts = {split: sum(1 for _ in iterate(data.folder, split)) for split in ("train", "dev")}
    rows, name = sum(counts.values()), student.candidate.name
    after_s = sum(work.steps.seconds.get(f"{what}-{name}", 0.0) for what in ("export", "measure"))
    left_s = work.task.budget.build_minutes * 60 - work.steps.spent_s - after_s
    needed_s = _SLOWER * train_s * rows / counts["train"]
    if left_s < needed_s:
        left = f"{left_s:.0f} s of the build are left" if left_s > 0 else "no time of the build is left"
        return student, f"It did not learn from the dev rows too: that takes {needed_s:.0f} s, and {left}."
    try:
        made = _MAKE_AGAIN[work.task.kind](work, data, student.candidate, left_s, repeat=student.training)
        if made.trained is None or made.trained.stopped_by != "schedule":
            note(f"{name}: the second training was not finished, so the first is served")
            return student, "Training it again with the dev rows was not finished, so the first is served."
        served = measure_student(work, data, student.candidate, made, before=student)
    except LocumError as error:
        if not costs_only_the_candidate(error):
            raise
        warn(f"{name}, trained again: {error}")
        return student, f"Training it again with the dev rows failed: {error.cause.rstrip('.')}."
    return (
        served,
        f"The chosen one then learned from {counts['dev']:,} more rows (dev), {rows:,} in all, with every choice kept.",
    )
