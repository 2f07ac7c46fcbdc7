"""Two models on the same rows: which is better, and is the smaller one good enough.

Notable: pairs are compared by their differences, so what is easy for both cancels. ``within_one_standard_error``
is the rule by which the smallest student is chosen. Where rows belong together, standard errors are those between
groups, with G−1 degrees of freedom. Not here: more than two models.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from locum.stats.bootstrap import BootstrapMethod, bootstrap_interval
from locum.stats.clusters import mean_error
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
    mid-p takes off P(X = min), which is far less conservative and keeps its level in practice. Rows that belong
    together are no coins of their own: ``clusters.sign_flip`` is the test for these.

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


def paired_difference(
    scores_a: ArrayLike, scores_b: ArrayLike, level: float = 0.95, *, groups: ArrayLike | None = None
) -> PairedDifference:
    """Mean of a − b with its standard error and Student interval (n−1 degrees of freedom; G−1 with G groups).

    With groups the standard error is ``clusters.mean_error``'s (its degrees of freedom: Cameron & Miller 2015, §VI.D).

    Args:
        scores_a: score of a on each row, shape (n,); 0/1 rights give the difference of accuracies.
        scores_b: score of b, same rows.
        level: coverage of the interval.
        groups: a whole number per row, the same for rows that belong together; None where all were drawn singly.

    Returns:
        The difference. Degenerate: one row, or one group, has no standard error (NaN) and an infinite interval;
        identical scores have a standard error of 0.

    Raises:
        UserError: no rows, unequal lengths, NaN.
    """
    difference = _differences(scores_a, scores_b)
    check_open_unit("level", level)
    mean, (error, drawn) = float(difference.mean()), _error(difference, groups)
    half = student_quantile(0.5 + level / 2, drawn - 1) * error if drawn > 1 else math.inf
    method = "student" if groups is None else "student-groups"
    return PairedDifference(mean, error, Interval(mean, mean - half, mean + half, method), len(difference))


def _error(difference: Floats, groups: ArrayLike | None) -> tuple[float, int]:
    """Standard error of the mean, and how many were drawn independently: rows, or groups."""
    return (standard_error(difference), len(difference)) if groups is None else mean_error(difference, groups)


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
    groups: ArrayLike | None = None,
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
        groups: a whole number per row, the same for rows that belong together; None where all were drawn singly.

    Raises:
        UserError: no rows, or undefined on every resample.
    """

    def difference(rows: Ints) -> Floats:
        return statistic_a(rows) - statistic_b(rows)

    return bootstrap_interval(difference, n, level=level, method=method, resamples=resamples, seed=seed, groups=groups)


def within_one_standard_error(candidate: ArrayLike, best: ArrayLike, *, groups: ArrayLike | None = None) -> bool:
    """Whether the candidate's mean score is within one standard error of the best's, on the same rows.

    The one-standard-error rule (Breiman et al. 1984, CART §3.4.3), with the standard error of the paired
    difference in place of the best's own: shared difficulty cancels, so it is the stricter of the two.

    Args:
        candidate: score per row, shape (n,).
        best: score per row of the best one, same rows.
        groups: a whole number per row, the same for rows that belong together; None where all were drawn singly.

    Returns:
        mean(best − candidate) ≤ standard error. Degenerate: equal scores → True; a constant gap > 0 → False;
        one row, or one group, has no standard error, and counts only if the candidate is at least as good.

    Raises:
        UserError: no rows, unequal lengths, NaN.
    """
    gap = _differences(best, candidate)
    error, _ = _error(gap, groups)
    if groups is not None:
        error *= 1 + 1e-9  # one group that differs is exactly one standard error, and rounding must not decide
    return float(gap.mean()) <= (0.0 if math.isnan(error) else error)


def non_inferiority(
    scores_a: ArrayLike, scores_b: ArrayLike, margin: float, alpha: float = 0.05, *, groups: ArrayLike | None = None
) -> NonInferiority:
    """Is a at most ``margin`` worse than b? One-sided paired t-test (Wellek 2010, §5.2, for the mean).

    With groups as in ``paired_difference``.

    Args:
        scores_a: score per row of the one to be accepted, shape (n,).
        scores_b: score per row of the reference, same rows.
        margin: the largest loss to put up with, ≥ 0, in the score's unit.
        alpha: level of the test.
        groups: a whole number per row, the same for rows that belong together; None where all were drawn singly.

    Returns:
        The verdict. Degenerate: fewer than two rows, or groups, never pass (p = 1); a difference that never varies
        passes exactly when it lies above −margin, which no t-test can check: use it with n in the tens at least.

    Raises:
        UserError: no rows, unequal lengths, NaN, a negative margin.
    """
    difference = _differences(scores_a, scores_b)
    check_open_unit("alpha", alpha)
    if not margin >= 0:
        raise input_error(f"margin is {margin}, it must be 0 or more")
    mean, (error, drawn) = float(np.mean(difference)), _error(difference, groups)
    if drawn < 2:
        return NonInferiority(mean, -math.inf, 1.0, False)
    if error == 0.0:
        passed = mean > -margin
        return NonInferiority(mean, mean, 0.0 if passed else 1.0, passed)
    lower = mean - student_quantile(1 - alpha, drawn - 1) * error
    p_value = 1 - student_cdf((mean + margin) / error, drawn - 1)
    return NonInferiority(mean, lower, p_value, lower > -margin)
