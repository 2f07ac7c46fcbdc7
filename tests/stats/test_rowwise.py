"""Metrics of rows: means, pooled counts, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from locum.core.errors import LocumError
from locum.stats.bootstrap import bootstrap_interval
from locum.stats.intervals import wilson
from locum.stats.rowwise import Coded, Mean, Pooled, binary, interval, value


def test_a_mean_of_rights_and_wrongs_is_a_share_with_wilsons_interval() -> None:
    share = Mean(np.array([1.0] * 90 + [0.0] * 10))
    assert value(share) == pytest.approx(0.9)
    assert binary(share)
    assert interval(share) == wilson(90, 100)


def test_a_mean_of_scores_is_resampled() -> None:
    graded = Mean(np.random.default_rng(0).random(200))
    found = interval(graded)
    assert not binary(graded)
    assert found.method == "bootstrap-bca"
    assert found.low < value(graded) < found.high
    spread = graded.values.std(ddof=1) / np.sqrt(200)
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_pooled_counts_are_summed_before_the_value_is_taken() -> None:
    counts = np.array([[1.0, 1.0], [0.0, 9.0], [4.0, 10.0]])  # hits, total
    ratio = Pooled(counts, lambda sums: sums[:, 0] / sums[:, 1])
    assert value(ratio) == pytest.approx(5 / 20)
    assert value(ratio) != pytest.approx((1 / 1 + 0 / 9 + 4 / 10) / 3)
    assert ratio(np.array([[0, 0, 0], [2, 2, 1]])).tolist() == pytest.approx([1.0, 8 / 29])
    assert interval(ratio) == bootstrap_interval(ratio, 3, method="percentile")


def test_any_statistic_of_rows_is_one() -> None:
    median = Coded(lambda rows: np.median(np.array([1.0, 2.0, 9.0])[rows], axis=-1), 3)
    assert value(median) == 2.0
    assert not binary(median)


def test_of_no_rows_nothing_is_known() -> None:
    assert (interval(Mean(np.empty(0))).low, interval(Mean(np.empty(0))).high) == (0.0, 1.0)
    with pytest.raises(LocumError):
        interval(Pooled(np.empty((0, 2)), lambda sums: sums[:, 0]))
