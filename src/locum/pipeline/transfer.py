"""What learning several tasks together did: to each of them on dev, and to the task at hand on test.

Notable: a gain (positive transfer) or harm (negative transfer) is said only where the paired comparison with the same
student, tuned alone in the same time, shows a difference. Not here: the comparison (``evaluate.compare``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from locum.evaluate.compare import compare, shown
from locum.evaluate.metrics import document
from locum.evaluate.scored import Scored
from locum.pipeline.built import BuiltStudent, Mixture
from locum.schema.candidate import Candidate
from locum.schema.evaluation import Comparison, Interval
from locum.schema.multitask import LearnedTask, MultitaskReport
from locum.schema.training import Trained
from locum.stats.mixture import task_counts
from locum.stats.rowwise import interval

Verdict = Literal["gain", "harm", "no difference shown", "not compared"]


def multitask_reports(
    students: Sequence[BuiltStudent], mixture: Mixture | None, metric: str
) -> tuple[MultitaskReport, ...]:
    """One report for each student that was tuned on several tasks.

    Args:
        students: those that were built.
        mixture: what these learned from.
        metric: what choices go by.

    Raises:
        CheckFailed: two students did not answer the same rows.
    """
    if mixture is None:
        return ()
    return tuple(
        _report(student, student.trained, _alone(student, students), mixture, metric)
        for student in students
        if student.candidate.multitask and student.trained is not None
    )


def _alone(student: BuiltStudent, students: Sequence[BuiltStudent]) -> BuiltStudent | None:
    """The student that differs in nothing but the rows it learned from."""
    wanted = _trained_as(student.candidate)
    alone = (other for other in students if not other.candidate.multitask)
    return next((other for other in alone if _trained_as(other.candidate) == wanted), None)


def _trained_as(candidate: Candidate) -> tuple[str | None, str, int | None, int | None]:
    return candidate.base, candidate.method, candidate.depth, candidate.train_layers


def _report(
    student: BuiltStudent, trained: Trained, alone: BuiltStudent | None, mixture: Mixture, metric: str
) -> MultitaskReport:
    test = student.scored("test")
    against = alone.scored("test") if alone else None
    comparison = compare(test, against, metric) if against else None
    return MultitaskReport(
        student=student.candidate.name,
        mixing=mixture.temperature,
        tasks=learned_tasks(trained, mixture),
        alone=alone.candidate.name if alone else None,
        score=_score(test, metric),
        alone_score=_score(against, metric) if against else None,
        comparison=comparison,
        verdict=verdict_of(comparison),
    )


def learned_tasks(trained: Trained, mixture: Mixture) -> tuple[LearnedTask, ...]:
    """Rows, share of an epoch and dev loss of each task, the base's before and the student's after."""
    rows = trained.rows.tasks if trained.rows else {}
    epoch = task_counts(rows, mixture.temperature)
    before = trained.curve[0].dev_losses  # at step 0, of the untouched base
    return tuple(
        LearnedTask(
            task=mixed.task,
            rows=rows.get(mixed.task, 0),
            share=epoch.get(mixed.task, 0) / max(1, sum(epoch.values())),
            dev_loss_base=before.get(mixed.task),
            dev_loss=trained.dev_losses.get(mixed.task),
            mixed=mixed,
        )
        for mixed in mixture.card.tasks
    )


def verdict_of(comparison: Comparison | None) -> Verdict:
    """Gain, harm, or neither shown, from the difference of the student to the one tuned alone."""
    if comparison is None:
        return "not compared"
    if not shown(comparison):
        return "no difference shown"
    return "gain" if comparison.difference.value > 0 else "harm"


def _score(scored: Scored, metric: str) -> Interval:
    return document(interval(scored.metrics[metric], groups=scored.groups))
