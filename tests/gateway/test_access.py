"""Keys, hosts, logs and metrics over the wire: constant refusals, and no text or key anywhere it does not belong."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from locum.gateway.access import AccessLog, Gatekeeper
from locum.gateway.errors import ApiError
from locum.gateway.serve import _announce
from locum.gateway.settings import Settings
from locum.gateway.targets import ModelTarget
from locum.testing import FakeGenerator

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


@pytest.mark.parametrize(
    "host", [b"127.0.0.1:8080", b"127.255.0.7", b"localhost", b"[::1]:8080", b"[::1]", b"LOCALHOST:1", b"box.lan"]
)
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
        [(b"host", b"localhost.evil.example")],
        [(b"host", b"localhost/evil.example")],
        [(b"host", b"localhost#.evil.example")],
        [(b"host", b"localhost?.evil.example")],
        [(b"host", b"localhost\\.evil.example")],
        [(b"host", b"localhost, evil.example")],
        [(b"host", b"evil.example@localhost")],
        [(b"host", b"localhost:80@evil.example")],
        [(b"host", b"localhost:80:evil.example")],
        [(b"host", b"localhosts")],
        [(b"host", b"127.1")],
        [(b"host", b"127.0.0.1.")],
        [(b"host", b"127.0.0.256")],
        [(b"host", b"0.0.0.0")],
        [(b"host", b"::1")],
        [(b"host", b"[::1].evil.example")],
        [(b"host", b"[::1%25lo]")],
        [(b"host", b"[::ffff:127.0.0.1]")],
        [(b"host", b"128.0.0.1")],
        [(b"host", b"127.0.0.1"), (b"origin", b"http://localhost.evil.example")],
        [(b"host", b"127.0.0.1"), (b"origin", b"http://localhost/evil.example")],
        [(b"host", b"127.0.0.1"), (b"origin", b"localhost")],
        [(b"host", b"127.0.0.1"), (b"origin", b"http://localhost http://evil.example")],
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
@pytest.mark.parametrize("key", [None, "a long key of this gateway"])
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v1/models HTTP/1.1\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHosts: localhost\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", 400),
        (b"GET /v1/models HTTP/1.0\r\n", 200),
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n", 200),
    ],
)
def test_fault_87_a_request_names_one_host(start_model, tmp_path: Path, key: str | None, head: bytes, status: int):
    gateway = start_model(FakeGenerator(), settings=Settings(api_key=key, log_file=tmp_path / "log"))
    with socket.create_connection(("127.0.0.1", int(gateway.url.rsplit(":", 1)[1])), timeout=10) as raw:
        raw.sendall(head + f"Authorization: Bearer {key}\r\nConnection: close\r\n\r\n".encode())
        said = b"".join(iter(lambda: raw.recv(4096), b""))
    assert int(said.split(b" ")[1]) == status and (b'"host_missing"' in said) == (status == 400)


@pytest.mark.engines
@pytest.mark.parametrize("key", [None, "a long key of this gateway"])
def test_ready_tells_names_to_who_may_ask_only(start, tmp_path: Path, key: str | None):
    gateway = start(settings=Settings(api_key=key, log_file=tmp_path / "log"))
    for header in ({}, {"authorization": "Bearer another"}):
        said = gateway.http.get("/ready", headers=header)
        assert said.status_code == 200 and said.json()["status"] == "ready"
        assert ("pico" in said.text) == (key is None)
        assert key is None or said.json() == {"status": "ready"}
    assert "pico" in gateway.http.get("/ready", headers={"authorization": f"Bearer {key}"}).text


@pytest.mark.engines
def test_fault_66_wrong_odd_and_missing_keys_are_refused_alike_and_kept_nowhere(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    key = "right-key-zebra-4711"
    compared: list[tuple[bytes, bytes]] = []
    plain = hmac.compare_digest
    monkeypatch.setattr("locum.gateway.access.hmac.compare_digest", lambda a, b: compared.append((a, b)) or plain(a, b))
    gateway = start(settings=Settings(api_key=key, log_file=tmp_path / "log"))
    tried = [b"", b"canary", key[:-1].encode(), key.encode() + b"x", key.upper().encode(), b"canary\xff\xfe\x80", b"\t"]
    tried += [b"canary" * 1000, b"right-key-\xe2\x80\xae-zebra"]
    sent = [b"Authorization: Bearer " + each + b"\r\n" for each in tried]
    sent += [b"", b"Authorization: Basic " + key.encode() + b"\r\n", b"X-Api-Key: " + key.encode() + b"\r\n"]
    answers: list[bytes] = []
    for header in sent:
        with socket.create_connection(("127.0.0.1", int(gateway.url.rsplit(":", 1)[1])), timeout=10) as raw:
            raw.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + header + b"\r\n")
            answers.append(b"".join(iter(lambda: raw.recv(4096), b"")))
    assert {said.split(b"\r\n")[0] for said in answers} == {b"HTTP/1.1 401 Unauthorized"}
    assert len({said.partition(b"\r\n\r\n")[2] for said in answers}) == 1, "nothing tells one refusal from another"
    assert len(compared) == len(sent) and all(len(a) == len(b) == 32 for a, b in compared)
    auth = {"authorization": f"Bearer {key}"}
    assert gateway.http.get("/v1/models", headers=auth).status_code == 200
    kept = [
        *_log_lines(tmp_path / "log", len(sent) + 1),
        gateway.http.get("/metrics", headers=auth).text,
        *capfd.readouterr(),
    ]
    assert len(kept) >= len(sent) + 1 and not [text for text in kept if "canary" in text or "right-key" in text.lower()]


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
def test_fault_83_what_a_caller_writes_reaches_no_log_and_no_header(start, tmp_path: Path):
    """Line ends, ANSI escapes and bidirectional overrides in paths, queries, fields, names and headers."""
    nasty, quoted = "zebra\r\nx-forged: 1\x1b[31m\u202e", "zebra%0d%0ax-forged:%201%1b%5b31m%e2%80%ae"
    gateway = start(settings=Settings(log_file=tmp_path / "log"))
    answers = [
        gateway.http.get(f"/v1/models/{quoted}"),
        gateway.http.get(f"/{quoted}?{quoted}"),
        gateway.ask(model=nasty),
        gateway.ask(**{nasty: 1}),
        gateway.ask(user=nasty),
        gateway.http.get("/v1/models", headers={"x-request-id": quoted, "origin": f"http://{quoted}"}),
        gateway.http.get("/v1/models", headers={"host": "zebra\x9b31m".encode("latin-1")}),
    ]
    assert [said.status_code for said in answers] == [404, 404, 404, 400, 200, 403, 403]
    for said in answers:
        assert "x-forged" not in said.headers and "zebra" not in str(said.headers)
        assert not set("\x1b\r\n\u202e\x9b") & set(said.text), "escaped, not repeated"
        assert not set("\x1b\r\n\u202e\x9b") & set(said.json().get("error", {}).get("message", ""))
    lines = _log_lines(tmp_path / "log", len(answers))
    assert len(lines) == len(answers) and not [line for line in lines if "zebra" in line or not line.isascii()]
    logged = [json.loads(line) for line in lines]
    assert [line["path"] for line in logged[:3]] == ["/v1/models/{model}", "unknown", "/v1/chat/completions"]
    assert len({line["id"] for line in logged}) == len(answers)


@pytest.mark.engines
def test_fault_83_the_name_of_a_file_is_spelled_wherever_it_is_shown(start_model, capfd: pytest.CaptureFixture[str]):
    name = "tiny\x1b[31m\u202e\nlocum_forged 1"
    target = ModelTarget(name, FakeGenerator())
    gateway = start_model(target)
    _announce(target)(gateway.url)
    shown = gateway.http.get("/v1/models").json()["data"][0]["id"]
    assert gateway.ask(model=shown).status_code == 200, "it is asked for as it is shown"
    texts = [gateway.http.get(path).text for path in ("/v1/models", "/metrics", "/ready")]
    texts += [gateway.ask(model="another").text, capfd.readouterr().err.rstrip("\n").replace("; Ctrl-C stops", "")]
    assert all("tiny" in text for text in texts)
    for text in [shown, *texts]:
        assert not {"\x1b", "\u202e"} & set(text) and "\nlocum_forged" not in text


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


class _Disk:
    """Takes so many bytes and is full then, until it is emptied."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._write = os.write

    def write(self, number: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        size = self._write(number, data[: self.room])
        self.room -= size
        return size


@pytest.mark.parametrize("room", [1, 100, 150, 155, 230])
def test_fault_37_no_line_is_glued_to_half_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int):
    disk = _Disk(room)
    monkeypatch.setattr("locum.gateway.access.os.write", disk.write)
    failures: list[int] = []
    log = AccessLog(tmp_path / "log", lambda: failures.append(1))
    for number in range(9):
        log.write(path=f"/{number}", filler="x" * 10)
    assert log.drain(5)
    disk.room = 1 << 20
    log.write(path="/after")
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert lines[-1]["path"] == "/after" and len(lines) + len(failures) == 10 and failures
    assert [line["path"] for line in lines[:-1]] == [f"/{number}" for number in range(len(lines) - 1)]


def test_fault_37_half_a_line_that_cannot_be_taken_back_ends_its_line(monkeypatch: pytest.MonkeyPatch):
    reading, writing = os.pipe()
    disk = _Disk(60)
    monkeypatch.setattr("locum.gateway.access.os.write", disk.write)
    monkeypatch.setattr("locum.gateway.access._standard_error", lambda: writing)
    failures: list[int] = []
    log = AccessLog(None, lambda: failures.append(1))
    log.write(path="/before" * 10)
    assert log.drain(5)
    disk.room = 1 << 20
    log.write(path="/after")
    log.close()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().splitlines()
    assert len(lines) == 2 and json.loads(lines[1])["path"] == "/after" and failures == [1]


def test_a_log_whose_writer_was_killed_within_a_line_goes_on_with_a_line_of_its_own(tmp_path: Path):
    (tmp_path / "log").write_text('{"path": "/a"}\n{"pat', encoding="utf-8")
    log = AccessLog(tmp_path / "log", lambda: None)
    log.write(path="/b")
    log.close()
    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 and json.loads(lines[2])["path"] == "/b"


_NOISY = """
import asyncio, gc, logging, sys, threading, warnings
from locum.gateway import app
from locum.gateway.serve import serve
from locum.gateway.settings import Settings
from locum.gateway.targets import ModelTarget
from locum.testing import FakeGenerator

class Odd(FakeGenerator):
    def stream(self, request, stop=None):
        text = request.messages[-1].content
        if text.startswith("fail"):
            raise ZeroDivisionError(text)
        if text.startswith("thread"):
            threading.Thread(target=lambda: [][int(text == "0")], name=text).start()
        if text.startswith("warn"):
            warnings.warn(text.split()[0])
            logging.getLogger("uvicorn.error").error("bad\\n" + text)
        return super().stream(request, stop)

serve(ModelTarget("tiny", Odd(lambda request: "word " * 200, chunk_s=0.002)), port=0, settings=Settings(drain_s=1))
"""


@pytest.mark.engines
def test_fault_84_every_line_of_the_log_is_json_whatever_happens(tmp_path: Path):
    """Nonsense instead of HTTP, clients that leave in the middle, engines and threads that fail, warnings, a stop."""
    canary = "canary-zebra-4711"
    with (tmp_path / "err").open("wb") as err:
        child = subprocess.Popen([sys.executable, "-c", _NOISY], stderr=err, stdout=err)
    try:
        deadline_s = time.monotonic() + 20
        while b"Ctrl-C" not in (said := (tmp_path / "err").read_bytes()) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        port = int(said.split(b"://127.0.0.1:")[1].split(b"/")[0])
        post = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"

        def send(sent: bytes, *, wait: bool = True) -> None:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
                raw.sendall(sent)
                if wait:
                    raw.recv(100)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end

        for text in ("fail", "thread", "warn", "leave"):
            for stream in (False, True):
                turns = [{"role": "user", "content": f"{text} {canary}"}]
                body = json.dumps({"model": "tiny", "messages": turns, "stream": stream}).encode()
                request = post + b"Content-Length: %d\r\n\r\n" % len(body) + body
                send(request, wait=text != "leave" or stream)
                send(request * 3, wait=False)
        send(b"\x16\x03\x01 no HTTP\r\n\r\n")
        send(
            b"GET /" + canary.encode() + b" HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"
        )
        send(post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
        send(post + b"Content-Length: 99\r\n\r\n{", wait=False)
        time.sleep(1)
        assert httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    finally:
        child.terminate()
        child.wait(20)
    first, *lines = (tmp_path / "err").read_text(encoding="utf-8").splitlines()
    assert first.startswith("serving tiny at ") and child.returncode == 0
    logged = [json.loads(line) for line in lines]
    assert canary not in "".join(lines)
    assert any(line.get("cause") == "ZeroDivisionError" and " stream" in line["at"][-1] for line in logged)
    assert any(line.get("error") == "IndexError" and line["logger"] == "locum.gateway" for line in logged)
    assert any("UserWarning: warn" in line.get("message", "") for line in logged)
    assert any(line.get("status") == 499 for line in logged)


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
