"""Keys, hosts, logs and metrics over the wire: constant refusals, and no text or key anywhere it does not belong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import time
from pathlib import Path

import httpx
import pytest

from locum.gateway.access import AccessLog, Gatekeeper
from locum.gateway.errors import ApiError
from locum.gateway.settings import Settings

SURE = "my card did not arrive, delivery was due"
UNSURE = "good morning"


def _log_lines(log: Path, count: int) -> list[str]:
    """The log once it has so many lines: a line follows its answer, written by another thread."""
    deadline_s = time.monotonic() + 10
    while len(lines := log.read_text(encoding="utf-8").splitlines()) < count and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return lines


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"secret-key",
        b"Bearer",
        b"Bearer ",
        b"Bearer secret",
        b"Bearer secret-key2",
        b"Basic secret-key",
        b"Bearer \xff\xfe\x00",
        b"Bearer " + b"x" * 10_000,
    ],
)
def test_fault_66_missing_invalid_and_odd_keys_are_refused(value: bytes | None):
    keeper = Gatekeeper("secret-key", ())
    headers = [] if value is None else [(b"authorization", value)]
    with pytest.raises(ApiError) as caught:
        keeper.check_key(headers)
    assert caught.value.status == 401 and "secret-key" not in caught.value.message


def test_fault_66_keys_are_compared_in_constant_time_by_equal_lengths(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr("locum.gateway.access.hmac.compare_digest", lambda a, b: seen.append((a, b)) or a == b)
    keeper = Gatekeeper("secret-key", ())
    keeper.check_key([(b"authorization", b"Bearer secret-key")])
    with pytest.raises(ApiError):
        keeper.check_key([(b"authorization", b"Bearer s")])
    assert all(len(a) == len(b) == hashlib.sha256().digest_size for a, b in seen) and len(seen) == 2


def test_two_authorization_headers_are_refused():
    with pytest.raises(ApiError):
        Gatekeeper("k", ()).check_key([(b"authorization", b"Bearer x"), (b"authorization", b"Bearer k")])


@pytest.mark.parametrize("host", [b"127.0.0.1:8080", b"localhost", b"[::1]:8080", b"LOCALHOST:1", b"box.lan"])
def test_fault_87_this_machine_may_ask(host: bytes):
    headers = [(b"host", host), (b"origin", b"http://localhost:3000")]
    assert Gatekeeper(None, ["box.lan"]).check_host(headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"evil.example")],
        [(b"host", b"127.0.0.1.evil.example:8080")],
        [(b"host", b"127.0.0.1"), (b"origin", b"https://evil.example")],
        [(b"host", b"127.0.0.1"), (b"origin", b"null")],
        [(b"host", b"[::1")],
        [(b"host", b"")],
    ],
)
def test_fault_87_rebound_names_and_foreign_pages_may_not(headers: list[tuple[bytes, bytes]]):
    with pytest.raises(ApiError) as caught:
        Gatekeeper(None, ()).check_host(headers)
    assert caught.value.status == 403


@pytest.mark.engines
def test_fault_87_over_the_wire(start):
    gateway = start()
    refused = gateway.http.post("/v1/chat/completions", json={}, headers={"host": "evil.example\x1b"[:12]})
    assert refused.status_code == 403 and refused.json()["error"]["code"] == "host_not_allowed"
    assert gateway.http.get("/health", headers={"origin": "https://evil.example"}).status_code == 403


@pytest.mark.engines
def test_with_a_key_only_its_holder_may_ask(start, tmp_path: Path):
    gateway = start(settings=Settings(api_key="right", log_file=tmp_path / "log"))
    assert gateway.ask().status_code == 401
    assert gateway.ask().json()["error"]["code"] == "invalid_api_key"
    assert gateway.http.get("/metrics").status_code == 401
    assert gateway.http.get("/health").status_code == 200
    with gateway.client(api_key="right") as client:
        turns = [{"role": "user", "content": SURE}]
        assert client.chat.completions.create(model="pico", messages=turns).choices[0].message.content == "card"


@pytest.mark.engines
@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/v1/models/pico", "/openapi.json", "/metrics"])
def test_head_is_answered_as_get_without_a_body(start, path: str):
    gateway = start()
    head, get = gateway.http.head(path), gateway.http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert gateway.http.get("/health").json() == {"status": "ok"}, "the connection goes on"


@pytest.mark.engines
def test_a_method_that_is_not_taken_is_told_which_are(start):
    gateway = start()
    assert gateway.http.post("/health").headers["allow"] == "GET, HEAD"
    refused = gateway.http.head("/v1/chat/completions")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


@pytest.mark.engines
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/v1/moderations", 404, "not_found"),
        ("DELETE", "/v1/models/pico", 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
    ],
)
def test_every_refusal_has_the_envelope(start, method: str, path: str, status: int, code: str):
    response = start().http.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.json()["error"]["code"] == code
    assert response.headers["x-request-id"]


@pytest.mark.engines
def test_fault_67_an_announced_large_body_is_refused_before_it_is_sent(start, tmp_path: Path):
    gateway = start(settings=Settings(max_body_bytes=1000, log_file=tmp_path / "log"))
    response = gateway.ask("x" * 2000)
    assert response.status_code == 413 and response.json()["error"]["code"] == "body_too_large"


@pytest.mark.engines
def test_fault_67_an_endless_body_is_cut_while_it_streams(start, tmp_path: Path):
    gateway = start(settings=Settings(max_body_bytes=10_000, log_file=tmp_path / "log"))
    sent = 0

    def endless():
        nonlocal sent
        while sent < 50_000_000:
            sent += 5000
            yield b" " * 5000

    # The server may close the connection while the client still writes; either is a refusal.
    with contextlib.suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        response = gateway.http.post("/v1/chat/completions", content=endless())
        assert response.status_code == 413
    assert sent < 50_000_000


@pytest.mark.engines
def test_fault_68_a_body_that_never_ends_is_refused_in_time(start, tmp_path: Path):
    gateway = start(settings=Settings(receive_s=0.3, log_file=tmp_path / "log"))
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert raw.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.engines
@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Content-Length: -1\r\n",
    ],
)
def test_fault_72_a_length_told_twice_is_refused_and_the_connection_closed(start, framing: bytes):
    host, port = start().url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        smuggled = b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n" + framing + b"\r\n" + smuggled)
        said = b""
        while part := raw.recv(4096):
            said += part
    assert said.startswith(b"HTTP/1.1 400") and said.count(b"HTTP/1.1") == 1


@pytest.mark.engines
def test_fault_84_no_text_and_no_key_in_logs_metrics_or_errors(start, tmp_path: Path, capfd, monkeypatch):
    canary, key = "canary-4711-zebra", "key-canary-0815"
    monkeypatch.setenv("PICO_KEY", "upstream-canary-99")
    gateway = start(script=[f"no label {canary}"], settings=Settings(api_key=key, log_file=tmp_path / "log"))
    auth = {"authorization": f"Bearer {key}"}
    seen: list[str] = []
    for text, model in ((f"{SURE} {canary}", "pico"), (f"{UNSURE} {canary}", "pico"), (canary, f"{canary}-model")):
        body = {"model": model, "messages": [{"role": "user", "content": text}], "user": canary}
        response = gateway.http.post("/v1/chat/completions", json=body, headers=auth)
        seen.append(response.text.replace(f"{canary}-model", "MODEL") + str(response.headers))
    gateway.http.post("/v1/chat/completions", content=f'{{"{canary[:4]}": {canary}'.encode(), headers=auth)
    gateway.http.get(f"/v1/models?x={canary}", headers=auth)
    seen.append(gateway.http.get("/metrics", headers=auth).text)
    lines = _log_lines(tmp_path / "log", 5)
    seen.append("\n".join(lines))
    seen.extend(capfd.readouterr())
    assert len(seen[-3].splitlines()) == 5
    for text in seen:
        assert canary not in text and key not in text and "upstream-canary" not in text


@pytest.mark.engines
def test_fault_83_log_lines_cannot_be_forged(start, tmp_path: Path):
    gateway = start(settings=Settings(log_file=tmp_path / "log"))
    gateway.http.get("/v1/models/x%0d%0a%7b%22forged%22%3a1%7d%1b%5b31m%e2%80%ae")
    lines = _log_lines(tmp_path / "log", 1)
    assert len(lines) == 1
    assert "\x1b" not in lines[0] and "\u202e" not in lines[0]
    assert json.loads(lines[0])["status"] == 404


@pytest.mark.engines
def test_metrics_count_by_route(start):
    gateway = start(script=["cash"])
    for text in (SURE, SURE, UNSURE):
        assert gateway.ask(text).status_code == 200
    assert gateway.ask(model="nope").status_code == 404
    page = gateway.http.get("/metrics").text
    assert 'locum_requests_total{route="local",status="200"} 2.0' in page
    assert 'locum_requests_total{route="llm",status="200"} 1.0' in page
    assert 'locum_requests_total{route="none",status="404"} 1.0' in page
    assert gateway.metric("locum_request_seconds_count") == 4
    assert gateway.metric("locum_confidence_count") == 2
    assert gateway.metric("locum_certificate_valid") == 1


def test_fault_37_a_full_disk_does_not_stop_the_log_or_the_service(tmp_path: Path):
    failures: list[int] = []
    log = AccessLog(Path("/dev/full"), lambda: failures.append(1))
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is Linux's way to a full disk")
    log.write(path="/x")
    log.write(path="/y")
    log.close()
    assert len(failures) >= 2


@pytest.mark.engines
def test_fault_37_serving_goes_on_and_a_metric_rises(start):
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is Linux's way to a full disk")
    gateway = start(settings=Settings(log_file=Path("/dev/full")))
    assert [gateway.ask().status_code for _ in range(3)] == [200] * 3
    deadline_s = time.monotonic() + 10
    while gateway.metric("locum_log_failures_total") < 3 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert gateway.metric("locum_log_failures_total") >= 3


def test_log_opens_again_once_it_can(tmp_path: Path):
    failures: list[int] = []
    log = AccessLog(tmp_path / "later" / "log", lambda: failures.append(1))
    log.write(path="/x")
    assert log.drain(5)
    (tmp_path / "later").mkdir()
    log.write(path="/y")
    log.close()
    assert failures == [1, 1], "once when it was opened, once for the line"
    assert json.loads((tmp_path / "later" / "log").read_text(encoding="utf-8"))["path"] == "/y"
