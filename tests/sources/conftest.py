"""A loopback server that misbehaves on request, and a cache of its own for every test."""

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from locum.sources import https


@dataclass
class Reply:
    """What the server answers on one path.

    ``cut_after`` ends the connection after so many bytes of the body, ``cuts`` times.
    """

    body: bytes = b""
    status: int = 200
    headers: dict = field(default_factory=dict)
    etag: str | None = '"v1"'
    ranges: bool = True
    cut_after: int | None = None
    cuts: int = 0
    announce: bool = True


class Server:
    """The server, its replies by path, and the requests it saw."""

    def __init__(self):
        self.replies: dict[str, Reply] = {}
        self.seen: list[tuple[str, str, dict]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.answer(with_body=False)

            def do_GET(self):
                self.answer(with_body=True)

            def answer(self, with_body):
                owner.seen.append((self.command, self.path, dict(self.headers)))
                owner.answer(self, with_body)

            def log_message(self, *_args):
                pass

        class QuietServer(ThreadingHTTPServer):
            def handle_error(self, _request, _client):
                """A client that hangs up is what the tests are about."""

        self.http = QuietServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def answer(self, handler, with_body):
        reply = self.replies.get(handler.path.partition("?")[0], Reply(status=404, etag=None))
        body, status, headers = reply.body, reply.status, dict(reply.headers)
        wanted = handler.headers.get("Range")
        if wanted and reply.ranges and handler.headers.get("If-Range", reply.etag) == reply.etag:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        if reply.etag:
            headers.setdefault("ETag", reply.etag)
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if reply.announce:
            handler.send_header("Content-Length", str(len(body)))
        else:
            handler.send_header("Connection", "close")
        handler.end_headers()
        if not with_body:
            return
        if reply.cut_after is not None and reply.cuts > 0:
            reply.cuts -= 1
            handler.wfile.write(body[: reply.cut_after])
            handler.wfile.flush()
            handler.close_connection = True
            return
        handler.wfile.write(body)
        handler.close_connection = not reply.announce

    def reply(self, path, body=b"", **options):
        """Answer this on a path from now on."""
        self.replies[path] = Reply(body, **options)

    def gets(self, path):
        return [headers for method, seen, headers in self.seen if method == "GET" and seen == path]

    def stop(self):
        if not self.thread.is_alive():
            return
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(https, "_BACKOFF_S", 0.01)
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own; no setting of the user leaks in."""
    for name in ("LOCUM_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "cache"
    monkeypatch.setenv("LOCUM_CACHE", str(folder))
    return folder
