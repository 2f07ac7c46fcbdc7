"""Intervals against scipy's own, and their degenerate cases."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from locum.core.errors import UserError
from locum.stats.distributions import binomial_cdf, binomial_pmf
from locum.stats.intervals import clopper_pearson, mean_interval, proportion_standard_error, standard_error, wilson

COUNTS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS, st.sampled_from([0.8, 0.95, 0.99]))
def test_proportion_intervals_equal_scipy(counts, level):
    successes, n = counts
    reference = stats.binomtest(successes, n)
    for ours, method in ((wilson(successes, n, level), "wilson"), (clopper_pearson(successes, n, level), "exact")):
        theirs = reference.proportion_ci(level, method=method)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
        assert ours.low <= ours.value <= ours.high


@given(COUNTS)
def test_one_sided_clopper_pearson_inverts_the_binomial_test(counts):
    successes, n = counts
    upper = clopper_pearson(successes, n, 0.95, "upper")
    lower = clopper_pearson(successes, n, 0.95, "lower")
    assert upper.low == 0.0
    assert lower.high == 1.0
    if successes < n:
        assert stats.binom.cdf(successes, n, upper.high) == pytest.approx(0.05, abs=1e-9)
    if successes > 0:
        assert stats.binom.sf(successes - 1, n, lower.low) == pytest.approx(0.05, abs=1e-9)


def test_nothing_observed_is_unknown_not_certain():
    for interval in (wilson(0, 0), clopper_pearson(0, 0)):
        assert math.isnan(interval.value)
        assert (interval.low, interval.high) == (0.0, 1.0)
    assert math.isnan(proportion_standard_error(0, 0))
    assert proportion_standard_error(0, 10) > 0


def test_mean_intervals_equal_scipy():
    values = np.random.default_rng(3).gamma(2.0, size=37)
    error = stats.sem(values)
    student = stats.t.interval(0.9, 36, loc=values.mean(), scale=error)
    normal = stats.norm.interval(0.9, loc=values.mean(), scale=error)
    ours = mean_interval(values, 0.9)
    assert (ours.low, ours.high) == pytest.approx(student)
    ours = mean_interval(values, 0.9, "normal")
    assert (ours.low, ours.high) == pytest.approx(normal)
    assert standard_error(values) == pytest.approx(error)


def test_mean_of_one_value_has_no_width_that_can_be_known():
    assert mean_interval([2.0]).high == math.inf
    assert math.isnan(standard_error([2.0]))
    assert mean_interval([2.0, 2.0, 2.0]).low == 2.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(5, 4),
        lambda: wilson(-1, 4),
        lambda: clopper_pearson(1, 4, 1.0),
        lambda: mean_interval([]),
        lambda: mean_interval([1.0, math.nan]),
        lambda: mean_interval([[1.0]]),
    ],
)
def test_impossible_numbers_are_refused(call):
    with pytest.raises(UserError) as caught:
        call()
    assert caught.value.code == "stats-input"


@given(st.integers(0, 60), st.integers(-2, 62), st.floats(0.001, 0.999))
def test_binomial_tails_equal_scipy(n, k, p):
    assert float(binomial_cdf(k, n, p)) == pytest.approx(stats.binom.cdf(k, n, p), abs=1e-12)
    if 0 <= k <= n:
        assert float(binomial_pmf(k, n, p)) == pytest.approx(stats.binom.pmf(k, n, p), abs=1e-12)


def test_binomial_mass_at_certainty():
    assert binomial_pmf([0, 1, 2], 2, 1.0).tolist() == [0.0, 0.0, 1.0]
