"""Intervals for one proportion or one mean.

Notable: Wilson for display (good coverage on average), Clopper–Pearson where a promise hangs on it
(coverage is never below the stated one). Not here: bootstrap intervals (``stats.bootstrap``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from locum.stats.distributions import beta_quantile, normal_quantile, student_quantile
from locum.stats.inputs import as_floats, check_counts, check_open_unit, input_error

Side = Literal["two", "upper", "lower"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds; ``method`` names the estimator."""

    value: float
    low: float
    high: float
    method: str


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927; Brown, Cai & DasGupta 2001 recommend it).

    Args:
        successes: how many of the n.
        n: how many in all.
        level: coverage, in (0, 1).

    Returns:
        The interval; ``value`` is successes/n. Degenerate: n = 0 gives NaN within [0, 1].

    Raises:
        UserError: the counts or the level are out of range.
    """
    check_counts(successes, n)
    check_open_unit("level", level)
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, "wilson")
    share = successes / n
    low, high = wilson_at(share, n, level)
    return Interval(share, low, high, "wilson")


def wilson_at(share: float, n: float, level: float) -> tuple[float, float]:
    """Both ends of Wilson's interval of a share of n rows; n need not be whole (an effective number of rows)."""
    z = float(normal_quantile(0.5 + level / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return 0.0 if share == 0 else max(0.0, centre - half), 1.0 if share == 1 else min(1.0, centre + half)


def clopper_pearson(successes: int, n: int, level: float = 0.95, side: Side = "two") -> Interval:
    """The exact binomial interval (Clopper & Pearson 1934), by Beta quantiles.

    Args:
        successes: how many of the n.
        n: how many in all.
        level: coverage, never undercut.
        side: "two" splits 1−level over both ends; "upper" bounds only from above, "lower" only from below.

    Returns:
        The interval; ``value`` is successes/n. Degenerate: n = 0 gives NaN within [0, 1].

    Raises:
        UserError: the counts or the level are out of range.
    """
    check_counts(successes, n)
    miss = 1 - check_open_unit("level", level)
    method = "clopper-pearson" if side == "two" else f"clopper-pearson-{side}"
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, method)
    tail = miss / 2 if side == "two" else miss
    low, high = 0.0, 1.0
    if side != "upper" and successes > 0:
        low = beta_quantile(tail, successes, n - successes + 1)
    if side != "lower" and successes < n:
        high = beta_quantile(1 - tail, successes + 1, n - successes)
    return Interval(successes / n, low, high, method)


def mean_interval(values: ArrayLike, level: float = 0.95, method: Literal["student", "normal"] = "student") -> Interval:
    """Mean ± quantile × standard error; the standard error is s/√n with s² over n−1.

    Args:
        values: shape (n,).
        level: coverage if the mean is about normal.
        method: Student's t with n−1 degrees of freedom, or the normal quantile.

    Returns:
        The interval. Degenerate: one value gives (−∞, ∞); equal values give a width of 0.

    Raises:
        UserError: no values, or NaN.
    """
    array = as_floats("values", values)
    check_open_unit("level", level)
    if len(array) == 0:
        raise input_error("no values to take a mean of")
    centre = float(array.mean())
    if len(array) == 1:
        return Interval(centre, -math.inf, math.inf, method)
    half = _quantile(level, len(array) - 1, method) * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Interval(centre, centre - half, centre + half, method)


def _quantile(level: float, degrees: int, method: str) -> float:
    upper = 0.5 + level / 2
    return student_quantile(upper, degrees) if method == "student" else float(normal_quantile(upper))


def standard_error(values: ArrayLike) -> float:
    """s/√n of a mean, s² over n−1. Degenerate: fewer than two values give NaN (unknown, not 0).

    Raises:
        UserError: NaN among the values.
    """
    array = as_floats("values", values)
    return float(array.std(ddof=1)) / math.sqrt(len(array)) if len(array) > 1 else math.nan


def proportion_standard_error(successes: int, n: int) -> float:
    """√(p(1−p)/n) with Agresti–Coull's p = (x+2)/(n+4), so that 0 or n successes do not claim certainty.

    Source: Agresti & Coull 1998. Degenerate: n = 0 gives NaN.

    Raises:
        UserError: the counts are out of range.
    """
    check_counts(successes, n)
    if n == 0:
        return math.nan
    share = (successes + 2) / (n + 4)
    return float(np.sqrt(share * (1 - share) / (n + 4)))
