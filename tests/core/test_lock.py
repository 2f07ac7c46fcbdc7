"""One process in a folder; a dead holder never blocks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from locum.core.errors import BusyError
from locum.core.lock import LOCK_NAME, folder_lock
from locum.core.progress import Event, listening

HOLD = (
    "import sys, time, pathlib; from locum.core.lock import folder_lock\n"
    "with folder_lock(pathlib.Path(sys.argv[1])):\n"
    "    print('held', flush=True); time.sleep(60)\n"
)


def hold(folder: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def finish(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
    if child.stdout:
        child.stdout.close()


def test_fault_47_the_second_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    child = hold(tmp_path)
    try:
        start_s = time.monotonic()
        with pytest.raises(BusyError, match=f"process {child.pid} on ") as caught, folder_lock(tmp_path):
            pass
        assert caught.value.exit_code == 1
        assert time.monotonic() - start_s < 2
    finally:
        finish(child)


def test_fault_48_a_lock_of_a_dead_process_is_taken_over_and_said(tmp_path: Path) -> None:
    child = hold(tmp_path)
    finish(child)
    heard: list[Event] = []
    with listening(heard.append), folder_lock(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] != child.pid
    assert [f"process {child.pid}" in event.label for event in heard] == [True]


def test_fault_48_a_torn_lock_file_does_not_block(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text('{"pid": 12')
    with folder_lock(tmp_path):
        assert (tmp_path / LOCK_NAME).exists()


def test_the_lock_is_free_again_after_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with folder_lock(tmp_path):
            pass
    assert (tmp_path / LOCK_NAME).read_text() == ""
