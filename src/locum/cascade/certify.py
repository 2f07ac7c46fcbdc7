"""Certificates: from calibration rows to the statement that a bundle carries.

Notable: the proofs are ``locum.stats``'; here they become documents that say in one sentence what was proved,
what must hold for it, and what ends it. Where nothing certifies there is a certificate too, without a
threshold: it says so, and about how many more labels would be needed. Labels given by the LLM certify
agreement with the LLM, and the sentence says that. Not here: applying it (``cascade.policy``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from locum.cascade import labels as label_counts
from locum.cascade import wording
from locum.cascade.sampling import Drawn, every_row
from locum.cascade.soundness import VALID_DAYS
from locum.core.errors import UserError
from locum.schema.certificate import Certificate, LlmIdentity, Sampling
from locum.schema.judging import JudgeReport
from locum.schema.task import Guarantee
from locum.stats.marginal import certify_marginal
from locum.stats.multiplicity import split_delta
from locum.stats.regret import certify_regret
from locum.stats.risk import RiskBound, no_threshold
from locum.stats.selective import certify_selective
from locum.stats.starts import START_SHARE, choose_start_share

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


_FIGURES = ("threshold", "n", "accepted", "errors", "observed", "upper_bound", "local_share")
"""What a certificate takes over from its bound."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Labelled rows outside the calibration split (dev), to decide at which share of rows testing starts.

    A start fitted to the student answers more traffic locally; it cannot harm the statement, because it is
    fixed before any calibration label is seen.
    """

    confidence: Floats
    correct: Bools


def certify(
    guarantee: Guarantee,
    confidence: Floats,
    correct: Bools,
    *,
    hashes: Mapping[str, str],
    now: datetime,
    llm_correct: Bools | None = None,
    labels_from: Literal["gold", "llm"] = "gold",
    rare_labels: Sequence[str] = (),
    reference: Reference | None = None,
    statements: int = 1,
    valid_days: int = VALID_DAYS,
    right_means: str | None = None,
    judge: JudgeReport | None = None,
    llm: LlmIdentity | None = None,
    answers: Sequence[str | None] = (),
    labels: Sequence[str] = (),
    drawn: Drawn | None = None,
) -> Certificate:
    """Prove the guarantee on the calibration split, or say that it cannot be proved.

    Args:
        guarantee: kind, α (or ε) and confidence.
        confidence: of the student on the calibration rows, ``[n]``; NaN is never answered locally.
        correct: whether the student is right, same rows.
        hashes: SHA-256 by what the statement speaks about: model, task, calibration, decoding, redaction.
        now: time of issue, with a time zone.
        llm_correct: whether the LLM is right, same rows; needed for regret only.
        labels_from: who gave the calibration labels.
        rare_labels: labels with too few rows for a statement about them alone.
        reference: dev rows, for the selective guarantee's start.
        statements: certificates that are to hold together with the stated confidence; δ is split among them.
        valid_days: after so many days it is stale; more than 180 are never in force.
        right_means: what makes an answer right, in words; None where that needs no saying.
        judge: by whose verdict an answer is right; the statement is then about these, and says if people agree.
        llm: whom it compares with, or whose labels or verdicts are right; without that such a one is never in force.
        answers: the student's, on the same rows, where they are labels: the sentence says which ones are given locally.
        labels: all that it may answer.
        drawn: which of the rows are independent draws, and of what; None: all of them, of the traffic.

    Returns:
        The certificate; ``threshold`` None when nothing certifies.

    Raises:
        UserError: the arrays do not fit each other, or a regret is asked without the LLM's answers.
        ValueError: ``now`` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("now needs a time zone")
    drawn = drawn or every_row(len(correct))
    sampling, confidence, correct, llm_correct, answers = drawn.take(confidence, correct, llm_correct, answers)
    delta = split_delta(1 - guarantee.confidence, statements)[0]
    bound = _prove(guarantee, delta, sampling, confidence, correct, llm_correct, reference)
    missing = None
    if bound.threshold is None and bound.reason != "copies-left-out":
        missing = label_counts.labels_missing(bound, confidence, correct, llm_correct)
    named = dict(hashes) if llm is None else {**hashes, "llm": llm.hash()}
    issued = now.astimezone(UTC).replace(microsecond=0)
    by = labels_from if judge is None else "judge"
    given = label_counts.given_locally(bound.threshold, confidence, answers, labels)
    return Certificate(
        kind=guarantee.kind,
        max_error=guarantee.max_error,
        confidence=guarantee.confidence,
        **{name: getattr(bound, name) for name in _FIGURES},
        method=bound.method if statements == 1 else f"{bound.method}, δ shared by {statements}",
        statement=wording.statement(guarantee, bound, by, missing, right_means, judge, given, sampling),
        assumptions=wording.assumptions(guarantee, by, rare_labels, statements, judge, sampling, llm),
        voided_by=wording.voided_by(named, valid_days),
        hashes=dict(sorted(named.items())),
        llm=llm,
        sampling=sampling,
        labels_from=by,
        labels_missing=missing,
        slices=tuple(rare_labels),
        local_labels=given,
        issued_at=issued.isoformat(),
        expires_at=(issued + timedelta(days=valid_days)).isoformat(),
    )


def _prove(
    guarantee: Guarantee,
    delta: float,
    sampling: Sampling,
    confidence: Floats,
    correct: Bools,
    llm_correct: Bools | None,
    reference: Reference | None,
) -> RiskBound:
    if sampling.copies_left_out > guarantee.max_error * (len(correct) + sampling.copies_left_out):
        # what was left out may be wrong altogether, and then the promise is broken by it alone
        return no_threshold(guarantee.kind, len(correct), guarantee.max_error, delta, "none", "copies-left-out")
    right = np.asarray(correct, dtype=np.bool_)
    usable = np.where(np.isfinite(confidence), confidence, np.nan)  # an infinite score is no confidence either
    if guarantee.kind == "selective":
        start = START_SHARE
        if reference is not None and len(reference.correct) > 0:
            start = choose_start_share(reference.confidence, ~reference.correct, len(right), guarantee.max_error, delta)
        return certify_selective(usable, ~right, alpha=guarantee.max_error, delta=delta, start_share=start)
    if guarantee.kind == "marginal":
        return certify_marginal(usable, ~right, epsilon=guarantee.max_error, delta=delta)
    if llm_correct is None:
        raise UserError(
            "cascade-regret-needs-llm",
            "a regret certificate compares with the LLM, and its answers to the calibration rows are not known",
            fix="configure llm: in the task file, or ask for guarantee.kind selective or marginal",
        )
    return certify_regret(usable, right, llm_correct, epsilon=guarantee.max_error, delta=delta)


def certify_slices(
    guarantee: Guarantee,
    confidence: Floats,
    correct: Bools,
    slice_of: Sequence[str],
    *,
    hashes: Mapping[str, str],
    now: datetime,
    labels_from: Literal["gold", "llm"] = "gold",
) -> dict[str, Certificate]:
    """One certificate for every slice of the rows, all holding together: δ is split among the slices.

    A slice with too few rows gets a certificate without a threshold, which says how many labels it lacks.

    Args:
        guarantee: selective or marginal, for each slice.
        confidence: of the student, ``[n]``.
        correct: whether the student is right, same rows.
        slice_of: the slice of each row, known before the answer (a language, a channel; not the gold label,
            which nobody knows when the answer is given).
        hashes: as in ``certify``.
        now: time of issue.
        labels_from: who gave the calibration labels.

    Raises:
        UserError: the arrays do not fit each other, or the kind is regret.
    """
    names = np.asarray(slice_of)
    return {
        str(name): certify(
            guarantee,
            confidence[names == name],
            correct[names == name],
            hashes=hashes,
            now=now,
            labels_from=labels_from,
            statements=len(np.unique(names)),
        )
        for name in np.unique(names)
    }
