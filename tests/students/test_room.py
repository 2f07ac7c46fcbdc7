"""Answers of an LLM that are cut: told apart, asked for again with more room, and never for ever."""

from __future__ import annotations

import pytest

from locum.core.errors import UpstreamError
from locum.core.progress import listening
from locum.runtime.completion import Completion, CompletionRequest
from locum.runtime.fake import FakeGenerator
from locum.schema.message import Message
from locum.schema.task import LlmSpec
from locum.students.room import LIMIT, Room, is_cut
from locum.tasks.classify import Classify

KIND = Classify("Is it a pear?", ("pear", "pear tree", "plum"))
REQUEST = CompletionRequest((Message("user", "x"),), max_tokens=20)


def written(text: str, finish: str = "stop", tokens: int = 5) -> Completion:
    return Completion(text, finish, 10, tokens, "big")


def asked(room: Room, generator: FakeGenerator, request: CompletionRequest = REQUEST) -> Completion:
    return room.complete(request, generator.complete, lambda answer: is_cut(KIND, answer, "x"))


@pytest.mark.parametrize(
    ("answer", "cut"),
    [
        (written("", "length"), True),
        (written("<think>a pear? perhaps", "length"), True),
        (written("<think>a pear, because", "stop"), True),
        (written("[THINK]plum", "length"), True),
        (written("The fruit hangs on", "length"), True),
        (written("pear", "length"), True),  # of "pear tree"
        (written("plum\n\nIt is blue and", "length"), False),
        (written("nothing of it"), False),
        (written("plum"), False),
        (written("", "content_filter"), False),
    ],
)
def test_an_answer_that_ended_early_is_told_from_a_wrong_one(answer: Completion, cut: bool) -> None:
    assert is_cut(KIND, answer, "x") == cut


def thinks(enough: int) -> FakeGenerator:
    def reply(request: CompletionRequest) -> Completion:
        if request.max_tokens < enough:
            return written("", "length", request.max_tokens)
        return written("<think>blue</think>plum", tokens=300)

    return FakeGenerator(reply)


def test_a_cut_answer_is_asked_for_again_and_what_was_enough_is_kept() -> None:
    generator, room = thinks(1000), Room()
    first = asked(room, generator)
    assert (first.text[-4:], first.output_tokens, first.input_tokens) == ("plum", 320, 20)  # both attempts are counted
    asked(room, generator)
    assert [request.max_tokens for request in generator.requests] == [20, 2048, 2048]
    assert first.extra[LIMIT] == "2048"


def test_where_more_room_does_not_help_it_is_not_tried_for_ever() -> None:
    generator, room = thinks(10**9), Room()
    heard: list[str] = []
    with listening(lambda event: heard.append(event.label)):
        for _ in range(10):
            assert is_cut(KIND, asked(room, generator), "x")
    limits = [request.max_tokens for request in generator.requests]
    assert limits.count(8192) == 3 and limits[-6:] == [20] * 6
    assert any("llm.max_tokens" in label for label in heard)


def test_the_task_sets_the_limit_and_it_is_kept_to() -> None:
    generator = thinks(10**9)
    room = Room(LlmSpec(base_url="https://llm.example/v1", model="m", max_tokens=700))
    asked(room, generator)
    assert [request.max_tokens for request in generator.requests] == [700]
    assert not room.may_grow(700) and room.may_grow(20)


@pytest.mark.parametrize("code", ["upstream-bad-request", "evaluate-llm-cap", "runtime-too-long"])
def test_a_larger_limit_that_is_refused_or_too_dear_leaves_the_cut_answer(code: str) -> None:
    def reply(request: CompletionRequest) -> Completion | UpstreamError:
        return UpstreamError(code, "too much") if request.max_tokens > 20 else written("", "length")

    generator, room = FakeGenerator(reply), Room()
    assert [is_cut(KIND, asked(room, generator), "x") for _ in range(3)] == [True] * 3
    assert [request.max_tokens for request in generator.requests] == [20, 2048, 20, 20]


def test_another_failure_of_the_second_attempt_is_raised() -> None:
    generator = FakeGenerator([written("", "length"), UpstreamError("upstream-server-error", "down")])
    with pytest.raises(UpstreamError, match="down"):
        asked(Room(), generator)


def test_plain_words_before_an_answer_get_some_more_room_only() -> None:
    generator = FakeGenerator([written("The fruit is blue and", "length"), written("The fruit is blue: plum")])
    assert asked(Room(), generator).text.endswith("plum")
    assert [request.max_tokens for request in generator.requests] == [20, 512]
