"""Label arithmetic, before anyone labels: what a certificate needs, for each of the three kinds.

Notable: all of it is exact binomial, the same test that the certificates use, so ``plan`` and ``certify``
cannot disagree. For "selective" a count is of *accepted* rows (answered locally); for "marginal" and
"regret" it is of all calibration rows.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from locum.stats.distributions import binomial_cdf, normal_quantile
from locum.stats.inputs import Floats, Ints, check_open_unit, floats, input_error
from locum.stats.trinomial import trinomial_p_value

_MOST_ERRORS = 16_384  # no certificate is planned on more labels than allow this many errors


def errors_allowed(n: int, alpha: float, delta: float) -> int:
    """The most errors in n rows that still prove "at most alpha wrong" with confidence 1−delta.

    The largest e with P(Binomial(n, alpha) ≤ e) ≤ delta; equivalently, Clopper–Pearson's one-sided upper
    bound for e of n is at most alpha.

    Args:
        n: rows: accepted ones (selective), or all (marginal).
        alpha: the promised share of errors.
        delta: 1 − confidence.

    Returns:
        e, or −1 when n is too small even without an error.

    Raises:
        UserError: alpha or delta outside (0, 1), or n negative.
    """
    if n < 0:
        raise input_error(f"n is {n}")
    check_open_unit("alpha", alpha)
    check_open_unit("delta", delta)
    low, high = -1, n  # n errors are never allowed: P(X ≤ n) = 1 > delta
    while high - low > 1:
        middle = (low + high) // 2
        if float(binomial_cdf(middle, n, alpha)) <= delta:
            low = middle
        else:
            high = middle
    return low


def labels_needed_for(alpha: float, delta: float, errors: ArrayLike) -> Ints:
    """Vectorised ``labels_needed``: the smallest n at which each number of errors is allowed, shape (m,)."""
    allowed = floats(errors)
    low = allowed.copy()  # P(Bin(e, alpha) ≤ e) = 1: not enough
    high = np.maximum(2 * (allowed + 1), 2.0)
    while bool((short := binomial_cdf(allowed, high, alpha) > delta).any()):
        low, high = np.where(short, high, low), np.where(short, 2 * high, high)
    while bool((high - low > 1).any()):
        middle = np.floor((low + high) / 2)
        enough = binomial_cdf(allowed, middle, alpha) <= delta
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high.astype(np.int64)


def labels_needed(alpha: float, delta: float, errors: int = 0) -> int:
    """The smallest number of rows that prove "at most alpha wrong" when ``errors`` of them are wrong.

    Args:
        alpha: the promised share of errors.
        delta: 1 − confidence.
        errors: how many turn out wrong.

    Returns:
        Rows: accepted ones (selective), or all (marginal, where errors are rows answered locally and wrong).

    Raises:
        UserError: alpha or delta outside (0, 1), or errors negative.
    """
    check_open_unit("alpha", alpha)
    check_open_unit("delta", delta)
    if errors < 0:
        raise input_error(f"{errors} errors")
    return int(labels_needed_for(alpha, delta, [errors])[0])


def rungs(n: int, alpha: float, delta: float) -> Ints:
    """All row counts up to n at which one more error becomes allowed, rising; empty when n is too small.

    The natural places to test: at every other count the same errors are allowed on more rows, or fewer.
    """
    most = errors_allowed(n, alpha, delta)
    return _first_rungs(most + 1, alpha, delta).copy()


@lru_cache(maxsize=256)
def _first_rungs(many: int, alpha: float, delta: float) -> Ints:
    return labels_needed_for(alpha, delta, np.arange(many))


def labels_for_power(alpha: float, delta: float, true_error: float, power: float = 0.8) -> int:
    """The smallest number of rows that certifies with probability ``power`` when the truth is ``true_error``.

    Smallest n with P(Binomial(n, true_error) ≤ errors_allowed(n)) ≥ power. Power at exactly n rows is a
    saw-tooth in n, and a few more rows can lower it again until the next error is allowed; the selective
    certificate tests at its teeth (``rungs``), so more rows do not hurt it.

    Args:
        alpha: the promised share of errors.
        delta: 1 − confidence.
        true_error: the share that is really wrong, below alpha: of accepted rows (selective), or of all
            rows that are answered locally and wrong (marginal).
        power: wanted probability of success.

    Returns:
        Rows: accepted ones (selective), or all (marginal).

    Raises:
        UserError: a probability is out of range, or true_error ≥ alpha, which no number of labels can certify.
    """
    for name, value in (("alpha", alpha), ("delta", delta), ("power", power)):
        check_open_unit(name, value)
    if not 0.0 <= true_error < alpha:
        raise input_error(
            f"a true error of {true_error:.4g} is not below the promised {alpha:.4g}",
            fix="promise more (a larger max_error) or build a better student",
        )
    most = 64
    while most <= _MOST_ERRORS:
        needed = _first_rungs(most, alpha, delta)
        strong = binomial_cdf(np.arange(most), needed, true_error) >= power
        if bool(strong.any()):
            return int(needed[int(np.argmax(strong))])
        most *= 4
    raise input_error(
        f"a true error of {true_error:.6g} is so close to {alpha:.6g} that "
        f"{int(labels_needed_for(alpha, delta, [_MOST_ERRORS])[0])} labels do not tell them apart",
        fix="promise more (a larger max_error) or build a better student",
    )


def calibration_rows(accepted: int, local_share: float) -> int:
    """Calibration rows to label so that about ``accepted`` of them are answered locally: ⌈accepted/share⌉.

    Raises:
        UserError: the share is not in (0, 1].
    """
    if not 0.0 < local_share <= 1.0:
        raise input_error(f"a local share of {local_share} is not in (0, 1]")
    return math.ceil(accepted / local_share - 1e-9)


def labels_for_regret(
    epsilon: float, delta: float, true_regret: float = 0.0, discordance: float = 0.0, power: float = 0.8
) -> int:
    """About how many calibration rows the regret certificate needs.

    The larger of two: what the certificate's own test needs with no discordant row at all (``trinomial``),
    and the one-sided z-test's n = (z_{1−δ} + z_{power})² · variance / (ε − regret)²,
    with variance = discordance − regret² (Connor 1987).

    Args:
        epsilon: the promise: the system scores at most this much below the LLM.
        delta: 1 − confidence.
        true_regret: what it really scores below the LLM.
        discordance: share of rows answered locally on which student and LLM score differently.
        power: wanted probability of success.

    Raises:
        UserError: a probability is out of range, or the true regret is not below epsilon.
    """
    for name, value in (("epsilon", epsilon), ("delta", delta), ("power", power)):
        check_open_unit(name, value)
    if true_regret >= epsilon or not abs(true_regret) <= discordance <= 1.0:
        raise input_error(
            f"needs |regret| ≤ discordance ≤ 1 and regret < epsilon, got {true_regret}, {discordance}, {epsilon}"
        )
    z = float(normal_quantile(1 - delta) + normal_quantile(power))
    by_power = z * z * (discordance - true_regret**2) / (epsilon - true_regret) ** 2
    return max(_clean_rows(epsilon, delta), math.ceil(by_power))


def _clean_rows(epsilon: float, delta: float) -> int:
    """The fewest rows on which no discordance at all proves a regret of at most epsilon."""
    low, high = 0, labels_needed(epsilon, delta)
    while trinomial_p_value(0, 0, high, epsilon, delta) > delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if trinomial_p_value(0, 0, middle, epsilon, delta) > delta:
            low = middle
        else:
            high = middle
    return high


def power_of(n: int, alpha: float, delta: float, true_error: float) -> float:
    """Probability that n rows certify when the truth is ``true_error``: P(Binomial(n, true) ≤ allowed).

    Raises:
        UserError: alpha or delta outside (0, 1), or n negative.
    """
    return float(binomial_cdf(errors_allowed(n, alpha, delta), n, true_error))


def allowed_at(accepted: Ints, alpha: float, delta: float) -> Floats:
    """Vectorised ``errors_allowed`` for a rising array of row counts, shape (m,); −1 where too few."""
    if len(accepted) == 0:
        return np.empty(0)
    steps = rungs(int(accepted[-1]), alpha, delta)
    return floats(np.searchsorted(steps, accepted, side="right") - 1)
