"""The connection: headers that are too large, too slow or no HTTP at all, refused in the gateway's own words."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path

import pytest

from locum.gateway import wire
from locum.gateway.settings import Settings
from locum.testing import FakeGenerator

pytestmark = pytest.mark.engines


def _connect(gateway) -> socket.socket:
    host, port = gateway.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def _all(raw: socket.socket) -> bytes:
    said = b""
    try:
        while part := raw.recv(4096):
            said += part
    except ConnectionResetError:
        pass  # it was closed while more was on its way
    return said


@pytest.mark.parametrize("pieces", [1, 40])
def test_fault_67_large_headers_are_a_431(start_model, pieces: int):
    gateway = start_model(FakeGenerator())
    with _connect(gateway) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        try:
            for number in range(pieces):
                raw.sendall(b"x-%d: " % number + b"y" * (60_000 // pieces) + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        said = _all(raw)
    if said:  # a reset may have overtaken the answer
        assert said.startswith(b"HTTP/1.1 431 ")
        assert json.loads(said.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "headers_too_large"
    assert gateway.http.get("/health").status_code == 200


def test_fault_68_headers_that_drip_are_cut_at_the_deadline(start_model, tmp_path: Path):
    gateway = start_model(FakeGenerator(), settings=Settings(header_s=0.5, log_file=tmp_path / "log"))
    with _connect(gateway) as raw:
        start_s = time.monotonic()
        try:
            while time.monotonic() - start_s < 10:
                raw.sendall(b"G" if time.monotonic() - start_s < 0.01 else b"")
                raw.settimeout(0.05)
                try:
                    said = raw.recv(4096)
                    break
                except TimeoutError:
                    continue
        finally:
            took_s = time.monotonic() - start_s
    assert said.startswith(b"HTTP/1.1 408 ") and took_s < 8
    assert json.loads(said.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "receive_timeout"


def test_a_connection_that_says_nothing_is_closed(start_model, tmp_path: Path):
    gateway = start_model(FakeGenerator(), settings=Settings(header_s=0.3, log_file=tmp_path / "log"))
    with _connect(gateway) as raw:
        assert _all(raw).startswith(b"HTTP/1.1 408 ")


def test_what_is_no_http_has_the_envelope_too(start_model):
    with _connect(start_model(FakeGenerator())) as raw:
        raw.sendall(b"hello\r\n\r\n")
        said = _all(raw)
    assert said.startswith(b"HTTP/1.1 400 ") and b'"error"' in said


def test_a_kept_connection_serves_many_requests_and_each_has_its_deadline(start_model, tmp_path: Path):
    gateway = start_model(FakeGenerator(), settings=Settings(header_s=2, log_file=tmp_path / "log"))
    with _connect(gateway) as raw:
        for _ in range(3):
            raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert raw.recv(4096).startswith(b"HTTP/1.1 200 ")
        raw.sendall(b"GET /health HTT")
        assert _all(raw).startswith(b"HTTP/1.1 408 ")


class Recorded(asyncio.Transport):
    """A transport that keeps what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes | str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.asked.append(bytes(data))

    def close(self) -> None:
        self.asked.append("close")


def test_what_is_written_together_leaves_in_one_piece_and_before_the_end() -> None:
    transport = Recorded()
    together = wire._Together(transport)
    together.write(b"alone")
    with together.held():
        together.write(b"head ")
        together.write(b"body")
        assert transport.asked == [b"alone"]
    with together.held():
        together.write(b"last")
        together.close()
    with pytest.raises(RuntimeError), together.held():
        together.write(b"half")
        raise RuntimeError
    assert transport.asked == [b"alone", b"head body", b"last", "close", b"half"]


def test_a_whole_answer_arrives_in_one_piece(start_model, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    plain = wire._Together._release

    def release(self: wire._Together) -> None:
        written.append(b"".join(self._held or []))
        plain(self)

    monkeypatch.setattr(wire._Together, "_release", release)
    with _connect(start_model(FakeGenerator())) as raw:
        raw.sendall(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = _all(raw)
    assert written[0] == answer
    assert answer.startswith(b"HTTP/1.1 200") and json.loads(answer.partition(b"\r\n\r\n")[2])["object"] == "list"
