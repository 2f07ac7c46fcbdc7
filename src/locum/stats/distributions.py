"""Exact tails and quantiles that the other files share, typed, on top of ``scipy.special``.

Notable: the binomial tail is the regularised incomplete beta function, exact for any n, vectorised,
and far faster than ``scipy.stats.binom``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from locum.stats.inputs import Floats, floats
from locum.stats.special import special


def binomial_cdf(k: ArrayLike, n: ArrayLike, p: ArrayLike) -> Floats:
    """P(X ≤ k) for X ~ Binomial(n, p), elementwise: I_{1−p}(n−k, k+1) (Abramowitz & Stegun 26.5.24).

    Degenerate: k < 0 gives 0; k ≥ n gives 1.
    """
    count, trials = np.broadcast_arrays(floats(k), floats(n))
    inside = (count >= 0) & (count < trials)
    safe_count = np.where(inside, count, 0.0)
    safe_trials = np.where(inside, trials, 1.0)
    tail = floats(special.betainc(safe_trials - safe_count, safe_count + 1.0, 1.0 - floats(p)))
    return np.where(inside, tail, np.where(count < 0, 0.0, 1.0))


def binomial_pmf(k: ArrayLike, n: ArrayLike, p: float) -> Floats:
    """P(X = k) for X ~ Binomial(n, p), elementwise, through log-gamma; p in [0, 1]."""
    count, trials = floats(k), floats(n)
    log_choose = special.gammaln(trials + 1) - special.gammaln(count + 1) - special.gammaln(trials - count + 1)
    log_power = special.xlogy(count, p) + special.xlog1py(trials - count, -p)
    return np.exp(floats(log_choose) + floats(log_power))


def beta_quantile(q: float, a: float, b: float) -> float:
    """The q-quantile of Beta(a, b), a, b > 0."""
    return float(special.betaincinv(a, b, q))


def poisson_limit(count: int, doubt: float, side: Literal["lower", "upper"]) -> float:
    """The exact limit of a Poisson mean of which ``count`` was seen, at confidence 1 − ``doubt`` (Garwood 1936)."""
    if side == "upper":
        return float(special.gammaincinv(count + 1, 1 - doubt))
    return float(special.gammaincinv(count, doubt)) if count else 0.0


def normal_quantile(q: ArrayLike) -> Floats:
    """The q-quantile of the standard normal, elementwise."""
    return floats(special.ndtri(floats(q)))


def normal_cdf(z: ArrayLike) -> Floats:
    """P(Z ≤ z) for standard normal Z, elementwise."""
    return floats(special.ndtr(floats(z)))


def student_quantile(q: float, degrees: float) -> float:
    """The q-quantile of Student's t with ``degrees`` > 0 degrees of freedom."""
    return float(special.stdtrit(degrees, q))


def student_cdf(t: float, degrees: float) -> float:
    """P(T ≤ t) for Student's t with ``degrees`` > 0 degrees of freedom."""
    return float(special.stdtr(degrees, t))
