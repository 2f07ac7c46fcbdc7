"""``Plan``: what a build would do, cost and need, worked out without downloading anything."""

from __future__ import annotations

from locum.schema.answers import AnswerLimit
from locum.schema.base import Document
from locum.schema.candidate import Candidate


class Download(Document):
    """A file or folder that a build would fetch."""

    what: str
    address: str
    size_mb: float | None
    cached: bool


class PlannedStep(Document):
    """A step of the build.

    Attributes:
        seconds: an estimate, corrected by what earlier builds took and within its share of the budget; None: unknown.
        done: an earlier build left it, and the build takes it as it is.
        sort: what earlier builds tell of steps like it; empty where they tell nothing.
        plain_s: worked out from data and device alone, as if there were no budget.
    """

    name: str
    what: str
    seconds: float | None
    done: bool
    sort: str = ""
    plain_s: float | None = None


class PlannedMix(Document):
    """Rows of a task and their share of an epoch, for students that learn several tasks together."""

    task: str
    rows: int
    share: float


class LabelNeed(Document):
    """How many calibration labels the guarantee needs; the arithmetic of ``stats.sample_size``.

    Attributes:
        available: rows, or groups where rows belong together, that there will be; None: unknown.
        unit: rows or groups.
        chance: that ``available`` of them prove the promise where the truth is ``true_error_assumed``, were all of them
            answered locally; None where there is no telling.
    """

    kind: str
    max_error: float
    confidence: float
    without_errors: int
    with_five_errors: int
    for_power_80: int
    true_error_assumed: float
    available: int | None
    unit: str = "rows"
    chance: float | None = None


class Plan(Document):
    """Steps, cost, time, downloads and labels.

    Attributes:
        answers: how long a written answer may be, as far as can be told before; None for kinds that write none.
        learned_from: earlier builds on this machine whose steps correct the times.
    """

    task: str
    steps: tuple[PlannedStep, ...]
    ladder: tuple[Candidate, ...]
    downloads: tuple[Download, ...]
    download_mb: float
    seconds: float
    budget_s: float
    llm_calls: int
    llm_cost: float | None
    labels: LabelNeed
    answers: AnswerLimit | None
    multitask: tuple[PlannedMix, ...] = ()
    learned_from: int = 0
    warnings: tuple[str, ...]
