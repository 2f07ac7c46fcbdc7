"""What the cascade does as a whole on a labelled split: share answered locally, their errors, its accuracy.

Notable: whether rows break the promise is tested exactly, against the promise and at its own confidence. The
accuracy of the whole system is known only where the LLM's answers are, so it may be measured on a sample of the split.
Figures here are observations; the promise is the certificate's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from locum.schema.certificate import Certificate, PromiseTest
from locum.stats.distributions import binomial_cdf
from locum.stats.intervals import clopper_pearson
from locum.stats.risk import answered_locally


def system_summary(
    confidence: NDArray[np.float64],
    correct: NDArray[np.bool_],
    threshold: float | None,
    *,
    llm_correct: NDArray[np.bool_] | None = None,
    llm_rows: NDArray[np.int64] | None = None,
) -> dict[str, float | None]:
    """Route shares and accuracies of the cascade.

    Args:
        confidence: of the student on the split, ``[n]``.
        correct: whether the student is right, same rows.
        threshold: from which it answers; None: never.
        llm_correct: whether the LLM is right, on ``llm_rows`` (an invalid answer is not).
        llm_rows: positions of the rows that the LLM answered; None means all of them.

    Returns:
        ``local_share``; ``error_local``, the share of wrong among local answers (None without one);
        ``local_and_wrong``, as a share of all; ``accuracy_student``, answering everything; and where the
        LLM's answers are known, on those rows: ``accuracy_llm``, ``accuracy_system`` and
        ``accuracy_student_sample``.

    Raises:
        ValueError: no rows, or arrays that do not fit.
    """
    right = np.asarray(correct, dtype=np.bool_)
    n = len(right)
    if n == 0 or len(confidence) != n:
        raise ValueError(f"{len(confidence)} confidences for {n} rows")
    local = answered_locally(confidence, threshold)
    wrong = int((local & ~right).sum())
    found: dict[str, float | None] = {
        "local_share": float(local.mean()),
        "error_local": wrong / int(local.sum()) if local.any() else None,
        "local_and_wrong": wrong / n,
        "accuracy_student": float(right.mean()),
        "accuracy_llm": None,
        "accuracy_system": None,
        "accuracy_student_sample": None,
    }
    rows = np.arange(n) if llm_rows is None else np.asarray(llm_rows)
    if llm_correct is None or len(rows) == 0:
        return found
    if len(llm_correct) != len(rows):
        raise ValueError(f"{len(llm_correct)} answers of the LLM for {len(rows)} rows")
    answered = np.asarray(llm_correct, dtype=np.bool_)
    found["accuracy_llm"] = float(answered.mean())
    found["accuracy_system"] = float(np.where(local[rows], right[rows], answered).mean())
    found["accuracy_student_sample"] = float(right[rows].mean())
    return found


def check_promise(
    certificate: Certificate, confidence: NDArray[np.float64], correct: NDArray[np.bool_], threshold: float | None
) -> PromiseTest | None:
    """Whether labelled rows break a certificate's promise: a one-sided exact binomial test at its own confidence.

    Args:
        certificate: what was promised.
        confidence: of the student on rows that the certificate was not proved on, ``[n]``.
        correct: whether the student is right, same rows.
        threshold: from which it answers; None: never.

    Returns:
        None where there is nothing to test: no answer is given locally, or the promise compares with the LLM, whose
        answers to these rows are not known.
    """
    local = answered_locally(confidence, threshold)
    if certificate.kind == "regret" or not local.any():
        return None
    rows = len(local) if certificate.kind == "marginal" else int(local.sum())
    errors = int((local & ~np.asarray(correct, dtype=np.bool_)).sum())
    # P(X ≥ errors) as P(rows − X ≤ rows − errors), so that a small probability keeps its digits
    p_value = float(binomial_cdf(rows - errors, rows, 1 - certificate.max_error))
    interval = clopper_pearson(errors, rows)
    return PromiseTest(
        kind=certificate.kind,
        max_error=certificate.max_error,
        confidence=certificate.confidence,
        rows=rows,
        errors=errors,
        low=interval.low,
        high=interval.high,
        p_value=p_value,
        broken=p_value <= 1 - certificate.confidence,
    )
