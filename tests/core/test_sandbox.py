"""Hostile programs in the sandbox: each ends within its limits, touches nothing, and leaves nothing behind.

Each wall is tried alone too, by programs that go around Python's audit hook through ``ctypes.pythonapi``, which
calls the C library. Walls that this system lacks are skipped, and named.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum.core import sandbox
from locum.core.errors import DeviceError, LocumError
from locum.core.sandbox import Limits, Outcome, run_python

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs POSIX")

SHORT = Limits(wall_s=8.0, cpu_s=2)
WALLS = ("namespaces", "landlock", "seccomp")
EVERY_WAY = [(), *[tuple(wall for wall in WALLS if wall != kept) for kept in WALLS]]
KERNEL_IDS = ["all walls", *(f"{kept} alone" for kept in WALLS)]
NATIVE = "import ctypes, os\nlibc = ctypes.pythonapi\n"


@pytest.fixture(autouse=True)
def nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy of the child's side at a path of its own tells this test's processes from all others."""
    child = tmp_path / "child_side.py"
    shutil.copy(sandbox._CHILD, child)
    (tmp_path / "folders").mkdir()
    monkeypatch.setattr(sandbox, "_CHILD", child)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "folders"))
    yield
    assert processes_of(child) == []
    assert list((tmp_path / "folders").iterdir()) == []


def processes_of(child: Path) -> list[str]:
    lines = subprocess.run(["ps", "-ewwo", "pid,stat,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in lines.splitlines() if str(child) in line]


def run(code: str, limits: Limits = SHORT) -> Outcome:
    started_s = time.monotonic()
    outcome = run_python(code, limits=limits)
    assert time.monotonic() - started_s < limits.wall_s + 5
    return outcome


@pytest.fixture
def leave_out(monkeypatch: pytest.MonkeyPatch):
    """Run without some walls; skipped where this system lacks one of the others."""

    def apply(walls: tuple[str, ...]) -> None:
        monkeypatch.setattr(sandbox, "_WITHOUT", walls)
        missing = set(WALLS) - set(walls) - set(run("").layers)
        if missing:
            pytest.skip(f"this system has no {', '.join(sorted(missing))}")

    return apply


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A folder that programs try to destroy."""
    folder = tmp_path / "canary"
    folder.mkdir()
    (folder / "bird.txt").write_text("alive")
    return folder


# how a program ends


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("print('done')", "finished", ""),
        ("", "finished", ""),
        ("1 / 0", "failed", "ZeroDivisionError: division by zero"),
        ("assert 1 == 2, 'no'", "failed", "AssertionError: no"),
        ("x = (", "failed", "SyntaxError: '(' was never closed"),
        ("raise KeyboardInterrupt", "failed", "KeyboardInterrupt"),
        ("import sys; sys.exit(0)", "exited", ""),
        ("raise SystemExit('bye')", "exited", ""),
        ("import os; os._exit(0)", "exited", ""),
        ("import atexit, os; atexit.register(os._exit, 0); 1 / 0", "failed", "ZeroDivisionError: division by zero"),
        ("import os; os.abort()", "killed", None),
        ("input()", "failed", "EOFError: EOF when reading a line"),
        ("import sys; sys.stdout.close(); sys.stderr = None", "finished", ""),
        ("def f(): f()\nf()", "failed", None),
        ("x = '\ud800'", "failed", None),
        ("x = 1\0", "failed", None),
        ("(" * 5000, "failed", None),
        ("import numpy", "failed", "ModuleNotFoundError: No module named 'numpy'"),
        ("import locum", "failed", "ModuleNotFoundError: No module named 'locum'"),
    ],
)
def test_how_programs_end(code: str, status: str, error: str | None) -> None:
    outcome = run(code)
    assert (outcome.status, outcome.ok) == (status, status == "finished"), outcome.stderr
    assert error is None or outcome.error == error


def test_output_comes_back() -> None:
    outcome = run("import sys\nprint('ä' * 3, flush=True)\nsys.stderr.write('oops')\nsys.stdout.buffer.write(b'\\xff')")
    assert (outcome.stdout, outcome.stderr) == ("äää\n\ufffd", "oops")


def test_a_program_may_use_its_folder_threads_and_an_event_loop() -> None:
    outcome = run(
        "import asyncio, os, pathlib, shutil, tempfile, threading\n"
        "pathlib.Path('a.txt').write_text('x'); os.mkdir('d'); os.rename('a.txt', 'd/a.txt'); shutil.rmtree('d')\n"
        "with tempfile.TemporaryDirectory() as folder: open(folder + '/f', 'w').close()\n"
        "threading.Thread(target=print, args=('thread',)).start()\n"
        "asyncio.run(asyncio.sleep(0))\n"
        "print(os.listdir('.'), __name__)"
    )
    assert outcome.ok, outcome.stderr
    assert set(outcome.stdout.split("\n")) == {"thread", "[] program", ""}


def test_runs_at_once_do_not_mix() -> None:
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: run(f"open('x', 'x'); print({i})").stdout}))
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: f"{i}\n" for i in range(6)}


def test_sets_have_the_same_order_in_every_run() -> None:
    code = "print(list({'a', 'b', 'c', 'd', 'e', 'f'}))"
    assert run(code).stdout == run(code).stdout


# limits


def test_an_endless_loop_is_out_of_time() -> None:
    outcome = run("while True: pass", Limits(wall_s=100, cpu_s=1))
    assert outcome.status == "timeout"
    assert outcome.wall_s < 90  # its processor time ended it


def test_a_sleeper_is_out_of_time() -> None:
    outcome = run("import time; print('zzz', flush=True); time.sleep(600)", Limits(wall_s=1.0))
    assert (outcome.status, outcome.stdout) == ("timeout", "zzz\n")


def test_a_program_that_ignores_the_signal_is_killed() -> None:
    code = "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert run(code, Limits(wall_s=20, cpu_s=1)).status == "killed"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output_is_cut(stream: str) -> None:
    outcome = run(f"import sys\nwhile True: sys.{stream}.write('x' * 10000)", Limits(output_bytes=100_000))
    assert outcome.status == "output"
    assert len(outcome.stdout) + len(outcome.stderr) == 100_000


def test_ten_gigabytes_are_refused() -> None:
    outcome = run("x = bytearray(10 * 2**30)")
    assert (outcome.status, outcome.error) == ("failed", "MemoryError")


def test_a_thousand_threads_are_refused() -> None:
    code = "import threading, time\nfor _ in range(1000): threading.Thread(target=time.sleep, args=(60,)).start()"
    outcome = run(code, Limits(wall_s=8.0, cpu_s=2, memory_mb=256))
    assert (outcome.status, outcome.error) == ("failed", "RuntimeError: can't start new thread")


def test_files_and_their_number_are_limited() -> None:
    assert "OSError" in run("open('big', 'wb').write(bytes(64 << 20))", Limits(files_mb=4)).error
    assert "Too many open files" in run("files = [open('x', 'w') for _ in range(1000)]").error


def test_many_files_do_not_fill_the_disk(leave_out) -> None:
    leave_out(("landlock", "seccomp"))
    outcome = run("for i in range(20): open(str(i), 'wb').write(bytes(1 << 20))", Limits(files_mb=4))
    assert "No space left" in outcome.error


def test_folders_nested_deep_and_closed_are_deleted(leave_out) -> None:
    code = (
        "import os\n"
        "for _ in range(1500): os.mkdir('d'); os.chdir('d')\n"
        "os.mkdir('closed', 0); open('file', 'w').close()"
    )
    leave_out(("namespaces",))  # in a real folder, not on a RAM disk
    outcome = run(code, Limits(wall_s=20))
    assert outcome.ok, outcome.stderr


# walls


def test_the_walls_of_this_system_are_named() -> None:
    outcome = run("")
    assert outcome.layers[-1] == "audit hook"
    if sys.platform == "linux":
        assert outcome.isolated, outcome.layers


def test_without_the_kernel_it_says_that_it_is_weak(leave_out) -> None:
    leave_out(WALLS)
    outcome = run("")
    assert outcome.layers == ("audit hook",)
    assert not outcome.isolated


@pytest.mark.parametrize("without", [*EVERY_WAY, WALLS], ids=[*KERNEL_IDS, "audit hook alone"])
@pytest.mark.parametrize(
    "bomb",
    [
        "import os\nwhile True: os.fork()",
        "import os\nfor _ in range(2000):\n    try: os.fork()\n    except OSError: pass\nraise OSError('refused')",
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])",
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
        "import os\nos.system('sleep 600 &')",
    ],
    ids=["bomb", "stubborn bomb", "subprocess", "multiprocessing", "shell"],
)
def test_processes_are_refused(leave_out, without: tuple[str, ...], bomb: str) -> None:
    leave_out(without)
    assert run(bomb).status in ("failed", "timeout")


@pytest.mark.parametrize("without", [(), ("landlock", "seccomp"), ("namespaces", "landlock")], ids=str)
def test_a_native_fork_bomb_ends_with_the_program(leave_out, without: tuple[str, ...]) -> None:
    leave_out(without)
    started_s = time.monotonic()
    outcome = run(f"{NATIVE}for _ in range(200):\n    libc.fork()\nimport time\ntime.sleep(600)", Limits(wall_s=2.0))
    assert outcome.status in ("timeout", "failed", "killed")
    assert time.monotonic() - started_s < 10


@pytest.mark.parametrize("without", [*EVERY_WAY, WALLS], ids=[*KERNEL_IDS, "audit hook alone"])
def test_files_outside_are_not_changed(leave_out, without: tuple[str, ...], canary: Path) -> None:
    leave_out(without)
    for attack in (
        f"import shutil; shutil.rmtree({str(canary)!r})",
        f"import os; os.remove({str(canary / 'bird.txt')!r})",
        f"import os; os.chdir('/'); os.remove({str(canary / 'bird.txt')[1:]!r})",
        f"open({str(canary / 'bird.txt')!r}, 'w')",
        f"open({str(canary / 'new.txt')!r}, 'w')",
        f"import os; os.rename({str(canary)!r}, 'mine')",
        f"import os; os.truncate({str(canary / 'bird.txt')!r}, 0)",
        f"import os; os.chmod({str(canary)!r}, 0)",
        f"import os; os.symlink({str(canary)!r}, 'link'); os.remove('link/bird.txt')",
        f"import os; os.remove('bird.txt', dir_fd=os.open({str(canary)!r}, os.O_RDONLY))",
    ):
        outcome = run(attack)
        assert outcome.status == "failed", attack
        assert (canary / "bird.txt").read_text() == "alive", attack
    assert [path.name for path in canary.iterdir()] == ["bird.txt"]
    assert canary.stat().st_mode & 0o700


@pytest.mark.parametrize("without", [("landlock", "seccomp"), ("namespaces", "seccomp")], ids=["mounts", "landlock"])
def test_native_deletion_is_stopped_by_the_kernel(leave_out, without: tuple[str, ...], canary: Path) -> None:
    leave_out(without)
    path = str(canary / "bird.txt").encode()
    outcome = run(f"{NATIVE}print(libc.unlink({path!r}), libc.truncate({path!r}, 0), libc.open({path!r}, 1))")
    assert outcome.stdout == "-1 -1 -1\n"
    assert (canary / "bird.txt").read_text() == "alive"


def test_native_changes_of_permissions_are_stopped_by_the_kernel(leave_out, canary: Path) -> None:
    for without in ((), ("landlock", "seccomp"), ("namespaces",)):
        leave_out(without)
        path = str(canary).encode()
        outcome = run(
            f"{NATIVE}print(libc.chmod({path!r}, 0), libc.chown({path!r}, 1, 1), libc.utimes({path!r}, None))"
        )
        assert outcome.stdout == "-1 -1 -1\n", without
        assert canary.stat().st_mode & 0o700


def test_only_python_can_be_read(leave_out, canary: Path) -> None:
    leave_out(("namespaces", "seccomp"))
    for path in (canary / "bird.txt", Path(__file__), Path("/etc/passwd"), Path("/proc/self/environ")):
        assert "Permission denied" in run(f"open({str(path)!r}).read()").error


@pytest.mark.parametrize("without", [*EVERY_WAY, WALLS], ids=[*KERNEL_IDS, "audit hook alone"])
def test_the_network_is_shut(leave_out, without: tuple[str, ...], tmp_path: Path) -> None:
    leave_out(without)
    local = str(tmp_path / "s")
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(local[-100:] if len(local) > 100 else local)
        unix.listen()
        port = listener.getsockname()[1]
        for attack in (
            f"import socket; socket.create_connection(('127.0.0.1', {port}))",
            f"import socket; socket.socket().connect_ex(('127.0.0.1', {port}))",
            f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}')",
            f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({local!r})",
            "import socket; socket.getaddrinfo('localhost', 80)",
        ):
            assert run(attack).status == "failed", attack
        for server in (listener, unix):
            server.settimeout(0.05)
            with pytest.raises(TimeoutError):
                server.accept()


@pytest.mark.parametrize("without", EVERY_WAY, ids=KERNEL_IDS)
def test_a_native_connection_is_stopped_by_the_kernel(leave_out, without: tuple[str, ...]) -> None:
    leave_out(without)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        packed = f"address = struct.pack('=H', 2) + struct.pack('!H', {port}) + bytes([127, 0, 0, 1]) + bytes(8)"
        outcome = run(f"{NATIVE}import struct\n{packed}\ns = libc.socket(2, 1, 0)\nprint(libc.connect(s, address, 16))")
        assert outcome.stdout == "-1\n"
        listener.settimeout(0.05)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TEST", "swordfish")
    outcome = run(
        "import os\nprint(dict(os.environ))\n"
        "for pid in [os.getpid(), os.getppid(), *filter(str.isdigit, os.listdir('/proc'))]:\n"
        "    print(open(f'/proc/{pid}/environ').read())"
    )
    assert outcome.stdout.startswith("{}\n") or outcome.status == "failed"
    assert "swordfish" not in outcome.stdout + outcome.stderr


def test_capabilities_are_gone() -> None:
    outcome = run(f"{NATIVE}data = ctypes.create_string_buffer(24)\n"
                  "libc.capget(ctypes.create_string_buffer(bytes.fromhex('2205082000000000')[::1], 8), data)\n"
                  "print(set(data.raw))")  # fmt: skip
    assert outcome.stdout == "{0}\n"


@pytest.mark.parametrize("without", EVERY_WAY[:3], ids=KERNEL_IDS[:3])  # seccomp cannot tell others from itself
def test_other_processes_cannot_be_signalled(leave_out, without: tuple[str, ...]) -> None:
    leave_out(without)
    victim = subprocess.Popen(["sleep", "60"])
    try:
        outcome = run(f"{NATIVE}print(libc.kill({victim.pid}, 9), libc.kill({os.getpid()}, 0))")
        assert outcome.stdout == "-1 -1\n"
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


# cheats


WRITE_EVERYWHERE = (
    "import os\nfor fd in range(3, 60):\n    try: os.write(fd, {})\n    except OSError: pass\nos._exit(0)"
)


@pytest.mark.parametrize(
    "cheat",
    [
        "import os; os._exit(0)",
        WRITE_EVERYWHERE.format('b\'{"ending": "finished", "nonce": ""}\\n\''),
        WRITE_EVERYWHERE.format('b\'{"exit": "x", "layers": 3}\\n[1]\\n\' + b"[" * 9999'),
        'import sys; print(\'{"ending": "finished"}\'); sys.exit(0)',
        "import builtins, sys\nbuiltins.AssertionError = Exception\nsys.excepthook = lambda *a: None\nassert False",
    ],
    ids=["exit", "forged ending", "garbage on every descriptor", "printed ending", "hooks"],
)
def test_a_program_that_did_not_reach_its_end_has_not_finished(cheat: str) -> None:
    outcome = run(cheat)
    assert not outcome.ok
    assert outcome.status in ("exited", "failed")


def test_a_flood_of_the_status_pipe_is_cut() -> None:
    code = WRITE_EVERYWHERE.format("b'x' * 4096").replace(
        "for fd in range(3, 60)", "while True:\n  for fd in range(3, 60)"
    )
    assert run(code).status == "output"


def test_a_parent_that_is_killed_takes_the_program_along(tmp_path: Path) -> None:
    script = f"from locum.core import sandbox; import pathlib; sandbox._CHILD = pathlib.Path({str(sandbox._CHILD)!r})\n"
    script += "sandbox.run_python('import time; time.sleep(600)', limits=sandbox.Limits(wall_s=600))"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment)
    deadline_s = time.monotonic() + 20
    while (running := len(processes_of(sandbox._CHILD))) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert running >= 3  # the parent, the child's side, the program
    parent.kill()
    parent.wait()
    while processes_of(sandbox._CHILD) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert processes_of(sandbox._CHILD) == []


# when there is no sandbox


def test_a_child_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no sandbox today')")
    monkeypatch.setattr(sandbox, "_CHILD", broken)
    with pytest.raises(LocumError, match="no sandbox today") as caught:
        run_python("print('never')")
    assert caught.value.code == "core-child-failed"


def test_a_python_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.sys, "executable", "/no/such/python")
    with pytest.raises(LocumError, match="/no/such/python cannot be started") as caught:
        run_python("print('never')")
    assert caught.value.code == "core-child-failed"


def test_a_system_without_limits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.os, "name", "nt")
    with pytest.raises(DeviceError) as caught:
        run_python("print('never')")
    monkeypatch.undo()
    assert caught.value.code == "core-no-sandbox"
