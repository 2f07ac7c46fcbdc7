"""Counts of texts tell learned rows from fresh ones: learned ones are refused, fresh ones hardly ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from locum.stats.reuse import Reuse, find_reuse

Draw = Callable[[np.random.Generator, int], np.ndarray]


def _canned(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.where(rng.random(size) < 0.3, rng.integers(0, 20, size), rng.integers(1000, 2**40, size))


WORLDS: dict[str, Draw] = {
    "each text once": lambda rng, size: rng.integers(0, 2**40, size),
    "a third canned": _canned,
    "zipf": lambda rng, size: rng.zipf(1.3, size),
    "a closed vocabulary": lambda rng, size: rng.integers(0, 60, size),
    "a skewed closed vocabulary": lambda rng, size: np.minimum(rng.geometric(0.1, size), 40),
}


def asked(learned: np.ndarray, given: np.ndarray) -> Reuse | None:
    counts = Counter(learned.tolist())
    places = {text: place for place, text in enumerate(counts)}
    hits = np.array([places.get(text, -1) for text in given.tolist()], dtype=np.int64)
    return find_reuse(np.array(list(counts.values()), dtype=np.int64), hits)


@pytest.mark.parametrize("world", WORLDS)
def test_learned_rows_are_refused_and_fresh_rows_pass(world: str) -> None:
    rng, draw = np.random.default_rng(1), WORLDS[world]
    refused = 0
    for size in (200, 700, 1500) * 4:
        learned = draw(rng, size)
        assert asked(learned, rng.permutation(learned)) is not None
        refused += asked(learned, draw(rng, int(rng.integers(100, 1000)))) is not None
    assert refused <= 1


def test_a_single_learned_row_is_one_too_many_where_no_text_repeats_itself() -> None:
    found = asked(np.arange(500), np.append(np.arange(1000, 1200), 7))
    assert found is not None and (found.rows, found.most) == (1, 0)


def test_a_few_rows_seen_are_what_repeating_traffic_gives() -> None:
    rng = np.random.default_rng(2)
    learned = rng.integers(0, 4000, 700)
    assert asked(learned, rng.integers(0, 4000, 400)) is None
    found = asked(learned, np.concatenate([learned[:300], rng.integers(0, 4000, 100)]))
    assert found is not None and found.most is not None and found.rows > found.most


def test_nothing_given_and_nothing_learned() -> None:
    nothing = np.array([], dtype=np.int64)
    assert find_reuse(nothing, nothing) is None
    assert find_reuse(nothing, np.array([-1, -1])) is None
    assert find_reuse(np.array([1, 2]), nothing) is None
