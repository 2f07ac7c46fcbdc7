"""Certificates: what they say, when there is none, and that the promise is kept as often as it claims."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from locum.cascade.certify import Reference, certify, certify_slices
from locum.cascade.confidence import fit_temperature
from locum.cascade.labels import given_locally, label_arithmetic
from locum.core.errors import UserError
from locum.evaluate.predictions import Predictions
from locum.report.facts import certificate_sentence
from locum.schema.certificate import Certificate
from locum.schema.evaluation import Interval
from locum.schema.judging import JudgeAgreement, JudgeReport
from locum.schema.kinds import judged_right_means
from locum.schema.task import Guarantee, GuaranteeKind

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HASHES = {"model": "a" * 64, "task": "b" * 64, "calibration": "c" * 64}


def guarantee(kind: GuaranteeKind = "selective", max_error: float = 0.05) -> Guarantee:
    return Guarantee(kind=kind, max_error=max_error, confidence=0.95)


def chance(u: np.ndarray, accuracy: float) -> np.ndarray:
    """P(right | confidence u): rises with u, and averages to ``accuracy``."""
    return 1 - 3 * (1 - accuracy) * (1 - u) ** 2


def draw(n: int, accuracy: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, student right, LLM right (90 %, half of its errors shared with the student's)."""
    generator = np.random.default_rng(seed)
    u = generator.random(n)
    right = generator.random(n) < chance(u, accuracy)
    return u, right, np.where(generator.random(n) < 0.5, right | (generator.random(n) < 0.8), generator.random(n) < 0.9)


def made(
    n: int = 1000, accuracy: float = 0.85, kind: GuaranteeKind = "selective", seed: int = 0, max_error: float = 0.05
) -> Certificate:
    u, right, llm = draw(n, accuracy, seed)
    return certify(
        guarantee(kind, max_error), u, right, hashes=HASHES, now=NOW, llm_correct=llm if kind == "regret" else None
    )


def test_a_certificate_says_what_was_proved() -> None:
    certificate = made()
    assert certificate.threshold is not None
    assert certificate.statement == (
        "With 95 % confidence, at most 5 % of the answers given locally are wrong; on 1,000 calibration rows the "
        f"student answered {certificate.accepted} ({100 * round(certificate.local_share, 3):.4g} %) at confidence "
        f"{certificate.threshold:.3f} or more, {certificate.errors} of those wrong."
    )
    assert certificate.observed is not None and certificate.upper_bound is not None
    assert certificate.observed <= certificate.upper_bound <= 0.05
    assert certificate.issued_at == "2026-03-01T12:00:00+00:00"
    assert certificate.expires_at == "2026-08-28T12:00:00+00:00"
    assert certificate.hashes == HASHES
    assert certificate.voided_by[0] == "A change of any of: calibration, model, task."
    assert certificate.labels_missing is None
    assert any("random sample" in line for line in certificate.assumptions)
    assert any("labels are right" in line for line in certificate.assumptions)


def test_the_three_kinds_cannot_be_taken_for_each_other() -> None:
    sentences = {kind: made(kind=kind).statement for kind in ("selective", "marginal", "regret")}
    assert "of the answers given locally are wrong" in sentences["selective"]
    assert "of all inputs are answered locally and wrong" in sentences["marginal"]
    assert "at most 5 points below the LLM's" in sentences["regret"]


def test_marginal_answers_more_than_selective() -> None:
    assert made(kind="marginal").local_share > made(kind="selective").local_share > 0.2


def test_labels_of_the_llm_certify_agreement_with_it() -> None:
    u, right, _ = draw(1000, 0.9, 0)
    certificate = certify(guarantee(), u, right, hashes=HASHES, now=NOW, labels_from="llm")
    assert "at most 5 % of the answers given locally are other than the LLM's" in certificate.statement
    assert any("agreement with the LLM, not of truth" in line for line in certificate.assumptions)
    assert not any("labels are right" in line for line in certificate.assumptions)


def test_time_zones_and_their_absence() -> None:
    u, right, _ = draw(200, 0.9, 0)
    there = datetime(2026, 3, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    assert certify(guarantee(), u, right, hashes=HASHES, now=there).issued_at == "2026-03-01T12:00:00+00:00"
    with pytest.raises(ValueError, match="time zone"):
        certify(guarantee(), u, right, hashes=HASHES, now=datetime(2026, 3, 1))


def test_regret_without_the_llm_says_what_to_do() -> None:
    u, right, _ = draw(200, 0.9, 0)
    with pytest.raises(UserError, match="cascade-regret-needs-llm"):
        certify(guarantee("regret"), u, right, hashes=HASHES, now=NOW)


def test_statements_that_hold_together_share_delta() -> None:
    u, right, _ = draw(1000, 0.9, 0)
    alone = certify(guarantee(), u, right, hashes=HASHES, now=NOW)
    shared = certify(guarantee(), u, right, hashes=HASHES, now=NOW, statements=3)
    assert shared.local_share < alone.local_share
    assert shared.confidence == 0.95
    assert shared.method.endswith("δ shared by 3")
    assert any("together with 2 others" in line for line in shared.assumptions)


def test_a_start_fitted_on_dev_answers_more_where_confidence_is_weak() -> None:
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(60):  # confidence that says nothing, of a student that is 97 % right
        dev, calibration = generator.random(500) < 0.97, generator.random(1000) < 0.97
        reference = Reference(generator.random(500), dev)
        u = generator.random(1000)
        shares.append(
            [
                certify(guarantee(), u, calibration, hashes=HASHES, now=NOW, reference=given).local_share
                for given in (None, reference)
            ]
        )
    without, fitted = np.mean(shares, axis=0)
    assert fitted > without + 0.2


def test_fault_09_a_rare_slice_gets_no_certificate() -> None:
    u, right, _ = draw(1000, 0.97, 0)
    slices = np.where(np.arange(1000) < 40, "rare", "common")
    found = certify_slices(guarantee(), u, right, slices.tolist(), hashes=HASHES, now=NOW)
    assert found["common"].threshold is not None
    assert found["rare"].threshold is None
    assert found["rare"].n == 40
    assert found["rare"].labels_missing is not None and found["rare"].labels_missing >= 72 - 40  # δ/2 needs 72
    assert "too few calibration labels" in found["rare"].statement


def test_fault_09_rare_labels_are_named_as_not_covered() -> None:
    u, right, _ = draw(1000, 0.9, 0)
    rare = tuple(f"label_{i}" for i in range(7))
    certificate = certify(guarantee(), u, right, hashes=HASHES, now=NOW, rare_labels=rare)
    assert certificate.slices == rare
    assert any("nothing is promised for 7 rare label(s) alone: label_0" in line for line in certificate.assumptions)


@pytest.mark.parametrize("kind", ["selective", "marginal", "regret"])
def test_fault_21_too_few_labels_say_how_many_are_needed(kind: GuaranteeKind) -> None:
    u = np.linspace(0, 1, 40)
    right = np.ones(40, bool)
    certificate = certify(guarantee(kind), u, right, hashes=HASHES, now=NOW, llm_correct=right)
    assert certificate.threshold is None
    assert certificate.labels_missing is not None and certificate.labels_missing >= 59 - 40
    assert f"about {certificate.labels_missing} more calibration labels" in certificate.statement
    assert "too few calibration labels" in certificate.statement


def test_fault_21_no_labels_at_all() -> None:
    nothing = np.array([])
    certificate = certify(guarantee(), nothing, nothing.astype(bool), hashes=HASHES, now=NOW)
    assert certificate.threshold is None and certificate.labels_missing == 59
    assert "there are no calibration labels" in certificate.statement


@pytest.mark.parametrize("kind", ["selective", "marginal", "regret"])
def test_fault_21_with_the_labels_that_were_missing_it_mostly_certifies(kind: GuaranteeKind) -> None:
    first = made(n=50, accuracy=0.9, kind=kind, seed=1)
    assert first.threshold is None and first.labels_missing is not None
    passed = [
        made(n=50 + first.labels_missing, accuracy=0.9, kind=kind, seed=seed).threshold is not None
        for seed in range(50)
    ]
    assert np.mean(passed) > 0.6


def test_fault_91_no_threshold_certifies_and_labels_would_not_help() -> None:
    generator = np.random.default_rng(0)
    certificate = certify(guarantee(), generator.random(1000), generator.random(1000) < 0.6, hashes=HASHES, now=NOW)
    assert certificate.threshold is None
    assert certificate.labels_missing is None
    assert certificate.local_share == 0 and certificate.observed is None
    assert certificate.statement.startswith("Nothing is certified, so the student answers nothing by itself")
    assert "more labels alone would not help" in certificate.statement


def test_where_only_the_first_test_failed_nobody_is_told_that_labels_would_not_help() -> None:
    u = np.linspace(1, 0, 500)
    right = np.ones(500, bool)
    right[[3, 20, 50, 70, 90]] = False  # too many for the first test, few among all rows
    certificate = certify(guarantee(), u, right, hashes=HASHES, now=NOW)
    assert certificate.threshold is None and certificate.labels_missing == 0
    assert "testing began with the 124 surest answers, of which 5 were wrong where 2 may be" in certificate.statement
    assert "as many fresh rows may be enough" in certificate.statement
    assert "would not help" not in certificate.statement
    assert "as many fresh calibration labels may be enough" in certificate_sentence(certificate)
    right[5:] = False  # nothing would help here
    assert certify(guarantee(), u, right, hashes=HASHES, now=NOW).labels_missing is None


@pytest.mark.parametrize("kind", ["selective", "marginal", "regret"])
@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf, 0.9])
def test_fault_92_constant_or_nan_scores_certify_nothing(kind: GuaranteeKind, score: float) -> None:
    right = np.ones(1000, bool)
    certificate = certify(guarantee(kind), np.full(1000, score), right, hashes=HASHES, now=NOW, llm_correct=right)
    assert certificate.threshold is None
    assert "confidence" in certificate.statement


def test_fault_92_some_nan_rows_are_never_counted_as_answered() -> None:
    u, right, _ = draw(1000, 0.9, 0)
    u[::4] = np.nan
    certificate = certify(guarantee(), u, right, hashes=HASHES, now=NOW)
    assert certificate.threshold is not None
    assert certificate.accepted == int((u >= certificate.threshold).sum()) <= 750


def true_risk(kind: GuaranteeKind, threshold: float, accuracy: float) -> float:
    """The risk at a threshold, over a population of 400,000."""
    u, right, llm = POPULATION[accuracy]
    local = u >= threshold
    if kind == "selective":
        return float(1 - right[local].mean()) if local.any() else 0.0
    if kind == "marginal":
        return float((local & ~right).mean())
    return float((llm.astype(float) - right)[local].sum() / len(u))


POPULATION = {accuracy: draw(400_000, accuracy, 99) for accuracy in (0.75, 0.85, 0.94)}


@pytest.mark.parametrize("kind", ["selective", "marginal", "regret"])
@pytest.mark.parametrize("accuracy", [0.75, 0.85, 0.94])
@pytest.mark.parametrize("n", [150, 500])
def test_promises_are_broken_no_more_often_than_delta(kind: GuaranteeKind, accuracy: float, n: int) -> None:
    draws, broken = (50 if kind == "regret" else 150), 0
    for seed in range(draws):
        threshold = made(n, accuracy, kind, seed=1000 + seed).threshold
        broken += threshold is not None and true_risk(kind, threshold, accuracy) > 0.05
    assert broken / draws <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)


def test_a_naive_threshold_breaks_the_same_promise_often() -> None:
    """The check above can fail: take the loosest threshold with at most 5 % observed error instead."""
    broken = 0
    for seed in range(100):
        u, right, _ = draw(600, 0.85, 1000 + seed)
        order = np.argsort(-u)
        observed = np.cumsum(~right[order]) / np.arange(1, 601)
        broken += true_risk("selective", u[order][np.flatnonzero(observed <= 0.05)[-1]], 0.85) > 0.05
    assert broken > 25


def test_label_arithmetic_is_that_of_the_design() -> None:
    need = label_arithmetic(guarantee(), 400)
    assert (need.without_errors, need.with_five_errors) == (59, 208)
    assert 340 <= need.for_power_80 <= 390  # the smallest that does; 390 is where it stays above 80 %
    assert (need.true_error_assumed, need.available, need.kind) == (0.025, 400, "selective")
    regret = label_arithmetic(guarantee("regret", 0.02), None)
    assert regret.for_power_80 > regret.without_errors == 149
    assert label_arithmetic(guarantee("regret", 0.6), None).for_power_80 > 0


def test_temperature_is_fitted_on_dev_rows_with_scores_only() -> None:
    generator = np.random.default_rng(0)
    true_logits = generator.normal(size=(3000, 4)) * 2
    chances = np.exp(true_logits) / np.exp(true_logits).sum(axis=1, keepdims=True)
    gold = np.array([generator.choice(4, p=row) for row in chances])
    logits = (3 * true_logits).astype(np.float32)
    logits[:5], gold[5:10] = np.nan, -1
    labels = ("a", "b", "c", "d")
    assert fit_temperature(Predictions("m", "dev", labels, "x", logits, gold)) == pytest.approx(3.0, rel=0.08)
    unusable = Predictions("m", "dev", labels, "x", np.full((3, 4), np.nan, np.float32), gold[:3])
    assert fit_temperature(unusable) == 1.0
    with pytest.raises(ValueError, match="not on calibration"):
        fit_temperature(Predictions("m", "calibration", labels, "x", logits, gold))


def judged(agreement: JudgeAgreement | None = None) -> JudgeReport:
    return JudgeReport(model="gpt-x", criterion="Is it right?", grades=5, right_from=4, agreement=agreement)


def by_people() -> JudgeAgreement:
    right = Interval(value=0.85, low=0.7941, high=0.8926, method="wilson")
    return JudgeAgreement(
        n=200, unreadable=1, equal=right, kappa=0.5, kappa_quadratic=0.6, right=right, kappa_right=0.6,
        judged_right=130, judged_right_only=20, people_right=120, kinder_by=None,
    )  # fmt: skip


def by_judge(
    agreement: JudgeAgreement | None, accuracy: float = 0.85, kind: GuaranteeKind = "selective"
) -> Certificate:
    u, right, llm = draw(1000, accuracy, 0)
    means = judged_right_means("gpt-x", 4, 5)
    return certify(
        guarantee(kind), u, right, hashes=HASHES, now=NOW, llm_correct=llm, right_means=means, judge=judged(agreement)
    )


def certified_answers(labels: tuple[str, ...], weights: list[float], threshold: bool = True) -> Certificate:
    """1,000 answers drawn from labels, right as ``draw`` says; a wrong promise where nothing is to be certified."""
    u, right, _ = draw(1000, 0.85 if threshold else 0.1, 0)
    answers = [labels[k] for k in np.random.default_rng(1).choice(len(labels), 1000, p=weights)]
    return certify(guarantee(), u, right, hashes=HASHES, now=NOW, answers=answers, labels=labels)


def test_the_sentence_says_of_which_labels_the_local_answers_were() -> None:
    found = certified_answers(("normal", "fraud", "unclear"), [0.7, 0.0, 0.3])
    assert sum(found.local_labels.values()) == found.accepted
    u, _, _ = draw(1000, 0.85, 0)
    drawn = np.random.default_rng(1).choice(3, 1000, p=[0.7, 0.0, 0.3])[u >= (found.threshold or 2)]
    assert list(found.local_labels.values()) == [int((drawn == k).sum()) for k in range(3)]
    normal, unclear = found.local_labels["normal"], found.local_labels["unclear"]
    assert found.statement.endswith(
        f" By label, the answers given locally were: {normal} “normal”, none “fraud”, {unclear} “unclear”."
    )


def test_of_many_labels_the_sentence_names_those_never_given() -> None:
    labels = tuple(f"intent {k}" for k in range(20))
    weights = [0.0 if k in (3, 17) else 1 / 18 for k in range(20)]
    said = certified_answers(labels, weights).statement
    assert said.endswith(" Of the 20 labels, 2 were never given locally: “intent 3”, “intent 17”.")
    assert certified_answers(labels, [0.05] * 20).statement.endswith(" was given locally at least once.")
    several = certified_answers(labels, [0.5, 0.5, *[0.0] * 18]).statement
    assert "18 were never given locally: “intent 2”" in several and several.endswith("“intent 11” and 8 more.")


def test_labels_in_the_sentence_hide_nothing_and_stay_on_a_line() -> None:
    said = certified_answers(("a\x1b[31m\nb", "c" * 300), [0.5, 0.5]).statement
    assert "\x1b" not in said and "\n" not in said and "c" * 50 not in said


def test_no_label_is_counted_where_nothing_is_certified_or_answers_are_no_labels() -> None:
    nothing = certified_answers(("a", "b"), [0.5, 0.5], threshold=False)
    assert nothing.threshold is None and nothing.local_labels == {} and "By label" not in nothing.statement
    assert made().local_labels == {}
    u, _, _ = draw(100, 0.9, 0)
    with pytest.raises(UserError, match="3 answers and 100 confidences"):
        given_locally(0.5, u, ["a", "b", "a"], ("a", "b"))


@pytest.mark.parametrize("accuracy", [0.85, 0.1])
def test_a_certificate_of_a_judge_says_so_with_its_agreement_beside_it(accuracy: float) -> None:
    unmeasured, measured = by_judge(None, accuracy), by_judge(by_people(), accuracy)
    assert measured.labels_from == "judge"
    assert measured.threshold == unmeasured.threshold  # people's grades change what is said and not what is proved
    says = "An answer is right when the judge, gpt-x, gives it grade 4 or more of 5. That is the judge's verdict; "
    assert unmeasured.statement.endswith(says + "its agreement with people was not measured.")
    figures = (
        "on 200 answers that people graded, it agreed with them on right or wrong for 85 % (95 % interval 79.4 % to "
        "89.3 %); of 130 that it took as right, people took 20 as wrong."
    )
    assert measured.statement.endswith(says + figures)
    assert f"What is certified is the judge's verdict and not people's: {figures}" in measured.assumptions
    assert not any("labels are right" in line for line in measured.assumptions)
    if accuracy > 0.5:
        assert "at most 5 % of the answers given locally are wrong by the judge's verdict;" in measured.statement


def test_a_judge_that_is_compared_with_itself_is_told() -> None:
    line = "The judge is that LLM, and judges its own answers beside the student's."
    assert line in by_judge(None, kind="regret").assumptions
    assert line not in by_judge(None).assumptions


def test_the_best_grade_is_named_as_such() -> None:
    assert judged_right_means("gpt-x", 5, 5) == "the judge, gpt-x, gives it the best grade, 5"
