"""Rows that belong together (a conversation, a document): intervals and a test that draw whole groups.

Notable: rows of one group resemble each other, so n rows of G groups say less than n rows drawn one by one, and an
interval that overlooks it is too narrow. Everything here takes the groups as the sample, which is drawn at random and
as a whole. Not here: codes of the groups (``evaluate.predictions``), one row of each (``stats.groups``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from locum.stats.distributions import normal_cdf, student_quantile
from locum.stats.inputs import Floats, Ints, as_floats, as_outcomes, check_open_unit, floats, input_error
from locum.stats.intervals import Interval, wilson_at

EXACT_GROUPS = 12
"""Up to this many groups that differ, all 2^groups sign flips are tried; above, ``FLIPS`` drawn ones."""

FLIPS = 9_999
_BLOCK_NUMBERS = 4_000_000


@dataclass(frozen=True)
class SignFlip:
    """The sums of differences by group, and the p-value that their signs are fair coins.

    Attributes:
        groups: in all.
        differing: whose sum is not 0; the others say nothing of the sign.
        p_value: two-sided; 1.0 when no group differs.
        method: whether all flips were tried or some drawn.
    """

    groups: int
    differing: int
    p_value: float
    method: Literal["sign-flip-exact", "sign-flip-drawn"]


def as_groups(groups: ArrayLike, n: int) -> Ints:
    """The groups of n rows as codes 0 … G−1, shape (n,), whatever numbers they had.

    Raises:
        UserError: not one whole number per row.
    """
    array = np.asarray(groups)
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise input_error(
            f"groups have shape {array.shape} and type {array.dtype}; one whole number for each of {n} rows is needed"
        )
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def sums_by_group(values: Floats, codes: Ints) -> Floats:
    """Sum of the values of each group, shape (G,), for codes from ``as_groups``."""
    return floats(np.bincount(codes, weights=values))


def mean_error(values: ArrayLike, groups: ArrayLike) -> tuple[float, int]:
    """Standard error of a mean over rows of groups, and how many groups there are.

    The mean is a ratio, of sums over groups and sizes of groups, and is linearised: with m the mean, e_g the sum of
    value − m over group g, n rows and G groups it is √(G/(G−1)·Σ e_g²)/n (Cochran 1977, §9A; the cluster-robust
    standard error of Liang & Zeger 1986 for a mean alone). Groups of one row each give s/√n.

    Args:
        values: shape (n,).
        groups: a whole number per row, the same for rows that belong together.

    Returns:
        Standard error and G. Degenerate: one group has none (NaN: unknown, not 0); groups whose means are all equal
        give 0.

    Raises:
        UserError: no rows, NaN, or not one group per row.
    """
    array = as_floats("values", values)
    if len(array) == 0:
        raise input_error("no values to take a mean of")
    codes = as_groups(groups, len(array))
    residuals = sums_by_group(array - array.mean(), codes)
    count = len(residuals)
    if count < 2:
        return math.nan, count
    residuals[np.abs(residuals) < 1e-9 * max(1.0, float(np.abs(array).max()))] = 0.0  # rounding, not a difference
    return math.sqrt(count / (count - 1) * float((residuals**2).sum())) / len(array), count


def share_interval(outcomes: ArrayLike, groups: ArrayLike, level: float = 0.95) -> Interval:
    """Wilson's interval of a share at the effective number of rows (Korn & Graubard 1998; Franco et al. 2019).

    The design effect is the variance between groups (``mean_error`` squared) over p(1−p)/(n−1), that of single rows.
    The effective number is n over it, times (t_{n−1}/t_{G−1})², since G groups estimate that variance, and never more
    than n. Groups of one row each give Wilson's interval of n rows. Korn & Graubard put the number into
    Clopper–Pearson's interval; Franco, Little, Louis & Slud (J. Survey Statistics and Methodology 7, 334) find
    Wilson's with it among the best.

    Args:
        outcomes: 0 or 1, shape (n,).
        groups: a whole number per row, the same for rows that belong together.
        level: coverage, reached on average.

    Returns:
        The interval. Degenerate: a share of 0 or 1 shows no variance, and takes the number of groups as the effective
        one; one group says nothing of others, [0, 1].

    Raises:
        UserError: no rows, a value that is neither 0 nor 1, or not one group per row.
    """
    right = as_outcomes("outcomes", outcomes)
    check_open_unit("level", level)
    error, count = mean_error(right, groups)
    n, share = len(right), float(right.mean())
    if count < 2:
        return Interval(share, 0.0, 1.0, "wilson-groups")
    effective = float(count)
    if 0.0 < share < 1.0:
        upper = 0.5 + level / 2
        known = (student_quantile(upper, n - 1) / student_quantile(upper, count - 1)) ** 2
        single = share * (1 - share) / (n - 1)
        effective = min(float(n), n * known * single / error**2) if error > 0 else float(n)
    low, high = wilson_at(share, effective, level)
    return Interval(share, low, high, "wilson-groups")


def resampled_rows(codes: Ints, resamples: int, seed: int) -> Iterator[Ints]:
    """Row numbers of G groups drawn with replacement, all rows of each; one array a resample, of varying length.

    Args:
        codes: from ``as_groups``.
        resamples: how many draws.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    order, sizes = np.argsort(codes, kind="stable"), np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    for _ in range(resamples):
        drawn = generator.integers(0, len(sizes), size=len(sizes))
        taken = sizes[drawn]
        before = np.cumsum(taken) - taken  # rows of the groups drawn before
        yield order[np.repeat(starts[drawn] - before, taken) + np.arange(int(taken.sum()))]


def expanded(level: float, groups: int) -> tuple[float, float]:
    """Which quantiles of bootstrap draws make a percentile interval that few groups do not leave too narrow.

    Draws of G groups vary by (G−1)/G too little, and the normal is used where Student's t belongs; the quantiles
    Φ(∓√(G/(G−1))·t) mend both (Hesterberg 2015, The American Statistician 69, §5.3, "expanded percentile").

    Args:
        level: coverage.
        groups: G, at least 2.
    """
    t = student_quantile(0.5 + level / 2, groups - 1)
    tail = float(normal_cdf(-math.sqrt(groups / (groups - 1)) * t))
    return tail, 1 - tail


def sign_flip(right_a: ArrayLike, right_b: ArrayLike, groups: ArrayLike, *, seed: int = 0) -> SignFlip:
    """Whether two models are right equally often, by flipping signs of the differences of whole groups.

    If it does not matter which model gave which answers, the sum over a group of (a right) − (b right) is as likely
    as its negative (Fisher 1935, §21; Pesarin & Salmaso 2010). The statistic is the size of the total.

    Args:
        right_a: whether a is right, shape (n,).
        right_b: whether b is right, same rows.
        groups: a whole number per row, the same for rows that belong together.
        seed: of the drawn flips.

    Returns:
        The counts and the p-value: the share of all flips whose total is as large, for up to 12 groups that differ;
        else (1 + b)/(1 + 9,999) where b of 9,999 drawn flips are (Phipson & Smyth 2010). Degenerate: no group that
        differs gives p = 1, and few give a coarse p: one never less than 1, five never less than 1/16.

    Raises:
        UserError: the lengths differ, a value is not 0/1, or not one group per row.
    """
    a = as_outcomes("right_a", right_a)
    b = as_outcomes("right_b", right_b, n=len(a))
    totals = sums_by_group(a.astype(np.float64) - b, as_groups(groups, len(a)))
    sums = totals[totals != 0]
    if len(sums) == 0:
        return SignFlip(len(totals), 0, 1.0, "sign-flip-exact")
    observed = abs(float(sums.sum()))  # whole numbers, so equal totals are equal
    if len(sums) <= EXACT_GROUPS:
        bits = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1
        as_large = np.abs((2.0 * bits - 1) @ sums) >= observed
        return SignFlip(len(totals), len(sums), float(as_large.mean()), "sign-flip-exact")
    generator, reached = np.random.default_rng(seed), 0
    block = max(1, _BLOCK_NUMBERS // len(sums))
    for start in range(0, FLIPS, block):
        flips = 2.0 * generator.integers(0, 2, size=(min(block, FLIPS - start), len(sums))) - 1
        reached += int((np.abs(flips @ sums) >= observed).sum())
    return SignFlip(len(totals), len(sums), (1 + reached) / (1 + FLIPS), "sign-flip-drawn")
