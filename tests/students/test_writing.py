"""A decoder with a prompt: what it is asked, what its tokens tell, and neighbours as examples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from locum.core.errors import LocumError
from locum.runtime.completion import Completion, CompletionRequest, TokenLogprob
from locum.runtime.fake import FakeGenerator, fake_spec
from locum.schema.data import Row
from locum.schema.prompt import Prompt
from locum.schema.task import Task
from locum.schema.taskfile import parse_task
from locum.students.neighbours import Neighbours
from locum.students.writing import ALTERNATIVES, WritingStudent, token_features
from locum.tasks import open_kind

TASK = parse_task("""\
version: 1
name: q
kind: generate
profile: qa
instruction: Answer from the passage.
data: {train: t.jsonl, input: text, output: answer}
""")
ROWS = [
    Row(id="1", input="the cat sat on the mat", output="mat"),
    Row(id="2", input="a ship sails the sea", output="sea"),
    Row(id="3", input="the dog sat on the rug", output="rug"),
]


def student(
    script: Any, task: Task = TASK, prompt: Prompt | None = None, **options: Any
) -> tuple[WritingStudent, FakeGenerator]:
    asked = prompt or Prompt(instruction=task.instruction)
    generator = FakeGenerator(script)
    return WritingStudent(fake_spec(()), generator, open_kind(task, (), asked), asked, **options), generator


def test_answers_come_in_the_order_of_the_inputs() -> None:
    writer, generator = student(lambda request: request.messages[-1].content.upper())
    assert [draft.output for draft in writer.draft(["one", "two", "three"])] == ["ONE", "TWO", "THREE"]
    assert all(request.logprobs == ALTERNATIVES and request.temperature == 0 for request in generator.requests)
    writer.close()
    assert generator.closed


def test_neighbours_stand_before_the_input_the_nearest_last() -> None:
    prompt = Prompt(instruction="Answer.", neighbours=2)
    writer, generator = student(["rug"], prompt=prompt, pool=ROWS)
    writer.draft(["where sat the dog"])
    said = [message.content for message in generator.requests[0].messages if message.role == "user"]
    assert said[-2:] == ["the dog sat on the rug", "where sat the dog"]
    assert len(said) == 3


def test_an_input_never_gets_itself_as_an_example() -> None:
    index = Neighbours(ROWS)
    assert [row.id for row in index.nearest(ROWS[0].input, 3)] == ["2", "3"]
    assert [row.id for row in index.nearest("the dog sat on the mat", 1)] in (["1"], ["3"])
    assert index.nearest("zebra", 5) != ()


def test_inputs_of_single_characters_have_neighbours_too() -> None:
    sums = [Row(id=text, input=text, output="?") for text in ("1 + 2", "8 - 3", "1 + 5", "+", "四")]
    index = Neighbours(sums)
    assert [row.id for row in index.nearest("1 + 6", 2)] == ["1 + 5", "1 + 2"]
    assert [row.id for row in index.nearest("9 - 3", 1)] == ["8 - 3"]
    assert len(index.nearest("the sum of both", 3)) == 3
    mixed = Neighbours([*ROWS, *sums])
    assert [row.id for row in mixed.nearest("8 - 4", 1)] == ["8 - 3"]
    assert [row.id for row in mixed.nearest("where sat the dog", 1)] == ["3"]


def test_an_input_over_the_context_has_no_answer_and_costs_no_other() -> None:
    def reply(request: CompletionRequest) -> str | Exception:
        long = "long" in request.messages[-1].content
        return LocumError("runtime-too-long", "too long") if long else "fine"

    writer, _ = student(reply)
    assert [draft.output for draft in writer.draft(["short", "long", "short"])] == ["fine", None, "fine"]


def test_another_failure_of_the_engine_is_an_error() -> None:
    writer, _ = student([LocumError("runtime-engine-failed", "gone")])
    with pytest.raises(LocumError) as caught:
        writer.draft(["a", "b"])
    assert caught.value.code == "runtime-engine-failed"


def test_agreement_is_the_share_of_samples_that_say_the_same() -> None:
    def reply(request: CompletionRequest) -> str:
        return "Paris" if request.seed is None or request.seed % 2 == 0 else "Rome"

    writer, generator = student(reply, samples=4)
    (draft,) = writer.draft(["capital of France?"])
    assert draft.features["agreement"] == 0.5
    assert [request.temperature for request in generator.requests] == [0.0, 0.8, 0.8, 0.8, 0.8]
    assert {request.logprobs for request in generator.requests} == {ALTERNATIVES}  # one prompt, read once


def tokens(*logprobs: float) -> Completion:
    made = tuple(TokenLogprob(str(i), lp, (("a", lp), ("b", math.log(0.1)))) for i, lp in enumerate(logprobs))
    return Completion("x", "stop", 10, len(logprobs), "m", logprobs=made)


def test_features_of_tokens_are_what_their_names_say() -> None:
    values = [math.log(0.9), math.log(0.5), math.log(0.01)]
    found = token_features(tokens(*values))
    assert found["logprob_mean"] == pytest.approx(np.mean(values))
    assert found["logprob_sum"] == pytest.approx(sum(values))
    assert found["logprob_min"] == pytest.approx(math.log(0.01))
    assert found["logprob_first"] == pytest.approx(math.log(0.9))
    assert found["logprob_q25"] == pytest.approx(np.quantile(values, 0.25))
    entropy = -(0.5 * math.log(0.5) + 0.1 * math.log(0.1) + 0.4 * math.log(0.4))
    parts = [-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)), entropy]
    parts.append(-(0.01 * math.log(0.01) + 0.1 * math.log(0.1) + 0.89 * math.log(0.89)))
    assert found["entropy_max"] == pytest.approx(max(parts))
    assert found["entropy_mean"] == pytest.approx(np.mean(parts))
    assert (found["cut"], found["tokens_log"]) == (0.0, pytest.approx(math.log(4)))


def test_an_impossible_token_is_cut_and_no_tokens_tell_only_lengths() -> None:
    assert token_features(tokens(-math.inf))["logprob_min"] == -20.0
    assert set(token_features(tokens())) == {"tokens_log", "input_tokens_log", "cut"}
