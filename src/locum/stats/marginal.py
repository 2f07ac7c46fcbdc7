"""Certificate "marginal": at most ε of all traffic is answered locally and wrong, with confidence 1−δ.

Notable: "answered locally and wrong" can only grow as the threshold falls, so no correction for many
thresholds is needed: an upper bound at each threshold alone is enough (risk-controlling prediction sets,
Bates, Angelopoulos, Lei, Malik & Jordan 2021, theorem 1). For 0/1 losses the exact binomial bound replaces
Hoeffding's. Hence the rule: the loosest threshold with at most ``errors_allowed(n, ε, δ)`` local errors.
Ties and NaN need no care: a tie group is accepted whole, and NaN is never accepted.
Not here: the share of wrong among local answers (``selective``), which is the stronger promise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from locum.stats.inputs import as_floats, as_outcomes, check_open_unit
from locum.stats.intervals import clopper_pearson
from locum.stats.risk import RiskBound, degenerate_reason, distinct_thresholds, no_threshold, prefix_length
from locum.stats.sample_size import errors_allowed

METHOD = "rcps-binomial"


def certify_marginal(
    confidence: ArrayLike, wrong: ArrayLike, *, epsilon: float, delta: float, allow_constant: bool = False
) -> RiskBound:
    """The loosest threshold at which "at most epsilon of all traffic is local and wrong" is proved.

    Args:
        confidence: of calibration rows, shape (n,); larger is surer, any scale; NaN is never answered locally.
        wrong: whether the student's answer is wrong, same rows.
        epsilon: the promised share of all traffic.
        delta: 1 − confidence of the certificate.
        allow_constant: certify even where every confidence is equal (then it is all or nothing).

    Returns:
        The bound; ``threshold`` None when nothing certifies, and ``reason`` why.

    Raises:
        UserError: unequal lengths, ``wrong`` not 0/1, or a probability outside (0, 1).
    """
    check_open_unit("epsilon", epsilon)
    check_open_unit("delta", delta)
    score = as_floats("confidence", confidence, nan=True)
    n = len(score)
    loss = as_outcomes("wrong", wrong, n=n).astype(np.float64)
    values, accepted, errors = distinct_thresholds(score, loss)
    reason = degenerate_reason(values, allow_constant)
    if reason is not None:
        return no_threshold("marginal", n, epsilon, delta, METHOD, reason)
    allowed = errors_allowed(n, epsilon, delta)
    if allowed < 0:
        return no_threshold("marginal", n, epsilon, delta, METHOD, "too-few-labels")
    reach = prefix_length(errors <= allowed)
    if reach == 0:
        return no_threshold("marginal", n, epsilon, delta, METHOD, "risk-too-high", 1)
    mistakes = int(errors[reach - 1])
    return RiskBound(
        kind="marginal",
        threshold=float(values[reach - 1]),
        n=n,
        accepted=int(accepted[reach - 1]),
        errors=mistakes,
        observed=mistakes / n,
        upper_bound=min(epsilon, clopper_pearson(mistakes, n, 1 - delta, "upper").high),
        alpha=epsilon,
        delta=delta,
        method=METHOD,
        reason="certified",
        tested=min(reach + 1, len(values)),
    )
