"""Several tasks learned together: what is mixed, and what it did to each of them."""

from __future__ import annotations

from typing import Literal

from locum.schema.base import Document
from locum.schema.data import SourceFile
from locum.schema.evaluation import Comparison, Interval


class MixedTask(Document):
    """One task's rows in a mixture.

    Attributes:
        train, dev: rows that say what to write.
        leaked: training rows left out, since their input is held out (dev, calibration, test) by another of the tasks.
        places: the first of these.
        only_checked: training rows left out, since their gold answer is only a check.
        chars: of a middling input.
        data: hash of its prepared splits.
        files: that its rows come from.
    """

    task: str
    train: int
    dev: int
    leaked: int
    places: tuple[str, ...]
    only_checked: int
    chars: int
    data: str
    files: tuple[SourceFile, ...]


class MixtureCard(Document):
    """What is mixed; the task that the student is for comes first."""

    schema_version: Literal[1] = 1
    tasks: tuple[MixedTask, ...]


class LearnedTask(Document):
    """What became of one task in a multi-task tuning.

    Attributes:
        rows: training rows in use.
        share: of the rows of an epoch.
        dev_loss_base, dev_loss: mean cross-entropy of an answer's token, in nats, of the base and of the student;
            None where it was no number.
        mixed: its rows in the mixture.
    """

    task: str
    rows: int
    share: float
    dev_loss_base: float | None
    dev_loss: float | None
    mixed: MixedTask


class MultitaskReport(Document):
    """A student tuned on several tasks, against the same student tuned alone.

    Attributes:
        student: its candidate's name.
        mixing: temperature of the mixture.
        tasks: the task that it is for comes first.
        alone: name of the candidate that differs in nothing but the rows; None when none was built.
        score, alone_score: on test, by the task's metric.
        comparison: on test, this student minus the one tuned alone.
        verdict: ``gain`` and ``harm`` where the comparison shows a difference.
    """

    student: str
    mixing: float
    tasks: tuple[LearnedTask, ...]
    alone: str | None
    score: Interval
    alone_score: Interval | None
    comparison: Comparison | None
    verdict: Literal["gain", "harm", "no difference shown", "not compared"]
