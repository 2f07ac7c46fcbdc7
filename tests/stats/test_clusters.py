"""Groups of rows: intervals and the sign-flip test against computations of their own, and how often they are right."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from locum.core.errors import UserError
from locum.stats.bootstrap import bootstrap_interval
from locum.stats.clusters import as_groups, mean_error, share_interval, sign_flip
from locum.stats.confusion import macro_f1_of_rows
from locum.stats.intervals import standard_error, wilson
from locum.stats.paired import (
    mcnemar,
    non_inferiority,
    paired_bootstrap,
    paired_difference,
    within_one_standard_error,
)
from locum.stats.rowwise import Mean, Pooled, interval

SHARE, ALIKE = 0.7, 0.2  # of right answers; correlation of two rows of a group


def drawn(groups: int, rng: np.random.Generator, models: int = 1) -> list[np.ndarray]:
    """Codes of 3 to 17 rows a group, and whether each model is right: each group has a share of its own for each."""
    codes = np.repeat(np.arange(groups), rng.integers(3, 18, groups))
    a, b = SHARE * (1 - ALIKE) / ALIKE, (1 - SHARE) * (1 - ALIKE) / ALIKE
    rights = [rng.random(len(codes)) < rng.beta(a, b, groups)[codes] for _ in range(models)]
    return [codes, *rights]


def error_by_hand(values: np.ndarray, codes: np.ndarray) -> float:
    """The linearised standard error of a mean of groups, written out."""
    names = sorted(set(codes.tolist()))
    mean = sum(values.tolist()) / len(values)
    squares = sum(sum(v - mean for v in values[codes == name].tolist()) ** 2 for name in names)
    return math.sqrt(len(names) / (len(names) - 1) * squares) / len(values)


def test_the_standard_error_of_groups_is_the_one_by_hand_and_ignores_how_groups_are_numbered() -> None:
    codes, right = drawn(25, np.random.default_rng(1))
    values = right + 0.25 * np.random.default_rng(2).normal(size=len(codes))
    error, groups = mean_error(values, codes)
    assert (error, groups) == (pytest.approx(error_by_hand(values, codes)), 25)
    mixed = np.random.default_rng(3).permutation(len(codes))
    assert mean_error(values[mixed], 7 * codes[mixed] - 40)[0] == pytest.approx(error)


def test_groups_of_one_row_each_are_rows() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=60), rng.normal(size=60)
    right, single = rng.random(60) < 0.8, rng.permutation(60)
    assert mean_error(a, single)[0] == pytest.approx(standard_error(a))
    found, plain = share_interval(right, single), wilson(int(right.sum()), 60)
    assert (found.value, found.low, found.high) == pytest.approx((plain.value, plain.low, plain.high))
    ours, rows = paired_difference(a, b, groups=single).interval, paired_difference(a, b).interval
    assert (ours.low, ours.high) == pytest.approx((rows.low, rows.high))
    assert non_inferiority(a, b, 0.2, groups=single).p_value == pytest.approx(non_inferiority(a, b, 0.2).p_value)


def test_a_share_has_wilsons_interval_at_the_effective_number_of_rows() -> None:
    codes, right = drawn(30, np.random.default_rng(5))
    n, p = len(codes), right.mean()
    effect = error_by_hand(right.astype(float), codes) ** 2 / (p * (1 - p) / (n - 1))
    rows = n / effect * (stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, 29)) ** 2
    assert 30 < rows < n / 1.5
    z = stats.norm.ppf(0.975)  # the ends solve |p − q| = z·√(q(1−q)/n)
    ends = np.sort(np.roots([1 + z * z / rows, -(2 * p + z * z / rows), p * p]).real)
    found = share_interval(right, codes)
    assert (found.value, found.low, found.high) == pytest.approx((p, *ends))


def test_a_share_that_shows_no_variance_has_as_many_rows_as_groups() -> None:
    codes = np.repeat(np.arange(20), 30)
    assert share_interval(np.ones(600), codes).low == wilson(20, 20).low
    assert share_interval(np.zeros(600), codes).high == wilson(0, 20).high
    even = np.tile([1, 1, 0], 200)  # every group has the same share, so no design effect is seen; never more than n
    assert share_interval(even, codes).low == pytest.approx(wilson(400, 600).low)


def test_the_bootstrap_of_groups_is_one_of_their_sums() -> None:
    codes, right = drawn(40, np.random.default_rng(6))
    hits, sizes = np.bincount(codes, weights=right), np.bincount(codes)
    times = np.random.default_rng(7).multinomial(40, np.full(40, 1 / 40), size=40_000)  # how often each group comes
    tail = stats.norm.cdf(-math.sqrt(40 / 39) * stats.t.ppf(0.975, 39))
    theirs = np.quantile((times @ hits) / (times @ sizes), [tail, 1 - tail])
    ratio = Pooled(np.stack([right, np.ones(len(right))], axis=1), lambda sums: sums[:, 0] / sums[:, 1])
    for statistic in (Mean(right.astype(np.float64)), ratio):
        ours = bootstrap_interval(statistic, len(codes), resamples=8000, groups=codes)
        assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.004)
        assert ours.value == pytest.approx(right.mean())
    gold = np.arange(len(codes)) % 3
    said = np.where(right, gold, (gold + 1) % 3)
    macro_f1 = macro_f1_of_rows(gold, said, 3)
    wide = bootstrap_interval(macro_f1, len(codes), resamples=500, groups=codes)
    narrow = bootstrap_interval(macro_f1, len(codes), resamples=500, method="percentile")
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)


@pytest.mark.parametrize("groups", [40, 80])
def test_intervals_of_groups_cover_and_those_of_rows_do_not(groups: int) -> None:
    rng = np.random.default_rng(groups)
    covered = {"groups": 0, "rows": 0, "paired groups": 0, "paired rows": 0}
    for _ in range(2000):
        codes, right, other = drawn(groups, rng, models=2)
        found, single = share_interval(right, codes), wilson(int(right.sum()), len(right))
        covered["groups"] += found.low <= SHARE <= found.high
        covered["rows"] += single.low <= SHARE <= single.high
        both, rows = paired_difference(right, other, groups=codes).interval, paired_difference(right, other).interval
        covered["paired groups"] += both.low <= 0 <= both.high
        covered["paired rows"] += rows.low <= 0 <= rows.high
    assert 0.93 < covered["groups"] / 2000 < 0.97
    assert 0.93 < covered["paired groups"] / 2000 < 0.97
    assert max(covered["rows"], covered["paired rows"]) / 2000 < 0.8


def test_the_bootstrap_of_groups_covers() -> None:
    rng, covered = np.random.default_rng(9), 0
    for _ in range(400):
        codes, right = drawn(60, rng)
        found = bootstrap_interval(Mean(right.astype(np.float64)), len(codes), resamples=400, groups=codes)
        covered += found.low <= SHARE <= found.high
    assert 0.93 < covered / 400 < 0.97


def test_few_groups_that_differ_have_all_their_signs_flipped() -> None:
    codes, a, b = drawn(11, np.random.default_rng(10), models=2)
    sums = np.bincount(codes, weights=a.astype(float) - b)
    totals = [abs(np.dot(signs, sums)) for signs in product([1, -1], repeat=11)]
    found = sign_flip(a, b, codes)
    assert found.method == "sign-flip-exact" and found.groups == 11
    assert found.p_value == pytest.approx(np.mean(np.array(totals) >= abs(sums.sum())))


def test_many_groups_have_some_signs_flipped_as_scipy_does() -> None:
    codes, a, b = drawn(50, np.random.default_rng(11), models=2)
    sums = np.bincount(codes, weights=a.astype(float) - b)
    theirs = stats.permutation_test(
        (sums,), lambda x, axis: abs(x.sum(axis=axis)), permutation_type="samples", alternative="greater", rng=1
    )
    found = sign_flip(a, b, codes)
    assert found.method == "sign-flip-drawn" and found.differing == int((sums != 0).sum()) > 12
    assert found.p_value == pytest.approx(theirs.pvalue, abs=0.02)
    assert sign_flip(a, b, codes) == found
    assert sign_flip(a | True, np.zeros_like(a), codes).p_value == 1 / 10_000  # never 0


def test_the_sign_flip_test_keeps_its_level_and_mcnemars_does_not() -> None:
    rng, flipped, single = np.random.default_rng(12), 0, 0
    for _ in range(400):
        codes, a, b = drawn(30, rng, models=2)
        flipped += sign_flip(a, b, codes).p_value <= 0.05
        single += mcnemar(a, b).p_value <= 0.05
    assert flipped / 400 < 0.075
    assert single / 400 > 0.15


def test_of_one_group_nothing_is_known_of_others() -> None:
    a, b, one = np.array([1.0] * 9 + [0.0]), np.array([1.0] * 5 + [0.0] * 5), np.full(10, 3)
    assert math.isnan(mean_error(a, one)[0])
    assert (share_interval(a, one).low, share_interval(a, one).high) == (0.0, 1.0)
    found = paired_difference(a, b, groups=one)
    assert math.isnan(found.standard_error)
    assert (found.interval.low, found.interval.high) == (-math.inf, math.inf)
    assert paired_bootstrap(Mean(a), Mean(b), 10, groups=one).high == math.inf
    graded = interval(Mean(np.linspace(0.2, 0.9, 10)), groups=one)
    assert (graded.value, graded.low, graded.high) == (pytest.approx(0.55), 0.0, 1.0)
    assert sign_flip(a, b, one).p_value == 1.0
    assert within_one_standard_error(a, b, groups=one) and not within_one_standard_error(b, a, groups=one)
    verdict = non_inferiority(a, b, 0.1, groups=one)
    assert not verdict.passed and verdict.p_value == 1.0


def test_a_gap_that_one_group_makes_is_within_one_standard_error_of_groups_alone() -> None:
    for groups in range(5, 25):
        codes = np.repeat(np.arange(groups), 12)
        best, other = np.ones(len(codes)), (codes != 4).astype(float)  # all 12 rows of one conversation
        assert not within_one_standard_error(other, best)
        assert within_one_standard_error(other, best, groups=codes)
    assert not within_one_standard_error(best - 0.1, best, groups=codes)  # a gap that is the same everywhere


@pytest.mark.parametrize("groups", [[0, 1], [0.5, 1.0, 2.0], [[0, 1, 2]], ["a", "b", "c"]])
def test_what_is_no_group_per_row_is_refused(groups: list[object]) -> None:
    with pytest.raises(UserError, match="one whole number for each of 3 rows"):
        as_groups(groups, 3)  # pyright: ignore[reportArgumentType]
