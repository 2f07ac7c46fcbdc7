"""MAPIE as the independent implementation: p-values, family-wise control, RCPS and CRC bounds."""

import warnings

import numpy as np
import pytest
from mapie.risk_control.fwer_control import FWERFixedSequenceTesting, control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value, get_r_hat_plus

from locum.stats.betting import betting_p_values, hoeffding_bentkus_p_values
from locum.stats.distributions import binomial_cdf
from locum.stats.marginal import certify_marginal
from locum.stats.multiplicity import holm
from locum.stats.selective import certify_selective
from locum.stats.trinomial import trinomial_p_value, trinomial_tail

ALPHA = DELTA = 0.05


def split(n=1000, accuracy=0.85, seed=0):
    rng = np.random.default_rng(seed)
    score = rng.beta(5 * accuracy, 5 * (1 - accuracy), n)
    return score, rng.random(n) > score


def mapie_p_values(errors, accepted, alpha, binary=True):
    return compute_hoeffding_bentkus_p_value(errors / accepted, accepted.astype(float), alpha, binary)[:, 0]


def test_binomial_p_values_equal_mapies():
    accepted = np.array([64.0, 128.0, 256.0, 512.0])  # powers of two: MAPIE's errors/n·n is exact there
    for errors in (0, 1, 2, 5):
        ours = binomial_cdf(errors, accepted, ALPHA)
        assert ours == pytest.approx(mapie_p_values(np.full(4, float(errors)), accepted, ALPHA), rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_the_fixed_sequence_stops_where_mapies_does(seed):
    score, wrong = split(seed=seed)
    thresholds = np.linspace(0.97, 0.5, 30)
    local = score >= thresholds[:, None]
    accepted, errors = local.sum(axis=1).astype(float), (local & wrong).sum(axis=1)
    p_values = binomial_cdf(errors, accepted, ALPHA)
    rejected = control_fwer(p_values, DELTA, FWERFixedSequenceTesting(n_starts=1))
    ours = certify_selective(score, wrong, alpha=ALPHA, delta=DELTA, thresholds=thresholds)
    assert ours.threshold == (thresholds[rejected[-1]] if len(rejected) else None)


def test_holm_rejects_what_mapie_rejects():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p_values = rng.random(12) ** 4
        theirs = control_fwer(p_values, DELTA, "bonferroni_holm")
        assert np.flatnonzero(holm(p_values) <= DELTA).tolist() == sorted(theirs)


def test_hoeffding_bentkus_equals_mapies_on_the_unit_interval():
    means = np.arange(-32, 16, 4) / 128  # exact in binary, so that rounding up means the same to both
    ours = hoeffding_bentkus_p_values(means, 256, 0.05)
    theirs = compute_hoeffding_bentkus_p_value((1 + means) / 2, 256, (1 + 0.05) / 2)[:, 0]
    assert ours == pytest.approx(np.minimum(theirs, 1.0), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_marginal_bound_beats_mapies_rcps(seed):
    score, wrong = split(seed=seed)
    thresholds = np.linspace(0, 1, 101)
    losses = (wrong[:, None] & (score[:, None] >= thresholds)).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MAPIE's running variance divides by zero where nothing is wrong
        bounds = {
            name: get_r_hat_plus(losses, thresholds, "rcps", name, DELTA, 0.25)[1]
            for name in ("hoeffding", "bernstein")
        }
    ours = certify_marginal(score, wrong, epsilon=ALPHA, delta=DELTA)
    for bound in bounds.values():
        valid = np.flatnonzero(bound <= ALPHA)
        assert ours.threshold <= thresholds[valid[0]]
    # CRC bounds the expectation only, so it answers more and promises less.
    crc = get_r_hat_plus(losses, thresholds, "crc", None, None, None)[1]
    assert thresholds[np.flatnonzero(crc <= ALPHA)[0]] <= ours.threshold


def test_trinomial_tail_equals_a_convolution():
    n, mean, discordance = 40, 0.05, 0.3
    plus, minus = (discordance + mean) / 2, (discordance - mean) / 2
    mass = np.array([1.0])
    for _ in range(n):
        mass = np.convolve(mass, [minus, 1 - discordance, plus])
    for total in (-6, 0, 2, 10):
        assert trinomial_tail(total, n, mean, discordance) == pytest.approx(mass[: n + total + 1].sum(), rel=1e-9)


@pytest.mark.parametrize("n", [80, 400])
def test_the_nuisance_share_is_worst_at_its_upper_end(n):
    for epsilon in (0.02, 0.05):
        for total in range(-10, int(n * epsilon) - 1, 3):
            tails = [trinomial_tail(total, n, epsilon, q) for q in np.linspace(epsilon, 0.4, 40)]
            if min(tails) <= DELTA:
                assert np.max(tails) == pytest.approx(tails[-1], abs=1e-6)


def test_the_exact_test_has_more_power_than_betting():
    rng = np.random.default_rng(3)
    exact = bets = 0
    for _ in range(200):
        z = rng.choice([-1.0, 0.0, 1.0], 500, p=[0.05, 0.91, 0.04])
        exact += trinomial_p_value(int(z.sum()), int((z != 0).sum()), 500, 0.03, DELTA) <= DELTA
        bets += betting_p_values(z[:, None], 0.03, DELTA)[0] <= DELTA
    assert exact > bets + 5
    assert exact > 0.75 * 200


def test_the_exact_test_keeps_its_level_on_the_null():
    rng = np.random.default_rng(5)
    z = rng.choice([-1.0, 0.0, 1.0], (1500, 300), p=[0.03, 0.91, 0.06])  # mean exactly .03
    sums, discordant = z.sum(axis=1), (z != 0).sum(axis=1)
    rejected = [
        trinomial_p_value(int(s), int(c), 300, 0.03, DELTA) <= DELTA for s, c in zip(sums, discordant, strict=True)
    ]
    assert np.mean(rejected) <= DELTA + 3 * np.sqrt(DELTA / 1500)


def test_a_bet_on_the_null_is_rarely_won():
    rng = np.random.default_rng(4)
    z = rng.choice([-0.5, 0.0, 1.0], (400, 1500), p=[0.1, 0.82, 0.08])  # mean exactly .03
    assert (betting_p_values(z, 0.03, DELTA) <= DELTA).mean() <= DELTA + 3 * np.sqrt(DELTA / 1500)
    assert betting_p_values(np.zeros((0, 2)), 0.03, DELTA).tolist() == [1.0, 1.0]
