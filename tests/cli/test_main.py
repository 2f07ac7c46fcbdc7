"""Finding commands, exit statuses, errors without tracebacks, and a start that loads nothing heavy."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest

import locum
from locum.cli import main as entry
from locum.cli.main import COMMANDS
from locum.core.errors import CheckFailed, DataError, LocumError, UpstreamError

HEAVY = ("torch", "transformers", "onnxruntime", "numpy", "scipy", "sklearn", "pydantic", "typer", "rich", "httpx")
LOADS = "import sys\n{start}\nprint([name for name in {heavy!r} if name in sys.modules])"
HELP = "from locum.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"


@pytest.mark.parametrize("start", ["import locum", HELP], ids=["import", "help"])
def test_a_fresh_start_loads_nothing_heavy(start: str) -> None:
    code = LOADS.format(start=start, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_build_loads_what_trains_in_its_children_alone() -> None:
    code = LOADS.format(
        start="import locum.pipeline.build, locum.pipeline.plan", heavy=("torch", "sklearn", "onnxruntime")
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [["-c", "import locum"], ["-m", "locum.cli.main", "--help"]], ids=["import", "help"])
def test_a_fresh_start_takes_less_than_a_fifth_of_a_second(words: list[str]) -> None:
    """The least of several runs, in processor time, so that a busy machine does not decide."""
    seconds: list[float] = []
    for _ in range(7):
        before = os.times()
        start_s = time.perf_counter()
        subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
        wall_s = time.perf_counter() - start_s
        after = os.times()
        used_s = (after.children_user - before.children_user) + (after.children_system - before.children_system)
        seconds.append(min(wall_s, used_s))
        if seconds[-1] < 0.2:
            break
    assert min(seconds) < 0.2


def test_names_of_the_package_are_imported_when_used() -> None:
    assert set(locum.__all__) == {"Answer", "__version__", "build", "certify", "eval", "open", "predict"}
    for name in locum.__all__:
        assert getattr(locum, name)
    with pytest.raises(AttributeError, match="no attribute 'bild'"):
        locum.bild  # noqa: B018


def test_help_lists_every_command(run: Any) -> None:
    for words in ([], ["--help"], ["-h"], ["help"]):
        done = run(*words)
        assert done.status == 0
        for name, summary in COMMANDS.items():
            assert f"  {name:<11}{summary}" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(run: Any, name: str) -> None:
    done = run(name, "--help")
    assert done.status == 0
    assert f"Usage: locum {name} " in done.stdout
    assert "--help" in done.stdout
    assert hasattr(importlib.import_module(f"locum.cli.{name}"), "app")


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"serve", "completion"}))
def test_every_command_that_ends_has_json(run: Any, name: str) -> None:
    assert "--json" in run(name, "--help").stdout


def test_the_version(run: Any) -> None:
    assert run("--version").stdout == f"{locum.__version__}\n"


def test_an_unknown_command_suggests_the_nearest(run: Any) -> None:
    done = run("biuld", "task.yaml")
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr == "error: there is no command 'biuld' → did you mean `locum build`? [cli-usage]\n"
    assert "commands: init, plan" in run("xyzzy").stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build", "a", "b"], "b"),
        (["plan", "a", "--oot", "b"], "--oot"),
        (["serve", "x", "--port", "70000"], "65535"),
        (["certify", "x"], "--data"),
        (["certify", "x", "--data", "y", "--max-error", "2"], "max-error"),
        (["certify", "x", "--data", "y", "--kind", "selektive"], "did you mean selective?"),
    ],
)
def test_wrong_usage_is_the_users_mistake(run: Any, words: list[str], said: str) -> None:
    done = run(*words)
    assert (done.status, done.stdout) == (2, "")
    assert said in done.stderr
    assert "[cli-usage]" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_errors_are_one_object_with_a_code(run: Any) -> None:
    done = run("plan", "nothing.yaml", "--json")
    assert done.status == 2
    assert done.document["error"]["code"] == "task-missing"
    assert set(done.document["error"]) == {"code", "cause", "fix", "where", "exit_code"}
    assert done.stderr.startswith("error: there is no nothing.yaml")
    assert run("plam", "--json").document["error"]["code"] == "cli-usage"


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (DataError("data-empty", "no rows"), 2, "data-empty"),
        (CheckFailed("compress-parity", "agreement 0.2"), 3, "compress-parity"),
        (UpstreamError("upstream-timeout", "no answer"), 1, "upstream-timeout"),
        (LocumError("core-child-killed", "killed"), 1, "core-child-killed"),
        (KeyboardInterrupt(), 1, "core-interrupted"),
        (ZeroDivisionError("a bug"), 1, "core-internal"),
        (MemoryError(), 1, "core-internal"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_has_its_status_and_one_line(
    run: Any, monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int, code: str
) -> None:
    def fail(_words: list[str]) -> int:
        raise raised

    monkeypatch.setattr(entry, "_dispatch", fail)
    done = run("plan", "x", "--json")
    assert (done.status, done.document["error"]["code"]) == (status, code)
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--debug", "plan", "gone.yaml"], ["plan", "gone.yaml", "--debug"]])
def test_debug_shows_the_traceback(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "locum.cli.main", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "task-missing" in done.stderr


def test_fault_83_what_a_user_wrote_does_not_steer_the_terminal(run: Any) -> None:
    done = run("plan", "\x1b[2J\u202egone.yaml")
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr
    assert "⟨U+001B⟩[2J⟨U+202E⟩gone.yaml" in done.stderr


def test_any_bytes_in_a_name_and_any_encoding_of_the_terminal_still_give_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "locum.cli.main", "plan", b"\xff\xc3\xa9.yaml", "--json"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "task-missing"
    assert b"Traceback" not in done.stderr


def test_a_process_that_is_told_to_end_says_so() -> None:
    code = (
        "import os, signal\nfrom locum.cli import main as entry\n"
        "entry._dispatch = lambda words: os.kill(os.getpid(), signal.SIGTERM) or signal.pause()\nentry.main(['plan'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "stopped on request" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["nonsense", "--json"], ["models", "list"]])
def test_a_reader_that_has_seen_enough_is_no_error(words: list[str]) -> None:
    command = [sys.executable, "-m", "locum.cli.main", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 1
    assert "Traceback" not in said and "BrokenPipe" not in said and "Exception ignored" not in said


def test_without_an_output_a_command_still_ends_well() -> None:
    command = f"{sys.executable} -m locum.cli.main --version >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
def test_an_output_on_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 (a device)
        command = [sys.executable, "-m", "locum.cli.main", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: ") and "No space left on device" in done.stderr


def test_errors_that_nobody_reads_have_a_status_too() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "locum.cli.main", "nonsense"]
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(command, stdout=gone, stderr=gone)
    assert done.returncode == 1
