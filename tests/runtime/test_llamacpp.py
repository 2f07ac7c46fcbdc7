"""llama.cpp itself, through its child process: a random decoder checked against NumPy, and a real one."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from locum.core.errors import DeviceError, LocumError, ModelFileError, SourceError, UserError
from locum.runtime import CompletionRequest, Embedder, Generator, Message, Scorer, open_generator
from locum.runtime.completion import Tool
from locum.runtime.llama_process import LlamaProcess
from locum.runtime.llama_settings import EngineSettings, generation_child
from locum.runtime.llamacpp import LlamaGenerator
from locum.runtime.open import open_embedder, open_model
from locum.schema.task import LlmSpec
from locum.testing.pico_gguf import CHATML, PicoDecoder, Weights, pico_gguf, pico_lora

SMALL = EngineSettings(n_ctx=256, slots=2, threads=1, stream_interval_s=0.0, timeout_s=120)
RAW = CompletionRequest((), prompt="hello wor", max_tokens=12)
TALK = CompletionRequest((Message("user", "Hi there"),), max_tokens=12)
WEATHER = Tool("weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
TOOLS = "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"


@pytest.fixture(scope="module")
def pico(tmp_path_factory: pytest.TempPathFactory) -> PicoDecoder:
    return pico_gguf(tmp_path_factory.mktemp("pico") / "pico.gguf")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    path = tmp_path_factory.mktemp("lora") / "lora.gguf"
    return path, pico_lora(path)


@pytest.fixture(scope="module")
def model(pico: PicoDecoder, lora: tuple[Path, Weights]) -> Iterator[LlamaGenerator]:
    opened = open_model(pico.path, replace(SMALL, adapters={"french": lora[0]}))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def with_tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaGenerator]:
    path = tmp_path_factory.mktemp("tools") / "pico.gguf"
    opened = open_model(
        pico_gguf(path, template=TOOLS + CHATML, n_ctx=2048).path,
        replace(SMALL, n_ctx=1024, slots=1, shared_cache=True),
    )
    yield opened
    opened.close()


def greedy(pico: PicoDecoder, prompt: str, count: int, lora: Weights | None = None) -> str:
    """What NumPy writes."""
    ids = pico.encode(prompt)
    for _ in range(count):
        ids.append(int(pico.logits(ids, lora)[-1].argmax()))
    return bytes(ids).decode("utf-8", "replace")[len(prompt) :]


def code_of(model: LlamaGenerator, request: CompletionRequest) -> str:
    with pytest.raises(UserError) as caught:
        model.complete(request)
    return caught.value.code


def test_it_is_a_generator_and_a_scorer_that_starts_when_asked(model: LlamaGenerator, pico: PicoDecoder) -> None:
    assert isinstance(model, Generator) and isinstance(model, Scorer)
    assert model.model == "pico" and model.n_ctx == 256 and model.adapters == ("french",)
    idle = open_model(pico.path, SMALL)
    assert idle.process.pid is None
    idle.close()


@pytest.mark.engines
class TestPico:
    def test_greedy_text_is_what_numpy_writes(self, model: LlamaGenerator, pico: PicoDecoder) -> None:
        completion = model.complete(RAW)
        assert completion.text == greedy(pico, "hello wor", 12)
        assert (completion.finish_reason, completion.input_tokens, completion.output_tokens) == ("length", 9, 12)

    def test_messages_go_through_the_template(self, model: LlamaGenerator) -> None:
        rendered = "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n"
        assert model.complete(TALK).text == model.complete(replace(RAW, prompt=rendered)).text
        assert model.count_tokens(TALK) == model.complete(TALK).input_tokens == 27

    def test_a_stream_gives_the_same_text_in_pieces(self, model: LlamaGenerator) -> None:
        with model.stream(TALK) as stream:
            chunks = list(stream)
        assert [chunk.final is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        final = chunks[-1].final
        assert final is not None and final.text == "".join(chunk.text for chunk in chunks) == model.complete(TALK).text
        assert len(chunks) > 5

    def test_what_is_written_within_the_interval_comes_together(self, pico: PicoDecoder, model: LlamaGenerator) -> None:
        with closing(open_model(pico.path, replace(SMALL, stream_interval_s=30.0))) as slow:
            for request in (TALK, replace(RAW, logprobs=2)):
                first, rest, last = slow.stream(request)
                alone = list(model.stream(request))
                assert first == alone[0] and last.final is not None and alone[-1].final is not None
                assert first.text + rest.text == last.final.text == alone[-1].final.text
                assert first.logprobs + rest.logprobs == last.final.logprobs == alone[-1].final.logprobs

    def test_in_a_shared_cache_each_request_keeps_to_its_own_context(self, pico: PicoDecoder) -> None:
        settings = replace(SMALL, n_ctx=64, slots=4, shared_cache=True)
        with closing(open_model(pico.path, settings)) as model, ThreadPoolExecutor(8) as pool:
            asked = [replace(request, max_tokens=500, seed=seed) for seed in range(4) for request in (RAW, TALK)]
            for answer in pool.map(model.complete, asked):
                assert answer.input_tokens + answer.output_tokens == 64 and answer.finish_reason == "length"
            for request in (replace(RAW, prompt="x" * 64), replace(TALK, messages=(Message("user", "x" * 50),))):
                assert code_of(model, request) == "runtime-too-long"
            again = [model.complete(replace(RAW, prompt="x" * 50)).text for _ in range(2)]
            assert again[0] == again[1]

    def test_a_closed_stream_stops_the_engine_within_a_second(self, model: LlamaGenerator) -> None:
        """Both slots are taken by answers of a thousand tokens; a third request gets one when a stream is closed."""
        endless = replace(RAW, max_tokens=200)
        streams = [model.stream(endless) for _ in range(2)]
        for stream in streams:
            next(stream)
            stream.close()
            stream.close()
            assert list(stream) == []
        start_s = time.monotonic()
        assert model.complete(replace(RAW, max_tokens=1)).output_tokens == 1
        assert time.monotonic() - start_s < 10

    def test_log_probabilities_are_numpys(self, model: LlamaGenerator, pico: PicoDecoder) -> None:
        completion = model.complete(replace(RAW, logprobs=3))
        assert len(completion.logprobs) == completion.output_tokens == 12
        ids = pico.encode("hello wor")
        total = pico.log_probability(ids, pico.encode(completion.text))
        assert sum(token.logprob for token in completion.logprobs) == pytest.approx(total, abs=0.03)
        for token in completion.logprobs:
            assert len(token.top) == 3 and token.top[0] == (token.token, token.logprob)
            assert token.logprob <= 0
        assert [len(token.top) for token in model.complete(replace(RAW, logprobs=0)).logprobs] == [0] * 12

    def test_a_character_of_several_tokens_has_the_log_probability_of_its_last(
        self, model: LlamaGenerator, pico: PicoDecoder
    ) -> None:
        """Each byte is a token of the pico decoder; the entry says how many there are, and all are counted."""
        text = "d\u65e5\U0001f600"
        completion = model.complete(replace(RAW, grammar=f'root ::= "{text}"', logprobs=2, max_tokens=20))
        tokens = completion.logprobs
        assert completion.text == text
        assert [(token.token, token.tokens) for token in tokens] == [("d", 1), (text[1], 3), (text[2], 4), ("", 1)]
        assert [token.silent for token in tokens] == [False, False, False, True]
        assert sum(token.tokens for token in tokens) == completion.output_tokens == 9
        ids = pico.encode("hello wor" + text)
        for token, place in zip(tokens, (9, 12, 16), strict=False):
            expected = pico.log_probability(ids[:place], [ids[place]])
            assert token.logprob == pytest.approx(expected, abs=0.03)

    def test_log_probabilities_of_a_conversation(self, model: LlamaGenerator) -> None:
        with_them = model.complete(replace(TALK, logprobs=1))
        assert with_them.text == model.complete(TALK).text
        assert "".join(token.token for token in with_them.logprobs) == with_them.text

    def test_log_probabilities_are_of_before_sampling(self, model: LlamaGenerator) -> None:
        plain = model.complete(replace(RAW, logprobs=1, max_tokens=1)).logprobs[0]
        hot = model.complete(replace(RAW, logprobs=1, max_tokens=1, temperature=1.5, seed=3)).logprobs[0]
        assert hot.top[0] == pytest.approx(plain.top[0])

    def test_everything_is_off_unless_asked_for(self, model: LlamaGenerator, pico: PicoDecoder) -> None:
        """At temperature 1 alone, tokens come as often as their probabilities say, the least probable too."""
        scores = pico.logits(pico.encode("hello wor"))[-1].astype(np.float64)
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        ask = replace(RAW, max_tokens=1, temperature=1.0, logprobs=0)
        drawn = [model.complete(replace(ask, seed=seed)) for seed in range(60)]
        tokens = [answer.logprobs[0].token for answer in drawn if answer.logprobs]
        best = chr(int(shares.argmax()))
        expected = shares.max() * len(tokens)
        assert abs(tokens.count(best) - expected) < 4 * np.sqrt(expected) + 1
        assert len(set(tokens)) > 3

    @pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
    def test_each_way_to_narrow_sampling(self, model: LlamaGenerator, narrow: dict[str, float]) -> None:
        hot = replace(RAW, temperature=2.0, seed=5, **narrow)  # pyright: ignore[reportArgumentType]
        assert model.complete(hot).text == model.complete(RAW).text

    def test_the_seed_decides(self, model: LlamaGenerator) -> None:
        hot = replace(RAW, temperature=1.5)
        texts = [model.complete(replace(hot, seed=seed)).text for seed in (1, 1, 2, 2**40)]
        assert texts[0] == texts[1] != texts[2]

    @pytest.mark.parametrize("seed", [-1, 2**32 - 1, 2**63 - 1])
    def test_every_seed_repeats_an_answer(self, model: LlamaGenerator, seed: int) -> None:
        hot = replace(RAW, temperature=1.5, seed=seed)
        assert model.complete(hot).text == model.complete(hot).text

    @pytest.mark.parametrize("penalty", [{"presence_penalty": 50.0}, {"frequency_penalty": 50.0}])
    def test_penalties_forbid_what_was_there(self, model: LlamaGenerator, penalty: dict[str, float]) -> None:
        text = model.complete(replace(RAW, max_tokens=20, **penalty)).text  # pyright: ignore[reportArgumentType]
        assert len(set(text)) == len(text) == 20

    def test_a_stop_string_ends_the_answer_and_is_not_in_it(self, model: LlamaGenerator) -> None:
        whole = model.complete(RAW).text
        completion = model.complete(replace(RAW, stop=(whole[4:6], "")))
        assert completion.text == whole[:4] and completion.finish_reason == "stop"
        pieces = [chunk.text for chunk in model.stream(replace(RAW, stop=(whole[4:6],)))]
        assert "".join(pieces) == whole[:4]

    def test_a_prompt_over_the_context_is_refused_with_both_numbers(self, model: LlamaGenerator) -> None:
        with pytest.raises(UserError, match=r"context length is 256 tokens\. .* has 300 tokens") as caught:
            model.stream(replace(RAW, prompt="x" * 300))
        assert caught.value.code == "runtime-too-long"
        assert code_of(model, replace(TALK, messages=(Message("user", "x" * 300),))) == "runtime-too-long"

    def test_an_answer_that_fills_the_context_ends_with_length(self, model: LlamaGenerator) -> None:
        completion = model.complete(replace(RAW, prompt="x" * 250, max_tokens=50))
        assert completion.finish_reason == "length" and completion.output_tokens <= 6

    def test_truncation_drops_the_head_of_a_prompt(self, model: LlamaGenerator) -> None:
        prompt = "".join(chr(97 + place % 26) for place in range(300))
        completion = model.complete(replace(RAW, prompt=prompt, truncate=True))
        assert completion.input_tokens == 243 and completion.truncated_tokens == 57
        assert completion.text == model.complete(replace(RAW, prompt=prompt[57:])).text
        with model.stream(replace(RAW, prompt=prompt, truncate=True)) as stream:
            assert next(stream).truncated_tokens == 57

    def test_truncation_drops_the_oldest_turns_first(self, model: LlamaGenerator) -> None:
        turns = [Message("system", "sys")]
        for number in range(4):
            turns += [Message("user", f"{number}" * 60), Message("assistant", "ok")]
        turns.append(Message("user", "last"))
        completion = model.complete(replace(TALK, messages=tuple(turns), truncate=True))
        kept = model.complete(replace(TALK, messages=(turns[0], *turns[5:])))
        assert completion.text == kept.text and completion.input_tokens == kept.input_tokens
        assert (
            completion.truncated_tokens == model.count_tokens(replace(TALK, messages=tuple(turns))) - kept.input_tokens
        )

    def test_truncation_cuts_the_last_message_when_it_must(self, model: LlamaGenerator) -> None:
        messages = (Message("user", "old"), Message("assistant", "ok"), Message("user", "y" * 400))
        completion = model.complete(replace(TALK, messages=messages, truncate=True))
        assert completion.input_tokens == 243

    def test_a_system_message_over_the_context_cannot_be_truncated(self, model: LlamaGenerator) -> None:
        messages = (Message("system", "s" * 400), Message("user", "hi"))
        assert code_of(model, replace(TALK, messages=messages, truncate=True)) == "runtime-too-long"

    def test_prefix_reuse_is_counted(self, model: LlamaGenerator) -> None:
        prompt = "a prompt that comes again and again, with the same beginning: "
        first = model.complete(replace(RAW, prompt=prompt + "1"))
        again = model.complete(replace(RAW, prompt=prompt + "2"))
        assert again.cached_tokens >= len(prompt) > first.cached_tokens

    def test_a_grammar_binds_the_answer(self, model: LlamaGenerator) -> None:
        completion = model.complete(replace(TALK, grammar='root ::= "yes" | "no"'))
        assert completion.text in ("yes", "no") and completion.finish_reason == "stop"
        assert model.complete(replace(RAW, grammar='root ::= "yes" | "no"')).text in ("yes", "no")

    def test_a_schema_binds_the_answer(self, model: LlamaGenerator) -> None:
        schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
        schema["additionalProperties"] = False
        completion = model.complete(replace(TALK, json_schema=schema, max_tokens=60))
        assert json.loads(completion.text)["a"] in ("x", "y")

    def test_a_hostile_grammar_is_an_error_and_the_engine_lives(self, model: LlamaGenerator) -> None:
        pid = model.process.pid
        with pytest.raises(UserError):
            model.complete(replace(RAW, grammar="root ::= root root | "))
        assert model.process.pid == pid

    def test_adapters_are_chosen_by_request(
        self, model: LlamaGenerator, pico: PicoDecoder, lora: tuple[Path, Weights]
    ) -> None:
        adapted = replace(RAW, adapter="french")
        assert model.complete(adapted).text == greedy(pico, "hello wor", 12, lora[1])
        assert model.complete(RAW).text == greedy(pico, "hello wor", 12)
        with ThreadPoolExecutor(2) as pool:
            texts = [done.text for done in pool.map(model.complete, [adapted, RAW] * 2)]
        assert texts == [greedy(pico, "hello wor", 12, lora[1]), greedy(pico, "hello wor", 12)] * 2
        with pytest.raises(UserError, match="french") as caught:
            model.complete(replace(RAW, adapter="greek"))
        assert caught.value.code == "runtime-unknown-adapter"

    def test_scores_are_numpys(self, model: LlamaGenerator, pico: PicoDecoder, lora: tuple[Path, Weights]) -> None:
        """Tolerance 0.05: llama.cpp keeps keys and values as float16."""
        continuations = ["ld", "lord", "Paris", "é", "a", "", "ab", "🙂"]
        for adapter, weights in ((None, None), ("french", lora[1])):
            found = model.score(replace(RAW, adapter=adapter), continuations)
            ids = pico.encode("hello wor")
            expected = [pico.log_probability(ids, pico.encode(text), weights) for text in continuations]
            np.testing.assert_allclose(found, expected, atol=0.05)

    def test_continuations_of_one_token_cost_one_request(
        self, model: LlamaGenerator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        stream = model.process.stream
        monkeypatch.setattr(model.process, "stream", lambda path, *rest: (asked.append(path), stream(path, *rest))[1])
        scores = model.score(replace(RAW, prompt="a"), list("abcdefgh"))
        assert asked == ["/completion"]
        assert scores.shape == (8,) and (scores < 0).all()

    def test_scores_over_the_context(self, model: LlamaGenerator) -> None:
        with pytest.raises(UserError) as caught:
            model.score(replace(RAW, prompt="x" * 250), ["y" * 10])
        assert caught.value.code == "runtime-too-long"

    def test_tools_reach_the_model(self, with_tools: LlamaGenerator) -> None:
        model = with_tools
        ask = replace(TALK, tools=(WEATHER, replace(WEATHER, name="clock")))
        one = replace(ask, tool_choice="clock")
        without = model.complete(TALK)
        read = model.complete(ask).input_tokens
        assert read > model.complete(replace(ask, tools=(WEATHER,))).input_tokens > without.input_tokens
        assert model.complete(replace(ask, tool_choice="none")).input_tokens == without.input_tokens
        assert '"name": "clock"' in model.render(one) and '"name": "weather"' not in model.render(one)
        for refused in ({"tool_choice": "gone"}, {"grammar": 'root ::= "x"'}):
            assert code_of(model, replace(one, **refused)) == "runtime-unsupported-option"

    @pytest.mark.parametrize("choice", ["auto", "required", "weather"])
    def test_tools_without_a_place_in_the_template_are_refused(self, model: LlamaGenerator, choice: str) -> None:
        ask = replace(TALK, tools=(WEATHER,), tool_choice=choice)
        with pytest.raises(UserError, match="template has no place for tools") as caught:
            model.complete(ask)
        assert caught.value.code == "runtime-unsupported-option" and "tool_choice none" in caught.value.fix
        assert model.complete(replace(ask, tool_choice="none")).text == model.complete(TALK).text

    def test_more_requests_than_slots(self, model: LlamaGenerator) -> None:
        requests = [replace(RAW, prompt=f"number {number}") for number in range(6)]
        alone = [model.complete(request).text for request in requests]
        with ThreadPoolExecutor(6) as pool:
            together = [done.text for done in pool.map(model.complete, requests)]
        assert together == alone

    @pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
    def test_fault_89_a_segfault_under_load(self, pico: PicoDecoder) -> None:
        model = open_model(pico.path, SMALL)
        try:
            model.start()
            codes: list[str] = []

            def work() -> None:
                try:
                    while True:
                        model.complete(replace(RAW, max_tokens=100))
                except LocumError as error:
                    codes.append(error.code)

            threads = [threading.Thread(target=work) for _ in range(2)]
            for thread in threads:
                thread.start()
            time.sleep(0.3)
            os.kill(model.process.pid or 0, signal.SIGSEGV)
            for thread in threads:
                thread.join(20)
            assert codes == ["runtime-child-died"] * 2
            assert model.complete(RAW).output_tokens == 12
        finally:
            model.close()

    @pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
    def test_an_engine_that_stops_is_noticed_and_replaced(self, pico: PicoDecoder) -> None:
        model = open_model(pico.path, replace(SMALL, idle_s=1.5))
        try:
            model.complete(RAW)
            stopped = model.process.pid
            os.kill(stopped or 0, signal.SIGSTOP)
            start_s = time.monotonic()
            with pytest.raises(LocumError, match="did nothing for") as caught:
                model.complete(RAW)
            assert caught.value.code == "runtime-timeout" and "started anew" in caught.value.fix
            assert 1.4 < time.monotonic() - start_s < 4
            assert model.complete(RAW).output_tokens == 12
            assert model.process.pid not in (None, stopped)
        finally:
            model.close()

    @pytest.mark.parametrize(
        "settings",
        [
            {"kv_type": "q8_0"},
            {"flash_attention": "off"},
            {"prefix_reuse": False, "slots": 1},
            {"reuse_chunk": 16},
            {"lookup_tokens": 8, "lookup_match": 2},
        ],
        ids=lambda settings: "-".join(settings),
    )
    def test_settings_change_speed_not_the_answer(self, pico: PicoDecoder, settings: dict[str, object]) -> None:
        model = open_model(pico.path, replace(SMALL, **settings))  # pyright: ignore[reportArgumentType]
        try:
            completion = model.complete(replace(RAW, max_tokens=60))
            assert completion.text[:12] == greedy(pico, "hello wor", 12)
            if "lookup_tokens" in settings:
                assert completion.text == greedy(pico, "hello wor", 60)
                assert int(completion.extra["draft_tokens"]) > 0
                assert code_of(model, replace(RAW, logprobs=1)) == "runtime-unsupported-option"
                assert model.score(RAW, ["l"])[0] < 0
        finally:
            model.close()

    @pytest.mark.parametrize("seed", [0, 5])
    def test_a_draft_changes_nothing_but_the_time(self, pico: PicoDecoder, tmp_path: Path, seed: int) -> None:
        """A draft with the same weights is always right, one with others nearly always wrong."""
        draft = pico_gguf(tmp_path / "draft.gguf", seed=seed)
        model = open_model(pico.path, replace(SMALL, draft=draft.path, slots=1))
        try:
            completion = model.complete(replace(RAW, max_tokens=60))
            assert completion.text == greedy(pico, "hello wor", 60)
            share = int(completion.extra["draft_accepted"]) / int(completion.extra["draft_tokens"])
            assert share > 0.9 if seed == 0 else share < 0.5
        finally:
            model.close()


@pytest.mark.engines
class TestTemplates:
    def test_a_model_without_template_takes_raw_prompts_only(self, tmp_path: Path) -> None:
        model = open_model(pico_gguf(tmp_path / "plain.gguf", template=None).path, SMALL)
        try:
            assert code_of(model, TALK) == "runtime-chat-template"
            assert model.complete(RAW).output_tokens == 12
        finally:
            model.close()

    @pytest.mark.parametrize(
        ("template", "why"),
        [
            ("{% for a in range(99999) %}{% for b in range(99999) %}{{ a * b }}{% endfor %}{% endfor %}", "250 ms"),
            ("{{ 'x' * 10 ** 10 }}", "too much"),
            ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "no template needs"),
            ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "too much"),
        ],
        ids=["endless", "memory", "python", "recursion"],
    )
    def test_fault_29_a_hostile_template_never_reaches_the_engine(
        self, template: str, why: str, tmp_path: Path
    ) -> None:
        model = open_model(pico_gguf(tmp_path / "bad.gguf", template=template).path, SMALL)
        for _ in range(2):
            with pytest.raises(ModelFileError, match=why) as caught:
                model.complete(TALK)
            assert caught.value.code == "runtime-chat-template"
        assert model.process.pid is None
        model.close()

    def test_fault_29_a_template_that_only_llama_cpp_finds_endless(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without the check in front: caught after loading, the process killed."""
        slow = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a * b %}{% endfor %}{% endfor %}"
        template = "{% if messages[0]['content'] == 'Hello.' %}" + slow + "{% endif %}" + CHATML
        monkeypatch.setattr("locum.runtime.llamacpp.check_template", lambda *_: None)
        model = open_model(pico_gguf(tmp_path / "bad.gguf", template=template).path, SMALL)
        with pytest.raises(ModelFileError, match="rendering took over") as caught:
            model.start()
        assert caught.value.code == "runtime-chat-template"
        assert model.process.pid is None
        model.close()

    def test_a_template_that_refuses_a_plain_conversation(self, tmp_path: Path) -> None:
        template = "{% if messages[0]['content'] == 'Hello.' %}{{ raise_exception('no') }}{% endif %}" + CHATML
        model = open_model(pico_gguf(tmp_path / "bad.gguf", template=template).path, SMALL)
        with pytest.raises(ModelFileError, match="plain conversation"):
            model.start()
        model.close()


@pytest.mark.engines
class TestEmbedder:
    def test_vectors_have_length_one_and_do_not_depend_on_neighbours(self, tmp_path: Path) -> None:
        embedder = open_embedder(pico_gguf(tmp_path / "vectors.gguf", pooling=1).path, threads=1)
        try:
            assert isinstance(embedder, Embedder) and embedder.dimensions == 64 and embedder.model == "vectors"
            texts = ["my card", "", "where is it?", "x" * 900, "é 🙂"]
            vectors = embedder.embed(texts)
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
            np.testing.assert_array_equal(embedder.embed(texts[2:3])[0], vectors[2])
            assert embedder.embed([]).shape == (0, 64)
            read = embedder.read(["my card", "x" * 900, "x" * 512])
            assert read.tokens.tolist() == [7, 512, 512] and read.dropped.tolist() == [0, 388, 0]
            np.testing.assert_array_equal(read.vectors[1], read.vectors[2])
        finally:
            embedder.close()

    def test_a_model_of_a_longer_context_reads_more(self, tmp_path: Path) -> None:
        embedder = open_embedder(pico_gguf(tmp_path / "vectors.gguf", pooling=1, n_ctx=4096).path, threads=1)
        try:
            read = embedder.read(["x" * 900, "x" * 3000])
            assert read.tokens.tolist() == [900, 2048] and read.dropped.tolist() == [0, 952]
        finally:
            embedder.close()

    def test_a_folder_that_is_not_one(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError):
            open_embedder(tmp_path)


@pytest.mark.engines
def test_an_adapter_of_another_model_is_told_as_such(tmp_path: Path, pico: PicoDecoder) -> None:
    model = open_model(pico.path, replace(SMALL, adapters={"a": pico.path}))
    with pytest.raises(ModelFileError, match="an adapter does not fit the model") as caught:
        model.start()
    assert caught.value.code == "runtime-mismatch" and model.problem is caught.value
    model.close()


@pytest.mark.engines
@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory")
def test_a_context_that_does_not_fit_memory_is_told_as_such(tmp_path: Path) -> None:
    child = generation_child(
        pico_gguf(tmp_path / "m.gguf", n_ctx=1 << 20).path, replace(SMALL, n_ctx=1 << 20, slots=64), 1 << 20
    )
    limited = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32));"
        "runpy.run_module('locum.runtime.llamacpp_child', run_name='__main__')"
    )
    process = LlamaProcess(child, command=[sys.executable, "-c", limited])
    with pytest.raises(DeviceError, match="64 slots of 1,048,576 tokens") as caught:
        process.start()
    assert caught.value.code == "runtime-memory"
    process.close()


def test_a_damaged_gguf_never_reaches_the_engine(tmp_path: Path, pico: PicoDecoder) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(ModelFileError):
        LlamaGenerator(bad)
    with pytest.raises(ModelFileError):
        LlamaGenerator(pico.path, EngineSettings(draft=bad))
    with pytest.raises(ModelFileError):
        LlamaGenerator(pico.path, EngineSettings(adapters={"a": bad}))


def test_no_such_local_model() -> None:
    with pytest.raises(SourceError):
        open_generator(LlmSpec(model="/no/such/file.gguf"))


SPIN = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HOG = "{% set x = 'x' * 999999999 %}{{ x * 9 }}"
FAR = "{% for a in range(99999999) %}x{% endfor %}"


@pytest.mark.engines
@pytest.mark.parametrize("loop", [SPIN, HOG, FAR], ids=["time", "memory", "range"])
def test_fault_21_a_template_that_never_ends_on_one_message_is_stopped_for_that_one_alone(
    loop: str, tmp_path: Path
) -> None:
    template = "{% if messages[-1]['content'] == 'spin' %}" + loop + "{% endif %}" + CHATML
    model = open_model(pico_gguf(tmp_path / "m.gguf", template=template, n_ctx=2048).path, replace(SMALL, n_ctx=2048))
    spinning = replace(TALK, messages=(Message("user", "spin"),))
    try:
        text, pid = model.complete(TALK).text, model.process.pid
        with ThreadPoolExecutor(2) as pool:
            neighbour = pool.submit(model.complete, replace(RAW, max_tokens=1500))
            for ask in (model.complete, model.render, model.count_tokens):
                start_s = time.monotonic()
                assert code_of_call(ask, spinning) == "runtime-chat-template"
                assert time.monotonic() - start_s < 4
                assert model.complete(TALK).text == text
            assert neighbour.result().output_tokens == 1500 and model.process.pid == pid
    finally:
        model.close()


def code_of_call(call: Callable[[CompletionRequest], object], request: CompletionRequest) -> str:
    with pytest.raises(LocumError) as caught:
        call(request)
    return caught.value.code


def test_a_model_that_the_gguf_package_split_answers_as_the_whole_file(tmp_path: Path) -> None:
    pico = pico_gguf(tmp_path / "whole.gguf", merges=[("a", "b")])
    library = pytest.importorskip("gguf")
    whole = library.GGUFReader(pico.path)
    writer = library.GGUFWriter(tmp_path / "pico.gguf", "llama", split_max_tensors=5)
    writer.add_token_merges(["a b"])
    for name, entry in whole.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "tokenizer.ggml.merges"):
            item = entry.types[-1] if entry.types[0] == library.GGUFValueType.ARRAY else None
            writer.add_key_value(name, entry.contents(), entry.types[0], sub_type=item)
    for tensor in whole.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first, *later = sorted(tmp_path.glob("pico-*.gguf"))
    assert later
    with closing(open_model(first, SMALL)) as model:
        assert model.complete(RAW).text == greedy(pico, RAW.prompt or "", RAW.max_tokens)


ECHO = CompletionRequest((), prompt="The \u00fcber-cat \u6771 sat", max_tokens=0, echo=True, logprobs=2)


def prompt_logprobs(pico: PicoDecoder, ids: list[int]) -> np.ndarray:
    """What NumPy gives each token of a prompt but the first."""
    return np.array([pico.log_probability(ids[:place], [ids[place]]) for place in range(1, len(ids))])


def test_a_prompt_is_given_back_with_the_log_probabilities_of_its_tokens(
    pico: PicoDecoder, model: LlamaGenerator
) -> None:
    said = model.complete(ECHO)
    ids = pico.encode(ECHO.prompt or "")
    assert (said.text, said.finish_reason, said.output_tokens, said.input_tokens) == (
        ECHO.prompt,
        "length",
        0,
        len(ids),
    )
    assert b"".join(token.token.encode("utf-8", "surrogateescape") for token in said.logprobs) == bytes(ids)
    assert np.isnan(said.logprobs[0].logprob)
    told = np.array([token.logprob for token in said.logprobs[1:]])
    assert np.allclose(told, prompt_logprobs(pico, ids), atol=0.03)
    best = pico.logits(ids)[:-1].argmax(axis=1)
    tops = [token.top[0][0].encode("utf-8", "surrogateescape") for token in said.logprobs[1:]]
    assert [top for top in tops if len(top)] == [bytes([b]) for top, b in zip(tops, best, strict=True) if len(top)]


def test_what_follows_an_echo_is_what_follows_without_and_each_token_has_its_entry(model: LlamaGenerator) -> None:
    plain = replace(RAW, logprobs=0, max_tokens=3)
    alone, said = model.complete(plain), model.complete(replace(plain, echo=True))
    assert said.text == f"{RAW.prompt}{alone.text}"
    for told, before in zip(said.logprobs[-3:], alone.logprobs, strict=True):
        assert told.token == before.token and told.logprob == pytest.approx(before.logprob, abs=1e-3)
    assert len(said.logprobs) == said.input_tokens + said.output_tokens
    with model.stream(replace(plain, echo=True)) as stream:
        chunks = list(stream)
    assert "".join(chunk.text for chunk in chunks) == said.text and chunks[0].text == RAW.prompt
    assert sum(len(chunk.logprobs) for chunk in chunks) == len(said.logprobs)


def test_prompts_that_begin_alike_have_the_same_log_probabilities_kept_or_read_anew(
    pico: PicoDecoder, model: LlamaGenerator
) -> None:
    for end in ("mice", "moon", "m"):
        asked = replace(ECHO, prompt=f"cats chase {end}")
        told = np.array([token.logprob for token in model.complete(asked).logprobs[1:]])
        assert np.allclose(told, prompt_logprobs(pico, pico.encode(asked.prompt or "")), atol=0.03)


def test_an_echo_under_an_adapter_is_the_adapters(
    pico: PicoDecoder, model: LlamaGenerator, lora: tuple[Path, Weights]
) -> None:
    asked = replace(ECHO, prompt="cats chase mice", adapter="french")
    last = model.complete(asked).logprobs[-1].logprob
    ids = pico.encode(asked.prompt or "")
    assert last == pytest.approx(pico.log_probability(ids[:-1], ids[-1:], lora[1]), abs=0.03)
    assert abs(last - pico.log_probability(ids[:-1], ids[-1:])) > 0.05


def test_a_prompt_of_ids_is_that_prompt(pico: PicoDecoder, model: LlamaGenerator) -> None:
    ids = tuple(pico.encode(RAW.prompt or ""))
    by_ids = replace(RAW, prompt="", prompt_ids=ids)
    assert model.complete(by_ids).text == model.complete(RAW).text and model.count_tokens(by_ids) == len(ids)
    assert model.complete(replace(by_ids, echo=True)).text == f"{RAW.prompt}{model.complete(RAW).text}"
    for foreign in (len(pico.tokens), -1):
        with pytest.raises(UserError) as caught:
            model.complete(replace(by_ids, prompt_ids=(*ids, foreign)))
        assert caught.value.code == "runtime-prompt-ids" and str(foreign) in caught.value.cause
    with pytest.raises(UserError) as caught:
        model.complete(replace(by_ids, prompt_ids=ids * 300))
    assert caught.value.code == "runtime-too-long"
