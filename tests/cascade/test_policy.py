"""``decide`` fails closed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from locum.cascade.certify import certify
from locum.cascade.policy import decide, make_policy, void_reason
from locum.cascade.soundness import flaw
from locum.core.errors import ModelFileError
from locum.schema.certificate import Certificate, Decision, LlmIdentity, Policy, Stage
from locum.schema.task import Guarantee

ISSUED = datetime(2026, 3, 1, tzinfo=UTC)
NOW = ISSUED + timedelta(days=10)
RUNNING = {"model": "a", "task": "b", "decoding": "d", "redaction": "none"}
HASHES = {**RUNNING, "calibration": "c"}


def certificate(threshold: float | None = 0.8, **changed: object) -> Certificate:
    made = Certificate(
        kind="selective",
        max_error=0.05,
        confidence=0.95,
        threshold=threshold,
        n=1000,
        accepted=600,
        errors=18,
        observed=0.03,
        upper_bound=0.045,
        local_share=0.6,
        method="fixed-sequence-binomial",
        statement="…",
        assumptions=(),
        voided_by=(),
        hashes=HASHES,
        issued_at=ISSUED.isoformat(),
        expires_at=(ISSUED + timedelta(days=180)).isoformat(),
    )
    return made.model_copy(update=changed)


def decided(
    confidence: float | None = 0.9,
    given: Certificate | None = certificate(),  # noqa: B008
    policy: Policy | None = None,
    **changed: object,
) -> Decision:
    settings = {"now": NOW, "hashes": RUNNING, **changed}
    policy = policy or make_policy(given or certificate(), "student", has_llm=True)
    return decide(policy, given, [confidence], **settings)  # type: ignore[arg-type]


def test_confident_answers_are_local() -> None:
    assert decided(0.9) == Decision(route="local", stage=0, reason="confident")
    assert decided(0.8).route == "local"
    assert decided(0.9, audited=True) == Decision(route="local", stage=0, reason="confident, audited")


def test_others_are_handed_over_or_abstained_from() -> None:
    assert decided(0.7999) == Decision(route="llm", stage=None, reason="confidence 0.800 below 0.800")
    alone = make_policy(certificate(), "student", has_llm=False)
    assert decided(0.1, policy=alone).route == "abstain"
    assert (alone.audit_rate, make_policy(certificate(), "s", has_llm=True).audit_rate) == (0.0, 0.01)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"now": ISSUED + timedelta(days=180)}, "expired on 2026-08-28"),
        ({"now": ISSUED + timedelta(days=4000)}, "expired"),
        ({"now": ISSUED - timedelta(days=30)}, "clock stands before"),
        ({"hashes": {**RUNNING, "model": "x"}}, "speaks of another model"),
        ({"hashes": {**RUNNING, "model": "x", "task": "y"}}, "speaks of another model, task"),
        ({"hashes": {**RUNNING, "model": ""}}, "speaks of another model"),
        ({"hashes": {**RUNNING, "calibration": "other"}}, "speaks of another calibration"),
        ({"ended": "another LLM answered"}, "another LLM answered"),
    ],
)
def test_fault_90_a_stale_or_void_certificate_hands_everything_over(changed: dict[str, object], reason: str) -> None:
    made = decided(1.0, **changed)
    assert made.route == "llm" and made.stage is None
    assert reason in made.reason


def test_fault_90_no_certificate_or_one_with_unreadable_dates() -> None:
    assert decided(1.0, None) == Decision(route="llm", stage=None, reason="there is no certificate")
    for field in ("issued_at", "expires_at"):
        assert "dates cannot be read" in decided(1.0, certificate(**{field: "soon"})).reason


def test_fault_42_a_small_clock_error_does_not_void() -> None:
    assert decided(0.9, now=ISSUED - timedelta(hours=2)).route == "local"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"hashes": {}}, "does not name its model, task, decoding, redaction"),
        ({"hashes": {name: value for name, value in HASHES.items() if name != "redaction"}}, "name its redaction"),
        ({"expires_at": "9999-12-31T00:00:00+00:00"}, "none holds for more than 180"),
        ({"threshold": float("inf")}, "not a number"),
        ({"threshold": -0.2}, "no confidence"),
        ({"threshold": 1.5}, "no confidence"),
        ({"max_error": 0.0001}, "do not prove 0.01 %"),  # 18 wrong of 600 prove 5 %, and nothing like that
        ({"threshold": 0.0, "errors": 24}, "do not prove 5 %"),
        ({"confidence": 0.999}, "do not prove"),
        ({"accepted": 1200}, "cannot be"),
        ({"errors": -1}, "cannot be"),
        ({"n": 10**18, "accepted": 10**18}, "cannot be"),
        ({"observed": 0.0}, "do not prove"),
        ({"upper_bound": 0.001}, "states a bound of 0.001"),
        ({"kind": "regret"}, "does not name its llm"),
        ({"labels_from": "judge"}, "does not name its llm"),
        ({"labels_from": "llm", "hashes": {**HASHES, "llm": "e"}}, "which LLM"),
    ],
)
def test_fault_90_a_certificate_that_cannot_be_true_hands_everything_over(
    changed: dict[str, object], reason: str
) -> None:
    assert decided(1.0).route == "local"
    made = decided(1.0, certificate().model_copy(update=changed), hashes={**RUNNING, "llm": "e"})
    assert made.route == "llm" and made.stage is None
    assert reason in made.reason


def test_fault_90_what_was_proved_is_in_force_and_one_more_error_is_not() -> None:
    generator = np.random.default_rng(3)
    sure = generator.random(900)
    right, llm = generator.random(900) < 0.9 + 0.1 * sure, generator.random(900) < 0.93
    named = LlmIdentity(model="big", base_url="https://llm.test/v1", names=("big",))
    for kind in ("selective", "marginal", "regret"):
        hashes = dict.fromkeys(HASHES, "0" * 64)
        wanted = Guarantee(kind=kind, max_error=0.08)
        proved = certify(
            wanted, sure, right, hashes=hashes, now=ISSUED, llm_correct=llm, llm=named if kind == "regret" else None
        )
        assert proved.threshold is not None
        assert flaw(proved) is None
        more = proved.errors + 90
        trials = proved.accepted if kind == "selective" else proved.n
        observed = (proved.observed or 0) + 90 / proved.n if kind == "regret" else more / trials
        assert "do not prove" in str(flaw(proved.model_copy(update={"errors": more, "observed": observed})))


@given(st.integers(1, 3000), st.floats(0, 1), st.floats(0.001, 0.6), st.sampled_from([0.8, 0.95, 0.999]))
def test_counts_rule_out_what_the_exact_binomial_test_rules_out(
    accepted: int, share: float, most: float, confidence: float
) -> None:
    errors = round(share * most * accepted)
    p_value = float(binom.cdf(errors, accepted, most))
    assume(abs(p_value - (1 - confidence)) > 1e-9)
    low = float(beta.ppf(confidence, errors + 1, accepted - errors)) if errors < accepted else 1.0
    made = certificate(
        n=accepted,
        accepted=accepted,
        errors=errors,
        observed=errors / accepted,
        max_error=most,
        confidence=confidence,
        upper_bound=min(most, low),
    )
    assert (flaw(made) is None) == (p_value <= 1 - confidence)
    if flaw(made) is None and low < most - 0.002:
        assert "states a bound" in str(flaw(made.model_copy(update={"upper_bound": low - 0.002})))


def test_an_audit_rate_is_a_share() -> None:
    for rate in (1e9, -0.1, float("nan")):
        with pytest.raises(ModelFileError, match="audit_rate"):
            Policy.from_json(json.dumps({"stages": [], "fallback": "llm", "audit_rate": rate}), "policy.json")


def test_fault_91_no_threshold_hands_everything_over() -> None:
    assert decided(1.0, certificate(None)) == Decision(route="llm", stage=None, reason="no threshold is certified")
    edited = Policy(stages=(Stage(model="s", threshold=0.5),), fallback="llm")
    assert decided(1.0, certificate(None), edited).route == "llm"
    never = Policy(stages=(Stage(model="s", threshold=None),), fallback="llm")
    assert decided(1.0, policy=never).reason == "s has no threshold"
    assert (
        decided(1.0, policy=Policy(stages=(Stage(model="s", threshold=float("nan")),), fallback="llm")).route == "llm"
    )
    assert decided(1.0, certificate(float("nan"))).route == "llm"


def test_fault_92_a_confidence_that_is_no_number_is_handed_over() -> None:
    for confidence in (None, float("nan"), float("inf"), float("-inf")):
        assert decided(confidence) == Decision(route="llm", stage=None, reason="student gave no confidence")


def test_a_policy_cannot_go_below_the_certified_threshold() -> None:
    lax = Policy(stages=(Stage(model="s", threshold=0.1),), fallback="llm")
    assert decided(0.5, policy=lax).route == "llm"
    strict = Policy(stages=(Stage(model="s", threshold=0.95),), fallback="llm")
    assert decided(0.9, policy=strict).route == "llm"


def test_stages_are_tried_in_order() -> None:
    two = Policy(stages=(Stage(model="small", threshold=0.95), Stage(model="large", threshold=0.85)), fallback="llm")
    found = [
        decide(two, certificate(), list(c), now=NOW, hashes=RUNNING).stage
        for c in ((0.96, 0.1), (0.9, 0.86), (0.9, 0.8))
    ]
    assert found == [0, 1, None]
    with pytest.raises(ValueError, match="2 stages"):
        decide(two, certificate(), [0.9], now=NOW, hashes=RUNNING)
    nobody = Policy(stages=(), fallback="abstain")
    assert decide(nobody, certificate(), [], now=NOW, hashes=RUNNING).reason == "no stage has a threshold"


def test_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        void_reason(certificate(), now=datetime(2026, 3, 2), hashes=RUNNING)


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 1), st.integers(-4000, 4000))
def test_local_only_ever_above_the_threshold_and_in_force(confidence: float, threshold: float, days: int) -> None:
    made = decided(confidence, certificate(threshold), now=ISSUED + timedelta(days=days))
    if made.route == "local":
        assert confidence >= threshold
        assert -1 <= days < 180
