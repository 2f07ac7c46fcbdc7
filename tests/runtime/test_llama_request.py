"""Requests in llama.cpp's words, its answers in ours, and the two ways to start it."""

from __future__ import annotations

import json
import os
import stat
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import LocumError, UserError
from locum.runtime.completion import CompletionRequest, Tool
from locum.runtime.llama_client import EngineRefusedError
from locum.runtime.llama_embed import TextVectors
from locum.runtime.llama_process import LlamaProcess
from locum.runtime.llama_request import Answer, bounded, chat_fields, check_options, refusal, sampling_fields
from locum.runtime.llama_score import token_tree
from locum.runtime.llama_settings import (
    SERVER_VARIABLE,
    ChildSettings,
    EngineSettings,
    generation_child,
    library_parameters,
    server_arguments,
)
from locum.runtime.tool_calls import CallForm, plan_calls
from locum.schema.message import Message, ToolCall

ASK = CompletionRequest((Message("user", "hi"),))


def test_every_option_is_sent_off() -> None:
    body = sampling_fields(ASK, 100, 64)
    assert body["temperature"] == 0 and body["top_k"] == 0 and body["top_p"] == 1 and body["min_p"] == 0
    assert body["presence_penalty"] == body["frequency_penalty"] == 0 and body["repeat_penalty"] == 1
    assert body["repeat_last_n"] == 0 and body["stop"] == [] and "seed" not in body
    penalised = sampling_fields(CompletionRequest((), repeat_penalty=1.1, seed=-1, stop=("", "x")), 100, 64)
    assert penalised["repeat_last_n"] == 100 and penalised["seed"] == 2**32 - 2 and penalised["stop"] == ["x"]


@pytest.mark.parametrize("seed", [-1, 0, 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1])
def test_no_seed_is_the_number_by_which_llama_means_a_random_one(seed: int) -> None:
    assert 0 <= sampling_fields(CompletionRequest((), seed=seed), 100, 64)["seed"] < 2**32 - 1


def test_a_conversation_with_tools() -> None:
    weather, clock = (Tool(name, "", {"type": "object"}) for name in ("weather", "clock"))
    messages = (
        Message("assistant", "", (ToolCall("c1", "weather", "{}"),)),
        Message("tool", "sunny", tool_call_id="c1"),
    )
    body = chat_fields(CompletionRequest(messages, tools=(weather, clock)))
    assert body["messages"][0]["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}
    assert body["messages"][1]["tool_call_id"] == "c1"
    assert len(body["tools"]) == 2 and body["tool_choice"] == "none"
    one = chat_fields(CompletionRequest(messages, tools=(weather, clock), tool_choice="clock"))
    assert [tool["function"]["name"] for tool in one["tools"]] == ["clock"]
    assert "tools" not in chat_fields(CompletionRequest(messages, tools=(weather,), tool_choice="none"))


def test_fault_74_a_hostile_schema_of_a_tool_never_reaches_llama() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(100):
        deep = {"type": "object", "properties": {"x": deep}}
    for parameters in (deep, {"type": "object", "properties": {"x": {"type": "string", "pattern": "(?=a)b"}}}):
        with pytest.raises(UserError) as caught:
            plan_calls(
                CompletionRequest((Message("user", "hi"),), tools=(Tool("t", "", parameters, True),)), CallForm()
            )
        assert caught.value.code.startswith("runtime-constraint-")


@pytest.mark.parametrize(
    "options",
    [
        {"tools": (Tool("t", "", {}),), "prompt": "x"},
        {"tools": (Tool("t", "", {}),), "grammar": "root ::= x"},
        {"grammar": "root ::= x", "json_schema": {}},
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        check_options(CompletionRequest((), **options), speculative=False)
    assert caught.value.code == "runtime-unsupported-option"


def test_an_answer_with_tool_calls_in_pieces() -> None:
    answer = Answer("m", None, 3)

    def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}

    assert answer.take(event({"role": "assistant", "content": None})) is None
    first = answer.take(event({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "w", "arguments": "{"}}]}))
    assert first is not None and first.truncated_tokens == 3
    assert (first.tool_calls[0].id, first.tool_calls[0].name, first.tool_calls[0].arguments) == ("a", "w", "{")
    second = answer.take(event({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}))
    assert second is not None and second.truncated_tokens == 0 and second.tool_calls[0].name is None
    answer.take(event({}, "tool_calls"))
    timings = {"cache_n": 4, "draft_n": 6, "draft_n_accepted": 5, "predicted_per_second": 9.876}
    answer.take({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}, "timings": timings})
    completion = answer.completion
    assert completion is not None and completion.tool_calls == (ToolCall("a", "w", "{}"),)
    assert completion.finish_reason == "tool_calls" and completion.cached_tokens == 4
    assert completion.extra == {"tokens_per_s": "9.9", "draft_tokens": "6", "draft_accepted": "5"}


def test_a_character_of_several_tokens_is_one_entry_that_says_so() -> None:
    """llama.cpp's events for \u65e5, a space and the end: the first is of three tokens, and tells of the last."""

    def event(text: str, predicted: int, data: list[int], other: list[int]) -> dict[str, Any]:
        top = [{"token": "\ufffd", "bytes": other, "logprob": -1.0}]
        entry = {"token": text, "bytes": data, "logprob": -2.0, "top_logprobs": top}
        return {"content": text, "stop": False, "tokens_predicted": predicted, "completion_probabilities": [entry]}

    answer = Answer("m", 1, 0)
    assert answer.take({"content": "", "stop": False, "tokens_predicted": 0, "prompt_progress": {}}) is None
    for told in (
        event("\u65e5", 3, [0xE6, 0x97, 0xA5], [0xA0]),
        event(" ", 4, [32], [0xE5, 0xAE]),
        event("", 5, [], [1]),
    ):
        answer.take(told)
    last = {"content": "", "stop": True, "truncated": False, "stop_type": "eos", "tokens_evaluated": 2}
    answer.take(last | {"tokens_predicted": 5, "timings": {}})
    assert answer.completion is not None and answer.completion.text == "\u65e5 "
    tokens = answer.completion.logprobs
    assert [(token.token, token.tokens, token.silent) for token in tokens] == [
        ("\u65e5", 3, False),
        (" ", 1, False),
        ("", 1, True),
    ]
    assert sum(token.tokens for token in tokens) == answer.completion.output_tokens
    assert [token.top[0][0].encode("utf-8", "surrogateescape") for token in tokens] == [b"\xa0", b"\xe5\xae", b"\x01"]


def test_log_probabilities_of_zero_have_a_floor() -> None:
    assert bounded(-3.4e38) == pytest.approx(-103.97)
    assert bounded(-2.5) == -2.5 and bounded(1e-9) == 0


def test_refusals() -> None:
    long = {"message": "…", "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 4}
    assert refusal(EngineRefusedError(400, long), "m").code == "runtime-too-long"
    assert refusal(EngineRefusedError(400, {"message": "bad"}), "m").code == "runtime-unsupported-option"
    assert refusal(EngineRefusedError(500, {}), "m").code == "runtime-engine-failed"


def test_the_tree_of_continuations() -> None:
    root = token_tree([[1, 2], [1, 3], [4], [], [1]])
    assert root.ends == [3] and list(root.following) == [1, 4]
    assert root.following[1].ends == [4] and sorted(root.following[1].following) == [2, 3]


def test_settings_are_described_and_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    described = EngineSettings.__doc__ or ""
    assert all(f"        {setting.name}: " in described for setting in fields(EngineSettings))
    for wrong in ({"slots": 0}, {"lookup_tokens": -1}, {"kv_type": "q8_0", "flash_attention": "off"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EngineSettings(**wrong)  # pyright: ignore[reportArgumentType]
    monkeypatch.setenv(SERVER_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(UserError, match="is not a program"):
        EngineSettings().binary()
    monkeypatch.setenv(SERVER_VARIABLE, "")
    assert EngineSettings().binary() is None


def everything(tmp_path: Path) -> ChildSettings:
    files = {name: tmp_path / name for name in ("draft", "one", "two")}
    settings = EngineSettings(
        n_ctx=512,
        slots=3,
        shared_cache=True,
        threads=2,
        kv_type="q8_0",
        flash_attention="on",
        draft=files["draft"],
        draft_tokens=5,
        lookup_tokens=7,
        lookup_match=3,
        reuse_chunk=64,
        adapters={"1": files["one"], "2": files["two"]},
    )
    return generation_child(tmp_path / "m.gguf", settings, 300)


def test_library_and_binary_get_the_same(tmp_path: Path) -> None:
    import xllamacpp

    child = everything(tmp_path)
    assert ChildSettings.from_json(json.loads(json.dumps(child.to_json()))) == child
    assert child.n_ctx == 300 and child.prompt_cache_mb == 0
    params = library_parameters(child, xllamacpp)
    assert (params.n_ctx, params.n_parallel, params.kv_unified) == (900, 3, True)
    assert params.cache_type_k == params.cache_type_v == xllamacpp.ggml_type.GGML_TYPE_Q8_0
    assert [(lora.path, lora.scale) for lora in params.lora_adapters] == [(path, 0.0) for path in child.adapters]
    assert params.speculative.draft.n_max == 5 and params.speculative.ngram_simple.size_m == 7
    assert len(params.speculative.types) == 2 and params.api_keys == [child.key]
    line = " ".join(server_arguments(child))
    for expected in ("-c 900 -np 3 -kvu", "-ctk q8_0 -ctv q8_0", "--spec-type draft-simple,ngram-simple", "-fa on"):
        assert expected in line
    assert f"--lora-scaled {tmp_path / 'one'}:0 --lora-scaled {tmp_path / 'two'}:0" in line
    pooled = ChildSettings("m", 128, "mean", prefix_reuse=False)
    params = library_parameters(pooled, xllamacpp)
    assert params.n_ubatch == 128 and not params.kv_unified and not params.cache_idle_slots
    assert "--embedding --pooling mean" in " ".join(server_arguments(pooled))


SERVER = """#!{python}
import json, os, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        variables = [name for name in os.environ if name.startswith("LLAMA_ARG_")]
        key = self.headers["authorization"] == "Bearer " + os.environ["LLAMA_API_KEY"]
        body = json.dumps({{"arguments": sys.argv[1:], "variables": variables, "key": key}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"0.01 I srv main: listening on http://127.0.0.1:{{server.server_port}}", file=sys.stderr, flush=True)
server.serve_forever()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a script as a program")
def test_a_configured_server_is_started_and_told_its_key_in_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "llama-server"
    program.write_text(SERVER.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "7")
    monkeypatch.setenv(SERVER_VARIABLE, str(program))
    process = LlamaProcess(generation_child(tmp_path / "m.gguf", EngineSettings(slots=1, threads=1), None))
    try:
        answer = process.post("/x", {}, 20)
        assert answer["key"] is True and answer["variables"] == []
        assert "-np" in answer["arguments"] and "Bearer" not in " ".join(answer["arguments"])
        assert process.settings.key not in " ".join(answer["arguments"])
        pid = process.pid or 0
    finally:
        process.close()
    with pytest.raises(OSError):
        os.kill(pid, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="a script as a program")
@pytest.mark.parametrize(
    ("said", "code"),
    [("error: invalid argument: -no-kvu", "runtime-child-start"), ("failed to load model", "runtime-damaged")],
)
def test_a_server_that_ends_at_once_is_not_started_again(tmp_path: Path, said: str, code: str) -> None:
    program = tmp_path / "llama-server"
    program.write_text(f"#!/bin/sh\necho x >> {tmp_path / 'count'}\necho '{said}' >&2\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    settings = EngineSettings(server_binary=program, threads=1)
    process = LlamaProcess(generation_child(tmp_path / "m.gguf", settings, None))
    for _ in range(2):
        with pytest.raises(LocumError, match=said[-12:]) as caught:
            process.post("/x", {}, 20)
        assert caught.value.code == code
    assert (tmp_path / "count").read_text() == "x\n"
    process.close()


@pytest.mark.parametrize(
    ("before", "after"), [([101], [102]), ([1], []), ([], [2]), ([], [])], ids=["cls-sep", "bos", "eos", "none"]
)
def test_a_text_over_the_limit_keeps_what_ends_every_text(
    monkeypatch: pytest.MonkeyPatch, before: list[int], after: list[int]
) -> None:
    """As a tokenizer.json cuts: the first tokens that fit, between the ones that begin and end every text."""
    sent: list[Any] = []

    def post(self: TextVectors, path: str, body: dict[str, Any], *, slot: bool = False) -> dict[str, Any]:
        if path == "/tokenize":
            return {"tokens": [*before, *(500 + k for k, _ in enumerate(body["content"].split())), *after]}
        sent.append(body["input"])
        return {"data": [{"embedding": ""}], "usage": {"prompt_tokens": len(body["input"])}}

    monkeypatch.setattr(TextVectors, "_post", post)
    vectors = TextVectors.__new__(TextVectors)
    vectors.max_tokens, vectors._normalise, vectors._frame, vectors._wordpiece = 8, -1, None, None
    around = len(before) + len(after)
    _, read, dropped = vectors.vector("a b c d e f g h i j k l")
    assert sent[-1] == [*before, *range(500, 508 - around), *after]
    assert (read, dropped) == (8, 12 + around - 8)
    vectors.vector("one two three four")  # more bytes than tokens are allowed, and yet it fits
    assert sent[-1] == [*before, 500, 501, 502, 503, *after]
