"""The parent's side of llama.cpp: a child that crashes, hangs, is killed, or lies; played by small scripts."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import DeviceError, LocumError, ModelFileError
from locum.runtime.llama_client import EngineRefusedError
from locum.runtime.llama_process import LlamaProcess
from locum.runtime.llama_settings import ChildSettings
from locum.runtime.protocol import Stop

SETTINGS = ChildSettings(model="pico.gguf", n_ctx=128, slots=2)

PRELUDE = """
import json, os, signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
settings = json.loads(sys.stdin.readline())

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        ask, status = body.get("ask"), 200
        answer = {"pid": os.getpid(), "settings": settings, "echo": body, "key": self.headers["authorization"]}
        if ask == "crash":
            sys.stderr.write("the engine says: segmentation fault\\n"); sys.stderr.flush(); os._exit(3)
        elif ask == "oom": os.kill(os.getpid(), signal.SIGKILL); time.sleep(5)
        elif ask == "sigill": os.kill(os.getpid(), signal.SIGILL); time.sleep(5)
        elif ask == "hang": time.sleep(60)
        elif ask == "slow": time.sleep(0.4)
        elif ask == "fail": status, answer = 400, {"error": {"message": "cannot do that", "code": 400}}
        elif ask == "progress": return self.events(1, 0, body)
        elif ask == "events": return self.events(body["times"], body["pause_s"])
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def events(self, times, pause_s, echo=None):
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(times):
            line = b"data: " + json.dumps(echo or {"number": number}).encode() + b"\\n\\n"
            self.wfile.write(b"%x\\r\\n%b\\r\\n" % (len(line), line))
            time.sleep(pause_s)
        self.wfile.write(b"0\\r\\n\\r\\n")

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(json.dumps({"ready": {"port": server.server_port}}), flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
os._exit(0)
"""

Make = Callable[..., LlamaProcess]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[LlamaProcess] = []

    def start(script: str = PRELUDE, **options: Any) -> LlamaProcess:
        path = tmp_path / f"child{len(made)}.py"
        path.write_text(textwrap.dedent(script))
        made.append(LlamaProcess(SETTINGS, command=[sys.executable, str(path)], **options))
        return made[-1]

    yield start
    for process in made:
        process.close()


def ask(process: LlamaProcess, what: str = "ok", timeout_s: float = 30.0) -> dict[str, Any]:
    return process.post("/ask", {"ask": what}, timeout_s, slot=True)


def fails(process: LlamaProcess, what: str, timeout_s: float = 30.0) -> LocumError:
    with pytest.raises(LocumError) as caught:
        ask(process, what, timeout_s)
    return caught.value


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


def test_it_starts_when_first_asked_and_shows_its_key(make: Make) -> None:
    process = make()
    assert process.pid is None
    answer = ask(process)
    assert answer["echo"] == {"ask": "ok", "id_slot": 0}
    assert answer["settings"]["parent"] == os.getpid()
    assert len(answer["settings"]["key"]) == 64
    assert answer["key"] == "Bearer " + answer["settings"]["key"]
    assert process.pid == answer["pid"] == ask(process)["pid"]


def test_fault_89_a_crash_is_reported_to_all_who_wait_and_the_child_started_again(make: Make) -> None:
    process = make()
    first = ask(process)["pid"]
    errors: list[LocumError] = []
    waiting = threading.Thread(target=lambda: errors.append(fails(process, "hang")))
    waiting.start()
    time.sleep(0.2)
    error = fails(process, "crash")
    waiting.join()
    for failure in (error, *errors):
        assert failure.code == "runtime-child-died"
        assert "status 3" in failure.cause and "segmentation fault" in failure.cause
    assert ask(process)["pid"] != first


def test_fault_89_crashes_in_a_row_are_met_with_longer_pauses(make: Make) -> None:
    process = make()
    for _ in range(3):
        assert fails(process, "crash").code == "runtime-child-died"
    start_s = time.monotonic()
    error = fails(process, "ok")  # the third pause is 2 s: refused at once instead
    assert time.monotonic() - start_s < 1
    assert "3 times in a row" in error.cause and "next start" in error.cause
    time.sleep(1.5)
    assert ask(process)["echo"]
    assert fails(process, "crash")  # an answer in between: the pauses begin anew
    assert ask(process)["echo"]


def test_a_request_that_crashes_each_child_is_not_asked_twice(make: Make, tmp_path: Path) -> None:
    counter = tmp_path / "count"
    process = make(
        PRELUDE.replace('if ask == "crash":', f'if ask == "crash":\n            open({str(counter)!r}, "a").write("x")')
    )
    fails(process, "crash")
    assert counter.read_text() == "x"


def test_fault_36_a_kill_for_memory_is_reported(make: Make) -> None:
    error = fails(make(), "oom")
    assert error.code == "core-child-killed"
    assert "memory" in error.cause and "smaller" in error.fix


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_fault_40_a_missing_instruction_ends_the_child_only(make: Make) -> None:
    error = fails(make(), "sigill")
    assert isinstance(error, DeviceError)
    assert error.code == "runtime-instructions"


def test_a_child_that_hangs_is_replaced(make: Make) -> None:
    process = make(idle_s=0.5)
    hung = ask(process)["pid"]
    start_s = time.monotonic()
    error = fails(process, "hang")
    assert error.code == "runtime-timeout" and "did nothing" in error.cause
    assert time.monotonic() - start_s < 5
    assert not alive(hung)
    assert ask(process)["pid"] != hung


def test_neighbours_of_a_request_that_hangs_learn_that_the_child_was_stopped(make: Make) -> None:
    process = make(idle_s=1.0)
    ask(process)
    codes: list[str] = []
    threads = [
        threading.Thread(target=lambda: codes.append(fails(process, "hang").code)),
        threading.Thread(target=lambda: (time.sleep(0.3), codes.append(fails(process, "hang").code))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == ["runtime-child-died", "runtime-timeout"]


def test_a_request_that_is_left_alone_waits_while_a_neighbour_hears(make: Make) -> None:
    """As llama.cpp leaves a request alone until a neighbour's long prompt is read."""
    process = make(PRELUDE.replace("time.sleep(60)", "time.sleep(1.5)"), idle_s=0.5)
    pid = ask(process)["pid"]
    turn = process.stream("/ask", {"ask": "events", "times": 20, "pause_s": 0.1}, 20)
    events = ThreadPoolExecutor(1).submit(list, turn)
    assert ask(process, "hang")["pid"] == pid
    assert len(events.result()) == 20


def test_a_prompt_that_takes_longer_than_the_silence_allowed_is_answered(make: Make) -> None:
    process = make(idle_s=0.5)
    pid = ask(process)["pid"]
    body = {"ask": "events", "times": 12, "pause_s": 0.1}
    assert len(list(process.stream("/ask", body, 20))) == 12
    assert ask(process)["pid"] == pid
    (echo,) = process.stream("/ask", {**body, "ask": "progress"}, 20)
    assert echo["stream"] and echo["return_progress"]


def test_answers_beside_the_model_do_not_hide_a_hang(make: Make) -> None:
    """Threads that tokenize go on when the one that computes does not."""
    process = make(idle_s=1.0)
    hung = ask(process)["pid"]
    waiting = ThreadPoolExecutor(1).submit(fails, process, "hang")
    while not waiting.done():
        with contextlib.suppress(LocumError):
            process.post("/tokenize", {}, 5)
        time.sleep(0.05)
    assert "did nothing" in waiting.result().cause
    assert not alive(hung)


def test_requests_with_less_time_than_the_silence_notice_a_hang_together(make: Make) -> None:
    process = make(idle_s=1.0)
    hung = ask(process)["pid"]
    causes = [fails(process, "hang", 0.4).cause for _ in range(3)]
    assert ["did not finish" in cause for cause in causes] == [True, True, False]
    assert "did nothing" in causes[2]
    assert not alive(hung)


def test_the_time_for_an_answer_cancels_only_that_answer(make: Make) -> None:
    process = make(idle_s=10)
    pid = ask(process)["pid"]
    turn = process.stream("/ask", {"ask": "events", "times": 100, "pause_s": 0.05}, 0.5)
    with pytest.raises(LocumError, match="did not finish") as caught:
        list(turn)
    assert caught.value.code == "runtime-timeout"
    assert ask(process)["pid"] == pid


def test_waiting_in_line_does_not_kill_what_runs(make: Make) -> None:
    process = make()
    pid = ask(process)["pid"]
    turns = [process.stream("/ask", {"ask": "events", "times": 20, "pause_s": 0.02}, 20) for _ in range(2)]
    assert "busy" in fails(process, "ok", 0.05).cause
    assert [len(list(turn)) for turn in turns] == [20, 20]
    assert ask(process)["pid"] == pid


def test_a_stream_is_closed_by_another_thread_and_frees_its_slot(make: Make) -> None:
    process = make()
    turns = [process.stream("/ask", {"ask": "events", "times": 1000, "pause_s": 0.02}, 60) for _ in range(2)]
    assert next(turns[0]) == {"number": 0}
    threading.Timer(0.2, turns[0].close).start()
    start_s = time.monotonic()
    assert len(list(turns[0])) < 100
    assert time.monotonic() - start_s < 2
    turns[0].close()
    assert ask(process)["echo"]  # there is a slot
    turns[1].close()
    assert list(turns[1]) == []


def test_fault_42_limits_do_not_follow_the_wall_clock(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    process = make()
    ask(process)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert ask(process, "slow")


def test_a_request_may_fail_without_ending_the_child(make: Make) -> None:
    process = make()
    with pytest.raises(EngineRefusedError, match="cannot do that") as caught:
        ask(process, "fail")
    assert caught.value.status == 400
    pid = process.pid
    assert ask(process)["pid"] == pid


def test_closing_ends_the_child_and_a_second_close_does_nothing(make: Make) -> None:
    process = make()
    pid = ask(process)["pid"]
    process.close()
    process.close()
    assert not alive(pid)
    assert fails(process, "ok").code == "runtime-closed"


def test_closing_while_it_answers(make: Make) -> None:
    process = make()
    ask(process)
    threading.Timer(0.2, process.close).start()
    assert fails(process, "hang").code == "runtime-closed"


def test_a_child_that_never_gets_ready_is_stopped(make: Make) -> None:
    process = make("import time; time.sleep(60)", ready_s=0.3)
    assert fails(process, "ok").code == "runtime-child-start"
    assert process.pid is None


def test_a_model_that_cannot_be_loaded_says_why_and_is_not_tried_again(make: Make, tmp_path: Path) -> None:
    script = f"""
    import sys
    open({str(tmp_path / "count")!r}, "a").write("x")
    sys.stderr.write("error loading model: unknown model architecture: 'mamba9'\\n"); sys.stderr.flush()
    import time; time.sleep(0.2)
    print('{{"fatal": "RuntimeError: failed to load"}}', flush=True)
    """
    process = make(script)
    for _ in range(2):
        error = fails(process, "ok")
        assert isinstance(error, ModelFileError)
        assert error.code == "runtime-unsupported" and "mamba9" in error.cause and "qwen" in error.fix
    assert (tmp_path / "count").read_text() == "x"


NO_MEMORY = """
import json, pathlib, sys
sys.stdin.readline()
tries = pathlib.Path({tries!r})
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
sys.stderr.write({said!r} + "\\n"); sys.stderr.flush()
print(json.dumps({{"fatal": "RuntimeError: Failed to init server"}}), flush=True)
"""


@pytest.mark.parametrize(
    "said",
    [
        "E llama_init_from_model: failed to initialize the context: std::bad_alloc",
        "E cmn common_init_: failed to create context with model 'pico.gguf'",
        "E alloc_tensor_range: failed to allocate CPU buffer of size 9000000000",
    ],
)
def test_want_of_memory_is_told_as_such_and_tried_again(make: Make, tmp_path: Path, said: str) -> None:
    tries = tmp_path / "tries"
    process = make(NO_MEMORY.format(tries=str(tries), said=said))
    assert process.problem is None
    for count in (1, 2, 3):
        error = fails(process, "ok")
        assert isinstance(error, DeviceError) and error.code == "runtime-memory"
        assert "2 slots of 128 tokens" in error.cause and error.fix
        assert process.problem is error and tries.read_text() == "x" * count
    error = fails(process, "ok")  # the pause has become long: refused at once, with the reason
    assert error.code == "runtime-memory" and "the next start is in" in error.cause and tries.read_text() == "xxx"


def test_a_problem_is_over_when_the_model_is_loaded(make: Make, tmp_path: Path) -> None:
    once = NO_MEMORY.format(tries=str(tmp_path / "tries"), said="std::bad_alloc")
    process = make("import pathlib\nif not pathlib.Path(" + repr(str(tmp_path / "tries")) + ").exists():\n"
                   + textwrap.indent(once, "    ") + "    raise SystemExit(1)\n" + PRELUDE)  # fmt: skip
    assert fails(process, "ok").code == "runtime-memory" and process.problem is not None
    assert ask(process)["pid"] and process.problem is None


def test_a_model_that_is_refused_stays_a_problem(make: Make, tmp_path: Path) -> None:
    said = "E llama_model_load: error loading model: unknown model architecture: 'xlama'"
    process = make(NO_MEMORY.format(tries=str(tmp_path / "tries"), said=said))
    error = fails(process, "ok")
    assert isinstance(error, ModelFileError) and error.code == "runtime-unsupported" and process.problem is error


def test_a_check_before_the_start_refuses_for_good(make: Make) -> None:
    def check() -> None:
        raise ModelFileError("runtime-chat-template", "hostile")

    process = make(check=check)
    for _ in range(2):
        assert fails(process, "ok").code == "runtime-chat-template"
    assert process.pid is None


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
        "from locum.runtime.llama_process import LlamaProcess\n"
        "from locum.runtime.llama_settings import ChildSettings\n"
        "process = LlamaProcess(ChildSettings('m', 64), command=[sys.executable, sys.argv[1]])\n"
        "print(process.post('/ask', {}, 30)['pid'], flush=True)\n"
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


def test_a_stop_ends_the_wait_for_a_slot_and_for_the_first_event_within_a_second(make: Make) -> None:
    process = make()
    pid = ask(process)["pid"]
    stops = [Stop() for _ in range(3)]
    errors: dict[int, LocumError] = {}

    def begin(number: int) -> None:
        with pytest.raises(LocumError) as caught:
            process.stream("/ask", {"ask": "hang"}, 30, stops[number])
        errors[number] = caught.value

    threads = [threading.Thread(target=begin, args=[number]) for number in range(3)]  # the third finds no slot
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for number in (2, 0, 1):
        start_s = time.monotonic()
        stops[number].set()
        threads[number].join(5)
        assert time.monotonic() - start_s < 1
        assert errors[number].code == "runtime-closed" and "stopped" in errors[number].cause
    assert ask(process)["pid"] == pid, "the child did nothing wrong, and its slots are free again"


def comes(condition: Callable[[], object], limit_s: float = 15.0) -> None:
    """Wait until something holds."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to be"
        time.sleep(0.005)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_fault_11_a_child_that_died_is_a_problem_until_another_is_loaded_though_nobody_asks(
    make: Make, number: signal.Signals
) -> None:
    process = make(PRELUDE.replace('print(json.dumps({"ready"', 'time.sleep(0.3)\nprint(json.dumps({"ready"'))
    assert process.problem is None, "nobody asked for it yet"
    first = ask(process)["pid"]
    assert process.problem is None
    os.kill(first, number)
    comes(lambda: process.problem is not None)
    comes(lambda: process.problem is None)
    second = process.pid
    assert second not in (None, first) and ask(process)["pid"] == second


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_fault_89_a_child_that_dies_again_and_again_is_started_with_growing_pauses(make: Make, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    noted = f"open({str(starts)!r}, 'a').write(str(time.monotonic()) + ' ')\n"
    process = make(PRELUDE.replace("class Handler", noted + "class Handler"))
    for died in range(1, 4):
        pid = ask(process)["pid"] if died == 1 else process.pid
        os.kill(pid or 0, signal.SIGKILL)
        comes(lambda: process.problem is not None)
        comes(lambda: process.problem is None)
    times_s = [float(each) for each in starts.read_text().split()]
    pauses_s = [after - before for before, after in itertools.pairwise(times_s)]
    assert len(pauses_s) == 3 and pauses_s[0] > 0.5 and pauses_s[1] > 1 and pauses_s[2] > 2


def test_fault_89_a_closed_process_is_not_started_again(make: Make) -> None:
    process = make()
    pid = ask(process)["pid"]
    os.kill(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    comes(lambda: process.problem is not None)
    process.close()
    time.sleep(0.8)
    assert process.pid is None and process.problem is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="an environment is read from /proc")
def test_fault_21_an_engines_process_sees_no_secret(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-one")
    monkeypatch.setenv("SOME_PROVIDER", "secret-two")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    seen = Path(f"/proc/{ask(make())['pid']}/environ").read_bytes()
    assert b"PATH=" in seen and b"OMP_WAIT_POLICY=passive" in seen and b"secret" not in seen
