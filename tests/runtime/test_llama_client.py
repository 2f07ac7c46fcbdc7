"""HTTP to the engine's process: kept connections, events, time-outs, and closing from another thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from locum.runtime.llama_client import EngineGoneError, EngineRefusedError, LlamaClient

HEAD = b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def whole(content: bytes, head: bytes = HEAD) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(content), content)


class Server:
    """Answers each request with the next of some scripts; a script gets the connection."""

    def __init__(self, *scripts: bytes | Callable[[socket.socket], None]) -> None:
        self.scripts = list(scripts)
        self.requests: list[bytes] = []
        self.connections = 0
        self._opened: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.client = LlamaClient(self._listener.getsockname()[1], "secret")
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._opened.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            while line := lines.readline():
                request = line
                while (line := lines.readline()) != b"\r\n":
                    request += line
                length = int(request.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                self.requests.append(request + lines.read(length))
                script = self.scripts.pop(0)
                if callable(script):
                    script(connection)
                    return
                connection.sendall(script)

    def close(self) -> None:
        self.client.close()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._opened:
            connection.close()
        for thread in self._threads:
            thread.join(5)


Make = Callable[..., Server]


@pytest.fixture
def make() -> Iterator[Make]:
    servers: list[Server] = []

    def start(*scripts: bytes | Callable[[socket.socket], None]) -> Server:
        servers.append(Server(*scripts))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def post(server: Server, body: dict[str, object] | None = None, *, idle_s: float = 5, for_s: float = 10) -> object:
    return server.client.post("/x", body or {}, deadline_s=time.monotonic() + for_s, idle_s=idle_s)


def test_a_request_carries_key_and_body_and_the_connection_is_kept(make: Make) -> None:
    server = make(whole(b'{"a": 1}'), whole(b'{"a": 2}'), CHUNKED + chunk(b'{"a"') + chunk(b": 3}") + b"0\r\n\r\n")
    assert [post(server, {"n": n, "text": "é"}) for n in range(3)] == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert server.connections == 1
    assert server.requests[0].startswith(b"POST /x HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret\r\n" in server.requests[0]
    assert server.requests[1].endswith('{"n":1,"text":"é"}'.encode())


def test_a_connection_that_the_server_closed_meanwhile_is_replaced(make: Make) -> None:
    def answer_and_close(connection: socket.socket) -> None:
        connection.sendall(whole(b'{"a": 1}'))

    server = make(answer_and_close, whole(b'{"a": 2}'))
    assert post(server) == {"a": 1}
    time.sleep(0.1)
    assert post(server) == {"a": 2}
    assert server.connections == 2


def test_a_server_that_wants_to_close_is_not_asked_on_that_connection(make: Make) -> None:
    server = make(whole(b"{}", HEAD + b"Connection: close\r\n"), whole(b"{}"))
    post(server)
    post(server)
    assert server.connections == 2


def test_events_come_as_they_are_sent(make: Make) -> None:
    events = [b'data: {"n": 0}\n\n', b': ping\n\ndata: {"n": 1}\n\ndata: {"n":', b" 2}\n\n", b"data: [DONE]\n\n"]
    server = make(CHUNKED + b"".join(map(chunk, events)) + b"0\r\n\r\n", whole(b"{}"))
    exchange = server.client.stream("/x", {}, deadline_s=time.monotonic() + 5, idle_s=5)
    assert [event["n"] for event in exchange.events()] == [0, 1, 2]
    exchange.close()
    post(server)
    assert server.connections == 1


def test_errors_of_the_engine(make: Make) -> None:
    refused = b'{"error": {"message": "too long", "type": "exceed_context_size_error"}}'
    bad = b"HTTP/1.1 400 Bad Request\r\n"
    server = make(
        whole(refused, bad),
        whole(b"<html>", b"HTTP/1.1 500 Oops\r\n"),
        CHUNKED + chunk(b'data: {"error": {"message": "compute"}}\n\n') + b"0\r\n\r\n",
    )
    with pytest.raises(EngineRefusedError, match="too long") as caught:
        post(server)
    assert caught.value.status == 400 and caught.value.error["type"] == "exceed_context_size_error"
    with pytest.raises(EngineRefusedError, match="<html>"):
        post(server)
    exchange = server.client.stream("/x", {}, deadline_s=time.monotonic() + 5, idle_s=5)
    with pytest.raises(EngineRefusedError, match="compute"):
        list(exchange.events())
    exchange.close()


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200", HEAD + b"Content-Length: 9\r\n\r\n{", CHUNKED + b"5\r\nab"])
def test_an_answer_that_breaks_off(make: Make, sent: bytes) -> None:
    server = make(lambda connection: connection.sendall(sent))
    with pytest.raises(EngineGoneError):
        post(server)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(EngineGoneError, match="connect"):
        LlamaClient(port, "").post("/x", {}, deadline_s=time.monotonic() + 1, idle_s=1)


def test_silence_and_the_end_of_time(make: Make) -> None:
    def trickle(connection: socket.socket) -> None:
        connection.sendall(CHUNKED)
        try:
            for _ in range(100):
                connection.sendall(chunk(b'data: {"n": 0}\n\n'))
                time.sleep(0.05)
        except OSError:
            pass

    server = make(lambda _: time.sleep(0.6), trickle)
    start_s = time.monotonic()
    with pytest.raises(TimeoutError):
        post(server, idle_s=0.2)
    assert time.monotonic() - start_s < 0.6
    exchange = server.client.stream("/x", {}, deadline_s=time.monotonic() + 0.4, idle_s=5)
    start_s = time.monotonic()
    with pytest.raises(TimeoutError):
        list(exchange.events())
    exchange.close()
    assert time.monotonic() - start_s < 3


def test_another_thread_closes_what_is_being_read(make: Make) -> None:
    done = threading.Event()

    def wait(connection: socket.socket) -> None:
        connection.sendall(CHUNKED)
        if connection.recv(1) == b"":
            done.set()

    server = make(wait)
    exchange = server.client.stream("/x", {}, deadline_s=time.monotonic() + 20, idle_s=20)
    threading.Timer(0.2, exchange.close).start()
    with pytest.raises(EngineGoneError):
        list(exchange.events())
    assert done.wait(2)
