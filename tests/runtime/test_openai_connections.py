"""Connections to the LLM: kept, replaced, bounded, stopped from another thread; time-outs, TLS and proxies."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from locum.core.errors import LocumError, UpstreamError, UserError
from locum.runtime import CompletionRequest, Message
from locum.runtime.openai import OpenAiGenerator
from locum.schema.task import LlmSpec
from locum.testing import FakeUpstream, Scripted
from locum.testing.upstream import asking

REQUEST = CompletionRequest((Message("system", "Be brief."), Message("user", "Which label?")), max_tokens=5)


def failure(generator: OpenAiGenerator) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        generator.complete(REQUEST)
    return caught.value


def fails(generator: OpenAiGenerator, code: str) -> UpstreamError:
    error = failure(generator)
    assert error.code == code, str(error)
    return error


def test_a_connection_is_used_again() -> None:
    with asking() as (upstream, generator, _waits):
        for _ in range(5):
            generator.complete(REQUEST)
        assert upstream.connections == 1


def test_a_connection_that_the_server_closed_meanwhile_is_replaced_without_a_failure() -> None:
    with asking(Scripted("a", close_after=True)) as (upstream, generator, waits):
        for _ in range(3):
            assert generator.complete(REQUEST).extra["attempts"] == "1"
            time.sleep(0.05)
        assert waits == [] and upstream.connections == 3


def test_a_connection_that_is_closed_under_the_request_is_replaced_once() -> None:
    with asking("a", Scripted(drop=True), "b", "c") as (upstream, generator, waits):
        assert generator.complete(REQUEST).text == "a"
        completion = generator.complete(REQUEST)
        assert (completion.text, completion.extra["attempts"], waits) == ("b", "1", [])
        assert len(upstream.received) == 3


def test_no_more_connections_than_allowed_and_all_are_answered() -> None:
    with asking(Scripted("ok", delay_s=0.02)) as (upstream, generator, _waits):
        with ThreadPoolExecutor(80) as pool:
            texts = [done.text for done in pool.map(lambda _: generator.complete(REQUEST), range(160))]
        assert texts == ["ok"] * 160
        assert upstream.connections <= 64


def test_close_ends_a_request_under_way_within_a_second() -> None:
    with asking(Scripted(delay_s=2)) as (_, generator, _waits):
        threading.Timer(0.2, generator.close).start()
        start_s = time.monotonic()
        with pytest.raises(LocumError) as caught:
            generator.complete(REQUEST)
        assert caught.value.code == "runtime-closed"
        assert time.monotonic() - start_s < 1.2


def test_fault_58_headers_that_trickle_are_given_up() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            for _ in range(200):
                connection.sendall(b"x-a: b\r\n")
                time.sleep(0.05)

    thread = threading.Thread(target=trickle)
    thread.start()
    llm = LlmSpec(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1", model="m", timeout_s=0.5)
    generator = OpenAiGenerator(llm)
    start_s = time.monotonic()
    assert failure(generator).code == "upstream-timeout"
    assert time.monotonic() - start_s < 3
    generator.close()
    thread.join()
    listener.close()


def test_fault_55_no_connection_in_time() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)  # nobody accepts, and few may wait
    crowd: list[socket.socket] = []
    with contextlib.suppress(OSError):
        for _ in range(8):
            crowd.append(socket.create_connection(listener.getsockname(), timeout=0.2))
    llm = LlmSpec(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1", model="m", connect_timeout_s=0.2)
    generator = OpenAiGenerator(llm, sleep=lambda _s: None)
    start_s = time.monotonic()
    assert failure(generator).code == "upstream-unreachable"
    assert time.monotonic() - start_s < 5
    generator.close()
    for member in (*crowd, listener):
        member.close()


# TLS and proxies


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that signs itself."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key", "-out", "cert"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    pem = folder / "both.pem"
    pem.write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return pem


def test_fault_55_a_certificate_that_nobody_vouches_for(certificate: Path) -> None:
    with FakeUpstream(["ok"], certificate=certificate) as upstream:
        generator = OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m"), sleep=lambda _s: None)
        assert "CERTIFICATE_VERIFY_FAILED" in fails(generator, "upstream-unreachable").cause
        assert upstream.received == []
        generator.close()


def test_fault_55_no_tls_where_it_should_be() -> None:
    with FakeUpstream(["ok"]) as upstream:
        url = upstream.base_url.replace("http:", "https:")
        generator = OpenAiGenerator(LlmSpec(base_url=url, model="m"), sleep=lambda _s: None)
        assert failure(generator).code == "upstream-unreachable"
        assert upstream.received == []
        generator.close()


def test_over_tls_all_is_the_same(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with FakeUpstream(["a b", Scripted("red or blue", hang_after=2)], certificate=certificate) as upstream:
        generator = OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m"))
        assert generator.complete(REQUEST).text == "a b"
        stream = generator.stream(REQUEST)
        assert next(stream).text == "red "
        threading.Timer(0.2, stream.close).start()
        start_s = time.monotonic()
        assert next(stream, None) is None
        assert time.monotonic() - start_s < 1.2
        assert upstream.connections == 1
        generator.close()


def test_over_tls_a_forwarded_answer_is_the_same(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with FakeUpstream(["a", "b" * 40_000, "c"], certificate=certificate) as upstream:
        generator = OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m"))
        generator.complete(REQUEST)
        sent = generator.forward(REQUEST)
        if sent is None:  # the server's session tickets came late: bytes that nobody asked for
            generator.complete(REQUEST)
            sent = generator.forward(REQUEST)
        assert sent is not None
        while not sent.arrival.advance():
            assert select.select([sent.arrival], [], [], 5)[0]
        sent.arrival.release()
        assert next(chunk.text for chunk in sent.stream if chunk.text) in ("b" * 40_000, "c")
        generator.close()


def test_a_proxy_of_the_environment_is_used_for_remote_hosts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def proxy() -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(4096))
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

    thread = threading.Thread(target=proxy)
    thread.start()
    for name in ("no_proxy", "NO_PROXY", "https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", f"http://me:p%40ss@127.0.0.1:{listener.getsockname()[1]}")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with asking("local") as (_, generator, _waits):
        assert generator.complete(REQUEST).text == "local"
    generator = OpenAiGenerator(LlmSpec(base_url="https://llm.example/v1", model="m", timeout_s=5), sleep=_stop)
    with pytest.raises(_StopError):
        generator.complete(REQUEST)
    thread.join()
    listener.close()
    generator.close()
    assert asked[0].startswith(b"CONNECT llm.example:443 HTTP/1.")
    assert b"Proxy-Authorization: Basic bWU6cEBzcw==" in asked[0]
    assert b"authorization: Bearer" not in asked[0]


class _StopError(Exception):
    pass


def _stop(_s: float) -> None:
    raise _StopError


def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(UserError) as caught:
        OpenAiGenerator(LlmSpec(base_url="https://llm.example/v1", model="m"))
    assert caught.value.code == "upstream-proxy"


# what is no HTTP


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhi",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"",
    ],
)
def test_fault_59_what_is_no_http_is_a_typed_error(answer: bytes) -> None:
    with raw_server(answer) as generator:
        assert failure(generator).code == "upstream-broken-off"


def test_interim_answers_are_passed_over_and_a_body_may_end_with_the_connection() -> None:
    document = b'{"choices": [{"message": {"content": "card"}, "finish_reason": "stop"}]}'
    with raw_server(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n" + document) as generator:
        assert generator.complete(REQUEST).text == "card"


def test_fault_59_endless_headers_are_cut_off() -> None:
    with raw_server(b"HTTP/1.1 200 OK\r\n" + b"x-a: " + b"b" * (17 << 20)) as generator:
        assert failure(generator).code == "upstream-too-large"


@contextmanager
def raw_server(answer: bytes) -> Iterator[OpenAiGenerator]:
    """A server that says these bytes to everyone and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    generator = OpenAiGenerator(LlmSpec(base_url=url, model="m", timeout_s=10), sleep=lambda _s: None)
    try:
        yield generator
    finally:
        generator.close()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
