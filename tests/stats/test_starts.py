"""Where testing starts: never much worse than a fixed start, hardly ever silent where something can be proved."""

from __future__ import annotations

import numpy as np
import pytest

from locum.core.errors import UserError
from locum.stats.selective import certify_selective
from locum.stats.starts import START_SHARE, choose_start_share, starts


def draw(generator: np.random.Generator, n: int, risk: object) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and whether the answer is wrong; ``risk`` by the share of surer rows."""
    rank = generator.random(n)
    return 1 - rank, generator.random(n) < risk(rank)  # type: ignore[operator]


WORLDS = {
    "flat and low": lambda x: np.full_like(x, 0.015),
    "sharp": lambda x: np.where(x < 0.35, 0.005, 0.4),
    "late": lambda x: 0.012 + 0.6 * np.maximum(0, x - 0.6),
    "cubic": lambda x: 0.4 * x**3,
}


def test_a_chosen_start_is_seldom_silent_and_no_worse_than_the_usual_one() -> None:
    generator = np.random.default_rng(21)
    silent = {"chosen": 0, "usual": 0}
    gains: list[float] = []
    for risk in WORLDS.values():
        local: dict[str, list[float]] = {"chosen": [], "usual": []}
        for _ in range(200):
            start = choose_start_share(*draw(generator, 400, risk), 600, 0.05, 0.05)
            score, wrong = draw(generator, 600, risk)
            for name, share in (("chosen", start), ("usual", START_SHARE)):
                bound = certify_selective(score, wrong, alpha=0.05, delta=0.05, start_share=share)
                local[name].append(bound.local_share)
        shares = {name: np.array(values) for name, values in local.items()}
        for name, values in shares.items():
            silent[name] += int((values == 0).sum())
        difference = shares["chosen"] - shares["usual"]
        assert difference.mean() > -0.005 - 2 * difference.std() / 200**0.5
        assert (shares["chosen"] == 0).mean() < (shares["usual"] == 0).mean() + 0.03
        gains.append(float(difference.mean()))
    assert silent["chosen"] < silent["usual"] / 3
    assert np.mean(gains) > 0.05


def test_the_start_follows_what_dev_shows() -> None:
    generator = np.random.default_rng(4)
    sharp = choose_start_share(*draw(generator, 1000, WORLDS["sharp"]), 1000, 0.05, 0.05)
    flat = choose_start_share(*draw(generator, 1000, WORLDS["flat and low"]), 1000, 0.05, 0.05)
    assert START_SHARE <= sharp <= 0.36 < 0.7 < flat <= 1


def test_where_nothing_can_be_told_the_start_is_the_usual_one() -> None:
    assert choose_start_share([], [], 1000, 0.05, 0.05) == START_SHARE
    assert choose_start_share([np.nan] * 9, [False] * 9, 1000, 0.05, 0.05) == START_SHARE
    assert choose_start_share([0.5, 0.9], [False, True], 10, 0.05, 0.05) == START_SHARE
    with pytest.raises(UserError):
        choose_start_share([0.5], [True, False], 1000, 0.05, 0.05)


def test_the_order_of_tied_rows_has_no_influence() -> None:
    generator = np.random.default_rng(9)
    score = np.round(generator.random(300), 1)
    wrong = generator.random(300) < 0.3 * (1 - score)
    first = choose_start_share(score, wrong, 500, 0.05, 0.05)
    for _ in range(5):
        order = generator.permutation(300)
        assert choose_start_share(score[order], wrong[order], 500, 0.05, 0.05) == first


def test_starts_are_rungs_and_all_rows() -> None:
    assert starts(130, 0.05, 0.05).tolist() == [59, 93, 124, 130]
    assert len(starts(40, 0.05, 0.05)) == 0


# A start that is chosen on the calibration rows themselves fails each of the tests below.
UNPROVABLE = {
    "just above the promise everywhere": lambda x: np.full_like(x, 0.055),
    "rising from above the promise": lambda x: 0.051 + 0.05 * x,
}


@pytest.mark.parametrize("name", UNPROVABLE)
def test_a_chosen_start_speaks_no_more_often_than_promised_where_nothing_is_true(name: str) -> None:
    generator = np.random.default_rng(33)
    spoke, draws = 0, 500
    for _ in range(draws):
        start = choose_start_share(*draw(generator, 150, UNPROVABLE[name]), 400, 0.05, 0.05)
        score, wrong = draw(generator, 400, UNPROVABLE[name])
        spoke += certify_selective(score, wrong, alpha=0.05, delta=0.05, start_share=start).threshold is not None
    assert spoke / draws <= 0.05 + 3 * (0.05 * 0.95 / draws) ** 0.5


def test_a_chosen_start_breaks_the_promise_no_more_often_than_allowed_where_the_risk_crosses_it() -> None:
    def risk(rank: np.ndarray) -> np.ndarray:  # exactly the promise at 40 % of the rows, and just above it from there
        return np.where(rank < 0.4, 0.05, 0.053)

    generator, broken, draws = np.random.default_rng(34), 0, 800
    for _ in range(draws):
        start = choose_start_share(*draw(generator, 150, risk), 400, 0.05, 0.05)
        score, wrong = draw(generator, 400, risk)
        threshold = certify_selective(score, wrong, alpha=0.05, delta=0.05, start_share=start).threshold
        broken += threshold is not None and 1 - threshold > 0.4
    assert broken / draws <= 0.05 + 3 * (0.05 * 0.95 / draws) ** 0.5
