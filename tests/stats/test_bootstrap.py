"""Bootstrap intervals against scipy.stats.bootstrap and scikit-learn."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from locum.core.errors import UserError
from locum.stats.bootstrap import bootstrap_interval, confusion_interval, macro_f1, macro_f1_interval


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_agrees_with_scipy(method):
    values = np.random.default_rng(0).exponential(size=80)
    ours = bootstrap_interval(lambda rows: values[rows].mean(axis=1), 80, method=method, resamples=20_000, seed=1)
    theirs = stats.bootstrap(
        (values,), np.mean, method=method, n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.015)
    assert ours.value == pytest.approx(values.mean())
    assert ours.method == f"bootstrap-{method}"


def test_bootstrap_is_reproducible_and_its_seed_matters():
    values = np.random.default_rng(0).normal(size=50)

    def run(seed):
        return bootstrap_interval(lambda rows: np.median(values[rows], axis=1), 50, resamples=200, seed=seed)

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_bca_falls_back_visibly_where_it_is_undefined():
    interval = bootstrap_interval(lambda rows: np.ones(len(rows)), 10, resamples=100)
    assert (interval.low, interval.high, interval.method) == (1.0, 1.0, "bootstrap-percentile")


def test_undefined_resamples_are_left_out_and_all_undefined_is_refused():
    values = np.array([0.0, 1.0, 1.0, 1.0])

    def inverse(rows):
        total = values[rows].sum(axis=1)
        return np.divide(1.0, total, out=np.full(len(total), np.nan), where=total > 0)

    assert np.isfinite(bootstrap_interval(inverse, 4, resamples=500).high)
    with pytest.raises(UserError):
        bootstrap_interval(lambda rows: np.full(len(rows), np.nan), 4, resamples=50)
    with pytest.raises(UserError):
        bootstrap_interval(inverse, 0)


def test_macro_f1_equals_scikit_learn():
    rng = np.random.default_rng(5)
    gold, predicted = rng.integers(0, 6, 200), rng.integers(1, 7, 200)  # class 7 never occurs
    confusion = np.zeros((8, 8))
    np.add.at(confusion, (gold, predicted), 1)
    assert macro_f1(confusion[None])[0] == pytest.approx(f1_score(gold, predicted, average="macro"))
    assert np.isnan(macro_f1(np.zeros((1, 3, 3)))[0])


def test_drawing_a_confusion_matrix_is_drawing_its_rows():
    rng = np.random.default_rng(6)
    gold = rng.integers(0, 4, 300)
    predicted = np.where(rng.random(300) < 0.7, gold, rng.integers(0, 4, 300))
    confusion = np.zeros((4, 4))
    np.add.at(confusion, (gold, predicted), 1)

    def of_rows(rows):
        matrices = np.zeros((len(rows), 4, 4))
        np.add.at(matrices, (np.arange(len(rows))[:, None], gold[rows], predicted[rows]), 1)
        return macro_f1(matrices)

    by_matrix = macro_f1_interval(confusion, resamples=4000)
    by_rows = bootstrap_interval(of_rows, 300, method="percentile", resamples=4000)
    assert (by_matrix.low, by_matrix.high) == pytest.approx((by_rows.low, by_rows.high), abs=0.008)
    assert by_matrix.value == pytest.approx(by_rows.value)


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.ones((2, 3)), -np.ones((2, 2)), np.ones(4)])
def test_what_is_no_confusion_matrix_is_refused(bad):
    with pytest.raises(UserError):
        confusion_interval(bad, macro_f1)
