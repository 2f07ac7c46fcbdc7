"""What ``locum bench`` found: scores of models on public benchmarks, and how they compare on the same documents."""

from __future__ import annotations

from typing import Literal

from locum.schema.base import Document
from locum.schema.evaluation import Comparison, Interval


class BenchModel(Document):
    """A model that was asked.

    Attributes:
        sha256: of its file; of URL and name where there is no file.
        spent: what its answers cost in this run, in the price's currency; None without a price.
    """

    name: str
    sha256: str
    place: Literal["local", "url"]
    spent: float | None = None


class BenchTask(Document):
    """A benchmark as it was asked for.

    Attributes:
        parts: the harness's tasks it consists of; itself where it is one.
        version: of the harness's definition.
        n: documents, of all parts together.
        of: documents that there are.
        headline: the metric that models are compared by.
        remark: what differs from the published data set; empty for nothing.
    """

    name: str
    parts: tuple[str, ...]
    version: str
    few_shot: int
    n: int
    of: int
    headline: str
    remark: str = ""


class BenchScore(Document):
    """One metric of one model on one benchmark, over all documents of all its parts."""

    task: str
    model: str
    metric: str
    higher_is_better: bool
    score: Interval


class BenchComparison(Document):
    """Two models on the same documents.

    Attributes:
        p_holm: p-value adjusted for all tasks on which these two were compared; None where the test has none.
    """

    task: str
    comparison: Comparison
    p_holm: float | None


class BenchReport(Document):
    """A whole run."""

    schema_version: Literal[1] = 1
    harness: str
    chat: bool
    models: tuple[BenchModel, ...]
    tasks: tuple[BenchTask, ...]
    scores: tuple[BenchScore, ...]
    comparisons: tuple[BenchComparison, ...]
