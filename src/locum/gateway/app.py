"""``create_app``: the ASGI application around one student.

Notable: a request passes, in this order, the host check, the key, the admission count (503 before anything is
read), the body cap with its deadline, and the typed document. Answers run in a bounded thread pool; the event
loop never computes, so ``/health`` answers whatever the load. Every way out is counted and logged once, in
``_Gateway.__call__``. Not here: the socket and signals (``serve``).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
import uuid
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as Path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import locum
from locum.bundle.student import Student, describe
from locum.cascade.policy import Mode
from locum.cascade.router import AuditResult
from locum.core.errors import LocumError, UpstreamError, UserError
from locum.core.registry import nearest
from locum.core.text import one_line
from locum.gateway import answers, requests
from locum.gateway.access import AccessLog, Gatekeeper
from locum.gateway.answers import Reply
from locum.gateway.batching import BatchedClassifier, LimitedGenerator
from locum.gateway.errors import ApiError, from_llm_error, json_response
from locum.gateway.metrics import CONTENT_TYPE, Metrics
from locum.gateway.pool import DaemonPool
from locum.gateway.settings import Settings

_CLOSE_S = 2.0
_OPEN_PATHS = frozenset({"/health", "/ready"})


def create_app(student: Student, *, settings: Settings | None = None) -> ASGIApp:
    """The application.

    Args:
        student: an open bundle; the application wraps its engine for batching and closes it at shutdown.
        settings: limits; the defaults otherwise.

    Returns:
        An ASGI application with a lifespan.
    """
    service = _Service(student, settings or Settings())
    inner = Starlette(
        routes=[
            Path("/v1/chat/completions", service.chat, methods=["POST"]),
            Path("/v1/models", service.models, methods=["GET"]),
            Path("/v1/models/{name:path}", service.model, methods=["GET"]),
            Path("/health", service.health, methods=["GET"]),
            Path("/ready", service.ready, methods=["GET"]),
            Path("/metrics", service.metrics_page, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _http_error, ApiError: _api_error, Exception: _api_error},
        lifespan=service.lifespan,
    )
    return _Gateway(inner, service)


class _Service:
    """What the routes share."""

    def __init__(self, student: Student, settings: Settings) -> None:
        self.student = student
        self.settings = settings
        self.metrics = Metrics(student.name, locum.__version__, student.certificate.hash()[:12])
        hosts = (settings.host, *settings.allowed_hosts)
        self.gatekeeper = Gatekeeper(settings.api_key, hosts)
        self.log = AccessLog(settings.log_file, self.metrics.log_failures.inc)
        self.in_flight = 0
        self.started = int(time.time())
        self._pool = DaemonPool(settings.threads, "answer")
        student.wrap(
            partial(BatchedClassifier, max_batch=settings.max_batch),
            partial(LimitedGenerator, limit=settings.llm_concurrency),
        )
        student.audits = self._count_audit

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncGenerator[None, None]:
        """Close everything once the server has drained."""
        try:
            yield
        finally:
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        """Requests had their deadline; what still runs is left behind, and the student closed beside it."""
        self._pool.close(_CLOSE_S)
        closing = threading.Thread(target=self.student.close, name="closing", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        self.log.close()

    def _count_audit(self, result: AuditResult) -> None:
        outcome = "failed" if result.failed else "agreed" if result.agrees else "differed"
        self.metrics.audits.labels(outcome).inc()

    def names(self) -> list[str]:
        """The models that may be asked for."""
        name = self.student.name
        return [name, f"{name}@local", *([f"{name}@llm"] if self.student.llm is not None else [])]

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        body = await _read_body(request, self.settings.max_body_bytes, self.settings.receive_s)
        asked = requests.read_chat_request(body)
        mode = self._mode(asked.model)
        work = partial(self._pass_through, asked) if mode == "llm" else partial(self._answer, asked, mode)
        reply = await asyncio.wrap_future(self._pool.submit(work))
        request.scope["locum.reply"] = reply
        headers = answers.headers_of(reply)
        if not asked.stream:
            return json_response(answers.completion_body(reply), headers=headers)
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        events = answers.completion_events(reply, include_usage=usage)
        headers["cache-control"] = "no-store"
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    def _mode(self, name: str) -> Mode:
        """How ``model`` asks to be answered.

        Raises:
            ApiError: 404 for an unknown model; 400 when the LLM is asked for and there is none.
        """
        mine, _, suffix = name.partition("@")
        if mine == self.student.name and suffix == "llm" and self.student.llm is None:
            why = self.student.llm_problem or "the task file names none"
            raise ApiError(400, "llm_not_configured", f"there is no LLM behind {name!r}: {why}", param="model")
        if name not in self.names():
            close = nearest(name, self.names()) or self.student.name
            said = f"no model {one_line(name, 80)!r} is served here; did you mean {close!r}?"
            raise ApiError(404, "model_not_found", said, param="model")
        return "local" if suffix == "local" else "llm" if suffix == "llm" else "cascade"

    def _answer(self, asked: requests.ChatRequest, mode: Mode) -> Reply:
        """In a thread: the student, and by the policy the LLM."""
        text, ignored = requests.input_of(asked, self.settings.max_input_chars)
        try:
            answer = self.student(text, mode)
        except UpstreamError as error:
            self.metrics.llm_failures.labels(error.code).inc()
            raise from_llm_error(error) from error
        except LocumError as error:
            raise ApiError(500, "engine_failed", f"the student's engine failed [{error.code}]") from error
        if answer.confidence is not None and math.isfinite(answer.confidence):
            self.metrics.confidence.observe(answer.confidence)
        return answers.from_answer(
            answer,
            identifier=f"chatcmpl-{uuid.uuid4().hex}",
            model=asked.model,
            void=self.student.void,
            ignored_messages=ignored,
            fingerprint=f"locum-{self.student.manifest.hashes['model'][:12]}",
        )

    def _pass_through(self, asked: requests.ChatRequest) -> Reply:
        """In a thread: the conversation as it is, to the LLM."""
        try:
            completion = self.student.complete(requests.as_completion_request(asked))
        except UpstreamError as error:
            self.metrics.llm_failures.labels(error.code).inc()
            raise from_llm_error(error) from error
        except UserError as error:
            raise ApiError(400, "llm_not_configured", one_line(error.cause), param="model") from error
        except LocumError as error:
            self.metrics.llm_failures.labels(error.code).inc()
            raise ApiError(502, "llm_failed", f"the LLM failed [{error.code}]") from error
        return answers.from_completion(completion, identifier=f"chatcmpl-{uuid.uuid4().hex}", model=asked.model)

    async def models(self, _request: Request) -> Response:
        """``GET /v1/models``."""
        return json_response(answers.models_body(self.names(), self.started))

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/NAME``."""
        name = str(request.path_params["name"])
        self._mode(name)
        return json_response(answers.model_body(name, self.started))

    async def health(self, _request: Request) -> Response:
        """The process answers; nothing else is said."""
        return json_response({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """What is served, and whether its certificate is in force."""
        return json_response({"status": "ready", **describe(self.student)})

    async def metrics_page(self, _request: Request) -> Response:
        """Prometheus's text format."""
        self.metrics.certificate_valid.set(0 if self.student.void else 1)
        self.metrics.in_flight.set(self.in_flight)
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)


async def _read_body(request: Request, limit: int, deadline_s: float) -> bytes:
    """The body, refused as soon as it is too large or too slow.

    Raises:
        ApiError: 413 ``body_too_large``, 408 ``receive_timeout``.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise ApiError(413, "body_too_large", f"the body has {announced} bytes; at most {limit} are read")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(deadline_s):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise ApiError(413, "body_too_large", f"the body is larger than {limit} bytes")
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, "receive_timeout", f"the body did not arrive within {deadline_s:g} s") from None
    return b"".join(parts)


async def _api_error(_request: Request, error: Exception) -> Response:
    return error.to_response() if isinstance(error, ApiError) else _unexpected(error).to_response()


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        return ApiError(404, "not_found", "there is nothing at this path; see /v1/models").to_response()
    if status == 405:
        return ApiError(405, "method_not_allowed", "this path does not take this method").to_response()
    return _unexpected(error).to_response()


def _unexpected(error: Exception) -> ApiError:
    return ApiError(500, "internal_error", f"an unexpected error ({type(error).__name__}); please report it")


class _Gateway:
    """The outermost layer: admission, access, the last resort for errors, and the account of each request."""

    def __init__(self, inner: Starlette, service: _Service) -> None:
        self._inner = inner
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection event: a request, or the lifespan."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._inner(scope, receive, send)
            return  # no other protocol is spoken
        start_s = time.perf_counter()
        identifier = uuid.uuid4().hex[:16]
        status = 500
        begun = False

        async def sending(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                message["headers"] = [*message["headers"], (b"x-request-id", identifier.encode())]
            await send(message)

        try:
            await self._admitted(scope, receive, sending)
        except ApiError as error:
            await error.to_response()(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - the last resort: the caller gets an envelope, the log its type
            if not begun:
                await _unexpected(error).to_response()(scope, receive, sending)
            self._service.log.write(id=identifier, error=type(error).__name__)
        finally:
            self._account(scope, identifier, status, time.perf_counter() - start_s)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        path = scope["path"]
        service.gatekeeper.check_framing(scope["headers"])
        service.gatekeeper.check_host(scope["headers"])
        if path not in _OPEN_PATHS:
            service.gatekeeper.check_key(scope["headers"])
        if path != "/v1/chat/completions":
            await self._inner(scope, receive, send)
            return
        if service.in_flight >= service.settings.threads + service.settings.max_waiting:
            raise ApiError(503, "overloaded", f"{service.in_flight} requests are under way already", retry_after_s=1)
        service.in_flight += 1
        try:
            await self._inner(scope, receive, send)
        finally:
            service.in_flight -= 1

    def _account(self, scope: Scope, identifier: str, status: int, seconds: float) -> None:
        service = self._service
        reply = scope.get("locum.reply")
        route = reply.route if isinstance(reply, Reply) else "none"
        if scope["path"] in _OPEN_PATHS or scope["path"] == "/metrics":
            return
        service.metrics.requests.labels(route, str(status)).inc()
        service.metrics.seconds.labels(route).observe(seconds)
        facts: dict[str, Any] = {"id": identifier, "method": scope["method"], "path": scope["path"], "status": status}
        service.log.write(**facts, route=route, ms=round(1000 * seconds, 3))
