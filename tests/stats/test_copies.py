"""Copies that independent draws explain, and copies that they do not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from locum.core.errors import UserError
from locum.stats.copies import strange_count
from locum.stats.distributions import poisson_limit


def sizes(draws: np.ndarray) -> list[int]:
    return list(np.unique(draws, return_counts=True)[1])


WORLDS = {
    "one text is most of the traffic": lambda g: np.where(g.random(3000) < 0.6, -1, np.arange(3000)),
    "a few canned texts": lambda g: np.where(g.random(2000) < 0.3, -1 - g.integers(0, 3, 2000), np.arange(2000)),
    "zipf": lambda g: g.zipf(1.5, 5000),
    "flat zipf": lambda g: g.zipf(1.1, 2000),
    "a closed set": lambda g: g.integers(0, 50, 2000),
    "a closed set, hardly seen": lambda g: g.integers(0, 5000, 2000),
    "users of gamma activity": lambda g: g.choice(4000, 3000, p=(w := g.gamma(0.5, size=4000)) / w.sum()),
    "small": lambda g: g.zipf(1.3, 40),
}


@pytest.mark.parametrize("world", WORLDS)
def test_draws_are_hardly_ever_strange(world: str) -> None:
    generator = np.random.default_rng(11)
    found = sum(strange_count(sizes(WORLDS[world](generator))) is not None for _ in range(300))
    assert found <= 4


@pytest.mark.parametrize(
    "counts",
    [
        {2: 500},
        {1: 400, 2: 200},
        {1: 1000, 6: 500},
        {10: 100},
        {1: 8000, 2: 1000},
        {3: 40, 1: 10},
    ],
)
def test_copies_that_were_made_are_strange(counts: dict[int, int]) -> None:
    made = [size for size, texts in counts.items() for _ in range(texts)]
    assert strange_count(made) == max(size for size in counts if size > 1)


def test_what_says_nothing_is_not_strange() -> None:
    assert strange_count([]) is None
    assert strange_count([1] * 5000) is None
    assert strange_count([2, 2, 2] + [1] * 50) is None
    assert strange_count([600]) is None
    assert strange_count([300, 300, 300] + [1] * 2100) is None
    with pytest.raises(UserError):
        strange_count([0, 1])


def test_limits_of_a_poisson_mean_are_garwoods() -> None:
    for count in (0, 1, 7, 300):
        assert poisson_limit(count, 0.025, "upper") == pytest.approx(chi2.ppf(0.975, 2 * count + 2) / 2)
        lower = chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
        assert poisson_limit(count, 0.025, "lower") == pytest.approx(lower)
