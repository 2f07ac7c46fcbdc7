"""Searching a prompt: the best arm wins, answers and time are bounded, and nothing is tried for nothing."""

from __future__ import annotations

from typing import Any

import pytest

from locum.evaluate.search import Found, search_prompt
from locum.runtime.completion import CompletionRequest
from locum.runtime.fake import FakeGenerator, fake_spec
from locum.schema.data import Row
from locum.schema.taskfile import parse_task

TEXT = """\
version: 1
name: q
kind: generate
profile: qa
instruction: Answer.
data: {train: t.jsonl, input: text, output: answer}
generation: {examples: 4}
"""
TRAIN = [Row(id=f"t{n}", input=f"what is {n} of colour {n % 5}", output=f"thing {n}") for n in range(50)]
DEV = [Row(id=f"d{n}", input=f"what is {n} of shade {n % 5}", output=f"thing {n}") for n in range(64)]
BETTER = "Name the thing with its number, and write nothing else."


def search(script: Any, **options: Any) -> tuple[Found, FakeGenerator]:
    generator = FakeGenerator(script)
    given = {"few_shot": False, "calls": 100, "budget_s": 60.0} | options
    return search_prompt(generator, fake_spec(()), parse_task(TEXT), TRAIN, DEV, **given), generator


def right(request: CompletionRequest) -> str:
    return f"thing {request.messages[-1].content.split()[2]}"


def test_a_better_instruction_that_the_model_proposes_wins() -> None:
    def reply(request: CompletionRequest) -> str:
        if "Write a better instruction" in request.messages[-1].content:
            return BETTER
        return right(request) if BETTER in request.messages[0].content else "no idea"

    found, generator = search(reply)
    assert found.prompt.instruction == BETTER
    assert found.report.chosen == "proposed instruction 1"
    scores = {arm.name: arm.score for arm in found.report.arms}
    assert scores == {"the task's instruction": 0.0, "proposed instruction 1": 1.0}
    assert found.report.calls <= found.report.allowed == 100
    assert found.report.calls == sum(arm.rows for arm in found.report.arms)
    assert len(generator.requests) == found.report.calls + 3  # the proposals
    assert found.pool == ()


def test_examples_win_where_they_help_and_their_pool_goes_with_them() -> None:
    def reply(request: CompletionRequest) -> str:
        turns = len(request.messages)
        return right(request) if turns == 2 + 2 * 2 else "no idea"  # only with two examples

    found, _ = search(reply, few_shot=True)
    assert (found.prompt.neighbours, found.prompt.examples) == (2, ())
    assert {row.id for row in found.pool} <= {row.id for row in TRAIN}
    assert all(row.output != "" for row in found.pool)


def test_worse_arms_answer_fewer_rows() -> None:
    found, _ = search(lambda request: right(request) if len(request.messages) == 10 else "no", few_shot=True, calls=200)
    rows = {arm.name: arm.rows for arm in found.report.arms}
    best = max(found.report.arms, key=lambda arm: arm.score)
    assert rows[best.name] == max(rows.values()) > min(rows.values())


@pytest.mark.parametrize("few_shot", [False, True])
def test_without_calls_nothing_is_tried(few_shot: bool) -> None:
    found, generator = search(right, few_shot=few_shot, calls=0)
    assert generator.requests == []
    assert found.prompt.instruction == "Answer."
    assert found.prompt.neighbours == (4 if few_shot else 0)


def test_time_that_is_up_ends_it_with_the_best_so_far() -> None:
    found, _ = search(right, few_shot=True, budget_s=0.0)
    assert found.report.stopped_by == "budget"
    assert found.report.calls <= 4


def test_the_same_seed_finds_the_same_prompt() -> None:
    assert search(right, few_shot=True)[0].prompt == search(right, few_shot=True)[0].prompt
