"""Certificate "selective": at most α of the answers given locally are wrong, with confidence 1−δ.

Notable: the thresholds to test are *rungs*: the accepted counts at which exact binomial arithmetic allows
one more error (59, 93, 124, 153, … at α = δ = 5 %), and the whole split at the end. Between two rungs the
same number of errors is allowed, so a denser sequence adds chances to stop early: 37.5 % of the
traffic answered locally against 40 % (``bench/certificates.py``). The price is a coarser threshold: on
worlds that the design was not chosen on, rungs did up to 10 points better where confidence is blunt, and up
to 1.5 points worse where it is sharp. They are tested strictest first, each at the full δ, until the first
failure.

Why it is valid. At a threshold t fixed in advance, errors among the accepted are Binomial(accepted, R(t)),
so P(Binomial(accepted, α) ≤ errors) is a p-value for R(t) > α (Clopper & Pearson 1934). Tests in an order
that does not depend on labels, stopping at the first failure, keep the chance of any false rejection at δ
(Bauer 1991; Angelopoulos et al. 2021, fixed-sequence testing): the first true null must be rejected to get
past it. The order here is by rank, from the first rung with at least ``start_share`` of the rows (``starts``
chooses it from dev). Ranks are taken among calibration scores, without labels, so the threshold moves with the
sample. Let R(t) be at most α from the start down to a score t*, and above α below it, and let m rows score at
least t*. The first test that should fail comes at a count k ≥ m. Given m and the score u of the next row, k + 1,
those m rows are independent draws from scores of at least t*, whose risk R(t*) is α where R is continuous, and the
other k − m are independent draws from scores between u and t*, whose risk is above α since R just above u is. So
errors are no fewer than Binomial(k, α) in distribution, whatever m and u, and the test passes with probability at
most δ. (Where equal scores make R jump over α, it must not come back towards α within the ranks of one rung.)
Clopper and Pearson's 1−δ bound for (errors, accepted) is at most α at each threshold that is served, since each
passed at the whole δ: whoever opens a certificate can check that. Pass ``thresholds`` made from other unlabelled
rows (``fixed_thresholds``) to need no such condition. Selective classification: Geifman & El-Yaniv 2017.

Not here: what happens with the other answers (``cascade``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from locum.stats.inputs import Floats, Ints, as_floats, as_outcomes, check_open_unit, floats, input_error
from locum.stats.intervals import clopper_pearson
from locum.stats.risk import RiskBound, degenerate_reason, distinct_thresholds, no_threshold, prefix_length
from locum.stats.sample_size import allowed_at, rungs
from locum.stats.starts import START_SHARE

METHOD = "fixed-sequence-binomial"


def ladder_of_counts(rows: int, n: int, alpha: float, delta: float, start_share: float = START_SHARE) -> Ints:
    """The accepted counts to test, strictest first: rungs from ``start_share`` of n on, then all rows.

    Args:
        rows: rows that can be answered at all (confidence not NaN).
        n: all rows.
        alpha: the promise.
        delta: 1 − confidence.
        start_share: no rung below this share of n, unless it is the last.

    Returns:
        Counts, rising; empty when even all rows without an error prove nothing.
    """
    steps = rungs(rows, alpha, delta)
    if len(steps) == 0:
        return steps
    start = min(int(np.ceil(start_share * n)), int(steps[-1]))
    return np.unique(np.append(steps[steps >= start], rows))


def certify_selective(
    confidence: ArrayLike,
    wrong: ArrayLike,
    *,
    alpha: float,
    delta: float,
    start_share: float = START_SHARE,
    thresholds: ArrayLike | None = None,
    allow_constant: bool = False,
) -> RiskBound:
    """The loosest threshold at which "at most alpha of local answers are wrong" is proved.

    Args:
        confidence: of calibration rows, shape (n,); larger is surer, any scale; NaN is never answered locally.
        wrong: whether the student's answer is wrong, same rows.
        alpha: the promised share of wrong among local answers.
        delta: 1 − confidence of the certificate.
        start_share: share of rows at which testing starts; fix it before looking at calibration labels.
        thresholds: test exactly these, strictest first; made without the calibration rows.
        allow_constant: certify even where every confidence is equal (then it is all or nothing).

    Returns:
        The bound; ``threshold`` None when nothing certifies, and ``reason`` why.

    Raises:
        UserError: unequal lengths, ``wrong`` not 0/1, or a probability outside (0, 1).
    """
    check_open_unit("alpha", alpha)
    check_open_unit("delta", delta)
    if not 0.0 <= start_share <= 1.0:
        raise input_error(f"start_share is {start_share}, it must lie in [0, 1]")
    score = as_floats("confidence", confidence, nan=True)
    n = len(score)
    loss = as_outcomes("wrong", wrong, n=n).astype(np.float64)
    values, accepted, errors = distinct_thresholds(score, loss)
    reason = degenerate_reason(values, allow_constant)
    if reason is not None:
        return no_threshold("selective", n, alpha, delta, METHOD, reason)
    if thresholds is None:
        counts = ladder_of_counts(int(accepted[-1]), n, alpha, delta, start_share)
        chosen = np.unique(np.searchsorted(accepted, counts))
        tested = values
    else:
        tested, accepted, errors = _at_fixed(thresholds, values, accepted, errors)
        chosen = np.arange(len(tested))
    allowed = allowed_at(accepted[chosen], alpha, delta)
    reach = prefix_length(errors[chosen] <= allowed)
    if reach == 0:
        enough = len(allowed) > 0 and allowed[0] >= 0
        why = "risk-too-high" if enough else "too-few-labels"
        first = (int(accepted[chosen[0]]), int(errors[chosen[0]]), int(allowed[0])) if enough else None
        return no_threshold("selective", n, alpha, delta, METHOD, why, min(1, len(chosen)), first)
    at = chosen[reach - 1]
    rows, mistakes = int(accepted[at]), int(errors[at])
    return RiskBound(
        kind="selective",
        threshold=float(tested[at]),
        n=n,
        accepted=rows,
        errors=mistakes,
        observed=mistakes / rows,
        upper_bound=min(alpha, clopper_pearson(mistakes, rows, 1 - delta, "upper").high),
        alpha=alpha,
        delta=delta,
        method=METHOD,
        reason="certified",
        tested=min(reach + 1, len(chosen)),
    )


def _at_fixed(thresholds: ArrayLike, values: Floats, accepted: Ints, errors: Floats) -> tuple[Floats, Ints, Floats]:
    """Accepted rows and errors at thresholds fixed elsewhere, strictest first; those without rows too."""
    fixed = np.unique(as_floats("thresholds", thresholds))[::-1]
    below = np.searchsorted(-values, -fixed, side="right")
    rows = np.concatenate([[0], accepted])[below].astype(np.int64)
    return fixed, rows, floats(np.concatenate([[0.0], errors])[below])


def fixed_thresholds(
    reference_confidence: ArrayLike, n: int, alpha: float, delta: float, start_share: float = START_SHARE
) -> Floats:
    """Thresholds to test, from other unlabelled rows: their quantiles at the rungs of n calibration rows.

    Counts on the calibration split scatter around the rungs, so each threshold aims one standard deviation
    above its rung.

    Args:
        reference_confidence: of rows that are not calibration rows (dev, traffic), NaN allowed.
        n: calibration rows.
        alpha: the promise.
        delta: 1 − confidence.
        start_share: as in ``certify_selective``.

    Returns:
        Thresholds, falling; empty when n or the reference is too small.

    Raises:
        UserError: a probability outside (0, 1).
    """
    check_open_unit("alpha", alpha)
    check_open_unit("delta", delta)
    score = as_floats("reference_confidence", reference_confidence, nan=True)
    answerable = np.sort(score[~np.isnan(score)])[::-1]
    if len(answerable) == 0:
        return np.empty(0)
    rows = int(n * len(answerable) / len(score))
    counts = ladder_of_counts(rows, n, alpha, delta, start_share).astype(np.float64)
    aimed = counts + np.sqrt(counts * np.maximum(0.0, 1 - counts / n))
    rank = np.ceil(aimed / n * len(score)).astype(np.int64)
    return np.unique(answerable[np.clip(rank, 1, len(answerable)) - 1])[::-1]
