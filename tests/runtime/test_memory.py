"""Resident memory, read where the system tells it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from locum.runtime.memory import peak_resident_mb, resident_mb


def test_this_process_has_some() -> None:
    now_mb, peak_mb = resident_mb(), peak_resident_mb()
    assert now_mb is not None and 5 < now_mb < 100_000
    assert peak_mb is not None and peak_mb >= now_mb * 0.5
    assert resident_mb(os.getpid()) == pytest.approx(now_mb, rel=0.5)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_child_is_seen_and_a_gone_one_is_unknown() -> None:
    code = "data = bytearray(60_000_000); data[::4096] = b'x' * len(data[::4096]); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert 60 < (resident_mb(child.pid) or 0) < 400
        child.communicate(b"\n")
    assert resident_mb(child.pid) is None
    assert peak_resident_mb(child.pid) is None
