"""The process: exposure, ports, SIGTERM, and what it takes to start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from locum.bundle.student import open_bundle
from locum.core.errors import UserError
from locum.gateway.bundle_target import BundleTarget
from locum.gateway.serve import check_exposure, serve
from locum.gateway.settings import Settings
from locum.pipeline.recertify import certify_bundle
from locum.schema.task import Guarantee
from locum.testing import FakeUpstream, Scripted
from locum.testing.bundles import pico_bundle, pico_task
from locum.testing.pico import WORDS

UNSURE = "good morning"
_CHILD = (
    "import sys, pathlib; from locum.bundle.student import open_bundle; from locum.gateway.serve import serve;"
    "from locum.gateway.settings import Settings; from locum.gateway.bundle_target import BundleTarget;"
    "serve(BundleTarget(open_bundle(sys.argv[1], threads=1)), port=0, settings=Settings(drain_s=int(sys.argv[2])),"
    "on_ready=lambda url: print(url, flush=True)); print('drained', flush=True)"
)


def _start(bundle: Path, drain_s: int = 10) -> tuple[subprocess.Popen[str], str]:
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _CHILD, str(bundle), str(drain_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    url = child.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:"), child.stderr.read() if child.stderr else ""
    return child, url


def _ask(url: str, text: str) -> httpx.Response:
    body = {"model": "pico", "messages": [{"role": "user", "content": text}]}
    with httpx.Client(trust_env=False, timeout=20) as http:
        return http.post(f"{url}/chat/completions", json=body)


@pytest.mark.engines
def test_fault_60_an_llm_that_changes_while_serving_raises_an_alarm(tmp_path: Path):
    """Certified by the product against one LLM; then the server behind the URL calls itself otherwise."""
    name = ["big-1"]
    rows = [(f"{' '.join(words[:3])} {n}", label) for n in range(30) for label, words in WORDS.items()]
    data = tmp_path / "fresh.csv"
    data.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))

    def reply(body: dict[str, Any]) -> Scripted:
        told = str(body["messages"][-1]["content"])
        label = next((label for label, words in WORDS.items() if words[0] in told), "pin")
        return Scripted(label, model=name[0])

    with FakeUpstream(reply) as upstream:
        pico_bundle(tmp_path / "b", threshold=0.5, task_text=pico_task(base_url=upstream.base_url, model="big"))
        assert certify_bundle(tmp_path / "b", data, Guarantee(kind="regret", max_error=0.1)).replaced
        child, url = _start(tmp_path / "b")
        try:
            covered = _ask(url, rows[0][0]).headers
            assert covered["x-locum-route"] == "local" and len(covered["x-locum-certificate"]) == 12
            name[0] = "big-2"
            assert _ask(url, UNSURE).headers["x-locum-route"] == "llm"
            after = _ask(url, rows[0][0]).headers
            assert (after["x-locum-route"], after["x-locum-certificate"]) == ("llm", "void")
            with httpx.Client(trust_env=False, timeout=20) as http:
                metrics = http.get(url.removesuffix("/v1") + "/metrics").text
            assert "locum_certificate_ended_total 1.0" in metrics and "locum_certificate_valid 0.0" in metrics
        finally:
            child.send_signal(signal.SIGTERM)
            _, stderr = child.communicate(timeout=30)
        assert sum("certificate ended" in line and "big-2" in line for line in stderr.splitlines()) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_fault_86_other_machines_need_a_key(host: str):
    with pytest.raises(UserError) as caught:
        check_exposure(Settings(host=host))
    assert caught.value.code == "gateway-host" and "LOCUM_API_KEY" in caught.value.fix
    check_exposure(Settings(host=host, api_key="iSv3-pWq9_tL0aZx"))


@pytest.mark.parametrize("key", ["k", "fifteen-letters", "a" * 40, "abababababababababab"])
def test_fault_86_a_key_that_can_be_guessed_is_refused_for_other_machines(key: str):
    with pytest.raises(UserError) as caught:
        check_exposure(Settings(host="0.0.0.0", api_key=key))
    assert caught.value.code == "gateway-key" and "secrets" in caught.value.fix
    assert len(key) == 1 or key not in str(caught.value)
    assert check_exposure(Settings(host="127.0.0.1", api_key=key)) is None


def test_fault_86_the_key_that_the_advice_makes_is_taken():
    with pytest.raises(UserError) as caught:
        check_exposure(Settings(host="0.0.0.0"))
    code = caught.value.fix.split('"')[1]
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert check_exposure(Settings(host="0.0.0.0", api_key=made.stdout.strip())) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.2"])
def test_loopback_needs_none(host: str):
    assert check_exposure(Settings(host=host)) is None


def test_fault_86_serve_refuses_before_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LOCUM_API_KEY", raising=False)
    pico_bundle(tmp_path / "b")
    with pytest.raises(UserError, match="LOCUM_API_KEY"):
        serve(BundleTarget(open_bundle(tmp_path / "b")), host="0.0.0.0", port=0)


@pytest.mark.engines
def test_a_line_end_after_the_key_is_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCUM_API_KEY", "KEY\n")
    pico_bundle(tmp_path / "b")
    child, url = _start(tmp_path / "b")
    try:
        assert httpx.get(f"{url}/models", trust_env=False).status_code == 401
        told = httpx.get(f"{url}/models", headers={"authorization": "Bearer KEY"}, trust_env=False)
        assert told.status_code == 200
    finally:
        child.terminate()
        child.communicate(timeout=20)


def test_a_blank_key_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCUM_API_KEY", " \n")
    pico_bundle(tmp_path / "b")
    with pytest.raises(UserError, match="LOCUM_API_KEY"):
        serve(BundleTarget(open_bundle(tmp_path / "b")), host="0.0.0.0", port=0)


def test_a_taken_port_is_the_users_mistake(tmp_path: Path):
    pico_bundle(tmp_path / "b")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot listen") as caught:
            serve(BundleTarget(open_bundle(tmp_path / "b")), port=taken.getsockname()[1])
    assert caught.value.exit_code == 2


@pytest.mark.engines
def test_fault_50_sigterm_drains_what_is_under_way_and_exits_0(tmp_path: Path):
    with FakeUpstream([Scripted(text="cash", delay_s=1.5)]) as upstream:
        pico_bundle(tmp_path / "b", task_text=pico_task(base_url=upstream.base_url, model="m"))
        child, url = _start(tmp_path / "b")
        try:
            answers: list[httpx.Response] = []
            asking = threading.Thread(target=lambda: answers.append(_ask(url, UNSURE)))
            asking.start()
            deadline = time.monotonic() + 10
            while not upstream.received and time.monotonic() < deadline:
                time.sleep(0.02)
            child.send_signal(signal.SIGTERM)
            asking.join(20)
            out, err = child.communicate(timeout=20)
        finally:
            child.kill()
    assert answers[0].status_code == 200
    assert answers[0].json()["choices"][0]["message"]["content"] == "cash"
    assert child.returncode == 0 and "drained" in out
    assert "Traceback" not in err


@pytest.mark.engines
def test_fault_50_the_deadline_ends_what_does_not_finish(tmp_path: Path):
    with FakeUpstream([Scripted(text="cash", delay_s=8)]) as upstream:
        pico_bundle(tmp_path / "b", task_text=pico_task(base_url=upstream.base_url, model="m", timeout_s=9))
        child, url = _start(tmp_path / "b", drain_s=1)
        try:
            asking = threading.Thread(target=lambda: _quietly(url))
            asking.start()
            deadline = time.monotonic() + 10
            while not upstream.received and time.monotonic() < deadline:
                time.sleep(0.02)
            start_s = time.monotonic()
            child.send_signal(signal.SIGTERM)
            child.communicate(timeout=20)
            took_s = time.monotonic() - start_s
            asking.join(20)
        finally:
            child.kill()
    assert child.returncode == 0
    assert took_s < 6, "the deadline of 1 s was not kept"


def _quietly(url: str) -> None:
    try:
        _ask(url, UNSURE)
    except httpx.HTTPError:
        return  # cut off by the deadline


@pytest.mark.engines
def test_ctrl_c_stops_as_gracefully(tmp_path: Path):
    pico_bundle(tmp_path / "b")
    child, _url = _start(tmp_path / "b")
    try:
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
    finally:
        child.kill()
    assert child.returncode == 0 and "drained" in out and "Traceback" not in err


@pytest.mark.engines
@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
@pytest.mark.parametrize("closed", ["2>&-", "2>&- >&- <&-", "2>/dev/full"])
def test_fault_37_serving_starts_and_answers_without_a_standard_error(tmp_path: Path, closed: str):
    pico_bundle(tmp_path / "b")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = f'exec "{sys.executable}" -m locum.cli.main serve "{tmp_path / "b"}" --port {port} {closed}'
    child = subprocess.Popen(command, shell=True)
    try:
        deadline, status = time.monotonic() + 20, 0
        while not status and child.poll() is None and time.monotonic() < deadline:
            try:
                status = _ask(f"http://127.0.0.1:{port}/v1", "my card did not arrive, delivery was due").status_code
            except httpx.TransportError:
                time.sleep(0.1)
        assert status == 200
        if Path("/proc").is_dir():
            held = [str(Path(f"/proc/{child.pid}/fd/{number}").readlink()) for number in range(3)]
            assert not any("socket" in where or str(tmp_path) in where for where in held), (
                "none of ours is printed into"
            )
        child.terminate()
        assert child.wait(20) == 0
    finally:
        child.kill()


@pytest.mark.engines
def test_serving_takes_little_memory_and_no_training_library(tmp_path: Path):
    pico_bundle(tmp_path / "b")
    child, url = _start(tmp_path / "b")
    try:
        assert _ask(url, "my card did not arrive, delivery was due").status_code == 200
        status = Path(f"/proc/{child.pid}/status")
        if not status.exists():
            pytest.skip("/proc is Linux's way to a process's memory")
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        rss_mb = int(line.split()[1]) / 1000
        maps = Path(f"/proc/{child.pid}/maps").read_text()
    finally:
        child.kill()
        child.communicate()
    assert rss_mb < 250, f"{rss_mb:.0f} MB"
    assert "libtorch" not in maps and "pyarrow" not in maps


def test_importing_the_gateway_loads_no_engine():
    heavy = ("torch", "onnxruntime", "matplotlib", "pandas")
    code = f"import sys, locum.gateway.serve; print([m for m in {heavy!r} if m in sys.modules])"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert said.stdout.strip() == "[]"
