"""What scorers of pooled metrics share: F1 of counts that are summed over rows, and one check of the rows.

Notable: BLEU, chrF and micro F1 are functions of sums over rows, so each such scorer gives ``stats.rowwise.Pooled``:
what every row adds, ``[n, k]``, and the function of the sum. Resampling rows then needs no new scoring.
Not here: resampling (``stats``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import UserError

Floats = NDArray[np.float64]


def f1_of_counts(sums: Floats) -> Floats:
    """F1 = 2·hits/(predicted + gold) of sums ``[..., 3]`` (hits, predicted, gold) → ``[...]``.

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
