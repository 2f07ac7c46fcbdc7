"""Calibration against scipy's optimiser and scikit-learn, and its degenerate cases."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from locum.core.errors import UserError
from locum.stats import calibration as cal
from locum.stats.ranking import auroc, risk_coverage


def logits_of(temperature, n=600, k=5, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(n, k)) * 2
    labels = (true + rng.gumbel(size=true.shape)).argmax(axis=1)  # labels ~ softmax(true)
    return true * temperature, labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_temperature_minimises_the_nll(temperature):
    logits, labels = logits_of(temperature)
    fitted = cal.fit_temperature(logits, labels)
    reference = minimize_scalar(
        lambda t: -log_softmax(logits / t, axis=1)[np.arange(600), labels].mean(), bounds=(0.02, 50), method="bounded"
    )
    assert fitted == pytest.approx(reference.x, rel=1e-3)
    assert fitted == pytest.approx(temperature, rel=0.2)
    assert cal.nll(logits, labels, fitted) == pytest.approx(log_loss(labels, cal.softmax(logits, fitted)))


def test_temperature_never_explodes():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(50, 4)) * 100
    assert cal.fit_temperature(np.ones((50, 4)), np.zeros(50)) == 1.0
    assert cal.fit_temperature(logits[:, :1], np.zeros(50)) == 1.0
    assert cal.fit_temperature(logits, logits.argmax(axis=1)) == cal.TEMPERATURE_MIN
    assert cal.fit_temperature(logits, logits.argmin(axis=1)) == cal.TEMPERATURE_MAX
    assert np.isfinite(cal.softmax(logits * 1e300, cal.TEMPERATURE_MIN)).all()


def test_scaling_does_not_change_the_order():
    logits, _ = logits_of(2.0)
    assert (cal.softmax(logits, 3.3).argmax(axis=1) == logits.argmax(axis=1)).all()


def outcomes(n=2000, seed=0):
    rng = np.random.default_rng(seed)
    claimed = rng.beta(4, 1, n)
    return claimed, rng.random(n) < claimed


def test_scores_equal_scikit_learn():
    claimed, right = outcomes()
    assert cal.brier(claimed, right) == pytest.approx(brier_score_loss(right, claimed))
    assert cal.confidence_nll(claimed, right) == pytest.approx(log_loss(right, claimed))
    assert auroc(claimed, right) == pytest.approx(roc_auc_score(right, claimed))
    tied = claimed.round(1)
    assert auroc(tied, right) == pytest.approx(roc_auc_score(right, tied))
    one_hot = np.eye(3)[[0, 1, 2]]
    assert cal.brier_multiclass(one_hot, [0, 1, 0]) == pytest.approx(2 / 3)


def test_certain_and_wrong_costs_much_but_not_infinity():
    assert np.isfinite(cal.confidence_nll([1.0], [False]))


@pytest.mark.parametrize(("binning", "strategy"), [("equal-width", "uniform"), ("equal-mass", "quantile")])
def test_reliability_curve_equals_scikit_learn(binning, strategy):
    claimed, right = outcomes()
    curve = cal.reliability_curve(claimed, right, bins=10, binning=binning)
    accuracy, confidence = calibration_curve(right, claimed, n_bins=10, strategy=strategy)
    assert [b.accuracy for b in curve] == pytest.approx(accuracy, abs=2e-3)
    assert [b.confidence for b in curve] == pytest.approx(confidence, abs=2e-3)
    assert sum(b.n for b in curve) == 2000
    assert all(b.accuracy_low <= b.accuracy <= b.accuracy_high for b in curve)
    by_hand = sum(b.n * abs(b.accuracy - b.confidence) for b in curve) / 2000
    assert cal.ece(claimed, right, bins=10, binning=binning) == pytest.approx(by_hand)


def test_debiasing_takes_off_what_noise_adds():
    plain, debiased = [], []
    for seed in range(30):
        claimed, right = outcomes(300, seed)  # perfectly calibrated: the true ECE is 0
        plain.append(cal.ece(claimed, right))
        debiased.append(cal.ece(claimed, right, debias=True))
    assert np.mean(debiased) < 0.6 * np.mean(plain)
    claimed, right = outcomes(20_000)
    off = np.clip(claimed - 0.2, 0, 1)
    assert cal.ece(off, right, debias=True) == pytest.approx(cal.ece(off, right), rel=0.05)


def test_the_ends_of_the_scale_have_a_bin():
    curve = cal.reliability_curve([0.0, 1.0, 1.0], [0, 1, 1], bins=4)
    assert [(b.low, b.n) for b in curve] == [(0.0, 1), (0.75, 2)]
    assert cal.ece([0.0, 1.0, 1.0], [0, 1, 1]) == 0.0


def test_one_confidence_for_all_is_one_bin():
    for binning in ("equal-width", "equal-mass"):
        curve = cal.reliability_curve([0.7] * 10, [1] * 9 + [0], binning=binning)
        assert len(curve) == 1
        assert cal.ece([0.7] * 10, [1] * 9 + [0], binning=binning) == pytest.approx(0.2)


def test_auroc_does_not_exist_without_both_kinds():
    assert auroc([0.1, 0.9], [1, 1]) is None
    assert auroc([0.1, 0.9], [0, 0]) is None
    assert auroc([], []) is None
    assert auroc([0.5, 0.5], [0, 1]) == 0.5
    assert auroc([np.nan, 0.1], [0, 1]) == 1.0


def test_risk_coverage_equals_the_published_sum():
    claimed, right = outcomes(500)
    curve = risk_coverage(claimed, right)
    order = np.argsort(-claimed)
    risks = np.cumsum(~right[order]) / np.arange(1, 501)
    assert curve.aurc == pytest.approx(risks.mean())
    assert curve.coverage[-1] == 1.0
    assert curve.risk[-1] == pytest.approx((~right).mean())


def test_risk_coverage_ties_and_nan():
    curve = risk_coverage([0.9, 0.9, np.nan, 0.1], [1, 0, 1, 1])
    assert curve.thresholds.tolist() == [0.9, 0.1]
    assert curve.coverage.tolist() == [0.5, 0.75]
    assert curve.risk.tolist() == pytest.approx([0.5, 1 / 3])
    assert risk_coverage([np.nan], [1]).aurc is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: cal.fit_temperature([[np.nan, 1.0]], [0]),
        lambda: cal.fit_temperature([[0.0, 1.0]], [2]),
        lambda: cal.fit_temperature([0.0, 1.0], [0, 1]),
        lambda: cal.nll(np.zeros((0, 2)), []),
        lambda: cal.brier([1.2], [1]),
        lambda: cal.brier([], []),
        lambda: cal.ece([0.5], [1], bins=0),
        lambda: auroc([0.5], [1, 0]),
    ],
)
def test_impossible_inputs_are_refused(call):
    with pytest.raises(UserError):
        call()


@pytest.mark.parametrize("shape", [(7, 3), (200, 77), (1, 2), (5,)])
def test_softmax_is_scipys_to_the_last_bit(shape: tuple[int, ...]) -> None:
    logits = np.random.default_rng(4).normal(size=shape) * 40
    for temperature in (0.3, 1.0, 1.7):
        assert (cal.softmax(logits, temperature) == softmax(logits / temperature, axis=-1)).all()
    assert np.isnan(cal.softmax([[float("nan"), 0.0]])).all()
