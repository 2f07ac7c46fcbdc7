"""Certificate "regret": the whole system scores at most ε below the LLM alone, with confidence 1−δ.

Notable: only rows answered locally can differ, so per row Z = (LLM's score − student's) if local, else 0,
and the promise is E[Z] ≤ ε. A student that is right where the LLM is wrong earns credit. Thresholds are
tested strictest first, by shares of 1 % of the rows, each at the full δ, until the first failure (fixed
sequence: Bauer 1991; Angelopoulos et al. 2021); the order uses no score of either model. As in
``stats.selective``, ranks are taken among the calibration rows: the argument needs regret to stay at most ε
down to some threshold and above ε below it.

Scores of 0 and 1 are tested exactly (``stats.trinomial``), others by betting (``stats.betting``).
Not here: what the LLM's own score is worth; labels given by the LLM make it 1 everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from locum.stats.betting import betting_p_values, hoeffding_bentkus_p_values
from locum.stats.inputs import Floats, as_floats, as_scores, check_open_unit
from locum.stats.risk import Reason, RiskBound, degenerate_reason, distinct_thresholds, no_threshold
from locum.stats.trinomial import trinomial_p_value

RegretMethod = Literal["auto", "trinomial", "betting", "hoeffding-bentkus"]

PValue = Callable[[float], float]

_STEPS = 100


def certify_regret(
    confidence: ArrayLike,
    student_score: ArrayLike,
    llm_score: ArrayLike,
    *,
    epsilon: float,
    delta: float,
    method: RegretMethod = "auto",
    allow_constant: bool = False,
) -> RiskBound:
    """The loosest threshold at which "the system scores at most epsilon below the LLM" is proved.

    Args:
        confidence: of calibration rows, shape (n,); NaN is never answered locally.
        student_score: score of the student's answer, in [0, 1], same rows.
        llm_score: score of the LLM's answer, in [0, 1], same rows.
        epsilon: the promised largest loss of expected score, in (0, 1).
        delta: 1 − confidence of the certificate.
        method: "auto" takes the exact trinomial test when every difference is −1, 0 or 1, else betting.
        allow_constant: certify even where every confidence is equal (then it is all or nothing).

    Returns:
        The bound; ``threshold`` None when nothing certifies, and ``reason`` why. ``observed`` may be
        negative: the system scored above the LLM.

    Raises:
        UserError: unequal lengths, scores outside [0, 1], or a probability outside (0, 1).
    """
    check_open_unit("epsilon", epsilon)
    check_open_unit("delta", delta)
    score = as_floats("confidence", confidence, nan=True)
    n = len(score)
    gap = as_scores("llm_score", llm_score, n=n) - as_scores("student_score", student_score, n=n)
    if method == "auto":
        method = "trinomial" if bool(np.isin(gap, (-1.0, 0.0, 1.0)).all()) else "betting"
    name = f"fixed-sequence-{method}"
    values, accepted, _ = distinct_thresholds(score, gap)
    reason = degenerate_reason(values, allow_constant)
    if reason is not None:
        return no_threshold("regret", n, epsilon, delta, name, reason)
    counts = -(-np.arange(1, _STEPS + 1) * int(accepted[-1]) // _STEPS)  # rounded up
    chosen = np.unique(np.searchsorted(accepted, counts))
    test = _tester(method, score, gap, delta)
    reach = _reach(test(values[chosen]), epsilon, delta)
    if reach == 0:
        clean = _tester(method, score, np.zeros(n), delta)(values[chosen[:1]])
        why: Reason = "risk-too-high" if _reach(clean, epsilon, delta) else "too-few-labels"
        return no_threshold("regret", n, epsilon, delta, name, why, 1)
    at = chosen[reach - 1]
    local = score >= values[at]
    return RiskBound(
        kind="regret",
        threshold=float(values[at]),
        n=n,
        accepted=int(accepted[at]),
        errors=int((gap[local] > 0).sum()),
        observed=float(gap[local].sum() / n),
        upper_bound=_upper_bound(test(values[at : at + 1])[0], epsilon, delta),
        alpha=epsilon,
        delta=delta,
        method=name,
        reason="certified",
        tested=min(reach + 1, len(chosen)),
    )


def _tester(method: str, score: Floats, gap: Floats, delta: float) -> Callable[[Floats], list[PValue]]:
    """From thresholds to, for each, the p-value of "regret ≥ ε" as a function of ε."""

    def tests(thresholds: Floats) -> list[PValue]:
        return [_p_value(method, np.where(score >= threshold, gap, 0.0), delta) for threshold in thresholds]

    return tests


def _p_value(method: str, regret: Floats, delta: float) -> PValue:
    n = len(regret)
    if method == "trinomial":
        total, discordant = round(float(regret.sum())), int((regret != 0).sum())
        return lambda epsilon: trinomial_p_value(total, discordant, n, epsilon, delta)
    if method == "betting":
        return lambda epsilon: float(betting_p_values(regret[:, None], epsilon, delta)[0])
    return lambda epsilon: float(hoeffding_bentkus_p_values(regret.mean(keepdims=True), n, epsilon)[0])


def _reach(tests: list[PValue], epsilon: float, delta: float) -> int:
    """How many tests pass before the first failure."""
    for passed, p_value in enumerate(tests):
        if p_value(epsilon) > delta:
            return passed
    return len(tests)


def _upper_bound(p_value: PValue, epsilon: float, delta: float) -> float:
    """The smallest ε (to 1e-4) that this threshold's own test rules out at level δ, at most ``epsilon``."""
    low, high = 0.0, epsilon
    while high - low > 1e-4:
        middle = (low + high) / 2
        if p_value(middle) <= delta:
            high = middle
        else:
            low = middle
    return high
