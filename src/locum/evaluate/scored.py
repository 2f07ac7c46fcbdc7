"""``Scored``: one model's answers to one split, scored; all that choice, certificate and comparison look at.

Notable: it is the same for every kind of task. What an answer is (a label, spans, JSON, text, a ranking) is settled
before; here each row is right or wrong, has a confidence, and adds to the metrics. Only answers to the same rows may
be compared; where rows belong together their groups are drawn. Not here: making answers (``evaluate.runner``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import CheckFailed
from locum.schema.data import SplitName
from locum.stats.rowwise import Metric, value


@dataclass(frozen=True, eq=False)
class Scored:
    """One model's answers to one split.

    Attributes:
        model: its name.
        ids_hash: SHA-256 of the rows' ids, in order.
        correct: whether each answer counts as right, ``[n]``.
        confidence: calibrated, ``[n]``; NaN where there is none.
        metrics: the task's metrics by name, each over the same rows.
        log_likelihood: log-probability that it gave the right answer, ``[n]``, NaN where it is not known; None when the
            model gives no probabilities of answers.
        fields: confidence of every field of all answers and whether it is right, ``[fields]`` each; None where fields
            have none.
        groups: a number per row, the same for rows that belong together, ``[n]``; None where none do.
    """

    model: str
    split: SplitName
    ids_hash: str
    correct: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    metrics: Mapping[str, Metric]
    log_likelihood: NDArray[np.float64] | None = None
    fields: tuple[NDArray[np.float64], NDArray[np.bool_]] | None = None
    groups: NDArray[np.int64] | None = None

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.correct)

    @property
    def n_groups(self) -> int | None:
        """Groups that the rows are of; None where none belong together."""
        return count_groups(self.groups)

    def score(self, metric: str) -> float:
        """A metric over all rows."""
        return value(self.metrics[metric])


def count_groups(groups: NDArray[np.int64] | None) -> int | None:
    """How many groups there are, by their codes."""
    return None if groups is None else len(np.unique(groups))


def rows_of_groups(n: int, groups: int | None, rows: str = "rows") -> str:
    """How many rows, and of how many groups, in words: ``600 dev rows of 60 groups``."""
    return f"{n} {rows}" if groups is None else f"{n} {rows} of {groups} group{'' if groups == 1 else 's'}"


def require_same_rows(first: Scored, second: Scored) -> None:
    """Refuse to compare answers to different rows.

    Raises:
        CheckFailed: the two were made on different rows, or the same rows in another order.
    """
    if first.ids_hash != second.ids_hash:
        raise CheckFailed(
            "evaluate-different-rows",
            f"{first.model!r} ({first.split}, {first.n} rows) and {second.model!r} ({second.split}, {second.n} rows) "
            "did not answer the same rows",
            fix="evaluate both on the same split",
        )
