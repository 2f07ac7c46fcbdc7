"""``RowCounts``: what each row adds to a metric of the whole corpus, so that resampled rows need no new scoring.

Notable: BLEU, chrF and micro F1 are functions of sums over rows. With the sums' parts kept per row, a bootstrap
or a paired comparison draws rows and adds up, which is exact and takes milliseconds. Not here: the bootstrap
(``stats.bootstrap`` takes ``RowCounts.of_rows`` as its statistic).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RowCounts:
    """Sufficient statistics of a corpus metric, row by row.

    Attributes:
        metric: the metric's name.
        counts: what each row adds, ``[n, k]``.
        value: sums over rows ``[..., k]`` → the metric ``[...]``, in [0, 1].
        signature: how it was computed (version, tokeniser, smoothing), for reports.
    """

    metric: str
    counts: Floats
    value: Callable[[Floats], Floats]
    signature: str = ""

    def corpus(self) -> float:
        """The metric of all rows together."""
        return float(self.value(self.counts.sum(axis=0)))

    def of_rows(self, rows: Ints) -> Floats:
        """The metric of resampled rows: row numbers ``[b, m]`` → values ``[b]``."""
        n = len(self.counts)
        sums = [np.bincount(drawn, minlength=n).astype(np.float64) @ self.counts for drawn in rows]
        return self.value(np.stack(sums))  # [b, k]


def f1_of_counts(sums: Floats) -> Floats:
    """F1 = 2·hits/(predicted + gold) of sums ``[..., 3]`` (hits, predicted, gold).

    Degenerate: nothing predicted and nothing gold is full agreement, 1.
    """
    total = sums[..., 1] + sums[..., 2]
    return np.divide(2 * sums[..., 0], total, out=np.ones_like(total), where=total > 0)


def check_rows(predictions: int, golds: int) -> None:
    """Require as many predictions as gold answers, and at least one.

    Raises:
        UserError: ``scoring-input``.
    """
    if predictions != golds or not golds:
        cause = f"{predictions} predictions and {golds} gold answers: one of each a row, at least one row, is needed"
        raise UserError(
            "scoring-input", cause, fix="give one prediction for every row, an empty one where there is none"
        )
