"""Connections held for nothing: deadlines, counted bytes, one request at a time, and room for everybody else."""

from __future__ import annotations

import json
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import uvicorn

from locum.gateway.crowd import Crowd, client_of
from locum.gateway.settings import Settings
from locum.testing import FakeGenerator

pytestmark = pytest.mark.engines

HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"


def _connect(gateway, source: str = "127.0.0.1") -> socket.socket:
    port = int(gateway.url.rsplit(":", 1)[1])
    return socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0))


def _answer(raw: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    said = b""
    while b"\r\n\r\n" not in said:
        part = raw.recv(1)
        assert part, f"closed after {said!r}"
        said += part
    length = next(line for line in said.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    size, body = int(length.split(b":")[1]), b""
    while len(body) < size:
        body += raw.recv(size - len(body))
    return int(said.split(b" ")[1]), body


def _until_closed(raw: socket.socket, drip: bytes = b"", limit_s: float = 10) -> tuple[float, bytes]:
    """Send a few bytes ten times a second until the server closes; how long that took, and what it said."""
    start_s, said = time.monotonic(), b""
    while time.monotonic() - start_s < limit_s:
        try:
            if drip:
                raw.sendall(drip)
            if select.select([raw], [], [], 0.1)[0]:
                part = raw.recv(65536)
                said += part
                if not part:
                    return time.monotonic() - start_s, said
        except (BrokenPipeError, ConnectionResetError):
            return time.monotonic() - start_s, said
    raise AssertionError(f"still open after {limit_s} s, having said {said[:200]!r}")


def _settings(folder: Path, **limits) -> Settings:
    return Settings(log_file=folder / "log", **limits)


@pytest.mark.parametrize(("begun", "drip"), [(b"", b"\r\n"), (b"", b""), (b"GET / HTTP/1.1\r\n", b"x-a: b\r\n")])
def test_fault_68_after_an_answer_the_deadline_counts_from_the_first_byte_whatever_follows(
    start_model, tmp_path: Path, begun: bytes, drip: bytes
):
    gateway = start_model(FakeGenerator(), settings=_settings(tmp_path, header_s=0.6))
    with _connect(gateway) as raw:
        raw.sendall(HEAD)
        assert _answer(raw)[0] == 200
        raw.sendall(begun or b"\r")
        took_s, said = _until_closed(raw, drip)
    assert 0.4 < took_s < 3 and said.startswith(b"HTTP/1.1 408 ")


def test_fault_68_a_body_that_no_handler_reads_ends_the_connection(start_model, tmp_path: Path):
    gateway = start_model(FakeGenerator(), settings=_settings(tmp_path))
    with _connect(gateway) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n{")
        took_s, said = _until_closed(raw, b"x" * 10)
    assert said.startswith(b"HTTP/1.1 200 ") and b"connection: close" in said and took_s < 5


def test_fault_68_a_body_that_came_in_time_leaves_the_connection_open(start_model, tmp_path: Path):
    gateway = start_model(FakeGenerator(), settings=_settings(tmp_path))
    with _connect(gateway) as raw:
        for _ in range(3):
            raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
            assert _answer(raw) == (200, b'{"status":"ok"}')


def test_fault_68_others_are_served_while_headers_and_bodies_drip(start_model, tmp_path: Path):
    gateway = start_model(FakeGenerator(), settings=_settings(tmp_path, header_s=1.5, receive_s=1.5))
    begun = (b"GET /health HT", HEAD + b"\r\n", POST + b"Content-Length: 9999\r\n\r\n{")
    held = [_connect(gateway) for _ in range(60)]
    for number, raw in enumerate(held):
        raw.sendall(begun[number % 3])
    with ThreadPoolExecutor(60) as pool:
        ends = [
            pool.submit(_until_closed, raw, b"\r\n" if number % 3 == 1 else b" ") for number, raw in enumerate(held)
        ]
        slowest_s = 0.0
        for _ in range(20):
            start_s = time.monotonic()
            assert gateway.ask(model="tiny").status_code == gateway.http.get("/health").status_code == 200
            slowest_s = max(slowest_s, time.monotonic() - start_s)
        took_s = [end.result()[0] for end in ends]
    for raw in held:
        raw.close()
    assert slowest_s < 1 and max(took_s) < 6, "each has a deadline of 1.5 s, and what it sends does not move it"


@pytest.mark.parametrize(
    ("head", "drip"),
    [
        (b"GET /" + b"u" * 20_000, b"u" * 20_000),
        (b"", b"\r\n" * 5000),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"x-" + b"n" * 9000 + b": v\r\n"),
    ],
)
def test_fault_67_every_byte_before_a_body_counts(start_model, tmp_path: Path, head: bytes, drip: bytes):
    gateway = start_model(FakeGenerator(), settings=_settings(tmp_path))
    with _connect(gateway) as raw:
        raw.sendall(head)
        took_s, said = _until_closed(raw, drip)
    assert b" 431 " in said and took_s < 3 and gateway.http.get("/health").status_code == 200


@pytest.mark.parametrize("piece", [b"1;x=" + b"y" * 400 + b"\r\na\r\n", b"1\r\n \r\n"])
def test_fault_67_the_bytes_around_chunks_count(start_model, tmp_path: Path, piece: bytes):
    gateway = start_model(FakeGenerator(), settings=_settings(tmp_path, max_body_bytes=3000))
    with _connect(gateway) as raw:
        raw.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        _, said = _until_closed(raw, piece * (1 + 800 // len(piece)))
    assert said.startswith(b"HTTP/1.1 413 ")
    with _connect(gateway) as raw:  # in one piece, too
        raw.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n" + piece * 1000 + b"0\r\n\r\n")
        assert _answer(raw)[0] == 413


@pytest.mark.parametrize("framing", [b"Content-Length: 2000000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
def test_fault_67_a_large_body_is_answered_before_it_is_sent_and_not_kept(start_model, tmp_path: Path, framing: bytes):
    gateway = start_model(FakeGenerator(), settings=_settings(tmp_path, max_body_bytes=100_000))
    piece = b"" if b"Content" in framing else b"10000\r\n" + b" " * 65536 + b"\r\n"
    before = psutil.Process().memory_info().rss

    def send() -> int:
        with _connect(gateway) as raw:
            raw.sendall(POST + framing)
            sent = 0
            while not select.select([raw], [], [], 0 if piece else 5)[0] and sent < 50 << 20:
                raw.sendall(piece)
                sent += len(piece)
            assert _answer(raw)[0] == 413, "the answer is not lost in a reset"
            return sent

    with ThreadPoolExecutor(16) as pool:
        sent = [done.result() for done in [pool.submit(send) for _ in range(16)]]
    assert max(sent) < 5 << 20
    assert psutil.Process().memory_info().rss - before < 40e6


@pytest.mark.parametrize("path", [b"/health", b"/v1/models", b"/nothing"])
def test_fault_88_pipelined_requests_whose_answers_nobody_reads_fill_no_memory(
    start_model, tmp_path: Path, path: bytes
):
    gateway = start_model(FakeGenerator(), settings=_settings(tmp_path, write_s=1.5))
    request = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path
    before = psutil.Process().memory_info().rss
    peak = sent = 0
    with _connect(gateway) as raw:
        raw.setblocking(False)
        end_s = time.monotonic() + 2.5
        try:
            while time.monotonic() < end_s and sent < 14 << 20:
                if select.select([], [raw], [], 0.05)[1]:
                    sent += raw.send(request * 2000)
                peak = max(peak, psutil.Process().memory_info().rss)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it is cut off, as whoever reads nothing is
        assert gateway.http.get("/health").elapsed.total_seconds() < 1
    assert sent > 100_000 and peak - before < 40e6


def test_fault_88_one_request_of_a_connection_is_answered_at_a_time(start_model, tmp_path: Path):
    class Watched(FakeGenerator):
        running = most = 0

        def stream(self, request, stop=None):
            self.running += 1
            self.most = max(self.most, self.running)
            time.sleep(0.02)
            self.running -= 1
            return super().stream(request, stop)

    generator = Watched(lambda request: request.messages[-1].content[::-1])
    gateway = start_model(generator, settings=_settings(tmp_path))
    texts = [f"question {number}" for number in range(20)]
    sent = b""
    for number, text in enumerate(texts):
        body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": text}]}).encode()
        sent += POST + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"\r\n" * (number % 2)
    with _connect(gateway) as raw:
        raw.sendall(sent[:1000])
        time.sleep(0.05)
        raw.sendall(sent[1000:])
        said = [json.loads(_answer(raw)[1])["choices"][0]["message"]["content"] for _ in texts]
    assert said == [text[::-1] for text in texts], "each its own, in their order"
    assert generator.most == 1


def test_requests_are_told_apart_however_they_are_cut(start_model, tmp_path: Path):
    gateway = start_model(FakeGenerator(lambda request: request.messages[-1].content), settings=_settings(tmp_path))
    cuts = random.Random(7)
    with _connect(gateway) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(25):
            sent, wanted = b"", []
            for number in range(cuts.randint(1, 6)):
                text = "\r\n\r\n" * cuts.randint(0, 3) + f"GET /{number} HTTP/1.1\r\n\r\n"
                body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": text}]}).encode()
                body += b"\r\n\r\n" * cuts.randint(0, 2)  # white space after the document
                sent += b"\r\n" * cuts.randint(0, 2) + POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
                wanted.append(text)
                if cuts.random() < 0.3:
                    sent += HEAD
                    wanted.append("")
            while sent:
                size = cuts.choice((1, 2, 3, 17, 150, 4000))
                raw.sendall(sent[:size])
                sent = sent[size:]
                time.sleep(cuts.choice((0, 0, 0.0005)))
            for text in wanted:
                status, said = _answer(raw)
                assert status == 200
                found = json.loads(said)
                assert found == {"status": "ok"} if not text else found["choices"][0]["message"]["content"] == text


def test_fault_69_a_connection_whose_answers_nobody_reads_is_cut_off(start_model, tmp_path: Path):
    gateway = start_model(FakeGenerator(), settings=_settings(tmp_path, write_s=0.7))
    with _connect(gateway) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(0.2)
        start_s, cut = time.monotonic(), False
        while not cut and time.monotonic() - start_s < 15:
            try:
                raw.send(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400)
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                cut = True
    assert cut


@pytest.mark.parametrize("pieces", [1, 7, 10_000])
def test_an_offer_of_http_2_is_ignored_and_the_body_is_read(start_model, pieces: int):
    gateway = start_model(FakeGenerator(lambda _: "fine"))
    body = b'{"model":"tiny","messages":[{"role":"user","content":"Hello"}]}'
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQ\r\n"
    request = POST + offer + b"Content-Length: %d\r\n\r\n" % len(body) + body
    size = -(-len(request) // pieces)
    with _connect(gateway) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            for start in range(0, len(request), size):
                raw.sendall(request[start : start + size])
            status, said = _answer(raw)
            assert status == 200 and json.loads(said)["choices"][0]["message"]["content"] == "fine"


def test_headers_after_a_body_are_none_of_the_request(start_model, tmp_path: Path):
    key = "a key of somebody else"
    gateway = start_model(FakeGenerator(), settings=_settings(tmp_path, api_key=key))
    with _connect(gateway) as raw:
        late = b"0\r\nAuthorization: Bearer " + key.encode() + b"\r\n\r\n"
        raw.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + late)
        assert _answer(raw)[0] == 401


# Who is connected


class Guest:
    """A connection as ``Crowd`` sees it."""

    def __init__(self, crowd: Crowd, address: str, since_s: float | None) -> None:
        self.crowd, self.address, self.quiet_since_s, self.dropped = crowd, address, since_s, False
        self.answered = crowd.enter(self, address)

    def drop(self) -> None:
        self.dropped = True
        self.crowd.leave(self, self.address)


def test_fault_41_at_a_limit_the_longest_quiet_makes_room_and_nobody_who_waits_for_an_answer():
    crowd = Crowd(most=4, most_of_one=3, spare=1)
    busy, old, young = (Guest(crowd, "10.0.0.1", since) for since in (None, 1.0, 2.0))
    fourth = Guest(crowd, "10.0.0.1", 3.0)
    assert old.dropped and fourth.answered and not busy.dropped and not young.dropped
    other = Guest(crowd, "10.0.0.2", None)
    assert other.answered and not young.dropped, "the limit of one client is no limit of others"
    another = Guest(crowd, "10.0.0.3", None)
    assert another.answered and young.dropped, "of all, the client with the most makes room"
    fourth.quiet_since_s = None
    spare = Guest(crowd, "10.0.0.4", None)
    assert spare.answered is False, "all wait for answers: it is told how the process is, and no more"
    assert Guest(crowd, "10.0.0.5", 1.0).answered is None
    crowd.leave(spare, spare.address)
    crowd.leave(spare, spare.address)
    assert Guest(crowd, "10.0.0.5", 1.0).answered is False


def test_fault_41_an_ipv6_network_is_one_client():
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:1") != client_of("2001:db8:0:1::1")
    assert client_of("::ffff:10.0.0.1") == client_of("10.0.0.1") != client_of("10.0.0.2")
    assert client_of("fe80::1%eth0") == client_of("fe80::2%eth0") and client_of("") == ""


def test_fault_41_one_client_cannot_take_the_place_of_others(start_model, tmp_path: Path):
    gateway = start_model(FakeGenerator(), settings=_settings(tmp_path, client_connections=20))
    with _connect(gateway, "127.0.0.2") as other:
        other.sendall(HEAD)
        assert _answer(other)[0] == 200
        flood = [_connect(gateway) for _ in range(60)]
        time.sleep(0.3)
        closed = 0
        for raw in flood:
            raw.setblocking(False)
            try:
                closed += raw.recv(1) == b""
            except BlockingIOError:
                pass
            except ConnectionResetError:
                closed += 1
        other.sendall(HEAD)
        assert _answer(other)[0] == 200
        assert gateway.http.get("/health").status_code == 200
        for raw in flood:
            raw.close()
    assert 38 <= closed <= 42


_CHILD = (
    "import resource, sys, time; resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96));"
    "from locum.gateway.serve import serve; from locum.gateway.targets import ModelTarget;"
    "from locum.testing import FakeGenerator;"
    "serve(ModelTarget('tiny', FakeGenerator(lambda request: time.sleep(4) or 'late')), port=0,"
    " on_ready=lambda url: print(url, flush=True))"
)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("kind", ["silent", "dripping", "busy"])
def test_fault_41_health_is_answered_at_the_limit_of_open_files(kind: str):
    """And where all connections wait for answers, other requests are shed with 503."""
    child = subprocess.Popen([sys.executable, "-W", "error", "-c", _CHILD], stdout=subprocess.PIPE, text=True)
    flood: list[socket.socket] = []
    try:
        assert child.stdout is not None
        url = httpx.URL(child.stdout.readline().strip())
        assert url.port is not None
        body = b'{"model":"tiny","messages":[{"role":"user","content":"Hello"}]}'
        busy = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
        for number in range(60):
            flood.append(socket.create_connection(("127.0.0.1", url.port), source_address=(f"127.0.0.{number + 2}", 0)))
            flood[-1].sendall({"silent": b"", "dripping": HEAD + b"\r\n", "busy": busy}[kind])
        time.sleep(0.5)
        with httpx.Client(base_url=url.copy_with(path="/"), trust_env=False, timeout=20) as http:
            start_s = time.monotonic()
            for _ in range(5):
                assert http.get("/health", headers={"connection": "close"}).status_code == 200
            assert time.monotonic() - start_s < 1.5
            shed = http.get("/v1/models", headers={"connection": "close"})
            if kind == "busy":
                assert shed.status_code == 503 and shed.json()["error"]["code"] == "overloaded"
                assert int(shed.headers["retry-after"]) >= 1
            else:
                assert shed.status_code == 200
            if kind == "busy":  # those who had a place get their answers, and afterwards there is room
                answered = [raw for raw in flood[:28] if raw.recv(100).startswith(b"HTTP/1.1 200 ")]
                assert len(answered) == 28 and http.get("/v1/models").status_code == 200
        assert child.poll() is None
    finally:
        for connection in flood:
            connection.close()
        child.terminate()
        child.communicate(timeout=30)


def test_fault_88_overload_is_a_bounded_queue_with_health_beside_it(start_model, tmp_path: Path):
    gate = threading.Event()

    class Gated(FakeGenerator):
        running = 0

        def stream(self, request, stop=None):
            self.running += 1
            gate.wait(20)
            return super().stream(request, stop)

    generator = Gated()
    gateway = start_model(generator, settings=_settings(tmp_path, threads=2, max_waiting=3))
    took_s: list[float] = []

    def ask(_: int) -> httpx.Response:
        with httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as http:
            start_s = time.monotonic()
            body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
            said = http.post("/v1/chat/completions", json=body)
            if said.status_code == 503:
                took_s.append(time.monotonic() - start_s)
            return said

    with ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(ask, number) for number in range(50)]
        health_s: list[float] = []
        deadline_s = time.monotonic() + 10
        while len(took_s) < 45 and time.monotonic() < deadline_s:
            health_s.append(gateway.http.get("/health").elapsed.total_seconds())
        assert len(took_s) == 45, "two are being answered and three wait; the rest need not"
        assert gateway.metric("locum_in_flight") == 5 and generator.running == 2
        gate.set()
        answers = [done.result() for done in asked]
    refused = [said for said in answers if said.status_code == 503]
    assert len(refused) == 45 and all(int(said.headers["retry-after"]) >= 1 for said in refused)
    assert {said.json()["error"]["code"] for said in refused} == {"overloaded"}
    assert [said.status_code for said in answers].count(200) == 5 and generator.running == 5
    assert max(took_s) < 5 and sorted(health_s)[len(health_s) // 2] < 0.25


CHUNKED = POST + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"mod\r\n0\r\n\r\n'


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_client_that_leaves_with_several_requests_under_way_is_no_error(
    start_model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, loop: str
):
    factory = pytest.importorskip(loop).new_event_loop
    monkeypatch.setattr(uvicorn.Config, "get_loop_factory", lambda _self: factory)
    gateway = start_model(FakeGenerator())
    draw = random.Random(7)
    for sent in (CHUNKED * 2, CHUNKED + HEAD * 3, HEAD * 2, HEAD + b"garbage\r\n\r\n", POST + b"\r\n" + HEAD):
        for _ in range(40):
            with _connect(gateway) as raw:
                raw.sendall(sent)
                time.sleep(draw.choice([0, 0.0005, 0.002]))
                if draw.random() < 0.7:  # a reset
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert gateway.http.get("/health").status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
