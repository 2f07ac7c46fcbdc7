"""A tuning that starts several processes by itself: progress, weights, errors, kills, polite stops (on processors)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_toys import tune_request

from locum.core.child import run_job
from locum.core.errors import LocumError
from locum.core.progress import Event, listening
from locum.schema.training import Trained
from locum.train import ranks, tune

TWO = """
import os, signal, sys, time
from pathlib import Path
import torch
from locum.train import loop, ranks, tune
from locum.train.forward import Machine

torch.cuda.device_count = lambda: 2
tune.this_machine = lambda: Machine(torch.device("cpu"), bfloat16=False)
tune._JOB = "two_devices:main"
plain, mark = loop.Trainer.step, Path(os.environ["TWO_MARK"])

def step(self, batch):
    what = mark.read_text()
    if self.progress.step == 3 and os.environ.get("RANK") == "1" and what == "memory":
        raise RuntimeError("std::bad_alloc")
    if self.progress.step == 3 and os.environ.get("RANK") == "1" and what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "slow":
        (mark.parent / f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
        time.sleep(0.1)
    return plain(self, batch)

loop.Trainer.step = step

def main(request, out):
    tune.main(request, out)
"""
"""A module whose ``main`` is that of ``tune`` on a machine with two devices; what goes wrong stands in a file."""


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write the request, and what goes wrong; return the output folder."""
    (tmp_path / "two_devices.py").write_text(TWO)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TWO_MARK", str(tmp_path / "mark"))
    request = tune_request(tmp_path, batch_rows=7)  # 7 rows: the two have unequal shares, and the last step one row
    (tmp_path / "request.json").write_text(json.dumps(request.to_json()))

    def prepared(what: str) -> Path:
        (tmp_path / "mark").write_text(what)
        return tmp_path / "out"

    return prepared


def run(out: Path) -> None:
    request = out.with_name("request.json")
    run_job("two_devices:main", request, out, log=out.with_name("train.log"), threads=1)


def trained_in(out: Path) -> Trained:
    return Trained.from_json((out / "trained.json").read_bytes(), "trained.json")


def test_two_devices_train_together_and_tell_of_it_once(two: Callable[[str], Path], tmp_path: Path) -> None:
    events: list[Event] = []
    with listening(events.append):
        run(two("nothing"))
    trained = trained_in(tmp_path / "out")
    assert trained.settings["processes"] == 2
    steps = [event.done for event in events if event.label == "tune" and event.kind == "done"]
    assert len(steps) == 1 and steps[0] == trained.curve[-1].step
    assert "tune.log" not in trained.files
    alone = tmp_path / "alone"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "this_machine", lambda: tune.Machine(torch.device("cpu"), bfloat16=False))
        tune.main(tmp_path / "request.json", alone)
    assert trained_in(alone).settings["processes"] == 1
    assert [point.step for point in trained.curve] == [point.step for point in trained_in(alone).curve]
    wanted = load_file(alone / "model.safetensors")
    for name, value in load_file(tmp_path / "out" / "model.safetensors").items():
        torch.testing.assert_close(value, wanted[name], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "code"),
    [pytest.param("memory", "train-memory", marks=pytest.mark.long), ("kill", "core-child-killed")],
)
def test_fault_36_memory_that_ran_out_in_one_process_is_known_and_the_job_goes_on_later(
    two: Callable[[str], Path], what: str, code: str
) -> None:
    out = two(what)
    with pytest.raises(LocumError) as caught:
        run(out)
    assert caught.value.code == code
    two("nothing")
    run(out)
    assert trained_in(out).resumed == 1


def wait_for_steps(out: Path) -> list[int]:
    """Wait until both processes take steps; return their ids."""
    files = [out.with_name(f"pid-{rank}") for rank in (0, 1)]
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        ids = [file.read_text() for file in files if file.exists()]
        if len(ids) == 2 and all(ids) and list((out / "work" / "checkpoints").glob("step-*")):
            return [int(each) for each in ids]
        time.sleep(0.05)
    raise AssertionError("the processes take no steps")


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().split(")")[1].split()[0] != "Z"


def start(out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "locum.core.child", "two_devices:main"]
    return subprocess.Popen(
        [*command, str(out.with_name("request.json")), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL])
def test_fault_44_all_processes_end_with_the_job_and_it_goes_on_later(
    two: Callable[[str], Path], number: signal.Signals
) -> None:
    out = two("slow")
    with start(out) as job:
        ids = wait_for_steps(out)
        job.send_signal(number)
        job.wait(90)
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and any(alive(each) for each in ids):
        time.sleep(0.1)
    assert not any(alive(each) for each in ids)
    assert not (out / "trained.json").exists()
    steps = max(int(path.name[5:]) for path in (out / "work" / "checkpoints").glob("step-*"))
    assert number == signal.SIGKILL or steps > 0  # a polite stop saves what was done
    two("nothing")
    run(out)
    assert trained_in(out).resumed == 1


def test_a_process_of_several_starts_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for devices, wanted in ((0, 1), (1, 1), (4, 4)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda devices=devices: devices)
        assert ranks.to_start() == wanted
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert ranks.to_start() == 1
