"""Held-out rows after the choice: who answers what, and what is left undone when the build's time is over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from locum.core.files import write_text
from locum.pipeline import held_out
from locum.pipeline.built import BuiltStudent, Mixture, Prepared
from locum.pipeline.climb import Climb, Outcome, due_s
from locum.pipeline.pick import Chosen
from locum.pipeline.steps import StepCache
from locum.pipeline.workspace import Workspace
from locum.schema.candidate import Candidate
from locum.schema.data import Row, SplitName
from locum.schema.evaluation import Latency, Measured
from locum.schema.model import ModelSpec
from locum.schema.taskfile import parse_task

TASK = """\
version: 1
name: talk
kind: generate
profile: qa
instruction: Answer.
data: {train: t.jsonl, input: said, output: reply}
budget: {build_minutes: 10}
"""


@pytest.fixture
def data(tmp_path: Path) -> Prepared:
    """Thirty rows of dev, forty of calibration, fifty of test."""
    for split, count in (("dev", 30), ("calibration", 40), ("test", 50)):
        rows = (Row(id=f"{split}{n}", input="hi", output="ho").model_dump_json() for n in range(count))
        write_text(tmp_path / f"{split}.jsonl", "".join(f"{row}\n" for row in rows))
    return Prepared(tmp_path, "key", (), ("train", "dev", "calibration", "test"))


def student(data: Prepared, name: str, answers_per_s: float) -> BuiltStudent:
    latency = Latency(p50_ms=1, p95_ms=1, n=20, answers_per_s=answers_per_s, threads=1)
    measured = Measured.model_construct(latency=latency, size_mb=1.0)
    spec = ModelSpec.model_construct(purpose="generate")
    candidate = Candidate(name=name, family="decoder", base="smol", method="prompt")
    return BuiltStudent(
        candidate, None, None, spec, measured, data.folder, "key", {"dev": data.folder}, parse_task(TASK), data
    )


@pytest.fixture
def ladder(data: Prepared) -> list[BuiltStudent]:
    """The second is the slow one: 90 s for calibration and test, the others 9 s."""
    return [student(data, "first", 10), student(data, "slow", 1), student(data, "last", 10)]


def answer(
    monkeypatch: pytest.MonkeyPatch, data: Prepared, students: list[BuiltStudent], chosen: int, spent_s: float
) -> tuple[Climb, list[tuple[str, str]]]:
    """Answer after ``spent_s``; the ladder, and who was asked what."""
    work = Workspace(parse_task(TASK), TASK, data.folder, data.folder, StepCache(data.folder / "work"), threads=1)
    work.steps.seconds["before"] = spent_s
    asked: list[tuple[str, str]] = []

    def answer_split(work: Workspace, student: BuiltStudent, split: SplitName) -> BuiltStudent:
        asked.append((student.candidate.name, split))
        work.steps.seconds[f"answer-{split}-{student.candidate.name}"] = student.answering_s(split)
        return replace(student, answers={**student.answers, split: data.folder})

    monkeypatch.setattr(held_out, "answer_split", answer_split)
    climbed = Climb(tuple(Outcome(each.candidate, each) for each in students), None)
    found, served = held_out.answer_held_out(work, data, climbed, Chosen(students[chosen], "it is the best"))
    assert served.student is found.students[chosen]
    return found, asked


def test_the_chosen_student_answers_all_and_the_others_test(
    monkeypatch: pytest.MonkeyPatch, data: Prepared, ladder: list[BuiltStudent]
) -> None:
    found, asked = answer(monkeypatch, data, ladder, chosen=2, spent_s=100)
    assert asked == [("last", "calibration"), ("last", "test"), ("first", "test"), ("slow", "test")]
    assert all("test" in each.answers for each in found.students)
    assert [outcome.reason for outcome in found.outcomes] == ["", "", ""]


def test_who_has_no_time_for_test_is_built_all_the_same_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, data: Prepared, ladder: list[BuiltStudent]
) -> None:
    found, asked = answer(monkeypatch, data, ladder, chosen=2, spent_s=570)
    assert asked == [("last", "calibration"), ("last", "test"), ("first", "test")]
    assert [outcome.status for outcome in found.outcomes] == ["built"] * 3
    assert found.outcomes[1].reason == "not asked on test: that takes 50 s, and 16 s of the build are left"
    _, asked = answer(monkeypatch, data, ladder, chosen=1, spent_s=700)
    assert asked == [("slow", "calibration"), ("slow", "test")]  # the served one is certified and tested in any case


def test_of_tasks_learned_together_all_answer_test(
    monkeypatch: pytest.MonkeyPatch, data: Prepared, ladder: list[BuiltStudent]
) -> None:
    mixture: Any = Mixture(data.folder, "key", None, {}, 1.0)  # type: ignore[arg-type]
    _, asked = answer(monkeypatch, replace(data, mixture=mixture), ladder, chosen=0, spent_s=700)
    assert {name for name, split in asked if split == "test"} == {"first", "slow", "last"}
    assert due_s(data, ladder) == 90
    assert due_s(replace(data, mixture=mixture), ladder) == 90 + 5 + 50 + 5
    assert due_s(data, []) == 0
