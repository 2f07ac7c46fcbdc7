"""The connection: headers that are too large, too slow or no HTTP at all, refused in the gateway's own words."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

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
