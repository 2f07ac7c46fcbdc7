"""Jobs in a child process: progress and errors come back, a kill is reported, nothing outlives the parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from locum.core.child import run_job
from locum.core.errors import CheckFailed, DataError, Interrupted, LocumError
from locum.core.progress import Event, listening, track

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def job(request: Path, out: Path) -> None:
    """The job under test; what it does stands in the request."""
    what = json.loads(request.read_text())["do"]
    print("noise of a library")
    if what == "work":
        with track("count", total=3, unit="step") as tracker:
            for _ in range(3):
                tracker.advance(1, loss=0.5)
        (out / "threads").write_text(os.environ["OMP_NUM_THREADS"])
        (out / "waiting").write_text(" ".join(os.environ.get(f"{name}", "-") for name in WAITING))
    elif what == "fail":
        raise CheckFailed("core-internal", "the check", fix="mend it", where="here")
    elif what == "crash":
        raise ZeroDivisionError("boom")
    elif what == "linger":
        threading.Thread(target=time.sleep, args=(60,)).start()  # what an interrupted import may leave behind
        raise ImportError("cannot load module more than once per process")
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hang":
        (out / "pid").write_text(str(os.getpid()))
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            (out / "saved").write_text("yes")
            raise


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)

    def run(what: str) -> Path:
        request = tmp_path / "request.json"
        request.write_text(json.dumps({"do": what}))
        run_job("test_child:job", request, tmp_path, log=tmp_path / "log.txt", threads=2)
        return tmp_path

    return run


def test_progress_comes_back_and_threads_are_set(start) -> None:
    heard: list[Event] = []
    with listening(heard.append):
        out = start("work")
    assert [event.kind for event in heard][0] == "start"
    assert heard[-1].kind == "done"
    assert heard[-1].done == 3
    assert (out / "threads").read_text() == "2"
    assert (out / "waiting").read_text() == "- 500"  # a waiting thread soon leaves its core to others
    assert "noise of a library" in (out / "log.txt").read_text()


def test_what_the_user_set_for_waiting_threads_holds(start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert (start("work") / "waiting").read_text() == "active -"


def test_our_errors_keep_their_class_code_and_fix(start) -> None:
    with pytest.raises(CheckFailed) as caught:
        start("fail")
    assert (caught.value.fix, caught.value.where, caught.value.exit_code) == ("mend it", "here", 3)


def test_a_crash_is_one_line_and_the_traceback_is_in_the_log(start, tmp_path: Path) -> None:
    with pytest.raises(LocumError, match="ZeroDivisionError: boom") as caught:
        start("crash")
    assert caught.value.code == "core-child-failed"
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_fault_36_a_kill_for_memory_is_reported_by_the_parent(start) -> None:
    with pytest.raises(LocumError) as caught:
        start("die")
    assert caught.value.code == "core-child-killed"


def test_a_thread_left_behind_does_not_keep_the_child(start) -> None:
    started_s = time.monotonic()
    with pytest.raises(LocumError, match="cannot load module more than once"):
        start("linger")
    assert time.monotonic() - started_s < 30


def test_fault_49_ctrl_c_lets_the_child_save(start, tmp_path: Path) -> None:
    def press() -> None:
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(Interrupted):
        start("hang")
    assert (tmp_path / "saved").read_text() == "yes"


def test_fault_44_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text('{"do": "hang"}')
    script = (
        "import pathlib, sys; from locum.core.child import run_job; p = pathlib.Path(sys.argv[1])\n"
        "run_job('test_child:job', p / 'request.json', p, log=p / 'log.txt', threads=1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    pid = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s and _alive(pid):
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().split(")")[1].split()[0] == "Z")


def test_errors_survive_a_copy_and_know_their_codes() -> None:
    import copy

    error = DataError("core-internal", "cause", fix="fix", where="x.csv:3")
    assert str(copy.copy(error)) == str(error) == "x.csv:3: cause → fix [core-internal]"
    with pytest.raises(KeyError):
        DataError("no-such-code", "cause")
