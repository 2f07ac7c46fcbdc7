"""Where a fixed sequence of tests should start, learned from labelled rows outside the calibration split.

A start too strict wastes chances to stop early; one too loose may fail at once, and then nothing is certified. Which
of the two threatens depends on how the risk rises with the rank, which dev rows tell only roughly.
Not here: the tests (``selective``); a start cannot harm them, because it is fixed before their labels are seen.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from locum.stats.inputs import Floats, Ints, as_floats, as_outcomes, check_open_unit
from locum.stats.sample_size import allowed_at, rungs

START_SHARE = 0.2
"""The start when nothing is known of a student; others are measured against it."""

_GRID = 200
_SIMULATED = 40
"""Calibration splits that are simulated for each risk curve."""
_HALF_WEIGHT = 0.5
"""Dev served other choices too, and its rows look a little too good: they count half."""
_REGRET = 6.0
"""A point lost against START_SHARE weighs as much as so many more than it won."""
_SILENCE = 0.3
"""What nothing certified costs, as a share of the traffic, beside having nothing answered."""
_POWERS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_FLOORS = (0.0, 0.1, 0.4)
_MEANS = np.geomspace(0.08, 16, 16)
_BREAKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
_WIDTHS = (0.01, 0.25)
"""How fast a step rises, as a share of the ranks."""
_FAMILIES = {"flat": 0.2, "step": 0.25, "power": 0.55}
"""How likely each family of risk curves is before dev is seen."""


def choose_start_share(
    reference_confidence: ArrayLike, reference_wrong: ArrayLike, n: int, alpha: float, delta: float
) -> float:
    """The share of calibration rows at which testing starts: a Bayes decision from dev rows.

    Risk by rank is taken to be one of some 500 curves: flat, a step or ramp, or a power of the rank over a floor. Dev
    rows weigh them by their likelihood, tempered by a half (a power posterior: Friel & Pettitt 2008). For each curve
    and start the share answered locally is simulated with the very tests that certify. Taken is the start with the
    largest expected share, where a loss against START_SHARE counts several times a gain. Designed on one set of
    simulated worlds and judged on another and on real answers (``bench/certificates.py``).

    Args:
        reference_confidence: of dev rows, NaN allowed, shape (m,).
        reference_wrong: whether the student is wrong, same rows.
        n: calibration rows.
        alpha: the promise.
        delta: 1 − confidence.

    Returns:
        A share in (0, 1] for ``certify_selective``; START_SHARE when nothing can be told.

    Raises:
        UserError: unequal lengths, outcomes not 0/1, a probability outside (0, 1).
    """
    check_open_unit("alpha", alpha)
    check_open_unit("delta", delta)
    score = as_floats("reference_confidence", reference_confidence, nan=True)
    wrong = as_outcomes("reference_wrong", reference_wrong, n=len(score)).astype(np.float64)
    known = ~np.isnan(score)
    m = int(known.sum())
    rows = int(n * m / len(score)) if m else 0
    counts = starts(rows, alpha, delta)
    if len(counts) == 0:
        return START_SHARE
    errors = _tie_means(score[known], wrong[known])
    curves, prior = _curves(alpha)
    at = curves[:, ((np.arange(m) + 0.5) / m * _GRID).astype(np.int64)]
    weight = np.log(prior) + _HALF_WEIGHT * (np.log(at) @ errors + np.log1p(-at) @ (1 - errors))
    posterior = np.exp(weight - weight.max())
    posterior /= posterior.sum()
    usual = min(int(np.searchsorted(counts, np.ceil(START_SHARE * n))), len(counts) - 1)
    worth = _worth(rows, alpha, delta)
    value = posterior @ (worth - _REGRET * np.maximum(0.0, worth[:, [usual]] - worth))
    best = int(np.argmax(value))
    if value[best] <= value[usual] + 1e-9:
        return START_SHARE
    return float(counts[best] / n)


def starts(rows: int, alpha: float, delta: float) -> Ints:
    """Accepted counts at which testing may start: every rung, and all rows; empty when nothing can be proved."""
    steps = rungs(rows, alpha, delta)
    return np.unique(np.append(steps, rows)) if len(steps) else steps


def _tie_means(score: Floats, wrong: Floats) -> Floats:
    """Errors by falling confidence; rows of one confidence share theirs, since their order says nothing."""
    order = np.argsort(-score, kind="stable")
    _, tie, size = np.unique(-score[order], return_inverse=True, return_counts=True)
    return (np.bincount(tie, weights=wrong[order]) / size)[tie]


@lru_cache(maxsize=16)
def _curves(alpha: float) -> tuple[Floats, Floats]:
    """Risk by share of rank, shape (curves, 200), and how likely each curve is at first."""
    x = (np.arange(_GRID) + 0.5) / _GRID
    means = alpha * _MEANS[alpha * _MEANS <= 0.6]
    found: dict[str, list[Floats]] = {
        "flat": [np.full(_GRID, mean) for mean in means],
        "step": [
            alpha * low + (high - alpha * low) * np.clip((x - edge + width / 2) / width, 0.0, 1.0)
            for edge in _BREAKS
            for width in _WIDTHS
            for low in (0.05, 0.2, 0.5, 0.9)
            for high in (2 * alpha, min(0.9, 5 * alpha), 0.3, 0.6)
        ],
        "power": [
            mean * (floor + (1 - floor) * (power + 1) * x**power)
            for power in _POWERS
            for floor in _FLOORS
            for mean in means
        ],
    }
    prior = np.concatenate([np.full(len(curves), _FAMILIES[name] / len(curves)) for name, curves in found.items()])
    return np.clip(np.concatenate([np.array(curves) for curves in found.values()]), 1e-6, 0.98), prior


@lru_cache(maxsize=16)
def _worth(rows: int, alpha: float, delta: float) -> Floats:
    """Mean share answered locally, less the price of silence, by curve and start, shape (curves, starts)."""
    curves, _ = _curves(alpha)
    counts = starts(rows, alpha, delta)
    block = np.diff(counts, prepend=0)
    total = np.concatenate([np.zeros((len(curves), 1)), np.cumsum(curves, axis=1) / _GRID], axis=1)
    at = np.array([np.interp(counts / rows, np.arange(_GRID + 1) / _GRID, row) for row in total])
    risk = np.clip(np.diff(at, axis=1, prepend=0.0) * rows / block, 0.0, 1.0)
    drawn = np.random.default_rng(3).binomial(block, risk, size=(_SIMULATED, *risk.shape))
    passed = np.cumsum(drawn, axis=2) <= allowed_at(counts, alpha, delta)
    worth = np.empty(risk.shape)
    reached = np.zeros(passed.shape[:2])  # the share that a run of passes reaches from the start after this one
    for start in range(len(counts) - 1, -1, -1):
        reached = np.where(passed[..., start], np.maximum(reached, counts[start] / rows), 0.0)
        worth[:, start] = (reached - _SILENCE * (reached == 0)).mean(axis=0)
    return worth
