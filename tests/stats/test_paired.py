"""Paired comparisons against scipy and against formulas written out again."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from locum.core.errors import UserError
from locum.stats.paired import (
    mcnemar,
    non_inferiority,
    paired_bootstrap,
    paired_difference,
    within_one_standard_error,
)


def table(both, only_a, only_b, neither):
    a = np.repeat([1, 1, 0, 0], [both, only_a, only_b, neither])
    b = np.repeat([1, 0, 1, 0], [both, only_a, only_b, neither])
    return a, b


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_equals_the_binomial_test(only_a, only_b):
    a, b = table(7, only_a, only_b, 3)
    exact, midp = mcnemar(a, b, "exact"), mcnemar(a, b)
    assert (exact.only_a, exact.only_b) == (only_a, only_b)
    if only_a + only_b == 0:
        assert exact.p_value == midp.p_value == 1.0
        return
    reference = stats.binomtest(only_a, only_a + only_b).pvalue
    assert exact.p_value == pytest.approx(reference)
    mass = stats.binom.pmf(min(only_a, only_b), only_a + only_b, 0.5)
    assert midp.p_value == pytest.approx(
        min(1.0, 2 * stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5) - mass)
    )
    assert midp.p_value <= exact.p_value


def test_mcnemar_midp_on_a_published_table():
    # Fagerland, Lydersen & Laake 2013, airway hyper-responsiveness: 1 and 7 discordant; exact .070, mid-p .039.
    a, b = table(1, 1, 7, 12)
    assert mcnemar(a, b, "exact").p_value == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar(a, b).p_value == pytest.approx(0.0391, abs=5e-5)


def test_paired_difference_equals_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.random(40), rng.random(40)
    ours = paired_difference(a, b, 0.9)
    theirs = stats.ttest_rel(a, b).confidence_interval(0.9)
    assert (ours.interval.low, ours.interval.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.standard_error == pytest.approx(stats.sem(a - b))


def test_paired_bootstrap_keeps_the_pairs():
    rng = np.random.default_rng(1)
    a = rng.normal(size=200)
    b = a + 0.1
    interval = paired_bootstrap(lambda r: a[r].mean(axis=1), lambda r: b[r].mean(axis=1), 200, resamples=300)
    assert (interval.low, interval.high) == pytest.approx((-0.1, -0.1))


def test_one_standard_error_rule():
    best = np.array([1.0] * 90 + [0.0] * 10)
    close, far = best.copy(), best.copy()
    close[0], close[99] = 0.0, 1.0
    far[:10] = 0.0
    assert within_one_standard_error(best, best)
    assert within_one_standard_error(close, best)
    assert not within_one_standard_error(far, best)
    assert not within_one_standard_error(best - 0.01, best)  # a constant gap has no standard error
    assert within_one_standard_error([1.0], [1.0])
    assert not within_one_standard_error([0.0], [1.0])


def test_non_inferiority_equals_a_shifted_t_test():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.0, 1, 60), rng.normal(0.05, 1, 60)
    ours = non_inferiority(a, b, 0.3, 0.05)
    theirs = stats.ttest_1samp(a - b, -0.3, alternative="greater")
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.lower_bound == pytest.approx(theirs.confidence_interval(0.95).low - 0.0)
    assert ours.passed == (ours.p_value < 0.05)


def test_non_inferiority_degenerate():
    assert non_inferiority([1.0], [1.0], 0.1) == non_inferiority([1.0], [1.0], 0.5)
    assert not non_inferiority([1.0], [1.0], 0.1).passed
    assert non_inferiority([1.0, 1.0], [1.0, 1.0], 0.1).passed
    assert not non_inferiority([0.5, 0.5], [1.0, 1.0], 0.1).passed


@pytest.mark.parametrize(
    "call",
    [
        lambda: mcnemar([1, 0], [1]),
        lambda: mcnemar([1, 2], [1, 0]),
        lambda: paired_difference([], []),
        lambda: paired_difference([1.0], [math.nan]),
        lambda: non_inferiority([1.0, 0.0], [1.0, 0.0], -0.1),
    ],
)
def test_impossible_pairs_are_refused(call):
    with pytest.raises(UserError):
        call()
