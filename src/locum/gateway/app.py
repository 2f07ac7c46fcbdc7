"""``create_app``: the ASGI application around one target.

Notable: a request passes, in this order, the framing and host checks, the key, the admission count (503 before
anything is read), the body cap with its deadline, and the typed document. Answers are made in bounded threads; the
event loop never computes, so ``/health`` answers whatever the load. Where an answer comes from is settled before its
first byte, streamed or not, and a client that leaves stops its answer. Every way out is counted and logged once.
Not here: the socket and signals (``serve``), who answers (``targets``), what is read and written (``chat``, …).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import orjson

import locum
from locum.gateway.access import AccessLog, Gatekeeper, whereabouts
from locum.gateway.asgi import (
    ABORT,
    ANSWERS,
    EVENTS,
    GONE,
    SPARE,
    TOGETHER,
    AsgiApp,
    ClientGone,
    Message,
    Receive,
    Reply,
    Scope,
    Send,
    content_length,
    encode_headers,
    in_time,
    read_body,
    send_reply,
    wait_for_disconnect,
)
from locum.gateway.calls import Answered, Call, new_key, truncated_of
from locum.gateway.chat import ChatCall
from locum.gateway.completions import TextCall
from locum.gateway.cors import Pages
from locum.gateway.embeddings import EMBEDDED, EmbeddingRequest, embeddings_body, read_embedding_request
from locum.gateway.errors import RESTART_S, ApiError, context_error, unexpected
from locum.gateway.metrics import CONTENT_TYPE, Metrics
from locum.gateway.page import REVIEW_PATH, SERVED_PATH, Page
from locum.gateway.pool import DaemonPool
from locum.gateway.responses import ResponseCall
from locum.gateway.settings import Settings
from locum.gateway.streaming import CAN_WATCH, Run, Timing
from locum.gateway.targets import Target
from locum.runtime.protocol import Embedded

_CLOSE_S = 1.0
_CLOSERS = 4
_EMBED_TEXTS = 32
_SMALL_BYTES = 16 << 10
_OPEN_PATHS = frozenset({"/health", "/ready"})
_MODEL_PATH = "/v1/models/"
_UNCOUNTED = frozenset({"/health", "/ready", "/metrics", SERVED_PATH})
_CLIENT_GONE = 499
"""The status that is counted and logged when nobody was there to receive one."""

Handler = Callable[[Scope, Receive, Send], Awaitable[Reply | None]]


def create_app(target: Target, *, settings: Settings | None = None) -> AsgiApp:
    """The application.

    Args:
        target: what is served; the application starts it, and closes it at shutdown.
        settings: limits; the defaults otherwise.

    Returns:
        An ASGI application with a lifespan.
    """
    return _Gateway(_Service(target, settings or Settings()))


class _Service:
    """What the routes share, and the routes."""

    def __init__(self, target: Target, settings: Settings) -> None:
        self.target = target
        self.settings = settings
        self.metrics = Metrics(target.name, locum.__version__, target.certificate or "none")
        self.gatekeeper = Gatekeeper(settings.api_key, (settings.host, *settings.allowed_hosts), settings.origins)
        self.pages = Pages(self.gatekeeper.allows_origin)
        self.log = AccessLog(settings.log_file, self.metrics.log_failures.inc)
        self.in_flight = 0
        self._large_bodies = 0
        self._many_texts = asyncio.Semaphore(settings.large_requests)
        self._created = int(time.time())
        self._readers = DaemonPool(settings.threads, "answer")
        self._closers = DaemonPool(_CLOSERS, "closing")
        self._openapi: bytes | None = None
        self.page = Page(target, settings, self._in_thread) if settings.page else None
        target.start(settings, self.metrics)
        self.answering: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/chat/completions"): partial(self._generate, ChatCall.read),
            ("POST", "/v1/completions"): partial(self._generate, TextCall.read),
            ("POST", "/v1/responses"): partial(self._generate, ResponseCall.read),
            ("POST", "/v1/embeddings"): self._embed,
        }
        self.telling: dict[tuple[str, str], Handler] = {
            ("GET", "/v1/models"): self._models,
            ("GET", "/openapi.json"): self._document,
            ("GET", "/health"): self._health,
            ("GET", "/ready"): self._ready,
            ("GET", "/metrics"): self._metrics_page,
        }
        self.open_paths = _OPEN_PATHS
        if self.page is not None:
            self.telling |= {("GET", path): self.page.file for path in self.page.files}
            self.telling |= {("GET", SERVED_PATH): self.page.served, ("POST", REVIEW_PATH): self.page.review}
            self.open_paths |= self.page.files.keys()  # code that tells nothing; what it asks for needs the key
        self.paths = {path for _, path in (*self.answering, *self.telling)}

    def close(self) -> None:
        """Requests had their deadline; what still runs is left behind, and the target closed beside it."""
        self._readers.close(_CLOSE_S)
        closing = threading.Thread(target=self.target.close, name="closing-target", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        self._closers.close(_CLOSE_S)
        self.log.close()

    def handler(self, method: str, path: str) -> Handler:
        """Who handles a request.

        Raises:
            ApiError: 404 or 405.
        """
        asked = "GET" if method == "HEAD" else method  # the server sends no body after it
        found = self.answering.get((method, path)) or self.telling.get((asked, path))
        if found is not None:
            return found
        if path.startswith(_MODEL_PATH) and asked == "GET":
            return self._model
        if path in self.paths or path.startswith(_MODEL_PATH):
            allowed = "GET, HEAD" if ("GET", path) in self.telling or path not in self.paths else "POST"
            said = f"this path takes {allowed}"
            raise ApiError(405, "method_not_allowed", said, headers={"allow": allowed})
        raise ApiError(404, "not_found", "there is nothing at this path; see /v1/models")

    def preflight(self, headers: Sequence[tuple[bytes, bytes]]) -> Reply | None:
        """The answer to a browser that asks for a page; None where it is none that asks.

        Raises:
            ApiError: 403 ``host_not_allowed``: the page may not ask, whatever key it will send.
        """
        for name, value in headers:
            if name == b"origin":
                self.gatekeeper.check_origin(value)
        return self.pages.preflight(headers)

    def template(self, path: str) -> str:
        """The path as the log has it: what a caller wrote in one is text of his."""
        if path in self.paths:
            return path
        return f"{_MODEL_PATH}{{model}}" if path.startswith(_MODEL_PATH) else "unknown"

    async def _generate(
        self, read: Callable[[bytes], Call[Any]], scope: Scope, receive: Receive, send: Send
    ) -> Reply | None:
        """The endpoints that write text: whole as a reply, or streamed here."""
        body = await read_body(scope, receive, self.settings.max_body_bytes, self.settings.receive_s)
        call = read(body) if len(body) <= _SMALL_BYTES else await self._in_thread(partial(read, body))
        try:
            return await self._answer(call, len(body), scope, receive, send)
        except ApiError as error:
            raise call.named(error) from error.__cause__

    async def _answer(self, call: Call[Any], size: int, scope: Scope, receive: Receive, send: Send) -> Reply | None:
        """One call; ``size`` is that of its body in bytes."""
        requests = call.requests(self.settings.max_tokens)
        if len(requests) > self.settings.threads:
            raise ApiError(400, "invalid_value", f"n: at most {self.settings.threads} choices here", param="n")
        self.target.admit(call.model, requests)
        opened = None
        if CAN_WATCH and not call.stream and len(requests) == 1:
            opened = self.target.forward(call.model, requests[0])
        loop = asyncio.get_running_loop()
        run = Run(self.target, call, requests, readers=self._readers, closers=self._closers, loop=loop, opened=opened)
        unwatch = _when_gone(scope, receive, run.abandon, small=size <= _SMALL_BYTES)
        try:
            if call.stream:
                await self._stream(call, run, scope, send)
                return None
            answers = await run.answers()
            loop.call_soon(self._measure, scope, answers, run.timings)  # once the answer has left
            headers = answers[0].opened.origin.headers(truncated_of(answers))
            return Reply(orjson.dumps(call.body(answers)), headers=headers)
        finally:
            unwatch()
            run.cancel()

    async def _stream(self, call: Call[Any], run: Run, scope: Scope, send: Send) -> None:
        """Headers once it is known who answers; then what is ready, again and again."""
        begun = await run.begun()
        origin = begun.opened.origin
        scope["locum.route"], scope["locum.confidence"] = origin.route, origin.confidence
        headers = {**origin.headers(begun.truncated_tokens), "cache-control": "no-store", "x-accel-buffering": "no"}
        limit_s = self.settings.write_s
        start: Message = {"type": "http.response.start", "status": 200, "headers": encode_headers(headers, EVENTS)}
        await in_time(send(start), limit_s)
        try:
            async for ready in run.pieces():
                await in_time(send({"type": "http.response.body", "body": ready, "more_body": True}), limit_s)
            answers = await run.answers()
            self._measure(scope, answers, run.timings)
            last = call.tail(answers)
        except ApiError as error:
            self.metrics.broken_off.inc()
            _note(scope, error)
            last = call.failure(error)
        await in_time(send({"type": "http.response.body", "body": last}), limit_s)

    def _measure(self, scope: Scope, answers: Sequence[Answered], timings: Mapping[int, Timing]) -> None:
        origin = answers[0].opened.origin
        scope["locum.route"], scope["locum.confidence"] = origin.route, origin.confidence
        for index, answered in enumerate(answers):
            timing = timings[index]
            self.metrics.wrote(timing.route, answered.completion, timing.first_s, timing.whole_s)
        if truncated_of(answers):
            self.metrics.truncations.inc()

    async def _embed(self, scope: Scope, receive: Receive, _send: Send) -> Reply:
        """``POST /v1/embeddings``."""
        settings = self.settings
        large = (content_length(scope) or settings.max_embedding_bytes) > settings.max_body_bytes
        if large and self._large_bodies >= settings.large_requests:
            raise ApiError(503, "overloaded", "too many large requests are under way already", retry_after_s=1)
        self._large_bodies += large
        try:
            limit = settings.max_embedding_bytes if large else settings.max_body_bytes
            body = await read_body(scope, receive, limit, settings.receive_s)
            reply = await self._while_wanted(self._embedded(body), receive)
        finally:
            self._large_bodies -= large
        scope["locum.route"] = EMBEDDED.route
        return reply

    async def _embedded(self, body: bytes) -> Reply:
        """A few texts at a time, each time at the end of the line for a thread: no request holds up the others."""
        begun = await self._in_thread(partial(self._embed_first, body))
        if isinstance(begun, Reply):
            return begun
        asked, parts = begun
        async with self._many_texts:
            for start in range(_EMBED_TEXTS, len(asked.texts), _EMBED_TEXTS):
                parts.append(await self._in_thread(partial(self._embed_some, asked, start)))
            return await self._in_thread(partial(self._vectors, asked, parts))

    def _embed_first(self, body: bytes) -> Reply | tuple[EmbeddingRequest, list[Embedded]]:
        """The whole answer where there are a few texts; else the request and the vectors of its first few."""
        asked = read_embedding_request(body, self.target.admit_texts)
        if max(map(len, asked.texts)) > self.settings.max_input_chars:
            said = f"a text has more than {self.settings.max_input_chars:,} characters"
            raise context_error(said, "", param="input")
        first = self._embed_some(asked, 0)
        if asked.dimensions not in (None, first.vectors.shape[1]):
            said = f"dimensions: this model has {first.vectors.shape[1]}"
            raise ApiError(400, "unsupported_value", said, param="dimensions")
        return (asked, [first]) if len(asked.texts) > _EMBED_TEXTS else self._vectors(asked, [first])

    def _embed_some(self, asked: EmbeddingRequest, start: int) -> Embedded:
        texts = asked.texts[start : start + _EMBED_TEXTS]
        return self.target.embed(asked.model, texts, truncate=asked.truncate is True)

    def _vectors(self, asked: EmbeddingRequest, parts: Sequence[Embedded]) -> Reply:
        made = Embedded(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.dropped for part in parts]),
        )
        self.metrics.input_tokens.inc(int(made.tokens.sum()))
        truncated_tokens = int(made.dropped.sum())
        if truncated_tokens:
            self.metrics.truncations.inc()
        done = orjson.dumps(embeddings_body(asked, made), option=orjson.OPT_SERIALIZE_NUMPY)
        return Reply(done, headers=EMBEDDED.headers(truncated_tokens))

    async def _while_wanted(self, work: Coroutine[Any, Any, Reply], receive: Receive) -> Reply:
        """Work that goes no further once the client has left.

        Raises:
            ClientGone: the client left.
        """
        working = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(wait_for_disconnect(receive))
        try:
            await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientGone("the client closed the connection")
            return working.result()
        finally:
            gone.cancel()
            working.cancel()

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.wrap_future(self._readers.submit(work))

    async def _models(self, _scope: Scope, _receive: Receive, _send: Send) -> Reply:
        """``GET /v1/models``."""
        data = [self._model_json(name) for name in self.target.names()]
        return Reply(orjson.dumps({"object": "list", "data": data}))

    async def _model(self, scope: Scope, _receive: Receive, _send: Send) -> Reply:
        """``GET /v1/models/NAME``."""
        name = str(scope["path"]).removeprefix(_MODEL_PATH)
        self.target.check(name)
        return Reply(orjson.dumps(self._model_json(name)))

    def _model_json(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "locum"}

    async def _document(self, _scope: Scope, _receive: Receive, _send: Send) -> Reply:
        """``GET /openapi.json``."""
        if self._openapi is None:
            from locum.gateway.openapi import openapi_document

            self._openapi = orjson.dumps(await self._in_thread(openapi_document))
        return Reply(self._openapi)

    async def _health(self, _scope: Scope, _receive: Receive, _send: Send) -> Reply:
        """The process answers; nothing else is said."""
        return Reply(b'{"status":"ok"}')

    async def _ready(self, scope: Scope, _receive: Receive, _send: Send) -> Reply:
        """503 while its engine does not run; what is served, and its certificate's state, is told to who may ask."""
        problem = self.target.problem
        if problem is not None:
            said = f"the model's engine is not running [{problem.code}]"
            raise ApiError(503, "engine_unavailable", said, retry_after_s=RESTART_S)
        facts = self.target.describe() if self.gatekeeper.knows(scope["headers"]) else {}
        return Reply(orjson.dumps({"status": "ready", **facts}))

    async def _metrics_page(self, _scope: Scope, _receive: Receive, _send: Send) -> Reply:
        """Prometheus's text format."""
        covered = self.target.certificate is not None and self.target.void is None
        self.metrics.certificate_valid.set(1 if covered else 0)
        self.metrics.in_flight.set(self.in_flight)
        return Reply(self.metrics.text(), media_type=CONTENT_TYPE)


def _when_gone(scope: Scope, receive: Receive, call: Callable[[], None], *, small: bool) -> Callable[[], object]:
    """Call something when the client is gone, until what is returned is called.

    A body that came in one piece leaves the connection being read, and ``wire`` tells of its end; else a task waits.
    """
    watch = scope.get("extensions", {}).get(GONE) if small else None
    if watch is not None:
        return watch(call)
    gone = asyncio.ensure_future(wait_for_disconnect(receive))
    gone.add_done_callback(lambda done: None if done.cancelled() else call())
    return gone.cancel


class _Gateway:
    """The outermost layer: admission, access, the last resort for errors, and the account of each request."""

    def __init__(self, service: _Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection event: a request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Close everything once the server has drained."""
        while True:
            kind = (await receive())["type"]
            if kind == "lifespan.shutdown":
                await asyncio.to_thread(self._service.close)
            else:
                self._service.log.adopt()
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        start_s = time.perf_counter()
        identifier = new_key(64)
        status = 0

        extensions = scope.get("extensions", {})

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if ANSWERS in extensions:
                    extensions[ANSWERS]()
                message["headers"].append((b"x-request-id", identifier.encode()))
                message["headers"].extend(self._service.pages.headers(scope["headers"]))
            await send(message)

        try:
            reply = await self._admitted(scope, receive, sending)
            if reply is not None:
                sent = send_reply(scope, sending, reply)
                # In one piece it is handed over without waiting, and ``wire`` sees to it that it is read.
                await (sent if TOGETHER in extensions else in_time(sent, self._service.settings.write_s))
        except ApiError as error:
            _note(scope, error)
            await send_reply(scope, sending, _refusal(error))
        except ClientGone:
            status = _CLIENT_GONE
            self._service.metrics.cancellations.inc()
            if ABORT in extensions:
                extensions[ABORT]()
        except Exception as error:  # noqa: BLE001 - the last resort: the caller gets an envelope, the log its type
            _note(scope, error)
            if not status:
                await send_reply(scope, sending, _refusal(unexpected(error)))
            elif ABORT in extensions:
                extensions[ABORT]()
        finally:
            seconds = time.perf_counter() - start_s  # told once the answer's last bytes have left
            asyncio.get_running_loop().call_soon(self._account, scope, identifier, status, seconds)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> Reply | None:
        service = self._service
        method, path = scope["method"], scope["path"]
        service.gatekeeper.check_framing(scope["headers"])
        service.gatekeeper.check_host(scope["headers"], scope.get("http_version", "1.1"))
        if method == "OPTIONS" and (allowed := service.preflight(scope["headers"])) is not None:
            return allowed
        if path not in _OPEN_PATHS and SPARE in scope.get("extensions", {}):
            raise ApiError(503, "overloaded", "too many connections are open already", retry_after_s=1)
        if path not in service.open_paths:
            service.gatekeeper.check_key(scope["headers"])
        handler = service.handler(method, path)
        if (method, path) not in service.answering:
            return await handler(scope, receive, send)
        if service.in_flight >= service.settings.threads + service.settings.max_waiting:
            raise ApiError(503, "overloaded", f"{service.in_flight} requests are under way already", retry_after_s=1)
        service.in_flight += 1
        try:
            return await handler(scope, receive, send)
        finally:
            service.in_flight -= 1

    def _account(self, scope: Scope, identifier: str, status: int, seconds: float) -> None:
        service, path = self._service, self._service.template(scope["path"])
        if path in _UNCOUNTED:
            return
        route = scope.get("locum.route", "none")
        service.metrics.answered(route, status, seconds)
        if service.page is not None and (scope["method"], path) in service.answering:
            service.page.account.note(identifier, scope, status, seconds)
        facts = {"id": identifier, "method": scope["method"], "path": path, "status": status, "route": route}
        facts |= scope.get("locum.error", {})
        service.log.write(**facts, ms=round(1000 * seconds, 3))


def _note(scope: Scope, error: Exception) -> None:
    """Keep for the log what went wrong: a code; of what nobody foresaw the type, and where it came from."""
    known = isinstance(error, ApiError)
    scope["locum.error"] = {"error": error.code if known else type(error).__name__}
    cause = error.__cause__ if known and error.code == "internal_error" else None if known else error
    if cause is not None:
        scope["locum.error"] |= {"cause": type(cause).__name__, "at": whereabouts(cause)}


def _refusal(error: ApiError) -> Reply:
    return Reply(error.to_bytes(), status=error.status, headers=error.headers)
