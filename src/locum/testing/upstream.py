"""An OpenAI-compatible server on loopback that answers from a script, faults included.

Notable: it speaks real HTTP through sockets, so time-outs, truncated bodies and floods of bytes are what a
client meets in life. Use as a context manager:

    with FakeUpstream([Scripted(status=429, headers={"retry-after": "1"}), "card"]) as upstream:
        OpenAiGenerator(LlmSpec(base_url=upstream.base_url, model="m"))

Not here: streaming.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Scripted:
    """One answer of the server.

    Attributes:
        text: the assistant's message, when ``body`` is None; None is JSON null.
        status: HTTP status.
        headers: sent beside the usual ones.
        body: sent as it is, instead of a chat completion.
        finish_reason: of the choice.
        refusal: the message's ``refusal`` field.
        model: the model's name in the answer; None repeats the one asked for.
        delay_s: wait before the first byte.
        drip_s: wait before each chunk of 1,024 bytes of the body.
        repeat: send the body this many times, as one long body.
        drop: close the connection without an answer.
        truncate: announce the whole length, send half, close.
        usage: whether token counts are in the answer.
    """

    text: str | None = "ok"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    finish_reason: str = "stop"
    refusal: str | None = None
    model: str | None = None
    delay_s: float = 0.0
    drip_s: float = 0.0
    repeat: int = 1
    drop: bool = False
    truncate: bool = False
    usage: bool = True


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

    Attributes:
        base_url: ``http://127.0.0.1:PORT/v1``.
        received: every request so far.
    """

    def __init__(self, script: Script = ("ok",)) -> None:
        if not callable(script) and not script:
            raise ValueError("the script holds no answer")
        self._script = script
        self._lock = threading.Lock()
        self.received: list[Received] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: Received) -> Scripted:
        """Take note of a request and say what it gets."""
        with self._lock:
            turn = len(self.received)
            self.received.append(request)
        reply = self._script(request.body) if callable(self._script) else self._script[min(turn, len(self._script) - 1)]
        return Scripted(text=reply) if isinstance(reply, str) else reply


def completion_body(scripted: Scripted, request: Mapping[str, Any]) -> bytes:
    """The JSON of a chat completion, as the OpenAI API documents it."""
    message: dict[str, Any] = {"role": "assistant", "content": scripted.text}
    if scripted.refusal is not None:
        message["refusal"] = scripted.refusal
    document: dict[str, Any] = {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": scripted.model or request.get("model", "unknown"),
        "choices": [{"index": 0, "message": message, "finish_reason": scripted.finish_reason}],
    }
    if scripted.usage:
        asked = sum(len(str(message.get("content", "")).split()) for message in request.get("messages", []))
        told = len((scripted.text or "").split())
        document["usage"] = {"prompt_tokens": asked, "completion_tokens": told, "total_tokens": asked + told}
    return json.dumps(document).encode()


def _handler(upstream: FakeUpstream) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            try:
                body = json.loads(raw) if raw else {}
            except ValueError:
                body = {}
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Received(self.path, headers, body)
            try:
                self._send(upstream.answer(request), body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client gave up, as tests of time-outs make it do

        def do_GET(self) -> None:
            self.do_POST()

        def _send(self, scripted: Scripted, request: Mapping[str, Any]) -> None:
            time.sleep(scripted.delay_s)
            if scripted.drop:
                self.close_connection = True
                return
            body = completion_body(scripted, request) if scripted.body is None else scripted.body
            self.send_response(scripted.status)
            headers = {"content-type": "application/json", "content-length": str(len(body) * scripted.repeat)}
            for name, value in {**headers, **scripted.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if scripted.truncate:
                body = body[: len(body) // 2]
                self.close_connection = True
            for _ in range(scripted.repeat):
                for start in range(0, len(body), 1024 if scripted.drip_s else max(1, len(body))):
                    time.sleep(scripted.drip_s)
                    self.wfile.write(body[start : start + 1024] if scripted.drip_s else body)
                    self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    return Handler
