"""A flood of connections against the limit of open files: refused with 503, and over when the flood is."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from locum.testing.bundles import pico_bundle

_CHILD = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96));"
    "from locum.bundle.student import open_bundle; from locum.gateway.serve import serve;"
    "from locum.gateway.bundle_target import BundleTarget;"
    "serve(BundleTarget(open_bundle(sys.argv[1], threads=1)), port=0, on_ready=lambda url: print(url, flush=True))"
)


@pytest.mark.engines
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_fault_41_at_the_limit_of_open_files_requests_are_shed_with_503(tmp_path: Path) -> None:
    pico_bundle(tmp_path / "b")
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _CHILD, str(tmp_path / "b")], stdout=subprocess.PIPE, text=True
    )
    flood: list[socket.socket] = []
    try:
        assert child.stdout is not None
        url = httpx.URL(child.stdout.readline().strip())
        assert url.port is not None
        with httpx.Client(base_url=url.copy_with(path="/"), trust_env=False, timeout=20) as http:
            flood = [socket.create_connection(("127.0.0.1", url.port)) for _ in range(32)]
            wait_s, shed = time.monotonic() + 10, None
            while shed != 503 and time.monotonic() < wait_s:
                shed = http.get("/health", headers={"connection": "close"}).status_code
            assert shed == 503
            for connection in flood:
                connection.close()
            while shed != 200 and time.monotonic() < wait_s + 10:
                shed = http.get("/health", headers={"connection": "close"}).status_code
            assert shed == 200
        assert child.poll() is None
    finally:
        for connection in flood:
            connection.close()
        child.terminate()
        child.communicate(timeout=30)
