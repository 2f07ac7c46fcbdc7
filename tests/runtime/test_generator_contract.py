"""What every generator promises, asked of every engine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from locum.core.errors import LocumError
from locum.runtime import CompletionRequest, Generator, Message, open_generator
from locum.schema.task import LlmSpec
from locum.testing import FakeGenerator, FakeUpstream

ASK = CompletionRequest((Message("system", "Answer briefly."), Message("user", "Name a colour.")), max_tokens=6)


@pytest.fixture(params=["fake", "openai", pytest.param("llamacpp", marks=[pytest.mark.models, pytest.mark.engines])])
def generator(request: pytest.FixtureRequest) -> Iterator[Generator]:
    if request.param == "fake":
        yield FakeGenerator(["blue"])
    elif request.param == "openai":
        with FakeUpstream(["blue"]) as upstream:
            opened = open_generator(LlmSpec(base_url=upstream.base_url, model="m", timeout_s=20))
            yield opened
            opened.close()
    else:
        path = request.getfixturevalue("smollm2")
        opened = open_generator(LlmSpec(model=str(path), timeout_s=240), threads=1, n_ctx=256)
        yield opened
        opened.close()


def test_is_a_generator_with_a_name(generator: Generator) -> None:
    assert isinstance(generator, Generator)
    assert generator.model


def test_it_answers_and_counts(generator: Generator) -> None:
    completion = generator.complete(ASK)
    assert completion.usable
    assert completion.finish_reason in ("stop", "length")
    assert completion.input_tokens > 0
    assert 0 < completion.output_tokens <= ASK.max_tokens
    assert completion.model


def test_the_same_request_gets_the_same_answer(generator: Generator) -> None:
    assert generator.complete(ASK).text == generator.complete(ASK).text


def test_unicode_and_empty_messages_are_taken(generator: Generator) -> None:
    messages = (Message("user", "你好 🙂 ¿qué?"), Message("assistant", ""), Message("user", "and?"))
    assert isinstance(generator.complete(CompletionRequest(messages, max_tokens=2)).text, str)


def test_several_threads(generator: Generator) -> None:
    with ThreadPoolExecutor(3) as pool:
        answers = [completion.text for completion in pool.map(generator.complete, [ASK] * 3)]
    assert len(set(answers)) == 1


def test_closing_twice_is_fine_and_asking_afterwards_is_not(generator: Generator) -> None:
    generator.close()
    generator.close()
    with pytest.raises(LocumError) as caught:
        generator.complete(ASK)
    assert caught.value.code == "runtime-closed"
