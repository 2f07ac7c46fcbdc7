"""What the three certificates share: the result, and counts per threshold.

Notable: "answer locally" always means confidence ≥ threshold and not NaN; a threshold of None means that
nothing certifies and nothing is answered locally. A constant confidence certifies nothing unless the
caller says so: a score that does not vary cannot say when to hand over, and is most often a fault.
Not here: the tests themselves (``selective``, ``marginal``, ``regret``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from locum.stats.inputs import Bools, Floats, Ints, as_floats

RiskKind = Literal["selective", "marginal", "regret"]
Reason = Literal[
    "certified", "no-confidence", "constant-confidence", "too-few-labels", "risk-too-high", "copies-left-out"
]


@dataclass(frozen=True)
class RiskBound:
    """A certified threshold, or the reason why there is none.

    Attributes:
        kind: selective, marginal or regret.
        threshold: answer locally at or above it; None when nothing certifies.
        n: calibration rows.
        accepted: rows at or above the threshold; ``errors`` of those wrong. For regret, ``errors`` counts
            the rows on which the student scores below the LLM.
        observed: the observed risk at the threshold: errors/accepted, errors/n, or mean regret; None without one.
        upper_bound: the 1−δ upper bound of the risk at this threshold taken alone, never above ``alpha``.
            What is proved for the *chosen* threshold is "risk ≤ alpha"; None without a threshold.
        alpha: the promise (α, or ε).
        delta: the probability, over calibration samples, of breaking it.
        method: the test.
        reason: "certified", or why not: every confidence NaN, confidence constant, too few labels even
            without an error, a risk that could not be shown to be low enough, or more rows left out than it may have
            wrong.
        tested: thresholds tested until the first failure, that one included.
        failed: the first test where it failed and so nothing certifies: rows accepted, errors among them, and errors
            that were allowed; None where the kind is not tested so.
    """

    kind: RiskKind
    threshold: float | None
    n: int
    accepted: int
    errors: int
    observed: float | None
    upper_bound: float | None
    alpha: float
    delta: float
    method: str
    reason: Reason
    tested: int
    failed: tuple[int, int, int] | None = None

    @property
    def local_share(self) -> float:
        """Share of calibration rows answered locally."""
        return self.accepted / self.n if self.n else 0.0


def no_threshold(
    kind: RiskKind,
    n: int,
    alpha: float,
    delta: float,
    method: str,
    reason: Reason,
    tested: int = 0,
    failed: tuple[int, int, int] | None = None,
) -> RiskBound:
    """The result when nothing certifies: everything is handed over."""
    return RiskBound(kind, None, n, 0, 0, None, None, alpha, delta, method, reason, tested, failed)


def answered_locally(confidence: ArrayLike, threshold: float | None) -> Bools:
    """Which rows are answered locally: confidence ≥ threshold and not NaN; none when the threshold is None."""
    score = as_floats("confidence", confidence, nan=True)
    if threshold is None:
        return np.zeros(len(score), dtype=np.bool_)
    return score >= threshold  # NaN compares false


def distinct_thresholds(score: Floats, loss: Floats) -> tuple[Floats, Ints, Floats]:
    """Counts at every distinct confidence, strictest first; NaN rows are never accepted.

    Args:
        score: confidence, shape (n,).
        loss: a number per row, shape (n,); 0/1 for errors.

    Returns:
        Thresholds (m,) falling; rows accepted at each (m,), rising; their summed loss (m,).
    """
    usable = ~np.isnan(score)
    order = np.argsort(-score[usable], kind="stable")
    ordered = score[usable][order]
    if len(ordered) == 0:
        empty = np.empty(0)
        return empty, np.empty(0, dtype=np.int64), empty
    last_of_tie = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    summed = np.cumsum(loss[usable][order])
    return ordered[last_of_tie], (last_of_tie + 1).astype(np.int64), summed[last_of_tie]


def degenerate_reason(thresholds: Floats, allow_constant: bool) -> Reason | None:
    """Why no threshold may be certified before any label is looked at, or None."""
    if len(thresholds) == 0:
        return "no-confidence"
    if len(thresholds) == 1 and not allow_constant:
        return "constant-confidence"
    return None


def prefix_length(passed: Bools) -> int:
    """How many tests pass before the first failure: the reach of a fixed sequence."""
    return int(np.cumprod(passed).sum())
