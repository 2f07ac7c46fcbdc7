"""Flaws that make a certificate void whatever runs and whatever the time: what it must name, ranges, and its proof.

Notable: no sentence and no bound of the document is believed. The bound is computed again from its counts, once for
each certificate, so a request pays for none of it. Not here: what is running, and the clock (``policy``).
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from locum.schema.certificate import Certificate

VALID_DAYS = 180
"""After so many days a certificate is stale; none may claim more."""

MUST_NAME = ("model", "task", "decoding", "redaction")
"""Hashes without which nobody can tell whether it speaks of what is running."""

_ROWS_MAX = 100_000_000
_ROUNDING = 1e-9
_BOUND_ROUNDING = 1e-3  # a bound may be rounded to a tenth of a percent


def speaks_of_llm(certificate: Certificate) -> bool:
    """Whether what was proved depends on an LLM: the promise compares with it, or it said what is right."""
    return certificate.kind == "regret" or certificate.labels_from != "gold"


def flaw(certificate: Certificate) -> str | None:
    """Why a certificate with a threshold cannot be in force, by what it says itself; None where it may be."""
    must = (*MUST_NAME, "llm") if speaks_of_llm(certificate) else MUST_NAME
    unnamed = [name for name in must if not certificate.hashes.get(name)]
    if unnamed:
        return f"the certificate does not name its {', '.join(unnamed)}"
    if speaks_of_llm(certificate) and certificate.llm is None:
        return "the certificate does not say which LLM it speaks of"
    issued, expires = instant(certificate.issued_at), instant(certificate.expires_at)
    if issued is None or expires is None:
        return "the certificate's dates cannot be read"
    if expires - issued > timedelta(days=VALID_DAYS):
        return f"the certificate claims {(expires - issued).days} days, and none holds for more than {VALID_DAYS}"
    threshold = certificate.threshold
    if threshold is None or not math.isfinite(threshold):
        return "the certified threshold is not a number"
    if not 0.0 <= threshold <= 1.0:
        return f"the certified threshold {threshold:g} is no confidence, which lies between 0 and 1"
    return _proof_flaw(
        certificate.kind,
        certificate.n,
        certificate.accepted,
        certificate.errors,
        certificate.observed,
        certificate.upper_bound,
        certificate.max_error,
        certificate.confidence,
    )


def instant(text: str) -> datetime | None:
    """A time with its zone; None when it cannot be read."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


@lru_cache(maxsize=256)
def _proof_flaw(
    kind: str,
    n: int,
    accepted: int,
    errors: int,
    observed: float | None,
    stated: float | None,
    most: float,
    confidence: float,
) -> str | None:
    """Why counts do not prove a promise; None where they do.

    The test is that of the threshold taken alone, which every way of choosing a threshold must pass too. Where several
    statements share δ it is weaker than the proof was, and as strong as what this statement says by itself.
    """
    if not (0.0 < most < 1.0 and 0.0 < confidence < 1.0):
        return f"the certificate promises {most:g} at confidence {confidence:g}, and both must lie between 0 and 1"
    if not 0 <= errors <= accepted <= n <= _ROWS_MAX or accepted == 0 or observed is None or stated is None:
        return f"the certificate's counts cannot be: {errors} of {accepted} of {n}"
    if kind == "regret":
        proved, bounded = _regret(n, accepted, errors, observed, stated, most, confidence)
    else:
        trials = accepted if kind == "selective" else n
        proved = math.isclose(observed, errors / trials, abs_tol=1e-6) and _rules_out(errors, trials, most, confidence)
        wider = stated + _BOUND_ROUNDING
        bounded = wider >= most or _rules_out(errors, trials, wider, confidence)
    if not proved:
        return (
            f"the certificate's counts ({errors:,} of {accepted:,} local answers, {n:,} rows) do not prove "
            f"{100 * most:.4g} % at {100 * confidence:.4g} % confidence"
        )
    if not (bounded and stated <= most + _ROUNDING):
        return f"the certificate states a bound of {stated:.4g}, and its counts do not give it"
    return None


def _rules_out(errors: int, trials: int, share: float, confidence: float) -> bool:
    """Whether counts rule out a share of errors: P(Binomial(trials, share) ≤ errors) ≤ 1 − confidence.

    The tail is summed from its largest term down, in logarithms, until the rest is beyond the digits of a float: about
    √trials terms. ``stats.distributions`` gives the same, and takes a tenth of a second to import.
    """
    if share <= 0.0 or errors >= trials * share:
        return False  # no more than half of the draws give as few
    log_term = math.lgamma(trials + 1) - math.lgamma(errors + 1) - math.lgamma(trials - errors + 1)
    log_term += errors * math.log(share) + (trials - errors) * math.log1p(-share)
    term = total = 1.0
    for count in range(errors, 0, -1):
        term *= count / (trials - count + 1) * ((1 - share) / share)
        total += term
        if term < 1e-17 * total:
            break
    return log_term + math.log(total) <= math.log(1 - confidence) + _ROUNDING


def _regret(
    n: int, accepted: int, errors: int, observed: float, stated: float, most: float, confidence: float
) -> tuple[bool, bool]:
    """Whether the paired counts prove the promise, and whether they give the bound that is stated.

    Rows that the LLM alone has right are ``errors``; rows that the student alone has right follow from the mean.
    """
    from locum.stats.trinomial import trinomial_p_value

    total = round(observed * n) if math.isfinite(observed) else 0
    gains, delta = errors - total, 1 - confidence
    if not math.isclose(observed * n, total, abs_tol=1e-6) or not 0 <= gains <= accepted - errors:
        return False, False
    level = delta * (1 + _ROUNDING)
    proved = trinomial_p_value(total, errors + gains, n, most, delta) <= level
    wider = stated + _BOUND_ROUNDING
    bounded = wider >= most or (wider > 0 and trinomial_p_value(total, errors + gains, n, wider, delta) <= level)
    return proved, bounded
