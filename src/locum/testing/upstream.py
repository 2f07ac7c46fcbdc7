"""An OpenAI-compatible server on loopback that answers from a script, streams and faults included.

Notable: it speaks real HTTP through sockets, so time-outs, truncated bodies and floods of bytes are what a
client meets in life. A request with ``stream`` gets its answer as server-sent events, a word each. Use as a context
manager:

    with FakeUpstream([Scripted(status=429, headers={"retry-after": "1"}), "card"]) as upstream:
        OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m"))

Not here: speed (``bench`` has a server for that).
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from locum.runtime.openai import OpenAiGenerator
from locum.schema.task import LlmSpec


@dataclass(frozen=True)
class Scripted:
    """One answer of the server.

    Attributes:
        text: the assistant's message, when ``body`` is None; None is JSON null.
        status: HTTP status.
        headers: sent beside or instead of the usual ones; an empty value leaves one out.
        body: sent as it is, instead of a completion.
        finish_reason: of the choice.
        refusal: the message's ``refusal`` field.
        model: the model's name in the answer; None repeats the one asked for.
        delay_s: wait before the first byte.
        drip_s: wait before each chunk of 1,024 bytes of the body, or before each event.
        repeat: send the body, or the events, this many times, as one answer.
        drop: close the connection without an answer.
        truncate: announce the whole length, send half, close; of a stream: close after half of the events.
        usage: whether token counts are in the answer.
        message: further fields of the message (``tool_calls``).
        choice: further fields of the choice (``logprobs``).
        document: further fields of the whole (``system_fingerprint``).
        events: a stream's content, instead of the words of ``text``; bytes are sent as they are, one write each,
            anything else as the JSON of one event.
        hang_after: send nothing more after so many events, and keep the connection.
        close_after: close the connection after the answer, without having said so.
    """

    text: str | None = "ok"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    finish_reason: str | None = "stop"
    refusal: str | None = None
    model: str | None = None
    delay_s: float = 0.0
    drip_s: float = 0.0
    repeat: int = 1
    drop: bool = False
    truncate: bool = False
    usage: bool = True
    message: Mapping[str, Any] = field(default_factory=dict)
    choice: Mapping[str, Any] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[Any] | None = None
    hang_after: int | None = None
    close_after: bool = False


@dataclass(frozen=True)
class Received:
    """One request as the server saw it; header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


Script = Sequence[str | Scripted] | Callable[[Mapping[str, Any]], str | Scripted]


class FakeUpstream:
    """The server; it listens from ``__init__`` on and stops at ``close``.

    Args:
        script: answers in order, the last one repeated for ever; or a function of the request's JSON.
        certificate: a PEM file with key and certificate; then it speaks TLS.

    Attributes:
        base_url: ``http://127.0.0.1:PORT/v1``.
        received: every request so far.
        connections: how many were accepted so far.
        gone: set when a client has closed a connection while an answer was under way.
    """

    def __init__(self, script: Script = ("ok",), *, certificate: Path | None = None) -> None:
        if not callable(script) and not script:
            raise ValueError("the script holds no answer")
        self._script = script
        self._lock = threading.Lock()
        self.received: list[Received] = []
        self.connections = 0
        self.gone = threading.Event()
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"upstream": self}))
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # the handshake is left to the connection's own thread: a client that refuses must not stop the server
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "http" if certificate is None else "https"
        self.base_url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def accepted(self) -> None:
        """Count a connection."""
        with self._lock:
            self.connections += 1

    def answer(self, request: Received) -> Scripted:
        """Take note of a request and say what it gets."""
        with self._lock:
            turn = len(self.received)
            self.received.append(request)
        reply = self._script(request.body) if callable(self._script) else self._script[min(turn, len(self._script) - 1)]
        return Scripted(text=reply) if isinstance(reply, str) else reply


def completion_body(scripted: Scripted, request: Mapping[str, Any]) -> bytes:
    """The JSON of a completion, of a chat or of a ``prompt``, as the OpenAI API documents it."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": scripted.finish_reason, **scripted.choice}
    if "prompt" in request:
        choice["text"] = scripted.text
    else:
        choice["message"] = {"role": "assistant", "content": scripted.text, **scripted.message}
        if scripted.refusal is not None:
            choice["message"]["refusal"] = scripted.refusal
    kind = "text_completion" if "prompt" in request else "chat.completion"
    document = {**_document(scripted, request, kind), "choices": [choice]}
    if scripted.usage:
        document["usage"] = _usage(scripted, request)
    return json.dumps(document).encode()


def completion_events(scripted: Scripted, request: Mapping[str, Any]) -> Iterator[bytes]:
    """The same as server-sent events: a word each, the end, usage when it is asked for, ``[DONE]``."""
    if scripted.events is not None:
        for event in scripted.events:
            yield event if isinstance(event, bytes) else _event(event)
        return
    prompt = "prompt" in request
    head = _document(scripted, request, "text_completion" if prompt else "chat.completion.chunk")

    def chunk(text: str | None, finish: str | None = None, **delta: Any) -> bytes:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        if prompt:
            choice["text"] = text or ""
        else:
            choice["delta"] = delta | ({} if text is None else {"content": text})
        return _event({**head, "choices": [choice]})

    yield chunk("", role="assistant", **scripted.message)
    for word in (scripted.text or "").replace(" ", " \0").split("\0"):
        yield chunk(word)
    if scripted.refusal is not None:
        yield chunk(None, refusal=scripted.refusal)
    yield chunk(None, scripted.finish_reason)
    if scripted.usage and (request.get("stream_options") or {}).get("include_usage"):
        yield _event({**head, "choices": [], "usage": _usage(scripted, request)})
    yield b"data: [DONE]\n\n"


def _document(scripted: Scripted, request: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-fake",
        "object": kind,
        "created": int(time.time()),
        "model": scripted.model or request.get("model", "unknown"),
        **scripted.document,
    }


def _usage(scripted: Scripted, request: Mapping[str, Any]) -> dict[str, int]:
    texts = [str(request.get("prompt", "")), *(str(turn.get("content", "")) for turn in request.get("messages", []))]
    asked, told = sum(len(text.split()) for text in texts), len((scripted.text or "").split())
    return {"prompt_tokens": asked, "completion_tokens": told, "total_tokens": asked + told}


def _event(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # the library's five lose connections that come at once, and TCP asks again after seconds

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet: clients that refuse a certificate or go away are part of the play."""


class _Handler(BaseHTTPRequestHandler):
    upstream: FakeUpstream
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # each write leaves at once, as a stream's must

    def setup(self) -> None:
        super().setup()
        self.upstream.accepted()

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            body = {}
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Received(self.path, headers, body)
        try:
            self._send(self.upstream.answer(request), body)
        except OSError:
            self.upstream.gone.set()
            self.close_connection = True  # the client gave up, as tests of time-outs make it do

    def do_GET(self) -> None:
        self.do_POST()

    def _send(self, scripted: Scripted, request: Mapping[str, Any]) -> None:
        time.sleep(scripted.delay_s)
        if scripted.drop:
            self._shut()
            return
        streamed = scripted.body is None and scripted.status == 200 and bool(request.get("stream"))
        if streamed:
            self._send_events(scripted, request)
        else:
            self._send_whole(scripted, request)
        if scripted.close_after:
            self._shut()

    def _send_whole(self, scripted: Scripted, request: Mapping[str, Any]) -> None:
        body = completion_body(scripted, request) if scripted.body is None else scripted.body
        self._head(scripted, {"content-type": "application/json", "content-length": str(len(body) * scripted.repeat)})
        if scripted.truncate:
            body = body[: len(body) // 2]
            self.close_connection = True
        for _ in range(scripted.repeat):
            for start in range(0, len(body), 1024 if scripted.drip_s else max(1, len(body))):
                time.sleep(scripted.drip_s)
                self.wfile.write(body[start : start + 1024] if scripted.drip_s else body)
                self.wfile.flush()

    def _send_events(self, scripted: Scripted, request: Mapping[str, Any]) -> None:
        self._head(scripted, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        events = list(completion_events(scripted, request)) * scripted.repeat
        stop_at = len(events) // 2 if scripted.truncate else None
        for place, event in enumerate(events):
            if place == scripted.hang_after:
                self._hang()
                return
            if place == stop_at:
                self._shut()
                return
            time.sleep(scripted.drip_s)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _head(self, scripted: Scripted, headers: Mapping[str, str]) -> None:
        self.send_response(scripted.status)
        for name, value in {**headers, **scripted.headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()

    def _hang(self) -> None:
        """Say nothing more until the client goes away or the server is closed."""
        self.connection.settimeout(0.05)
        while not self.upstream.closing.is_set():
            try:
                if not self.connection.recv(1):
                    self.upstream.gone.set()
                    break
            except TimeoutError:
                continue
        self.close_connection = True

    def _shut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@contextlib.contextmanager
def asking(
    *script: str | Scripted, timeout_s: float = 10, **llm: Any
) -> Generator[tuple[FakeUpstream, OpenAiGenerator, list[float]], None, None]:
    """A server with a script, a client that asks it, and the seconds that the client waited between tries.

    Nothing is really waited for, so tests of retries are quick.

    Args:
        *script: what the server answers, in turn; ``ok`` when there is none.
        timeout_s: of one answer.
        **llm: further fields of ``LlmSpec``.
    """
    waits: list[float] = []
    with FakeUpstream(script or ("ok",)) as upstream:
        spec = LlmSpec(base_url=upstream.base_url, model="big-1", timeout_s=timeout_s, **llm)
        generator = OpenAiGenerator(spec, sleep=waits.append)
        try:
            yield upstream, generator, waits
        finally:
            generator.close()
