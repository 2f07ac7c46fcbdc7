"""Both ends of an engine's child process, played by small scripts."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import DeviceError
from locum.runtime.engine_child import EngineChild

Make = Callable[..., "Child"]


class Child(EngineChild):
    """Keeps what it hears."""

    def __init__(self, command: list[str], model: str) -> None:
        super().__init__("toy", model, command, {"n": 1}, memory_fix="less", instructions_fix="another")
        self.heard: list[dict[str, Any]] = []
        self.log: list[str] = []
        self.endings: list[str] = []
        self.over = threading.Event()
        self.start()

    def hear(self, record: dict[str, Any]) -> None:
        self.heard.append(record)

    def hear_log(self, line: str) -> None:
        self.log.append(line)

    def ended(self) -> None:
        self.endings.append(threading.current_thread().name)
        self.over.set()


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Child] = []

    def start(script: str = "", *, command: list[str] | None = None, model: str = "toy.gguf") -> Child:
        made.append(Child(command or [sys.executable, "-c", "import json, os, sys, time\n" + script], model))
        return made[-1]

    yield start
    for child in made:
        child.close()


@pytest.mark.parametrize(("megabytes", "spins"), [(None, 500), (100, 500), (491, 982), (1117, 2000)])
def test_threads_of_a_large_model_wait_longer_before_they_sleep(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, megabytes: int | None, spins: int
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    model = tmp_path / "model.gguf"
    if megabytes is not None:
        with model.open("wb") as file:
            file.truncate(megabytes * 10**6)  # sparse
    child = make("print(json.dumps({'spins': int(os.environ['GOMP_SPINCOUNT'])}))", model=str(model))
    wait_for(lambda: child.heard)
    assert child.heard == [{"spins": spins}]


def wait_for(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


ECHO = "for line in sys.stdin:\n    print(line, end='', flush=True)\n"


def test_it_reads_its_settings_first_then_what_is_sent(make: Make) -> None:
    child = make(ECHO)
    wait_for(lambda: child.heard)
    child.send({"text": "é\n"})
    wait_for(lambda: len(child.heard) == 2)
    assert child.heard == [{"n": 1}, {"text": "é\n"}]
    assert child.alive and child.pid and child.status is None


def test_what_is_no_record_is_of_the_log(make: Make) -> None:
    child = make("print('hello\\n{broken\\n[1]\\n{\"a\": 2}')\nsys.stderr.write('warned\\n')")
    assert child.over.wait(10)
    assert child.heard == [{"a": 2}]
    assert sorted(child.log) == ["[1]\n", "hello\n", "warned\n", "{broken\n"]
    assert "warned" in child.whole_log() and "hello" in child.said(10)


def test_its_end_is_told_once_by_the_thread_that_owns_it(make: Make) -> None:
    child = make("sys.exit('out of its mind')")
    assert child.over.wait(10)
    child.close()
    child.kill()
    assert child.endings == ["locum-toy"] and not child.alive
    child.send({"lost": True})


@pytest.mark.parametrize(
    ("script", "code", "cause"),
    [
        ("sys.exit('out of its mind')", "runtime-child-died", "toy ended with status 1: out of its mind"),
        ("os._exit(3)", "runtime-child-died", "toy ended with status 3: no message"),
        ("os.kill(os.getpid(), 9)", "core-child-killed", "toy was killed, most likely because memory ran out"),
        ("os.kill(os.getpid(), 4)", "runtime-instructions", "this processor lacks instructions"),
        ("os.kill(os.getpid(), 11)", "runtime-child-died", "toy ended with signal 11"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_its_death_says_how(make: Make, script: str, code: str, cause: str) -> None:
    error = make(script).death()
    assert error.code == code and error.cause.startswith(cause) and error.where == "toy.gguf"
    assert isinstance(error, DeviceError) == (code == "runtime-instructions")


def test_a_program_that_is_not_there(make: Make, tmp_path: Path) -> None:
    child = make(command=[str(tmp_path / "none")])
    assert child.over.wait(10)
    assert child.death().code == "runtime-child-start"
    assert not child.alive and child.pid is None


def test_closing_ends_it_through_its_input_and_killing_at_once(make: Make) -> None:
    polite, deaf = make(ECHO), make("print('{}', flush=True)\ntime.sleep(600)")
    wait_for(lambda: polite.heard and deaf.heard)
    polite.close()
    assert polite.status == 0
    start_s = time.monotonic()
    deaf.kill()
    assert time.monotonic() - start_s < 2 and deaf.status not in (None, 0)
    assert "stopped while it answered" in deaf.death().cause
    assert not (polite.alive or deaf.alive)


def test_a_child_that_does_not_read_its_input_is_killed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locum.runtime.engine_child._CLOSE_S", 0.2)
    child = make("print('{}', flush=True)\ntime.sleep(600)")
    wait_for(lambda: child.heard)
    child.close()
    assert child.status not in (None, 0)


def test_killed_before_it_has_begun(make: Make) -> None:
    child = make("time.sleep(600)")
    child.kill()
    assert child.over.wait(10) and not child.alive


CHILD_SIDE = """
from locum.runtime.engine_child import die_with_parent, line_to_parent
die_with_parent({parent})
send = line_to_parent()
print("printed")
os.write(1, b"written\\n")
send({{"a": 1}})
sys.stdin.read()
"""


def test_what_the_child_prints_goes_to_the_log_and_never_between_records(make: Make) -> None:
    child = make(CHILD_SIDE.format(parent=os.getpid()))
    wait_for(lambda: child.heard)
    child.close()
    assert child.heard == [{"a": 1}]
    assert sorted(child.log) == ["printed\n", "written\n"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_a_child_whose_parent_is_gone_already_ends(make: Make) -> None:
    child = make(CHILD_SIDE.format(parent=1))
    assert child.over.wait(10)
    assert child.heard == [] and child.status == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_is_for_the_parent_alone(make: Make) -> None:
    child = make(ECHO)
    wait_for(lambda: child.heard)
    assert os.getpgid(child.pid or 0) != os.getpgid(0)
    assert child.status is None
    os.kill(child.pid or 0, signal.SIGTERM)
    assert child.over.wait(10)
