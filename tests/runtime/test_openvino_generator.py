"""Text through OpenVINO: many requests at once over one child process, which is played by a script but for the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from locum.core.errors import LocumError, ModelFileError, UserError
from locum.runtime import openvino_generator
from locum.runtime.completion import CompletionRequest, Tool
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.openvino_child import OpenVinoSettings
from locum.runtime.openvino_generator import OpenVinoGenerator, check_options, request_fields
from locum.runtime.protocol import Generator, Stop
from locum.schema.message import Message, ToolCall

ASK = CompletionRequest((Message("user", "Name a colour."),), max_tokens=6)

CHILD = """\
import json, sys, threading, time, queue
settings = json.loads(sys.stdin.readline())
mode = sys.argv[1]
def say(**record):
    print(json.dumps(record), flush=True)
if mode == "fatal":
    say(fatal="gguf_tensor_to_f16 failed")
    sys.exit(1)
say(ready=True)
inbox = queue.SimpleQueue()
def read():
    for line in sys.stdin:
        inbox.put(json.loads(line))
    inbox.put(None)
threading.Thread(target=read, daemon=True).start()
jobs = {}
while True:
    while not inbox.empty() or not jobs:
        record = inbox.get()
        if record is None:
            sys.exit(0)
        if "stop" in record:
            jobs.pop(record["stop"], None)
            continue
        number = record["id"]
        if "path" in record:
            words = json.dumps(record["body"]).split()
            say(id=number, answer={"prompt": "p " * len(words), "tokens": words, "content": "t"})
            continue
        if mode == "die":
            sys.exit("out of its mind")
        if mode == "hang":
            time.sleep(600)
        if mode == "long":
            say(id=number, refused="the prompt has 900 tokens, the context 512", code="runtime-too-long")
            continue
        say(id=number, begun=4)
        jobs[number] = [record, 0]
    for number, job in list(jobs.items()):
        job[1] += 1
        if mode == "beat" and job[1] < 20:
            say(beat=True)
            time.sleep(0.02)
            continue
        say(id=number, piece=f"w{job[1]} ", tokens=[["w", -0.5]] if job[0]["logprobs"] else [])
        if job[1] >= min(job[0]["config"]["max_new_tokens"], 500 if mode == "slow" else 3) or mode == "beat":
            done = {"input_tokens": 4, "output_tokens": job[1], "finish_reason": "stop"}
            say(id=number, done=done)
            del jobs[number]
    time.sleep(0.02 if mode == "slow" else 0)
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A generator whose child plays a part."""
    header = SimpleNamespace(context_length=512, metadata={"tokenizer.chat_template": "{{ messages }}"}, tensors=[])
    monkeypatch.setattr(openvino_generator, "check_gguf", lambda _path: header)
    monkeypatch.setattr(openvino_generator, "reencoded", lambda path, _header, _exact: path)
    monkeypatch.setattr(openvino_generator, "check_template", lambda _templates, _where: None)
    (tmp_path / "child.py").write_text(CHILD)
    opened: list[OpenVinoGenerator] = []

    def make(mode: str = "plain", **settings: Any) -> OpenVinoGenerator:
        command = [sys.executable, str(tmp_path / "child.py"), mode]
        chosen = EngineSettings(**{"timeout_s": 20, **settings})
        opened.append(OpenVinoGenerator(tmp_path / "m.gguf", chosen, command=command))
        return opened[-1]

    yield make
    for generator in opened:
        generator.close()


def test_answers_come_whole_and_in_pieces(start: Any) -> None:
    generator = start()
    assert isinstance(generator, Generator) and generator.model == "m" and generator.n_ctx == 512
    assert generator.pid is None  # nothing is started before it is asked
    whole = generator.complete(ASK)
    assert (whole.text, whole.input_tokens, whole.output_tokens) == ("w1 w2 w3 ", 4, 3)
    chunks = list(generator.stream(ASK))
    assert [chunk.text for chunk in chunks] == ["w1 ", "w2 ", "w3 ", ""]
    assert chunks[-1].final is not None and chunks[-1].final.text == whole.text
    scored = generator.complete(replace(ASK, logprobs=0))
    assert [(token.token, token.logprob) for token in scored.logprobs] == [("w", -0.5)] * 3


def test_requests_are_at_work_at_the_same_time(start: Any) -> None:
    generator = start("slow")
    streams = [generator.stream(ASK) for _ in range(3)]
    assert [next(stream).text for stream in streams] == ["w1 "] * 3  # none of them has ended
    assert [next(stream).text for stream in reversed(streams)] == ["w2 "] * 3
    with ThreadPoolExecutor(4) as pool:
        texts = {completion.text for completion in pool.map(generator.complete, [replace(ASK, max_tokens=2)] * 8)}
    assert texts == {"w1 w2 "}


def test_closing_a_stream_ends_it_alone_and_at_once(start: Any) -> None:
    generator = start("slow")
    stream, other = generator.stream(replace(ASK, max_tokens=400)), generator.stream(replace(ASK, max_tokens=30))
    assert next(stream).text == "w1 "
    start_s = time.monotonic()
    threading.Timer(0.05, stream.close).start()
    assert len(list(stream)) < 100
    assert time.monotonic() - start_s < 1.0
    stream.close()
    assert len(list(other)) == 31  # all of its pieces, and its end
    with generator.stream(ASK) as again:
        assert next(again).text == "w1 "


def test_a_stop_ends_the_wait_for_the_beginning_within_a_second(start: Any) -> None:
    generator = start("hang")
    generator.start()
    stop = Stop()
    threading.Timer(0.2, stop.set).start()
    start_s = time.monotonic()
    with pytest.raises(LocumError) as caught:
        generator.stream(ASK, stop)
    assert caught.value.code == "runtime-closed" and time.monotonic() - start_s < 1.2


def test_fault_29_a_hanging_engine_is_killed_and_the_next_request_gets_a_new_one(start: Any) -> None:
    generator = start("hang", timeout_s=30, idle_s=0.5)
    generator.start()
    first = generator.pid
    with pytest.raises(LocumError) as caught:
        generator.complete(ASK)
    assert caught.value.code == "runtime-timeout" and "did nothing" in str(caught.value)
    generator.start()
    assert generator.pid not in (first, None)


def test_a_long_silence_of_an_answer_is_no_hang_while_the_engine_works(start: Any) -> None:
    assert start("beat", idle_s=0.2).complete(ASK).text == "w20 "


def test_an_answer_that_takes_too_long_is_stopped_and_the_engine_lives_on(start: Any) -> None:
    generator = start("slow", timeout_s=0.5)
    generator.start()
    pid = generator.pid
    with pytest.raises(LocumError) as caught:
        generator.complete(replace(ASK, max_tokens=400))
    assert caught.value.code == "runtime-timeout" and "did not finish" in str(caught.value)
    assert generator.complete(replace(ASK, max_tokens=2)).text == "w1 w2 "
    assert generator.pid == pid


def test_an_engine_that_dies_says_how_and_is_started_again(start: Any) -> None:
    generator = start("die")
    for _ in range(2):
        with pytest.raises(LocumError) as caught:
            generator.complete(ASK)
        assert caught.value.code == "runtime-child-died" and "out of its mind" in str(caught.value)


def test_a_file_that_it_cannot_read_is_refused_and_not_tried_again(start: Any) -> None:
    generator = start("fatal")
    for _ in range(2):
        with pytest.raises(ModelFileError) as caught:
            generator.start()
        assert caught.value.code == "runtime-unsupported" and "llamacpp" in caught.value.fix
        assert "gguf_tensor_to_f16" in str(caught.value)


def test_a_prompt_that_is_too_long_is_an_error_and_not_the_end(start: Any) -> None:
    generator = start("long")
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            generator.stream(ASK)
        assert caught.value.code == "runtime-too-long"


def test_without_a_chat_template_messages_are_refused(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = SimpleNamespace(context_length=512, metadata={}, tensors=[])
    monkeypatch.setattr(openvino_generator, "check_gguf", lambda _path: bare)
    generator = start()
    with pytest.raises(UserError) as caught:
        generator.stream(ASK)
    assert caught.value.code == "runtime-chat-template"
    assert generator.complete(CompletionRequest((), prompt="a")).text == "w1 w2 w3 "


def test_closed(start: Any) -> None:
    generator = start("slow")
    stream = generator.stream(replace(ASK, max_tokens=400))
    generator.close()
    generator.close()
    with pytest.raises(LocumError) as caught:
        list(stream)
    assert caught.value.code == "runtime-closed"
    with pytest.raises(LocumError) as caught:
        generator.complete(ASK)
    assert caught.value.code == "runtime-closed"


@pytest.mark.parametrize(
    "option",
    [{"logprobs": 2}, {"grammar": 'root ::= "a"'}, {"tools": (Tool("f", "", {}),)}, {"adapter": "mine"}],
)
def test_what_it_cannot_do_is_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        check_options(CompletionRequest((Message("user", "a"),), **option))
    assert caught.value.code == "runtime-unsupported-option"
    assert next(iter(option)) in str(caught.value)


def test_settings_of_llama_cpp_alone_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        OpenVinoGenerator(tmp_path / "m.gguf", EngineSettings(draft=tmp_path / "d.gguf", lookup_tokens=4))
    assert caught.value.code == "runtime-unsupported-option" and "draft, lookup" in str(caught.value)


def test_a_file_that_it_reads_inexactly_is_encoded_anew(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, frozenset[str]]] = []

    def copy(path: Path, _header: Any, exact: frozenset[str]) -> Path:
        asked.append((path, exact))
        return tmp_path / "copy.gguf"

    monkeypatch.setattr(openvino_generator, "reencoded", copy)
    generator = start()
    assert asked == [(tmp_path / "m.gguf", openvino_generator.EXACT)]
    assert not {"Q4_1", "Q4_K", "Q6_K", "Q5_0"} & openvino_generator.EXACT
    assert generator._process.settings.model == str((tmp_path / "copy.gguf").resolve())
    assert generator.model == "m"  # callers know it by the file that they gave


def test_sampling_options_are_passed_on() -> None:
    asked = CompletionRequest(
        (), prompt="Once", max_tokens=9, temperature=0.5, top_p=0.9, top_k=40, min_p=0.05, seed=7, stop=("x", ""),
        presence_penalty=0.1, frequency_penalty=0.2, repeat_penalty=1.1, logprobs=0,
    )  # fmt: skip
    assert request_fields(asked) == {
        "prompt": "Once", "stops": ["x"], "logprobs": True,
        "config": {
            "max_new_tokens": 9, "do_sample": True, "repetition_penalty": 1.1, "presence_penalty": 0.1,
            "frequency_penalty": 0.2, "temperature": 0.5, "top_p": 0.9, "min_p": 0.05, "top_k": 40, "rng_seed": 7,
            "logprobs": 1,
        },
    }  # fmt: skip
    assert request_fields(ASK)["config"]["do_sample"] is False
    json.dumps(request_fields(asked))


def test_without_a_seed_every_request_draws_its_own() -> None:
    asked = replace(ASK, temperature=1.0)
    seeds = {request_fields(asked)["config"]["rng_seed"] for _ in range(20)}
    assert len(seeds) > 10


def test_earlier_tool_calls_are_told_to_the_template() -> None:
    said = Message("assistant", "", tool_calls=(ToolCall("1", "add", "{}"),))
    (told,) = request_fields(CompletionRequest((said,)))["messages"]
    assert told["tool_calls"][0]["function"]["name"] == "add"


def test_every_slot_has_room_for_its_whole_context() -> None:
    settings = OpenVinoSettings("m.gguf", n_ctx=100, slots=3)
    assert settings.cache_blocks == 3 * 5  # of 32 tokens, and one for the end
    assert json.loads(json.dumps(settings.to_json()))["kv_type"] == "f16"


@pytest.mark.models
@pytest.mark.engines
def test_the_real_engine_keeps_caches_quantised_and_dies_with_its_parent(smollm2: Path) -> None:
    pytest.importorskip("openvino_genai")
    settings = EngineSettings(threads=1, n_ctx=256, slots=2, kv_type="q8_0", timeout_s=240)
    generator = OpenVinoGenerator(smollm2, settings)
    try:
        first = generator.complete(ASK)
        assert 0 < first.output_tokens <= 6 and first.input_tokens > 5 and first.text
        with ThreadPoolExecutor(5) as pool:  # more than there are slots
            assert all(pool.map(lambda _: generator.complete(replace(ASK, max_tokens=20)).text, range(5)))
        for option in ({"presence_penalty": 3.0}, {"messages": (), "prompt": ""}):
            with pytest.raises(UserError) as caught:
                generator.complete(replace(ASK, **option))
            assert caught.value.code == "runtime-unsupported-option"
            assert "/home/" not in str(caught.value)
        full = generator.complete(replace(ASK, max_tokens=1000, repeat_penalty=1.3, temperature=1.5, seed=3))
        assert full.input_tokens + full.output_tokens <= 256
        pieces = [chunk.text for chunk in generator.stream(replace(ASK, max_tokens=40)) if chunk.final is None]
        assert 1 < len(pieces) < 20 and "".join(pieces) == generator.complete(replace(ASK, max_tokens=40)).text
        pid = generator.pid
    finally:
        generator.close()
    assert subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode == 1


def test_fault_11_a_child_that_ends_is_a_problem_until_another_is_loaded_though_nobody_asks(start: Any) -> None:
    generator = start()
    generator.complete(ASK)
    first = generator.pid
    assert generator.problem is None and first is not None
    os.kill(first, signal.SIGTERM)
    deadline_s = time.monotonic() + 15
    while generator.problem is None and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert generator.problem is not None
    while generator.problem is not None and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert generator.problem is None and generator.pid not in (None, first)
    assert generator.complete(ASK).text == "w1 w2 w3 "
