"""Two models on the same rows: which is better, and is the smaller one good enough.

Notable: pairs are compared by their differences, so what is easy for both cancels. ``within_one_standard_error``
is the rule by which the smallest student is chosen. Not here: more than two models.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from locum.stats.bootstrap import BootstrapMethod, bootstrap_interval
from locum.stats.distributions import binomial_cdf, binomial_pmf, student_cdf, student_quantile
from locum.stats.inputs import Floats, Ints, as_floats, as_outcomes, check_open_unit, input_error
from locum.stats.intervals import Interval, standard_error


@dataclass(frozen=True)
class McNemar:
    """Discordant pairs and the p-value that they are a fair coin.

    Attributes:
        only_a: rows that a has right and b wrong; ``only_b`` the reverse.
        p_value: two-sided; 1.0 when no pair is discordant.
        method: "mcnemar-exact" or "mcnemar-midp".
    """

    only_a: int
    only_b: int
    p_value: float
    method: str


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a − b over rows, its standard error (NaN below two rows) and its interval."""

    difference: float
    standard_error: float
    interval: Interval
    n: int


@dataclass(frozen=True)
class NonInferiority:
    """Whether a is at most ``margin`` worse than b, shown with confidence 1−``alpha``.

    Attributes:
        difference: mean of a − b.
        lower_bound: one-sided lower bound of the true mean of a − b.
        p_value: of "a is worse than b by the margin or more".
        passed: ``lower_bound`` lies above −margin.
    """

    difference: float
    lower_bound: float
    p_value: float
    passed: bool


def mcnemar(right_a: ArrayLike, right_b: ArrayLike, method: Literal["exact", "midp"] = "midp") -> McNemar:
    """McNemar's test on two models' rights and wrongs (McNemar 1947; mid-p: Fagerland, Lydersen & Laake 2013).

    Given b + c discordant pairs, the smaller count is Binomial(b + c, ½): exact p = 2·P(X ≤ min), at most 1;
    mid-p takes off P(X = min), which is far less conservative and keeps its level in practice.

    Args:
        right_a: whether a is right, shape (n,).
        right_b: whether b is right, same rows.
        method: "exact" or "midp".

    Returns:
        The counts and the p-value. Degenerate: no discordant pair gives p = 1.

    Raises:
        UserError: the lengths differ, or a value is not 0/1.
    """
    a = as_outcomes("right_a", right_a)
    b = as_outcomes("right_b", right_b, n=len(a))
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    fewer, discordant = min(only_a, only_b), only_a + only_b
    p_value = 1.0
    if discordant:
        p_value = 2 * float(binomial_cdf(fewer, discordant, 0.5))
        if method == "midp":
            p_value -= float(binomial_pmf(fewer, discordant, 0.5))
    return McNemar(only_a, only_b, min(1.0, p_value), f"mcnemar-{method}")


def paired_difference(scores_a: ArrayLike, scores_b: ArrayLike, level: float = 0.95) -> PairedDifference:
    """Mean of a − b with its standard error and Student interval (n−1 degrees of freedom).

    Args:
        scores_a: score of a on each row, shape (n,); 0/1 rights give the difference of accuracies.
        scores_b: score of b, same rows.
        level: coverage of the interval.

    Returns:
        The difference. Degenerate: one row has no standard error (NaN) and an infinite interval;
        identical scores have a standard error of 0.

    Raises:
        UserError: no rows, unequal lengths, NaN.
    """
    difference = _differences(scores_a, scores_b)
    check_open_unit("level", level)
    mean, error = float(difference.mean()), standard_error(difference)
    half = student_quantile(0.5 + level / 2, len(difference) - 1) * error if len(difference) > 1 else math.inf
    return PairedDifference(mean, error, Interval(mean, mean - half, mean + half, "student"), len(difference))


def _differences(scores_a: ArrayLike, scores_b: ArrayLike) -> Floats:
    a = as_floats("scores_a", scores_a)
    b = as_floats("scores_b", scores_b, n=len(a))
    if len(a) == 0:
        raise input_error("no rows to compare")
    return a - b


def paired_bootstrap(
    statistic_a: Callable[[Ints], Floats],
    statistic_b: Callable[[Ints], Floats],
    n: int,
    *,
    level: float = 0.95,
    method: BootstrapMethod = "percentile",
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of statistic_a − statistic_b, both on the same resampled rows (Efron & Tibshirani 1993).

    Args:
        statistic_a: row numbers, shape (b, m) → values, shape (b,); see ``bootstrap.bootstrap_interval``.
        statistic_b: the same for the other model.
        n: number of rows.
        level: coverage, reached asymptotically.
        method: percentile or BCa.
        resamples: how many draws.
        seed: of the draws.

    Raises:
        UserError: no rows, or undefined on every resample.
    """

    def difference(rows: Ints) -> Floats:
        return statistic_a(rows) - statistic_b(rows)

    return bootstrap_interval(difference, n, level=level, method=method, resamples=resamples, seed=seed)


def within_one_standard_error(candidate: ArrayLike, best: ArrayLike) -> bool:
    """Whether the candidate's mean score is within one standard error of the best's, on the same rows.

    The one-standard-error rule (Breiman et al. 1984, CART §3.4.3), with the standard error of the paired
    difference in place of the best's own: shared difficulty cancels, so it is the stricter of the two.

    Args:
        candidate: score per row, shape (n,).
        best: score per row of the best one, same rows.

    Returns:
        mean(best − candidate) ≤ standard error. Degenerate: equal scores → True; a constant gap > 0 → False;
        one row has no standard error, and counts only if the candidate is at least as good.

    Raises:
        UserError: no rows, unequal lengths, NaN.
    """
    gap = _differences(best, candidate)
    error = standard_error(gap)
    return float(gap.mean()) <= (0.0 if math.isnan(error) else error)


def non_inferiority(scores_a: ArrayLike, scores_b: ArrayLike, margin: float, alpha: float = 0.05) -> NonInferiority:
    """Is a at most ``margin`` worse than b? One-sided paired t-test (Wellek 2010, §5.2, for the mean).

    Args:
        scores_a: score per row of the one to be accepted, shape (n,).
        scores_b: score per row of the reference, same rows.
        margin: the largest loss to put up with, ≥ 0, in the score's unit.
        alpha: level of the test.

    Returns:
        The verdict. Degenerate: fewer than two rows never pass (p = 1); a difference that never varies
        passes exactly when it lies above −margin, which no t-test can check: use it with n in the tens at least.

    Raises:
        UserError: no rows, unequal lengths, NaN, a negative margin.
    """
    difference = _differences(scores_a, scores_b)
    check_open_unit("alpha", alpha)
    if not margin >= 0:
        raise input_error(f"margin is {margin}, it must be 0 or more")
    mean, error, n = float(np.mean(difference)), standard_error(difference), len(difference)
    if n < 2:
        return NonInferiority(mean, -math.inf, 1.0, False)
    if error == 0.0:
        passed = mean > -margin
        return NonInferiority(mean, mean, 0.0 if passed else 1.0, passed)
    lower = mean - student_quantile(1 - alpha, n - 1) * error
    p_value = 1 - student_cdf((mean + margin) / error, n - 1)
    return NonInferiority(mean, lower, p_value, lower > -margin)
