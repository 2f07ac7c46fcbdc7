"""Label arithmetic: the published figures, and agreement with scipy's binomial."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from locum.core.errors import UserError
from locum.stats.intervals import clopper_pearson
from locum.stats.multiplicity import holm, split_delta
from locum.stats.sample_size import (
    allowed_at,
    calibration_rows,
    errors_allowed,
    labels_for_power,
    labels_for_regret,
    labels_needed,
    power_of,
    rungs,
)

ALPHA = st.sampled_from([0.01, 0.05, 0.1, 0.3])
DELTA = st.sampled_from([0.01, 0.05, 0.2])


def test_the_figures_that_plan_prints():
    assert labels_needed(0.05, 0.05, 0) == 59
    assert labels_needed(0.05, 0.05, 5) == 208
    assert labels_for_power(0.05, 0.05, 0.025, 0.8) == 361
    assert power_of(390, 0.05, 0.05, 0.025) >= 0.8
    assert rungs(160, 0.05, 0.05).tolist() == [59, 93, 124, 153]


@given(st.integers(0, 500), ALPHA, DELTA)
def test_errors_allowed_is_the_largest_that_the_binomial_rules_out(n, alpha, delta):
    most = errors_allowed(n, alpha, delta)
    tail = stats.binom.cdf(np.arange(-1, n + 1), n, alpha)
    assert most == int((tail <= delta).sum()) - 2
    if most >= 0:
        assert clopper_pearson(most, n, 1 - delta, "upper").high <= alpha + 1e-12


@given(st.integers(0, 40), ALPHA, DELTA)
def test_labels_needed_is_the_smallest_n(errors, alpha, delta):
    n = labels_needed(alpha, delta, errors)
    assert errors_allowed(n, alpha, delta) >= errors
    assert errors_allowed(n - 1, alpha, delta) < errors


@given(st.lists(st.integers(1, 900), min_size=1, max_size=20), ALPHA, DELTA)
def test_vectorised_allowance_equals_the_plain_one(counts, alpha, delta):
    rising = np.unique(counts)
    assert allowed_at(rising, alpha, delta).tolist() == [errors_allowed(int(n), alpha, delta) for n in rising]


@given(ALPHA, st.sampled_from([0.0, 0.2, 0.5]), st.sampled_from([0.5, 0.8, 0.95]))
def test_labels_for_power_is_the_smallest_n(alpha, ratio, power):
    n = labels_for_power(alpha, 0.05, alpha * ratio, power)
    assert power_of(n, alpha, 0.05, alpha * ratio) >= power
    assert all(power_of(m, alpha, 0.05, alpha * ratio) < power for m in range(max(0, n - 60), n))


def test_rows_behind_a_local_share():
    assert calibration_rows(59, 0.5) == 118
    assert calibration_rows(59, 1.0) == 59
    with pytest.raises(UserError):
        calibration_rows(59, 0.0)


def test_regret_needs_more_labels_the_more_the_two_disagree():
    clean = labels_for_regret(0.05, 0.05)
    assert labels_needed(0.05, 0.05) <= clean < 120
    needs = [labels_for_regret(0.05, 0.05, 0.0, d) for d in (0.05, 0.1, 0.2)]
    assert needs == sorted(needs)
    z = stats.norm.ppf(0.95) + stats.norm.ppf(0.8)
    assert needs[2] == int(np.ceil(z**2 * 0.2 / 0.05**2))


@pytest.mark.parametrize(
    "call",
    [
        lambda: errors_allowed(-1, 0.05, 0.05),
        lambda: errors_allowed(10, 0.0, 0.05),
        lambda: labels_needed(0.05, 1.0),
        lambda: labels_needed(0.05, 0.05, -1),
        lambda: labels_for_power(0.05, 0.05, 0.05),
        lambda: labels_for_power(0.05, 0.05, 0.0499999),
        lambda: labels_for_regret(0.05, 0.05, 0.06, 0.1),
        lambda: labels_for_regret(0.05, 0.05, 0.02, 0.01),
        lambda: split_delta(0.05, 0),
        lambda: split_delta(0.05, [1.0, -1.0]),
        lambda: split_delta(1.5, 2),
        lambda: holm([1.5]),
    ],
)
def test_what_no_label_can_prove_is_refused(call):
    with pytest.raises(UserError):
        call()


@given(st.floats(0.001, 0.5), st.lists(st.floats(0.01, 100), min_size=1, max_size=12))
def test_shares_of_delta_never_exceed_it(delta, weights):
    shares = split_delta(delta, weights)
    assert sum(shares) <= delta
    assert sum(shares) == pytest.approx(delta)
    assert shares == pytest.approx([delta * w / sum(weights) for w in weights])
    assert split_delta(delta, 3) == pytest.approx([delta / 3] * 3)


def test_holm_by_hand():
    # Sorted .01, .02, .04 become 3·.01, 2·.02, 1·.04.
    assert holm([0.04, 0.01, 0.02]).tolist() == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.9]).tolist() == [1.0, 1.0]
