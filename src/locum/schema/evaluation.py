"""What was measured: metrics with intervals, calibration, latency, and comparisons of two models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from locum.schema.base import Document
from locum.schema.data import SplitName
from locum.schema.model import EngineName
from locum.schema.task import Task


class Interval(Document):
    """A value with its 95 % interval; ``method`` names the estimator."""

    value: float
    low: float
    high: float
    method: str


class LabelScore(Document):
    """One label, type of span or field.

    Attributes:
        support, predicted: how many there are, and how many were answered.
        right: how many of these are right; None in reports of earlier versions.
        precision, recall, f1: None where the denominator is zero.
        within: their 95 % intervals by name; of a span or a field, which have one.
    """

    label: str
    support: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    right: int | None = None
    within: dict[str, Interval] = Field(default={})


class ReliabilityBin(Document):
    """Answers whose confidence lies in one bin: what was claimed against what came true."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


class Calibration(Document):
    """How far the confidence can be believed; ``auroc`` is None when all answers are right, or all wrong."""

    temperature: float
    ece: float
    brier: float
    nll: float
    auroc: float | None
    reliability: tuple[ReliabilityBin, ...]


class RiskPoint(Document):
    """At this threshold: the share answered locally and the share of those that is wrong."""

    threshold: float
    coverage: float
    risk: float


class Latency(Document):
    """Through the served engine, tokenizer included, one input at a time; and in batches."""

    p50_ms: float
    p95_ms: float
    n: int
    answers_per_s: float
    threads: int


class Evaluation(Document):
    """One model on one split.

    Attributes:
        metrics: the task's, by name; ``accuracy`` is always there.
        labels, confusion: empty for kinds without labels.
        per_label: by label; by type of span for taggers; by field for answers that have fields; else empty.
        confusion: rows are gold labels, columns predicted, in the order of ``labels``.
        field_calibration: of the confidence of single fields, where answers have fields.
        invalid: answers that are no label (only a prompted model gives them); they count as wrong.
        signatures: how metrics were computed that others compute in other ways (sacreBLEU's), by name.
        groups: how many groups the n rows are of, which is what the intervals are about; None where no rows belong
            together.
    """

    model: str
    split: SplitName
    n: int
    labels: tuple[str, ...]
    metrics: dict[str, Interval]
    per_label: tuple[LabelScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: Calibration | None
    field_calibration: Calibration | None = None
    risk_coverage: tuple[RiskPoint, ...] = ()
    invalid: int = 0
    signatures: dict[str, str] = Field(default={})
    groups: int | None = None


class Comparison(Document):
    """Two models on the same n rows of ``groups``: ``difference`` is a minus b, in the metric's own unit."""

    a: str
    b: str
    metric: str
    n: int
    difference: Interval
    p_value: float | None
    test: Literal["mcnemar-midp", "paired-bootstrap", "sign-flip-exact", "sign-flip-drawn"]
    verdict: str
    groups: int | None = None


class ShownExample(Document):
    """A test row and what the served student says to it, to be tried out.

    Attributes:
        gold: the right answer.
        output: the student's; None where it gives none.
        local: whether the certificate lets it answer by itself.
    """

    input: str
    gold: str
    output: str | None
    confidence: float | None
    local: bool


class WrongExample(Document):
    """An answer that was wrong, for the report."""

    id: str
    input: str
    gold: str
    predicted: str
    confidence: float


class EngineTrial(Document):
    """One engine that could serve a student, tried on this machine.

    Attributes:
        p50_ms, p95_ms: of ``n`` single requests; None when it was not timed.
        answers_per_s: in batches of 32.
        agreement: share of dev rows on which its label is the default engine's; None when it was not asked.
        reason: why it is out (not installed, cannot run the file, answers differently); empty when it was timed.
    """

    engine: EngineName
    version: str | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    n: int = 0
    answers_per_s: float | None = None
    agreement: float | None = None
    reason: str = ""


class EngineChoice(Document):
    """Which engine serves a student, and what it was chosen from.

    Attributes:
        default: the engine that the file was exported for.
        n: single requests that each engine was to be sent; 0 when there was nothing to choose.
        why: one line for people.
    """

    engine: EngineName
    default: EngineName
    n: int
    why: str
    trials: tuple[EngineTrial, ...] = ()


class MeasureRequest(Document):
    """A student to run over its splits in a process of its own.

    Attributes:
        model: folder with ``model.json``.
        data: folder with the prepared splits.
        task: what the student is for.
        splits: to answer; the first is the one that it is timed on.
    """

    model: str
    data: str
    task: Task
    splits: tuple[SplitName, ...]
    threads: int


class Measured(Document):
    """What serving a student costs; its answers stand beside it as ``SPLIT.npz`` or ``SPLIT.jsonl``.

    Attributes:
        memory_mb: resident memory the open engine added, MB (10^6 bytes); None where the system does not tell.
        size_mb: the model folder on disk, MB.
        engines: how the engine was chosen.
    """

    latency: Latency
    memory_mb: float | None
    size_mb: float
    engines: EngineChoice | None = None
