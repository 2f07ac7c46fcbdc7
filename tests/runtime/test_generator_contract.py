"""What every generator promises, asked of every engine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import pytest

from locum.core.errors import LocumError, UserError
from locum.runtime import CompletionRequest, Generator, Message, Scorer, open_generator
from locum.runtime.protocol import Stop
from locum.schema.task import LlmSpec
from locum.testing import FakeGenerator, FakeUpstream
from locum.testing.pico_gguf import pico_gguf

ASK = CompletionRequest((Message("system", "Answer briefly."), Message("user", "Name a colour.")), max_tokens=6)
ANSWER = "blue and green and red"

Opener = Callable[[pytest.FixtureRequest], AbstractContextManager[Generator]]


@contextmanager
def fake(_request: pytest.FixtureRequest) -> Iterator[Generator]:
    yield FakeGenerator([ANSWER])


@contextmanager
def openai(_request: pytest.FixtureRequest) -> Iterator[Generator]:
    with FakeUpstream([ANSWER]) as upstream:
        opened = open_generator(LlmSpec(base_url=upstream.base_url, model="m", timeout_s=20))
        yield opened
        opened.close()


@contextmanager
def pico(request: pytest.FixtureRequest) -> Iterator[Generator]:
    folder = request.getfixturevalue("tmp_path_factory").mktemp("contract")
    opened = open_generator(LlmSpec(model=str(pico_gguf(folder / "pico.gguf").path), timeout_s=60), threads=1)
    yield opened
    opened.close()


@contextmanager
def smollm(request: pytest.FixtureRequest) -> Iterator[Generator]:
    path = request.getfixturevalue("smollm2")
    opened = open_generator(LlmSpec(model=str(path), timeout_s=240), threads=1, n_ctx=256)
    yield opened
    opened.close()


@contextmanager
def openvino(request: pytest.FixtureRequest) -> Iterator[Generator]:
    pytest.importorskip("openvino_genai")
    path = request.getfixturevalue("smollm2")
    opened = open_generator(LlmSpec(model=str(path), timeout_s=240), threads=1, n_ctx=256, engine="openvino")
    yield opened
    opened.close()


LOCAL = [
    pytest.param(pico, marks=pytest.mark.engines, id="llamacpp-pico"),
    pytest.param(smollm, marks=[pytest.mark.models, pytest.mark.engines], id="llamacpp"),
]
OPENVINO = pytest.param(openvino, marks=[pytest.mark.models, pytest.mark.engines], id="openvino")
ALL = [pytest.param(fake, id="fake"), pytest.param(openai, id="openai"), *LOCAL, OPENVINO]


@pytest.fixture(scope="module", params=ALL)
def opener(request: pytest.FixtureRequest) -> Opener:
    return request.param


@pytest.fixture(scope="module")
def generator(opener: Opener, request: pytest.FixtureRequest) -> Iterator[Generator]:
    with opener(request) as opened:
        yield opened


@pytest.fixture(scope="module", params=LOCAL)
def local(request: pytest.FixtureRequest) -> Iterator[Generator]:
    """llama.cpp, which runs here and can do everything."""
    with request.param(request) as opened:
        yield opened


@pytest.fixture(scope="module", params=[*LOCAL, OPENVINO])
def child(request: pytest.FixtureRequest) -> Iterator[Generator]:
    """An engine in a child process of ours."""
    with request.param(request) as opened:
        yield opened


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


def test_a_stream_says_what_the_whole_answer_says(generator: Generator) -> None:
    with generator.stream(ASK) as stream:
        chunks = list(stream)
        assert list(stream) == []
    final = chunks[-1].final
    assert final is not None and all(chunk.final is None for chunk in chunks[:-1])
    assert "".join(chunk.text for chunk in chunks) == final.text == generator.complete(ASK).text
    assert final.output_tokens > 0 and final.finish_reason in ("stop", "length")


def test_a_closed_stream_ends(generator: Generator) -> None:
    stream = generator.stream(replace(ASK, max_tokens=200))
    next(stream)
    stream.close()
    stream.close()
    assert len(list(stream)) < 10  # at most what had arrived already
    assert generator.complete(ASK).output_tokens > 0


def test_a_stop_ends_the_opening_and_harms_nobody_else(generator: Generator) -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(LocumError) as caught:
        generator.stream(ASK, stop)
    assert caught.value.code == "runtime-closed"
    assert generator.complete(ASK).output_tokens > 0


def test_a_stop_that_does_not_come_changes_nothing(generator: Generator) -> None:
    with generator.stream(ASK, Stop()) as stream:
        final = list(stream)[-1].final
    assert final is not None and final.text == generator.complete(ASK).text


def test_log_probabilities_come_one_a_token(local: Generator) -> None:
    completion = local.complete(replace(ASK, logprobs=2))
    assert len(completion.logprobs) == completion.output_tokens > 0
    for token in completion.logprobs:
        assert token.logprob <= 0 and len(token.top) == 2
        assert token.top[0][1] >= token.top[1][1]
    pieces = [chunk.logprobs for chunk in local.stream(replace(ASK, logprobs=2))]
    assert [token.token for piece in pieces for token in piece] == [token.token for token in completion.logprobs]


def test_the_log_probability_of_each_token_alone(child: Generator) -> None:
    completion = child.complete(replace(ASK, logprobs=0))
    assert len(completion.logprobs) == completion.output_tokens > 0
    assert all(token.logprob <= 0 and token.top == () for token in completion.logprobs)
    assert "".join(token.token for token in completion.logprobs) == completion.text


def test_a_seed_repeats_an_answer(child: Generator) -> None:
    first, again, other = (
        child.complete(replace(ASK, temperature=1.0, seed=seed, max_tokens=12)).text for seed in (1, 1, 2)
    )
    assert first == again != other
    drawn = {child.complete(replace(ASK, temperature=1.5, max_tokens=12)).text for _ in range(3)}
    assert len(drawn) > 1  # without a seed no answer is repeated


def test_requests_at_the_same_time_have_their_own_length_and_stop(child: Generator) -> None:
    text = child.complete(ASK).text
    stop = text[len(text) // 2 :][:2]
    asked = [ASK, replace(ASK, max_tokens=2), replace(ASK, stop=(stop,)), ASK]
    with ThreadPoolExecutor(4) as pool:
        whole, short, stopped, again = pool.map(child.complete, asked)
    assert whole.text == again.text == text
    assert short.output_tokens <= 2 and text.startswith(short.text)
    assert stopped.text == text[: text.index(stop)] and stopped.finish_reason == "stop"


def test_a_schema_binds_the_answer(child: Generator) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    answer = child.complete(replace(ASK, json_schema=schema, max_tokens=60))
    assert json.loads(answer.text)["n"] in (1, 2)
    with pytest.raises(UserError) as caught:
        child.stream(replace(ASK, json_schema={"type": "object", "unevaluatedItems": {}}))
    assert caught.value.code.startswith("runtime-constraint-")


def test_a_stream_that_another_thread_closes_ends_within_a_second(child: Generator) -> None:
    stream = child.stream(replace(ASK, max_tokens=10_000, temperature=1.0, seed=1))
    closed_s: list[float] = []

    def close() -> None:
        closed_s.append(time.monotonic())
        stream.close()

    threading.Timer(0.2, close).start()
    for _ in stream:
        pass
    assert not closed_s or time.monotonic() - closed_s[0] < 1


def test_a_prompt_over_the_context_is_refused_unless_it_may_be_cut(child: Generator) -> None:
    long = replace(ASK, messages=(Message("user", "one two three " * 400),))
    with pytest.raises(UserError) as caught:
        child.stream(long)
    assert caught.value.code == "runtime-too-long"
    cut = child.complete(replace(long, truncate=True))
    assert cut.truncated_tokens > 0 and cut.output_tokens > 0


def test_weighing_continuations(local: Generator) -> None:
    assert isinstance(local, Scorer)
    scores = local.score(ASK, ["Blue", "Blue and", ""])
    assert scores.shape == (3,) and scores[2] == 0
    assert 0 > scores[0] > scores[1]


def test_an_unknown_adapter_is_refused(opener: Opener, generator: Generator) -> None:
    if opener is fake:
        assert generator.complete(replace(ASK, adapter="none-such")).usable  # it says what its script says
        return
    with pytest.raises(LocumError) as caught:
        generator.stream(replace(ASK, adapter="none-such"))
    assert caught.value.code in ("runtime-unknown-adapter", "runtime-unsupported-option")


def test_closing_twice_is_fine_and_asking_afterwards_is_not(opener: Opener, request: pytest.FixtureRequest) -> None:
    with opener(request) as generator:
        generator.close()
        generator.close()
        for ask in (generator.complete, generator.stream):
            with pytest.raises(LocumError) as caught:
                ask(ASK)
            assert caught.value.code == "runtime-closed"
