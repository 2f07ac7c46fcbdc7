"""The mean of bounded differences, tested by betting: valid at any n, whatever the distribution.

Notable: if the mean were at least ε, no bettor could multiply his money: capital is a non-negative
supermartingale, so it reaches 1/δ with probability at most δ (Ville 1939). How the stakes are set decides
the power only, never the validity. All thresholds are played at once, one column each.
Not here: exact tests where the differences are 0/±1 (``stats.trinomial``).
"""

from __future__ import annotations

import numpy as np
from scipy.special import rel_entr

from locum.stats.distributions import binomial_cdf
from locum.stats.inputs import Floats, check_open_unit, floats, input_error

_LARGEST_STAKE = 0.75
_ORDER_SEED = 20_210


def betting_p_values(differences: Floats, epsilon: float, delta: float) -> Floats:
    """p-values for "E[Z] ≥ epsilon", Z in [−1, 1], one per column (Waudby-Smith & Ramdas 2024, §4).

    Capital is Π(1 + λᵢ(ε − Zᵢ)); the stake before row i is √(2 ln(1/δ) / (n σ̂²ᵢ₋₁)), their predictable
    plug-in, cut to 0.75/(1−ε); p = 1 / (largest capital). Rows are played in a fixed shuffled order, so
    a file sorted by class does not break the independence that the argument needs.

    Args:
        differences: shape (n, m): n rows, m hypotheses.
        epsilon: the mean to rule out, in (0, 1).
        delta: the level they will be compared with; it sizes the stakes.

    Returns:
        p-values, shape (m,). Degenerate: no rows give 1.

    Raises:
        UserError: a difference outside [−1, 1], or a probability outside (0, 1).
    """
    check_open_unit("epsilon", epsilon)
    check_open_unit("delta", delta)
    n = len(differences)
    if n == 0:
        return np.ones(differences.shape[1])
    if not bool((np.abs(differences) <= 1.0).all()):
        raise input_error("a difference lies outside [−1, 1]", fix="give scores in [0, 1]")
    played = differences[np.random.default_rng(_ORDER_SEED).permutation(n)]
    seen = np.arange(1, n + 1)[:, None]
    mean = np.cumsum(played, axis=0) / (seen + 1)
    # One imagined row of variance ε starts the estimate: small, as few answers differ from the LLM's.
    variance = (epsilon + np.cumsum((played - mean) ** 2, axis=0)) / (seen + 1)
    before = np.concatenate([np.full((1, played.shape[1]), epsilon), variance[:-1]])
    stake = np.minimum(np.sqrt(2 * np.log(1 / delta) / (n * before)), _LARGEST_STAKE / (1 - epsilon))
    capital = np.cumsum(np.log1p(stake * (epsilon - played)), axis=0).max(axis=0)
    return np.exp(-np.maximum(capital, 0.0))


def hoeffding_bentkus_p_values(means: Floats, n: int, epsilon: float) -> Floats:
    """p-values for "E[Z] ≥ epsilon" from means of n values in [−1, 1] (Bates et al. 2021, §3.1).

    With X = (1 + Z)/2 in [0, 1] and a = (1 + ε)/2: min(exp(−n·KL(min(x̄, a), a)), e·P(Binomial(n, a) ≤ ⌈n x̄⌉)).
    Blind to variance, so weak where most differences are 0; kept as the published alternative.

    Args:
        means: mean of Z, shape (m,).
        n: rows, ≥ 1.
        epsilon: the mean to rule out, in (0, 1).

    Returns:
        p-values, shape (m,).

    Raises:
        UserError: epsilon outside (0, 1).
    """
    level = (1 + check_open_unit("epsilon", epsilon)) / 2
    scaled = (1 + means) / 2
    low = np.minimum(scaled, level)
    divergence = floats(rel_entr(low, level)) + floats(rel_entr(1 - low, 1 - level))
    bentkus = np.e * binomial_cdf(np.ceil(n * scaled - 1e-9), n, level)
    return np.minimum(np.minimum(np.exp(-n * divergence), bentkus), 1.0)
