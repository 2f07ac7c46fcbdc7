"""``decide``: where one input goes, as a pure function of policy, certificate, confidence and clock.

Notable: it fails closed. A certificate that is absent, stale, flawed (``soundness``), or whose hashes are not those of
what is running lets nothing be answered locally; so does a confidence that is no number. A stage cannot answer below
the certified threshold, whatever the policy's file says. Not here: carrying the decision out
(``cascade.router``); drawing the lot for audits, which is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from locum.cascade.soundness import flaw, instant
from locum.schema.certificate import Certificate, Decision, Policy, Stage

AUDIT_RATE = 0.01
"""Share of local answers that are sent to the LLM all the same, at random."""

NOT_AT_SERVING = frozenset({"calibration"})
"""Hashes that say what the statement was proved on; nothing that runs has them."""

_CLOCK_SLACK = timedelta(days=1)


def make_policy(certificate: Certificate, model: str, *, has_llm: bool, audit_rate: float = AUDIT_RATE) -> Policy:
    """One student at its certified threshold, then the LLM, or nobody.

    Args:
        certificate: its threshold may be None; then the student never answers by itself.
        model: the student's name.
        has_llm: whether there is an LLM to hand over to; without one the answer is to abstain.
        audit_rate: share of local answers also sent to the LLM; 0 without one.
    """
    return Policy(
        stages=(Stage(model=model, threshold=certificate.threshold),),
        fallback="llm" if has_llm else "abstain",
        audit_rate=audit_rate if has_llm else 0.0,
    )


def answering_threshold(policy: Policy, certificate: Certificate) -> float | None:
    """The confidence from which the one stage of a policy answers under a certificate in force; None: it never does."""
    stage = policy.stages[0].threshold
    if stage is None or certificate.threshold is None or math.isnan(stage):
        return None
    return max(stage, certificate.threshold)


def void_reason(
    certificate: Certificate | None, *, now: datetime, hashes: Mapping[str, str], ended: str | None = None
) -> str | None:
    """Why a certificate covers nothing now; None while it is in force.

    Args:
        certificate: None when there is none.
        now: the time, with a time zone.
        hashes: SHA-256 of what is running, by the certificate's own names.
        ended: why it was ended for good, by something that was seen while serving; None when it was not.

    Raises:
        ValueError: ``now`` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("now needs a time zone")
    if certificate is None:
        return "there is no certificate"
    if ended is not None:
        return ended
    issued, expires = instant(certificate.issued_at), instant(certificate.expires_at)
    if issued is None or expires is None:
        return "the certificate's dates cannot be read"
    if now >= expires:
        return f"the certificate expired on {certificate.expires_at}"
    if now < issued - _CLOCK_SLACK:
        return "the clock stands before the certificate's issue"
    changed = sorted(
        name
        for name, value in certificate.hashes.items()
        if hashes.get(name, value if name in NOT_AT_SERVING else None) != value
    )
    if changed:
        return f"the certificate speaks of another {', '.join(changed)}"
    if certificate.threshold is None:
        return "no threshold is certified"
    return flaw(certificate)


def decide(
    policy: Policy,
    certificate: Certificate | None,
    confidences: Sequence[float | None],
    *,
    now: datetime,
    hashes: Mapping[str, str],
    ended: str | None = None,
    unlike: str | None = None,
    audited: bool = False,
) -> Decision:
    """Where one input goes.

    Args:
        policy: stages in order, and who answers when none does.
        certificate: what covers the local answers.
        confidences: of each stage, in order; None or NaN where a stage has none.
        now: the time, with a time zone.
        hashes: SHA-256 of what is running, by the certificate's own names.
        ended: why the certificate was ended for good; None when it was not.
        unlike: why no stage is to answer this input, being unlike what they learned from; None where they may.
        audited: this input was drawn to be sent to the LLM as well, should it be answered locally.

    Returns:
        The route, the stage that answers, and why.

    Raises:
        ValueError: as many confidences as stages are needed; ``now`` has no time zone.
    """
    if len(confidences) != len(policy.stages):
        raise ValueError(f"{len(policy.stages)} stages need as many confidences, not {len(confidences)}")
    void = void_reason(certificate, now=now, hashes=hashes, ended=ended)
    if void is not None or certificate is None:
        return Decision(route=policy.fallback, stage=None, reason=void or "there is no certificate")
    if unlike is not None:
        return Decision(route=policy.fallback, stage=None, reason=unlike)
    reason = "no stage has a threshold"
    for index, (stage, confidence) in enumerate(zip(policy.stages, confidences, strict=True)):
        refused = _refusal(stage, confidence, certificate)
        if refused is None:
            return Decision(route="local", stage=index, reason="confident, audited" if audited else "confident")
        reason = refused
    return Decision(route=policy.fallback, stage=None, reason=reason)


def _refusal(stage: Stage, confidence: float | None, certificate: Certificate) -> str | None:
    """Why a stage does not answer; None when it does."""
    if stage.threshold is None or math.isnan(stage.threshold):
        return f"{stage.model} has no threshold"
    if confidence is None or not math.isfinite(confidence):
        return f"{stage.model} gave no confidence"
    threshold = max(stage.threshold, certificate.threshold or 0.0)
    if confidence < threshold:
        return f"confidence {confidence:.3f} below {threshold:.3f}"
    return None


Mode = Literal["cascade", "local", "llm"]
"""How a caller asks: by the policy, never leaving this machine, or always from the LLM."""
