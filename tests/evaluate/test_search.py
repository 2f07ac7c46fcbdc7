"""Searching a prompt: the best arm wins, answers and time are bounded, right answers of the model's own are shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from locum.evaluate.search import Found, search_prompt
from locum.runtime.completion import CompletionRequest
from locum.runtime.fake import FakeGenerator, fake_spec
from locum.schema.data import Row
from locum.schema.message import Message
from locum.schema.prompt import Demonstration, Prompt
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
    assert len(generator.requests) == found.report.calls <= found.report.allowed == 100
    assert found.report.proposing == 3
    assert found.report.calls == 3 + sum(arm.rows for arm in found.report.arms)
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


def proposing(request: CompletionRequest) -> str:
    if "Write a better instruction" in request.messages[-1].content:
        return f"{BETTER} Variant {request.seed}."
    return right(request)


@pytest.mark.parametrize("few_shot", [False, True])
@pytest.mark.parametrize("calls", [1, 4, 8, 9, 14, 16, 27, 40, 60, 100, 200])
def test_no_more_is_asked_than_allowed_and_what_was_asked_is_told(calls: int, few_shot: bool) -> None:
    found, generator = search(proposing, few_shot=few_shot, calls=calls)
    assert len(generator.requests) == found.report.calls <= calls
    played = sum(arm.rows for arm in found.report.arms)
    assert found.report.calls == found.report.proposing + found.report.bootstrapping + played
    assert played > 0 or calls < 9
    assert found.report.calls == 0 or played > 0  # nothing is made that is not tried


MATHS = TEXT.replace("profile: qa", "profile: maths")
SUMS = [Row(id=f"t{n}", input=f"{n} and {n}", output=str(2 * n)) for n in range(10, 60)]
SUMS_DEV = [Row(id=f"d{n}", input=f"{n} and {n}", output=str(2 * n)) for n in range(100, 164)]


def works(request: CompletionRequest) -> str:
    """Right by working on even numbers; on odd ones only where working is shown in all four examples."""
    number = int(request.messages[-1].content.split()[0])
    shown = [message.content for message in request.messages if message.role == "assistant"]
    knows = len(shown) == 4 and all("because" in text for text in shown)
    answer = 2 * number if knows or number % 2 == 0 else 1
    return f"{answer} because {number} + {number} = {answer}\n#### {answer}"


def search_sums(rows: list[Row] = SUMS, text: str = MATHS, **options: Any) -> tuple[Found, FakeGenerator]:
    generator = FakeGenerator(works)
    given = {"few_shot": True, "calls": 200, "budget_s": 60.0} | options
    return search_prompt(generator, fake_spec(()), parse_task(text), rows, SUMS_DEV, **given), generator


def test_rows_that_the_model_gets_right_are_shown_with_its_own_working() -> None:
    found, _ = search_sums()
    assert "of them bootstrapped" in found.report.chosen
    examples = found.prompt.examples
    assert len(examples) == 4
    assert all(isinstance(row, Demonstration) for row in examples)
    for row in examples:
        assert isinstance(row, Demonstration)
        assert row.answer == works(CompletionRequest((Message("user", row.input),)))  # the model's own words
        assert row.answer.endswith(f"#### {row.output}")  # which are right
    assert next(arm.bootstrapped for arm in found.report.arms if arm.name == found.report.chosen) == 4
    assert 12 <= found.report.bootstrapping <= 24
    assert found.prompt == search_sums()[0].prompt
    assert Prompt.from_json(json.dumps(found.prompt.to_json()), "prompt.json") == found.prompt


def test_a_row_is_never_shown_while_it_is_answered() -> None:
    _, generator = search_sums()
    for request in generator.requests:
        *shown, asked = (message.content for message in request.messages if message.role == "user")
        assert asked not in shown


def test_gold_rows_fill_up_a_set_of_which_too_few_pass() -> None:
    rows = [row for row in SUMS if int(row.output) % 4 or row.id in ("t10", "t20", "t30")]  # three right, 25 wrong
    found, _ = search_sums(rows)
    filled = [arm for arm in found.report.arms if 0 < arm.bootstrapped < 4]
    assert filled
    assert all(arm.examples == 4 for arm in filled)


def test_rows_whose_gold_answer_is_only_a_check_can_be_bootstrapped() -> None:
    checked = json.dumps({"instruction_id_list": ["detectable_format:title"], "kwargs": [{}]})
    rows = [Row(id=f"t{n}", input=f"{n} and a title", output=checked) for n in range(20)]
    generator = FakeGenerator(lambda request: "<<A title>> and words")
    task = parse_task(TEXT.replace("profile: qa", "profile: chat"))
    found = search_prompt(generator, fake_spec(()), task, rows, rows, few_shot=True, calls=200, budget_s=60.0)
    arms = {arm.name: arm.bootstrapped for arm in found.report.arms}
    assert arms["the task's instruction"] == 0
    assert arms["4 fixed, 4 of them bootstrapped, set 1"] == 4


def test_where_the_calls_do_not_reach_labelled_sets_are_left_out_first() -> None:
    names = [arm.name for arm in search_sums(calls=27)[0].report.arms]
    assert names[:4] == ["4 nearest", "2 nearest", "1 nearest", "4 fixed, 4 of them bootstrapped, set 1"]
    assert len(names) == 4
