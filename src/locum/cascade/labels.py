"""Label arithmetic: how many calibration labels a guarantee needs, before and after trying; which ones are given.

Notable: the numbers come from the very tests that certify (``stats.sample_size``), so ``plan`` and
``certify`` cannot disagree. Not here: choosing rows to label (``data``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import UserError
from locum.schema.plan import LabelNeed
from locum.schema.task import Guarantee
from locum.stats.risk import RiskBound
from locum.stats.sample_size import (
    calibration_rows,
    labels_for_power,
    labels_for_regret,
    labels_needed,
    power_of,
)
from locum.stats.starts import START_SHARE

_SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
_SLIM = 0.25  # a chance of passing that is worth a warning
_MOST = 10_000_000  # an estimate beyond this says: not by labels


def label_arithmetic(guarantee: Guarantee, available: int | None, unit: str = "rows") -> LabelNeed:
    """What ``plan`` prints: labels that the guarantee needs, and how many there are.

    For selective, labels are rows *answered locally*; for marginal and regret, all calibration rows. Power
    is worked out for a student whose true error (or regret) is half of what is promised; for regret, student
    and LLM are taken to differ on twice as many rows as the promise allows.

    Args:
        guarantee: kind, α (or ε) and confidence.
        available: calibration rows there will be; None when unknown.
        unit: what is counted: rows, or groups.
    """
    alpha, delta = guarantee.max_error, 1 - guarantee.confidence
    assumed = alpha / 2
    if guarantee.kind == "regret":
        power = labels_for_regret(alpha, delta, true_regret=assumed, discordance=min(1.0, 2 * alpha))
    else:
        power = labels_for_power(alpha, delta, assumed)
    return LabelNeed(
        kind=guarantee.kind,
        max_error=alpha,
        confidence=guarantee.confidence,
        without_errors=labels_needed(alpha, delta, 0),
        with_five_errors=labels_needed(alpha, delta, 5),
        for_power_80=power,
        true_error_assumed=assumed,
        available=available,
        unit=unit,
        chance=power_of(available, alpha, delta, assumed)
        if available is not None and guarantee.kind != "regret"
        else None,
    )


def proof_sentence(need: LabelNeed) -> str:
    """What the arithmetic comes to, for who has never heard of it."""
    one_in = round(1 / need.true_error_assumed)
    wrong = {
        "selective": f"wrong in 1 of {one_in} of its surest answers",
        "marginal": f"wrong and sure of it in 1 of {one_in} answers",
        "regret": f"right 1 time in {one_in} less often than the LLM",
    }[need.kind]
    least = f"with fewer than {need.without_errors:,} nothing can be promised"
    if need.available is None:
        return f"{need.for_power_80:,} {need.unit} let a student pass 8 times in 10 that is {wrong}; {least}."
    have = f"You have about {need.available:,} {need.unit} to test the promise with"
    if need.available < need.without_errors:
        return f"{have}, and {least}, however good the student is."
    if need.chance is None:
        likely = "very likely passes" if need.available >= need.for_power_80 else "may well fail"
    else:
        likely = f"passes {_times(need.chance)}" + (" if it answers all of them" if need.kind == "selective" else "")
    return f"{have}. A student that is {wrong} {likely}; {least}."


def out_of_reach(need: LabelNeed) -> bool:
    """Whether the rows are too few: for any student, or for nearly all that are twice as good as is promised."""
    if need.available is None:
        return False
    return need.available < need.without_errors or (need.chance is not None and need.chance < _SLIM)


def _times(chance: float) -> str:
    """A probability as people count it."""
    times = max(1, round(10 * chance))
    often = f"{times} time{'s' if times > 1 else ''} in 10"
    return "nearly always" if chance > 0.95 else "hardly ever" if chance < 0.05 else often


def labels_missing(
    bound: RiskBound,
    confidence: NDArray[np.float64],
    correct: NDArray[np.bool_],
    llm_correct: NDArray[np.bool_] | None = None,
) -> int | None:
    """About how many more calibration labels would certify something, with a chance of 80 %.

    The risk at several shares of local answers is read off the rows at hand (smoothed by half an error), and
    the share that needs the fewest labels counts. With too few rows for any proof, at least what a proof
    without errors needs is missing.

    Args:
        bound: what was tried, without a threshold.
        confidence: as it was given to the proof, ``[n]``.
        correct: whether the student is right, same rows.
        llm_correct: whether the LLM is right, same rows, for regret.

    Returns:
        Rows to add; 0 when there are as many already, and only the test that came first failed: as many fresh rows
        may be enough (they were in 45 % of 47 such draws of six worlds). None when more labels would not help (no
        confidence, a constant one, or a risk above the promise at every share).
    """
    if bound.reason in ("no-confidence", "constant-confidence"):
        return None if bound.n else labels_needed(bound.alpha, bound.delta)
    order = np.argsort(-confidence[np.isfinite(confidence)], kind="stable")
    right = np.asarray(correct)[np.isfinite(confidence)][order]
    llm = None if llm_correct is None else np.asarray(llm_correct)[np.isfinite(confidence)][order]
    totals = [_total(bound, right, llm, max(1, round(share * len(right)))) for share in _SHARES]
    needed = min((total for total in totals if total is not None), default=None)
    if bound.reason == "too-few-labels":
        least = labels_needed(bound.alpha, bound.delta)
        if bound.kind == "selective" and needed is None:
            least = calibration_rows(least, START_SHARE)
        return max(1, max(needed or 0, least) - bound.n)
    return None if needed is None else max(0, needed - bound.n)


def given_locally(
    threshold: float | None, confidence: NDArray[np.float64], answers: Sequence[str | None], labels: Sequence[str]
) -> dict[str, int]:
    """How many of the answers given locally were of each label, 0 included.

    Args:
        threshold: answers with at least this confidence are given locally; None when nothing certifies.
        confidence: of the student, ``[n]``.
        answers: its answers, same rows; empty for answers that are no labels.
        labels: all that it may answer.

    Returns:
        Counts in the order of ``labels``; empty when nothing certifies, or answers are no labels.

    Raises:
        UserError: there are not as many answers as confidences.
    """
    if threshold is None or not labels or not len(answers):
        return {}
    if len(answers) != len(confidence):
        cause = f"{len(answers)} answers and {len(confidence)} confidences"
        raise UserError("stats-input", cause, fix="give one answer for each row")
    local = np.isfinite(confidence) & (confidence >= threshold)
    counts = Counter(answer for answer, is_local in zip(answers, local, strict=True) if is_local)
    return {label: counts[label] for label in labels}


def _total(bound: RiskBound, right: NDArray[np.bool_], llm: NDArray[np.bool_] | None, accepted: int) -> int | None:
    """Calibration rows that would certify with ``accepted`` of the rows at hand answered locally; None: never."""
    wrong = ~right[:accepted]
    try:
        if bound.kind == "selective":
            rate = (float(wrong.sum()) + 0.5) / (accepted + 1)
            total = calibration_rows(labels_for_power(bound.alpha, bound.delta, rate), accepted / bound.n)
        elif bound.kind == "marginal":
            rate = (float(wrong.sum()) + 0.5) / (bound.n + 1)
            total = labels_for_power(bound.alpha, bound.delta, rate)
        else:
            gap = (llm[:accepted] if llm is not None else True) * 1.0 - right[:accepted]
            differing = (float(np.abs(gap).sum()) + 0.5) / (bound.n + 1)
            total = labels_for_regret(
                bound.alpha, bound.delta, true_regret=float(gap.sum()) / bound.n, discordance=differing
            )
    except UserError:  # the risk at this share is not below the promise: no number of labels proves it
        return None
    return total if total <= _MOST else None
