"""The parent's side of llama.cpp: a child that crashes, hangs, is killed, or lies; played by small scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from locum.core.errors import DeviceError, LocumError, ModelFileError, SourceError
from locum.runtime import CompletionRequest, Message, open_classifier, open_generator
from locum.runtime.llamacpp import LlamaGenerator, LlamaProcess
from locum.runtime.llamacpp_child import ChildSettings
from locum.runtime.memory import resident_mb
from locum.runtime.model_files import seal
from locum.schema.task import LlmSpec

SETTINGS = ChildSettings(model="pico.gguf", n_ctx=128, pooling=None, threads=1, parent=0)

PRELUDE = """
import json, os, signal, sys, time
settings = json.loads(sys.stdin.readline())
def say(**record): print(json.dumps(record), flush=True)
say(ready={"pid": os.getpid()})
for line in sys.stdin:
    request = json.loads(line)
    ask = request["body"].get("ask")
    if ask == "crash": sys.stderr.write("the engine says: segmentation fault\\n"); os._exit(3)
    elif ask == "oom": os.kill(os.getpid(), signal.SIGKILL)
    elif ask == "sigill": os.kill(os.getpid(), signal.SIGILL)
    elif ask == "hang": time.sleep(60)
    elif ask == "slow": time.sleep(0.3)
    elif ask == "fail": say(id=request["id"], error="cannot do that"); continue
    elif ask == "long": say(id=request["id"], error="request (999) exceeds the available context size (128)"); continue
    say(id=request["id"], result={"pid": os.getpid(), "settings": settings, "echo": request["body"]})
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[LlamaProcess]:
    made = scripted(tmp_path, PRELUDE)
    yield made
    made.close()


def scripted(tmp_path: Path, script: str, ready_s: float = 20.0) -> LlamaProcess:
    path = tmp_path / "child.py"
    path.write_text(textwrap.dedent(script))
    return LlamaProcess(SETTINGS, ready_s=ready_s, command=[sys.executable, str(path)])


def fails(process: LlamaProcess, ask: str, timeout_s: float = 20.0) -> LocumError:
    with pytest.raises(LocumError) as caught:
        process.ask("chat", {"ask": ask}, timeout_s)
    return caught.value


def test_it_starts_when_first_asked_and_answers(process: LlamaProcess) -> None:
    assert process.pid is None
    answer = process.ask("chat", {"ask": "ok"}, 20)
    assert answer["echo"] == {"ask": "ok"}
    assert answer["settings"]["parent"] == os.getpid()
    assert process.pid == answer["pid"]
    assert process.ask("chat", {}, 20)["pid"] == answer["pid"]


def test_a_crash_is_reported_and_the_child_started_once_again(process: LlamaProcess) -> None:
    first = process.ask("chat", {}, 20)["pid"]
    error = fails(process, "crash")
    assert error.code == "runtime-child-died"
    assert "status 3" in error.cause and "segmentation fault" in error.cause
    assert process.ask("chat", {}, 20)["pid"] != first


def test_two_crashes_in_a_row_end_it(process: LlamaProcess) -> None:
    fails(process, "crash")
    fails(process, "crash")
    assert fails(process, "ok").code == "runtime-child-died"
    assert process.pid is None


def test_fault_36_a_kill_for_memory_is_reported(process: LlamaProcess) -> None:
    error = fails(process, "oom")
    assert error.code == "core-child-killed"
    assert "memory" in error.cause and "smaller" in error.fix


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_fault_40_a_missing_instruction_ends_the_child_only(process: LlamaProcess) -> None:
    error = fails(process, "sigill")
    assert isinstance(error, DeviceError)
    assert error.code == "runtime-instructions"


def test_fault_29_an_endless_template_is_stopped_by_the_time_limit(process: LlamaProcess) -> None:
    hung = process.ask("chat", {}, 20)["pid"]
    start_s = time.monotonic()
    assert fails(process, "hang", 0.3).code == "runtime-timeout"
    assert time.monotonic() - start_s < 5
    assert not alive(hung)
    assert process.ask("chat", {}, 20)["pid"] != hung


def test_waiting_in_line_does_not_kill_what_runs(process: LlamaProcess) -> None:
    pid = process.ask("chat", {}, 20)["pid"]
    answers: list[int] = []
    running = threading.Thread(target=lambda: answers.append(process.ask("chat", {"ask": "slow"}, 20)["pid"]))
    running.start()
    time.sleep(0.1)
    assert "busy" in fails(process, "ok", 0.02).cause
    running.join()
    assert answers == [pid]


def test_fault_42_limits_do_not_follow_the_wall_clock(process: LlamaProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    process.ask("chat", {}, 20)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert process.ask("chat", {"ask": "slow"}, 20)


def test_a_request_may_fail_without_ending_the_child(process: LlamaProcess) -> None:
    assert fails(process, "fail").code == "runtime-engine-failed"
    pid = process.pid
    assert fails(process, "long").code == "runtime-too-long"
    assert process.ask("chat", {}, 20)["pid"] == pid


def test_closing_ends_the_child_and_a_second_close_does_nothing(process: LlamaProcess) -> None:
    pid = process.ask("chat", {}, 20)["pid"]
    process.close()
    process.close()
    assert not alive(pid)
    assert fails(process, "ok").code == "runtime-closed"


def test_a_child_that_never_gets_ready_is_stopped(tmp_path: Path) -> None:
    process = scripted(tmp_path, "import time; time.sleep(60)", ready_s=0.3)
    assert fails(process, "ok").code == "runtime-child-start"
    assert process.pid is None
    process.close()


def test_a_child_that_cannot_load_says_why(tmp_path: Path) -> None:
    script = """
    import sys
    sys.stderr.write("error loading model: unknown model architecture: 'mamba9'\\n"); sys.stderr.flush()
    import time; time.sleep(0.2)
    print('{"fatal": "RuntimeError: failed to load"}', flush=True)
    """
    process = scripted(tmp_path, script)
    error = fails(process, "ok")
    assert isinstance(error, ModelFileError)
    assert error.code == "runtime-unsupported" and "mamba9" in error.cause and "qwen" in error.fix
    process.close()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    process = LlamaProcess(SETTINGS, command=[str(tmp_path / "none")])
    assert fails(process, "ok").code == "runtime-child-start"
    process.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX")
def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    """The parent is killed with SIGKILL, so nothing of it can clean up."""
    child = tmp_path / "child.py"
    child.write_text(PRELUDE)
    parent = (
        "import sys, time\n"
        "from locum.runtime.llamacpp import LlamaProcess\n"
        "from locum.runtime.llamacpp_child import ChildSettings\n"
        "process = LlamaProcess(ChildSettings('m', 64, None, 1, 0), command=[sys.executable, sys.argv[1]])\n"
        "print(process.ask('chat', {}, 30)['pid'], flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent, str(child)], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        pid = int(running.stdout.readline())
        assert alive(pid)
        running.send_signal(signal.SIGKILL)
    deadline_s = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        if Path("/proc/self").exists():
            return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def test_a_damaged_gguf_never_reaches_the_engine(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(ModelFileError):
        LlamaGenerator(tmp_path / "bad.gguf")


def test_no_such_local_model() -> None:
    with pytest.raises(SourceError):
        open_generator(LlmSpec(model="/no/such/file.gguf"))


def head(folder: Path, gguf: Path, width: int, **spec: object) -> None:
    folder.mkdir()
    (folder / "model.gguf").write_bytes(gguf.read_bytes())
    np.savez(folder / "head.npz", weight=np.ones((2, width), np.float32), bias=np.zeros(2, np.float32))
    fields: dict[str, object] = {
        "name": "m",
        "engine": "llamacpp",
        "family": "decoder",
        "precision": "q8_0",
        "labels": ("a", "b"),
        "weights": "model.gguf",
        "max_tokens": 16,
        "parameters": 1,
        "pooling": "last",
    }
    seal(folder, **{**fields, **spec})


@pytest.mark.models
@pytest.mark.engines
def test_a_real_model_writes_through_its_own_template(smollm2: Path) -> None:
    generator = open_generator(LlmSpec(model=str(smollm2), timeout_s=120), threads=1, n_ctx=512)
    try:
        request = CompletionRequest((Message("user", "What is the capital of France? One word."),), max_tokens=8)
        first, second = generator.complete(request), generator.complete(request)
        assert "Paris" in first.text
        assert first.text == second.text
        assert first.input_tokens > 10 and 0 < first.output_tokens <= 8
        assert isinstance(generator, LlamaGenerator)
        assert (resident_mb(generator.process.pid) or 0) > 50
        with pytest.raises(LocumError) as caught:
            generator.complete(CompletionRequest((Message("user", "word " * 3000),)))
        assert caught.value.code == "runtime-too-long"
    finally:
        generator.close()


@pytest.mark.models
@pytest.mark.engines
def test_fault_30_a_head_of_another_width_is_refused(tmp_path: Path, smollm2: Path) -> None:
    head(tmp_path / "m", smollm2, 100)
    with pytest.raises(ModelFileError, match=r"head\.npz"):
        open_classifier(tmp_path / "m")
