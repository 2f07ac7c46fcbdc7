"""Does the confidence sort right answers from wrong ones: AUROC, risk-coverage curve, AURC.

Notable: NaN confidence is a legal value, "never answered locally", and ranks below everything; ties are
treated as ties, so the order of rows cannot change a number. Not here: calibration (``stats.calibration``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from locum.stats.inputs import Floats, as_floats, as_outcomes, floats
from locum.stats.risk import distinct_thresholds


@dataclass(frozen=True)
class RiskCoverage:
    """Per distinct threshold, strictest first: share answered at or above it, and share of those wrong.

    Attributes:
        thresholds: shape (m,), falling.
        coverage: shape (m,), rising; below 1 at the end when some confidence is NaN.
        risk: shape (m,).
        aurc: area under the curve, see ``risk_coverage``; None when nothing can be answered.
    """

    thresholds: Floats
    coverage: Floats
    risk: Floats
    aurc: float | None


def auroc(confidence: ArrayLike, right: ArrayLike) -> float | None:
    """P(confidence of a right answer > that of a wrong one) + ½ P(equal): Mann & Whitney 1947, mid-ranks.

    Args:
        confidence: shape (n,); NaN ranks below every number.
        right: whether the answer was right, same rows.

    Returns:
        AUROC; None when all answers are right or all are wrong, where it does not exist.

    Raises:
        UserError: unequal lengths, or ``right`` is not 0/1.
    """
    score = as_floats("confidence", confidence, nan=True)
    came_true = as_outcomes("right", right, n=len(score))
    hits = int(came_true.sum())
    misses = len(score) - hits
    if hits == 0 or misses == 0:
        return None
    _, group, counts = np.unique(np.where(np.isnan(score), -np.inf, score), return_inverse=True, return_counts=True)
    ranks = floats((np.cumsum(counts) - (counts - 1) / 2)[group])  # mid-ranks, without the second scipy.stats loads in
    return float((ranks[came_true].sum() - hits * (hits + 1) / 2) / (hits * misses))


def risk_coverage(confidence: ArrayLike, right: ArrayLike) -> RiskCoverage:
    """Risk-coverage curve and its area (El-Yaniv & Wiener 2010; AURC: Geifman, Uziel & El-Yaniv 2019).

    AURC is the mean over answered rows of the risk at that row's threshold; rows with one confidence share
    one threshold. It equals the published Σ_k risk(k)/n when no two are equal.

    Args:
        confidence: shape (n,); NaN is never answered.
        right: whether the answer was right, same rows.

    Returns:
        The curve. Degenerate: all NaN, or no rows, give an empty curve and AURC None.

    Raises:
        UserError: unequal lengths, or ``right`` is not 0/1.
    """
    score = as_floats("confidence", confidence, nan=True)
    wrong = ~as_outcomes("right", right, n=len(score))
    thresholds, accepted, errors = distinct_thresholds(score, wrong.astype(np.float64))
    if len(thresholds) == 0:
        empty = floats([])
        return RiskCoverage(empty, empty, empty, None)
    risk = errors / accepted
    aurc = float((risk * np.diff(accepted, prepend=0)).sum() / accepted[-1])
    return RiskCoverage(thresholds, accepted / len(score), risk, aurc)
