"""Monte Carlo: every promise is broken in at most δ of all draws (plus three standard errors).

A world is a finite population of (confidence, chance of being wrong), so the true risk of a threshold is
known exactly. Calibration splits are drawn from it with replacement.
"""

import numpy as np
import pytest
from scipy import stats

from locum.stats.marginal import certify_marginal
from locum.stats.regret import certify_regret
from locum.stats.selective import certify_selective, fixed_thresholds

ALPHA = DELTA = 0.05
DRAWS = 300
POPULATION = 20_000
ACCURACIES = (0.6, 0.75, 0.85, 0.93, 0.97)
SIZES = (100, 300, 1000)


class World:
    """A population, strictest confidence first, and the true risks of accepting its first k."""

    def __init__(self, kind, accuracy):
        rank = (np.arange(POPULATION) + 0.5) / POPULATION
        right = stats.beta(5 * accuracy, 5 * (1 - accuracy)).isf(rank)  # calibrated confidence
        score = right
        if kind == "overconfident":
            score, right = right**0.1, right * 0.97
        elif kind == "top-is-worse":  # the surest 15 % are no better than the rest
            right = np.where(rank < 0.15, accuracy, right)
        elif kind == "uninformative":
            right = np.full(POPULATION, accuracy)
        elif kind == "tied":
            score = right.round(1)
        self.score, self.error = score, 1 - right

    def draw(self, rng, n):
        rows = rng.integers(0, POPULATION, n)
        return self.score[rows], rng.random(n) < self.error[rows]

    def risk(self, threshold, loss=None):
        """Share wrong among the accepted, and mean loss over everything."""
        local = self.score >= threshold
        loss = self.error if loss is None else loss
        return self.error[local].mean(), (loss * local).mean()


def violated(count):
    return count / DRAWS <= DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / DRAWS)


@pytest.mark.parametrize("kind", ["calibrated", "overconfident", "top-is-worse", "uninformative", "tied"])
@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_selective_and_marginal_keep_their_promise(kind, accuracy):
    world, rng = World(kind, accuracy), np.random.default_rng(int(accuracy * 100))
    for n in SIZES:
        broken_selective = broken_marginal = 0
        for _ in range(DRAWS):
            score, wrong = world.draw(rng, n)
            selective = certify_selective(score, wrong, alpha=ALPHA, delta=DELTA)
            marginal = certify_marginal(score, wrong, epsilon=ALPHA, delta=DELTA)
            if selective.threshold is not None:
                broken_selective += world.risk(selective.threshold)[0] > ALPHA
            if marginal.threshold is not None:
                broken_marginal += world.risk(marginal.threshold)[1] > ALPHA
        assert violated(broken_selective)
        assert violated(broken_marginal)


@pytest.mark.parametrize("kind", ["calibrated", "top-is-worse", "tied"])
def test_fixed_thresholds_keep_their_promise(kind):
    world, rng = World(kind, 0.85), np.random.default_rng(7)
    broken = 0
    for _ in range(DRAWS):
        reference, _ = world.draw(rng, 500)
        score, wrong = world.draw(rng, 500)
        fixed = fixed_thresholds(reference, 500, ALPHA, DELTA)
        bound = certify_selective(score, wrong, alpha=ALPHA, delta=DELTA, thresholds=fixed)
        broken += bound.threshold is not None and world.risk(bound.threshold)[0] > ALPHA
    assert violated(broken)


@pytest.mark.parametrize("accuracy", ACCURACIES)
@pytest.mark.parametrize(("method", "scale"), [("trinomial", 1.0), ("betting", 0.7)])
def test_regret_keeps_its_promise(accuracy, method, scale):
    world, rng = World("calibrated", accuracy), np.random.default_rng(11)
    llm_right, epsilon, n = 0.9, 0.04, 200
    loss = scale * (llm_right - (1 - world.error))
    broken = 0
    for _ in range(DRAWS // 2):
        score, wrong = world.draw(rng, n)
        llm = scale * (rng.random(n) < llm_right)
        bound = certify_regret(score, scale * ~wrong, llm, epsilon=epsilon, delta=DELTA, method=method)
        broken += bound.threshold is not None and world.risk(bound.threshold, loss)[1] > epsilon
    assert broken / (DRAWS // 2) <= DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / (DRAWS // 2))


def test_the_promise_is_worth_having():
    """The reference setting: at least 38 % local (selective) and 61 % (marginal), on average."""
    world, rng = World("calibrated", 0.85), np.random.default_rng(13)
    selective, marginal = [], []
    for _ in range(DRAWS):
        score, wrong = world.draw(rng, 1000)
        selective.append(certify_selective(score, wrong, alpha=ALPHA, delta=DELTA).local_share)
        marginal.append(certify_marginal(score, wrong, epsilon=ALPHA, delta=DELTA).local_share)
    assert np.mean(selective) >= 0.38
    assert np.mean(marginal) >= 0.61


def test_a_very_good_student_answers_everything_from_few_labels():
    world, rng = World("calibrated", 0.99), np.random.default_rng(17)
    shares = [certify_selective(*world.draw(rng, 300), alpha=ALPHA, delta=DELTA).local_share for _ in range(100)]
    assert np.mean(np.array(shares) == 1.0) >= 0.95
