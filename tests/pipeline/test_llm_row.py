"""The LLM's row of a build: answers that were cut, settings that its server refuses, and an LLM that fails."""

from __future__ import annotations

import json
from typing import Any

import pytest

import locum
from locum.core.errors import LocumError
from locum.testing import FakeUpstream, Scripted


def test_answers_that_were_cut_are_no_figure_and_no_comparison(copied: Any, jobs: list[str]) -> None:
    def script(body: Any) -> Scripted:
        return Scripted("", finish_reason="length", message={"reasoning_content": "billing, or shipping?"})

    with FakeUpstream(script) as upstream:
        copied.tickets.change(llm={"base_url": upstream.base_url, "model": "large", "examples": 12})
        run = locum.build(copied.tickets.task, out=copied.out)
    llm = run.report.llm
    assert llm is not None and (llm.test, llm.cut) == (None, 12)
    assert "12 of 12 answers were cut" in llm.missing
    assert not any("large" in each.verdict for each in run.report.comparisons)
    assert "12 of 12 answers were cut" in (run.bundle / "report.html").read_text()


def test_a_thought_gets_more_room_and_the_llm_is_measured(copied: Any, jobs: list[str]) -> None:
    def script(body: Any) -> Scripted:
        if body["max_tokens"] < 500:
            return Scripted("<think>shipping? or", finish_reason="length")
        return Scripted("<think>shipping? no</think>\nbilling")

    with FakeUpstream(script) as upstream:
        copied.tickets.change(llm={"base_url": upstream.base_url, "model": "large", "examples": 12})
        run = locum.build(copied.tickets.task, out=copied.out)
    assert run.report.llm.test.n == 12 and run.report.llm.cut == 0
    assert run.report.llm.test.invalid == 0


@pytest.mark.parametrize("setting", ["llm", "generation"])
def test_a_task_sets_the_llms_limit(copied: Any, jobs: list[str], setting: str) -> None:
    with FakeUpstream(["billing"]) as upstream:
        llm: dict[str, Any] = {"base_url": upstream.base_url, "model": "large", "examples": 3}
        own = {"max_tokens": 777}
        changed = {"llm": llm | own} if setting == "llm" else {"llm": llm, "generation": own}
        copied.tickets.change(**changed)
        locum.build(copied.tickets.task, out=copied.out)
    assert {each.body["max_tokens"] for each in upstream.received} == {777}


def test_a_server_that_refuses_the_temperature_answers_at_its_own_and_the_report_says_so(
    copied: Any, jobs: list[str]
) -> None:
    def script(body: Any) -> Scripted:
        if body.get("temperature", 1) != 1:
            error = {"message": "'temperature' does not support 0", "param": "temperature"}
            return Scripted(status=400, body=json.dumps({"error": error}).encode())
        return Scripted("billing")

    with FakeUpstream(script) as upstream:
        copied.tickets.change(
            llm={"base_url": upstream.base_url, "model": "large", "examples": 5},
            guarantee={"kind": "regret", "max_error": 0.1, "confidence": 0.9},
        )
        run = locum.build(copied.tickets.task, out=copied.out)
        with locum.open(run.bundle) as student:
            assert student("card", "llm").output == "billing"
            assert student.void is None  # it answers as it did for the certificate
    assert run.report.llm.left_out == ("temperature",)
    assert run.report.certificate.llm.left_out == ("temperature",)
    assert "refused temperature" in (run.bundle / "report.html").read_text()


@pytest.mark.parametrize("status", [401, 429, 500])
def test_a_student_is_not_lost_to_an_llm_that_fails(copied: Any, jobs: list[str], status: int) -> None:
    error = json.dumps({"error": {"message": "no more", "code": "insufficient_quota"}}).encode()
    llm: dict[str, Any] = {"model": "large", "examples": 12, "timeout_s": 2}
    with FakeUpstream([Scripted(status=status, body=error)]) as upstream:
        copied.tickets.change(llm=llm | {"base_url": upstream.base_url})
        run = locum.build(copied.tickets.task, out=copied.out)
    assert run.report.llm.test is None and "no more" in run.report.llm.missing
    assert "no more" in (run.bundle / "report.html").read_text()
    with locum.open(run.bundle, "none") as student:
        assert student("card", "local").output is not None


def test_a_regret_promise_that_lost_its_llm_says_what_is_lost_and_goes_on(copied: Any, jobs: list[str]) -> None:
    broken = True

    def script(_: Any) -> Scripted:
        return Scripted(status=401, body=b"{}") if broken else Scripted("billing")

    with FakeUpstream(script) as upstream:
        copied.tickets.change(
            llm={"base_url": upstream.base_url, "model": "large", "examples": 5},
            guarantee={"kind": "regret", "max_error": 0.1, "confidence": 0.9},
        )
        with pytest.raises(LocumError, match="a regret promise compares with it") as caught:
            locum.build(copied.tickets.task, out=copied.out)
        assert str(copied.out) in caught.value.fix
        broken = False
        assert locum.build(copied.tickets.task, out=copied.out).report.certificate.threshold is not None
    assert jobs == []  # nothing was trained again
