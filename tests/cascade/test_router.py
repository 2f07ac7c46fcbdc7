"""The router with a fake student and a fake LLM."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy.stats import binomtest

from locum.cascade.policy import make_policy
from locum.cascade.router import AuditResult, Router
from locum.cascade.summary import check_promise, system_summary
from locum.core.errors import LocumError, UpstreamError, UserError
from locum.core.progress import Event, listening
from locum.runtime.completion import Completion
from locum.runtime.fake import FakeClassifier, FakeGenerator
from locum.schema.certificate import Certificate, LlmIdentity, Policy, Stage
from locum.students.classifier import ClassifierStudent
from locum.students.guard import Guard, fit_guard
from locum.tasks.classify import Classify

LABELS = ("ham", "spam")
KIND = Classify("Is it spam?", LABELS)
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SURE, UNSURE = "sure: buy", "unsure: hello"
SCORES = {SURE: [0.0, 5.0], UNSURE: [0.3, 0.0], "broken": [float("nan"), 0.0]}
DOWN = UpstreamError("upstream-server-error", "HTTP 503")


RUNNING = {"model": "a", "task": "t", "decoding": "d", "redaction": "r"}


def certificate(threshold: float | None = 0.9, llm: LlmIdentity | None = None) -> Certificate:
    return Certificate(
        kind="selective",
        max_error=0.05,
        confidence=0.95,
        threshold=threshold,
        n=100,
        accepted=80,
        errors=0,
        observed=0.0,
        upper_bound=0.04,
        local_share=0.8,
        method="m",
        statement="…",
        assumptions=(),
        voided_by=(),
        hashes=RUNNING | ({"llm": llm.hash()} if llm else {}),
        llm=llm,
        issued_at=NOW.isoformat(),
        expires_at=(NOW + timedelta(days=180)).isoformat(),
    )


def router(
    llm: FakeGenerator | None = None,
    given: Certificate | None = certificate(),  # noqa: B008
    student: FakeClassifier | None = None,
    audit_rate: float = 0.0,
    hashes: dict[str, str] | None = None,
    now: datetime = NOW,
    **more: object,
) -> Router:
    policy = make_policy(given or certificate(None), "student", has_llm=llm is not None, audit_rate=audit_rate)
    return Router(
        ClassifierStudent(student or FakeClassifier(LABELS, SCORES)),
        policy,
        given,
        llm,
        KIND,
        hashes=hashes or RUNNING,
        clock=lambda: now,
        **more,  # type: ignore[arg-type]
    )


def test_sure_answers_stay_and_others_go_to_the_llm() -> None:
    llm = FakeGenerator(["Label: ham"])
    served = router(llm)
    sure, unsure = served.answer_many([SURE, UNSURE])
    assert (sure.output, sure.route, sure.reason) == ("spam", "local", "confident")
    assert sure.confidence == pytest.approx(1 / (1 + np.exp(-5)))
    assert sure.certificate == certificate().hash()[:12]
    assert (unsure.output, unsure.route, unsure.confidence, unsure.certificate) == ("ham", "llm", None, None)
    assert len(llm.requests) == 1
    assert llm.requests[0].messages == KIND.messages(UNSURE) and llm.requests[0].temperature == 0
    assert served.answer(SURE) == sure


def test_without_an_llm_it_abstains() -> None:
    answer = router().answer(UNSURE)
    assert (answer.output, answer.route) == (None, "abstain")
    assert answer.confidence == pytest.approx(1 / (1 + np.exp(-0.3)))
    wants_llm = Policy(stages=(Stage(model="s", threshold=0.9),), fallback="llm")
    student = ClassifierStudent(FakeClassifier(LABELS, SCORES))
    served = Router(student, wants_llm, certificate(), None, KIND, hashes=RUNNING)
    assert served.answer(UNSURE).reason.endswith("and there is no LLM")


def test_the_temperature_of_the_model_is_used() -> None:
    hot = FakeClassifier(LABELS, SCORES, temperature=10.0)
    assert router(student=hot).answer(SURE).route == "abstain"


def test_local_mode_never_leaves_and_says_what_is_covered() -> None:
    llm = FakeGenerator(["ham"])
    served = router(llm, audit_rate=1.0)
    sure, unsure, broken = served.answer_many([SURE, UNSURE, "broken"], "local")
    served.close()
    assert (sure.route, sure.certificate) == ("local", certificate().hash()[:12])
    assert (unsure.output, unsure.route, unsure.certificate) == ("ham", "local", None)
    assert unsure.reason.startswith("asked for local only: confidence 0.574 below")
    assert (broken.output, broken.route) == (None, "abstain")
    assert llm.requests == []


def test_llm_mode_passes_through() -> None:
    student = FakeClassifier(LABELS, SCORES)
    served = router(FakeGenerator(["ham"]), student=student)
    answer = served.answer(SURE, "llm")
    assert (answer.output, answer.route, answer.reason) == ("ham", "llm", "asked for the LLM")
    assert student.asked == []
    with pytest.raises(UserError, match="cascade-no-llm"):
        router().answer(SURE, "llm")


def test_fault_57_when_the_llm_fails_the_error_comes_out_not_a_local_answer() -> None:
    served = router(FakeGenerator([DOWN]))
    with pytest.raises(UpstreamError, match="HTTP 503"):
        served.answer(UNSURE)
    with pytest.raises(UpstreamError, match="HTTP 503"):
        served.answer_many([SURE, UNSURE, UNSURE, UNSURE])
    assert served.answer(SURE).route == "local"


def test_fault_57_an_operator_may_choose_labelled_uncertified_answers() -> None:
    served = router(FakeGenerator([DOWN]), when_llm_fails="uncertified")
    answer = served.answer(UNSURE)
    assert (answer.output, answer.route, answer.certificate) == ("ham", "local", None)
    assert answer.reason.startswith("uncertified: confidence 0.574 below 0.900, and the LLM failed")
    with pytest.raises(UpstreamError):
        served.answer(UNSURE, "llm")  # there is no student's answer to give
    with pytest.raises(UpstreamError):
        served.answer("broken")


@pytest.mark.parametrize(
    "reply", ["", "I'm sorry, I can't help.", Completion("ham", "content_filter", 1, 1, "fake-llm")]
)
def test_fault_61_an_answer_of_the_llm_that_is_no_label_is_not_passed_on(reply: str | Completion) -> None:
    answer = router(FakeGenerator([reply])).answer(UNSURE)
    assert (answer.output, answer.route, answer.reason) == (None, "abstain", "the LLM gave no answer to the task")


def test_fault_90_a_stale_certificate_hands_everything_over_and_warns() -> None:
    events: list[Event] = []
    with listening(events.append):
        served = router(FakeGenerator(["ham"]), now=NOW + timedelta(days=181))
    assert served.answer(SURE).route == "llm"
    assert "expired" in served.answer(SURE).reason
    assert [event.kind for event in events] == ["warning"]
    assert "everything is handed over: the certificate expired" in events[0].label


def test_fault_90_another_model_than_the_certified_one_hands_everything_over() -> None:
    assert router(FakeGenerator(["ham"]), hashes={"model": "z"}).answer(SURE).route == "llm"
    assert router(FakeGenerator(["ham"]), None).answer(SURE).route == "llm"


def test_what_ended_a_certificate_before_holds_at_once() -> None:
    served = router(FakeGenerator(["ham"]), ended="it was ended")
    assert (served.answer(SURE).route, served.void_reason()) == ("llm", "it was ended")


def test_fault_60_an_llm_that_changed_ends_a_certificate_that_names_it_for_good() -> None:
    tells = iter([("one", "fp1"), ("one", ""), ("two", "fp1"), ("one", "fp1")])

    def answer(_: object) -> Completion:
        name, version = next(tells)
        return Completion("ham", "stop", 1, 1, name, {"system_fingerprint": version} if version else {})

    named = LlmIdentity(model="big", base_url="https://llm.test/v1", names=("one",), versions=("fp1",))
    heard: list[str] = []
    served = router(
        FakeGenerator(answer), certificate(llm=named), hashes=RUNNING | {"llm": named.hash()}, on_ended=heard.append
    )
    for _ in range(2):  # the same name, with the fingerprint and without one
        assert [served.answer(text).route for text in (UNSURE, SURE)] == ["llm", "local"]
    served.answer(UNSURE)  # the reply says "two"
    assert served.answer(SURE).route == "llm"  # the reply says "one" again, and that mends nothing
    assert served.answer(SURE, "local").certificate is None
    assert len(heard) == 1 and "calls itself 'two'" in heard[0]


def test_fault_60_another_fingerprint_is_another_llm() -> None:
    named = LlmIdentity(model="big", base_url="https://llm.test/v1", names=("one",), versions=("fp1",))
    llm = FakeGenerator(lambda _: Completion("ham", "stop", 1, 1, "one", {"system_fingerprint": "fp2"}))
    served = router(llm, certificate(llm=named), hashes=RUNNING | {"llm": named.hash()})
    assert [served.answer(text).route for text in (SURE, UNSURE, SURE)] == ["local", "llm", "llm"]


@pytest.mark.parametrize(
    ("told", "now", "kept"), [((), "", True), ((), "temperature", False), (("stop",), "stop", True)]
)
def test_an_llm_whose_server_refuses_another_setting_is_another_llm(
    told: tuple[str, ...], now: str, kept: bool
) -> None:
    named = LlmIdentity(model="big", base_url="https://llm.test/v1", names=("one",), left_out=told)
    llm = FakeGenerator(lambda _: Completion("ham", "stop", 1, 1, "one", {"left_out": now}))
    served = router(llm, certificate(llm=named), hashes=RUNNING | {"llm": named.hash()})
    served.answer(UNSURE)
    assert (served.answer(SURE).route == "local") == kept


def test_an_answer_that_was_cut_is_said_to_be_and_no_audit_counts_it_as_other() -> None:
    heard: list[AuditResult] = []
    cut = Completion("<think>is it", "length", 1, 18, "big")
    served = router(FakeGenerator([cut]), on_audit=heard.append, audit_rate=1.0)
    answer = served.answer(UNSURE)
    assert answer.route == "abstain" and "was cut at" in answer.reason
    served.answer(SURE)
    served.close()
    assert [each.agrees for each in heard] == [None]


def test_fault_91_without_a_threshold_nothing_is_local() -> None:
    assert router(FakeGenerator(["ham"]), certificate(None)).answer(SURE).reason == "no threshold is certified"


def test_fault_92_scores_that_are_no_numbers_are_handed_over() -> None:
    answer = router(FakeGenerator(["ham"])).answer("broken")
    assert (answer.output, answer.route, answer.reason) == ("ham", "llm", "student gave no confidence")
    assert router().answer("broken").confidence is None


def test_audits_run_beside_the_answer_at_their_rate() -> None:
    heard: list[AuditResult] = []
    llm = FakeGenerator(["ham"])
    served = router(llm, audit_rate=0.2, lots=random.Random(0), on_audit=heard.append)
    for _ in range(10):
        assert {answer.route for answer in served.answer_many([SURE] * 20)} == {"local"}
        while served._audits is not None and served._audits._work_queue.qsize():
            threading.Event().wait(0.001)
    served.close()
    assert 20 <= len(heard) <= 60
    assert all(result == AuditResult("spam", "ham", failed=False) and result.agrees is False for result in heard)
    assert len(llm.requests) == len(heard)


def test_an_audit_that_fails_is_reported_and_does_not_reach_the_caller() -> None:
    heard: list[AuditResult] = []
    served = router(FakeGenerator([DOWN]), audit_rate=1.0, on_audit=heard.append)
    assert served.answer(SURE).route == "local"
    served.close()
    served.close()
    assert [(result.failed, result.agrees) for result in heard] == [(True, None)]


def test_audits_that_cannot_keep_up_are_dropped() -> None:
    release = threading.Event()

    def slow(_: object) -> str:
        release.wait(10)
        return "ham"

    heard: list[AuditResult] = []
    served = router(FakeGenerator(slow), audit_rate=1.0, on_audit=heard.append)
    assert len(served.answer_many([SURE] * 300)) == 300
    release.set()
    served.close()
    assert len(heard) == 64


def test_many_threads_get_their_own_answers() -> None:
    served = router(FakeGenerator(["ham"], latency_s=0.001), audit_rate=0.1)
    texts = [SURE, UNSURE] * 50
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(served.answer, texts))
    served.close()
    assert [answer.output for answer in answers] == ["spam", "ham"] * 50


def test_nothing_asked_nothing_answered() -> None:
    assert router().answer_many([]) == []
    assert router(FakeGenerator(["ham"])).answer_many([], "llm") == []


def test_a_student_that_fails_is_an_error() -> None:
    broken = FakeClassifier(LABELS, fault=LocumError("runtime-engine-failed", "gone"))
    with pytest.raises(LocumError, match="gone"):
        router(student=broken).answer(SURE)


def test_one_stage_is_served() -> None:
    two = Policy(stages=(Stage(model="a", threshold=0.5), Stage(model="b", threshold=0.5)), fallback="abstain")
    with pytest.raises(UserError, match="cascade-stages"):
        Router(ClassifierStudent(FakeClassifier(LABELS)), two, certificate(), None, KIND, hashes={})


def test_a_promise_is_tested_exactly_against_labelled_rows() -> None:
    sure, made = np.full(400, 0.95), certificate()
    for errors in (20, 27, 28, 60, 400):
        right = np.arange(400) >= errors
        found = check_promise(made, sure, right, 0.9)
        assert found is not None and (found.rows, found.errors) == (400, errors)
        p_value = binomtest(errors, 400, 0.05, alternative="greater").pvalue
        assert found.p_value == pytest.approx(p_value, rel=1e-9)
        assert found.broken == (p_value <= 0.05)
        low, high = binomtest(errors, 400).proportion_ci(method="exact")
        assert (found.low, found.high) == pytest.approx((low, high))
    half = np.concatenate([sure[:200], np.full(200, 0.1)])
    wrong = np.zeros(400, dtype=np.bool_)
    marginal = check_promise(made.model_copy(update={"kind": "marginal"}), half, wrong, 0.9)
    assert marginal is not None and (marginal.rows, marginal.errors) == (400, 200)
    assert check_promise(made, sure, wrong, None) is None
    assert check_promise(made.model_copy(update={"kind": "regret"}), sure, wrong, 0.9) is None


def test_system_summary() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.2, np.nan])
    right = np.array([True, True, False, False, True])
    alone = system_summary(confidence, right, 0.7)
    assert alone["local_share"] == pytest.approx(0.6)
    assert alone["error_local"] == pytest.approx(1 / 3)
    assert alone["local_and_wrong"] == pytest.approx(0.2)
    assert alone["accuracy_student"] == pytest.approx(0.6)
    assert alone["accuracy_system"] is None
    both = system_summary(confidence, right, 0.7, llm_correct=np.array([False, False, True, True, False]))
    assert both["accuracy_system"] == pytest.approx(3 / 5)
    assert both["accuracy_llm"] == pytest.approx(2 / 5)
    sample = system_summary(confidence, right, 0.7, llm_correct=np.array([True, True]), llm_rows=np.array([2, 3]))
    assert sample["accuracy_system"] == 0.5
    assert sample["accuracy_student_sample"] == 0.0
    nothing = system_summary(confidence, right, None)
    assert (nothing["local_share"], nothing["error_local"]) == (0.0, None)
    with pytest.raises(ValueError, match="rows"):
        system_summary(confidence, right, 0.7, llm_correct=np.array([True]))
    with pytest.raises(ValueError, match="rows"):
        system_summary(np.array([]), np.array([], bool), 0.7)


def test_an_input_unlike_training_is_handed_over_with_the_reason_and_its_confidence() -> None:
    texts = [f"please buy the thing number {n} today" for n in range(200)]
    guard = Guard(fit_guard(texts[:150], texts[150:]))
    known = "please buy the thing number 3 today"
    student = ClassifierStudent(FakeClassifier(LABELS, {known: [0.0, 5.0], "hello": [0.0, 5.0]}), guard)
    made = Router(
        student, make_policy(certificate(), "student", has_llm=False), certificate(), None, KIND, hashes=RUNNING,
        clock=lambda: NOW,
    )  # fmt: skip
    like, unlike = made.answer_many([known, "hello"])
    assert (like.route, like.output) == ("local", "spam")
    assert (unlike.route, unlike.output) == ("abstain", None)
    assert unlike.reason.startswith("the input has next to nothing in it")
    assert unlike.confidence == like.confidence  # what it would have said stays to be seen
    asked = made.answer("hello", "local")
    assert (asked.output, asked.certificate) == ("spam", None)
    assert "next to nothing" in asked.reason
    ended = Router(student, made.policy, None, None, KIND, hashes=RUNNING, clock=lambda: NOW)
    assert ended.answer("hello").reason == "there is no certificate"  # the graver reason is told
