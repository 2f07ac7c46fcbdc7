"""``locum chat``: bundles, URLs, pipes, commands, Ctrl-C, and text that would steer the terminal."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from locum.cli import chat
from locum.cli.conversation import ModelPartner
from locum.runtime.completion import Completion, CompletionRequest
from locum.runtime.model_files import seal
from locum.testing import FakeGenerator, FakeUpstream, pico_linear
from locum.testing.bundles import pico_bundle
from locum.testing.pico_gguf import pico_gguf


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, run: Any) -> Callable[..., Any]:
    """Run ``locum chat`` with lines on its standard input."""

    def call(target: object, *lines: str, options: tuple[str, ...] = ()) -> Any:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return run("chat", target, *options)

    return call


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    pico_bundle(tmp_path / "bundle", threshold=0.5)
    return tmp_path / "bundle"


def partner(script: Any, **settings: Any) -> tuple[ModelPartner, FakeGenerator]:
    generator = FakeGenerator(script, **settings)
    return ModelPartner(generator, system="Be brief.", max_tokens=64, temperature=0.0, truncate=True), generator


def test_a_bundle_answers_with_route_and_confidence(say: Any, bundle: Path) -> None:
    done = say(bundle, "my card did arrive card", "", "forgot pin code blocked")
    assert done.status == 0
    assert done.stdout.splitlines() == ["card", "pin"]
    assert done.stderr.count("local · confidence 0.") == 2
    assert "first after" in done.stderr


def test_json_is_one_line_an_answer(say: Any, bundle: Path) -> None:
    done = say(bundle, "card arrive delivery", "who knows", options=("--json",))
    first, second = [json.loads(line) for line in done.stdout.splitlines()]
    assert first["output"] == "card" and first["route"] == "local" and first["confidence"] > 0.5
    assert second["route"] == "abstain" and second["output"] is None and second["reason"]
    assert {"input", "tokens_per_s", "first_token_ms", "finish_reason"} <= set(first)


def test_a_url_is_asked_with_the_whole_conversation(say: Any) -> None:
    with FakeUpstream(["blue", "red"]) as upstream:
        options = ("--model", "m", "--system", "Be brief.", "--temperature", "0", "--max-tokens", "9")
        done = say(upstream.base_url, "Name a colour.", "Another?", options=options)
        assert done.status == 0, done.stderr
        assert done.stdout.split() == ["blue", "red"]
        said = [[m["role"] for m in each.body["messages"]] for each in upstream.received]
    assert said == [["system", "user"], ["system", "user", "assistant", "user"]]


@pytest.mark.engines
def test_a_model_folder_is_opened_as_serve_opens_it(say: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    pico_gguf(folder / "pico.gguf")
    fields = {"name": "pico", "engine": "llamacpp", "family": "decoder", "precision": "f16", "labels": ()}
    seal(folder, **fields, weights="pico.gguf", max_tokens=256, parameters=1, purpose="generate")
    done = say(folder, "hello", options=("--max-tokens", "4", "--json"))
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["input"] == "hello"


def test_a_model_folder_that_writes_no_text_is_refused(say: Any, tmp_path: Path) -> None:
    pico_linear(tmp_path / "model")
    done = say(tmp_path / "model", "hello")
    assert done.status == 2 and "does not write text" in done.stderr


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("http://127.0.0.1:9/v1", (), "--model"),
        ("SmolLM2-135M-Instrukt", (), "did you mean"),
        ("nowhere.gguf", (), "nowhere.gguf"),
        ("http://127.0.0.1:9/v1", ("--model", "m", "--engine", "openvino"), "openai"),
    ],
)
def test_what_cannot_be_opened_is_the_users_mistake(say: Any, target: str, options: Any, words: str) -> None:
    done = say(target, "hello", options=options)
    assert done.status == 2
    assert words in done.stderr


def test_commands(say: Any, tmp_path: Path) -> None:
    with FakeUpstream(["one", "two", "three"]) as upstream:
        lines = ["a", "/reset", "b", "/system Speak French.", "c", "/save talk.jsonl", "/sav", "/exit", "never"]
        done = say(upstream.base_url, *(line.replace("talk", str(tmp_path / "talk")) for line in lines),
                   options=("--model", "m"))  # fmt: skip
        said = [[m["role"] for m in each.body["messages"]] for each in upstream.received]
    assert done.status == 0
    assert said == [["user"], ["user"], ["system", "user"]]
    (saved,) = [json.loads(line) for line in (tmp_path / "talk.jsonl").read_text().splitlines()]
    assert (saved["input"], saved["output"]) == ("c", "three")
    assert "did you mean /save?" in done.stderr


def test_saving_where_nothing_can_be_written_keeps_the_session(say: Any, bundle: Path) -> None:
    done = say(bundle, "/save", f"/save {bundle}/manifest.json/x", "card arrive delivery")
    assert done.status == 0
    assert "needs a file name" in done.stderr and "core-not-writable" in done.stderr
    assert done.stdout.strip() == "card"


def test_text_that_would_steer_the_terminal_is_spelled_out() -> None:
    talk, _ = partner(["\x1b[2J\x1b]0;owned\x07 hello \u202e back\r"])
    shown: list[str] = []
    turn = talk.answer("hi", shown.append)
    assert "\x1b" not in "".join(shown) and "\r" not in "".join(shown)
    assert "⟨U+001B⟩[2J" in "".join(shown) and "⟨U+202E⟩" in "".join(shown)
    assert turn.output is not None and "\x1b" in turn.output  # what is sent back is what was said


def test_figures_of_an_answer() -> None:
    talk, generator = partner(["one two three four"], chunk_s=0.01, latency_s=0.02)
    turn = talk.answer("hi", lambda _text: None)
    assert turn.output == "one two three four" and turn.output_tokens == 4
    assert turn.first_token_ms is not None and turn.first_token_ms >= 20
    assert turn.tokens_per_s is not None and 20 < turn.tokens_per_s < 110
    assert "4 tokens" in turn.line() and "tokens/s" in turn.line()
    assert generator.requests[0].messages[0].role == "system" and generator.requests[0].truncate


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said() -> None:
    talk, generator = partner(["one two three four", "again"])

    def show(text: str) -> None:
        if "two" in text:
            raise KeyboardInterrupt

    turn = talk.answer("hi", show)
    assert turn.finish_reason == "stopped" and turn.output == "one two"
    assert generator.streams[0].closed
    assert [message.content for message in talk.history] == ["Be brief.", "hi", "one two"]
    assert talk.answer("go on", lambda _text: None).output == "again"


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_ends_a_pipe_with_what_was_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    def interrupted(_request: CompletionRequest) -> str:
        raise KeyboardInterrupt

    talk, generator = partner(interrupted)
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\nnever asked\n"))
    with pytest.raises(KeyboardInterrupt):
        chat._Session(talk, None, as_json=as_json).run()
    assert len(generator.requests) == 1
    shown = capsys.readouterr()
    assert "stopped" in (shown.out if as_json else shown.err)


def test_a_cut_answer_and_a_dropped_beginning_are_said() -> None:
    cut = Completion("long", "length", 5, 1, "m", truncated_tokens=12)
    talk, _ = partner([cut])
    line = talk.answer("hi", lambda _text: None).line()
    assert "cut at --max-tokens" in line and "12 tokens" in line


def test_a_failure_leaves_the_conversation_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    from locum.core.errors import LocumError

    talk, _ = partner([LocumError("runtime-child-died", "it died"), "fine"])
    before = list(talk.history)
    with pytest.raises(LocumError):
        talk.answer("hi", lambda _text: None)
    assert talk.history == before
    session = chat._Session(talk, None, as_json=False)
    session._interactive = True
    failing, _ = partner([LocumError("runtime-child-died", "it died")])
    session._partner = failing
    session._answer("hi")
    assert "runtime-child-died" in capsys.readouterr().err


def test_interactive_ends_with_ctrl_d_and_survives_ctrl_c_at_the_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script: Iterator[Any] = iter([KeyboardInterrupt, "hello", EOFError])

    def prompt(_prompt: str) -> str:
        entry = next(script)
        if isinstance(entry, type):
            raise entry
        return entry

    monkeypatch.setattr("builtins.input", prompt)
    talk, generator = partner(["there"])
    session = chat._Session(talk, None, as_json=False)
    session._interactive = True
    session.run()
    shown = capsys.readouterr()
    assert "there" in shown.out and "Ctrl-D or /exit ends" in shown.err
    assert len(generator.requests) == 1


def test_the_stream_is_closed_from_another_thread_without_a_hang() -> None:
    talk, generator = partner([" ".join(["word"] * 500)], chunk_s=0.02)
    threading.Timer(0.1, lambda: generator.streams[0].close()).start()
    turn = talk.answer("hi", lambda _text: None)
    assert turn.output is not None and 0 < len(turn.output.split()) < 100


def test_sampling_reaches_the_engine() -> None:
    talk, generator = partner(lambda request: f"{request.temperature} {request.max_tokens}")
    assert talk.answer("hi", lambda _text: None).output == "0.0 64"
    assert isinstance(generator.requests[0], CompletionRequest)
