"""One δ for several statements: stages of a cascade, slices of the traffic.

Notable: Bonferroni's split, so that *all* statements hold together with confidence 1−δ, whatever their
dependence. Not here: testing many thresholds within one certificate (a fixed sequence, ``selective``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from locum.stats.inputs import Floats, as_scores, check_open_unit, input_error


def split_delta(delta: float, parts: int | Sequence[float]) -> tuple[float, ...]:
    """Share δ among statements so that all hold together with confidence 1−δ (Bonferroni; Dunn 1961).

    Args:
        delta: what all may fail with, together.
        parts: how many statements, or a positive weight for each.

    Returns:
        One δ per statement; they sum to at most ``delta``.

    Raises:
        UserError: delta outside (0, 1), no parts, or a weight that is not positive.
    """
    check_open_unit("delta", delta)
    weights = [1.0] * parts if isinstance(parts, int) else [float(weight) for weight in parts]
    if not weights or not all(0.0 < weight < float("inf") for weight in weights):
        raise input_error(f"a δ is shared among one or more positive weights, got {parts}")
    shares = [delta * weight / sum(weights) for weight in weights]
    while sum(shares) > delta:  # rounding must not spend more than there is
        shares = [share * (1 - 1e-15) for share in shares]
    return tuple(shares)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given, shape (m,).

    Rejecting where the adjusted value is ≤ α keeps the chance of any false rejection ≤ α.

    Raises:
        UserError: a p-value outside [0, 1].
    """
    p = as_scores("p_values", p_values)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
