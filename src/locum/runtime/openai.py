"""The LLM behind any OpenAI-compatible URL.

Notable: one deadline covers an answer with all its retries, on the monotonic clock. Only what may pass is retried
(429, 5xx, lost connections), with full jitter; nothing is retried once the caller has seen a part of the answer. The
``Retry-After`` of a 429 holds for every request: none leaves before, and none waits beyond its deadline. All attempts
carry one idempotency key and count as one request. A circuit breaker leaves a failing server alone. Redirects are not
followed, bodies are capped, and the key appears in no message. Not here: where to connect and with which key
(``openai_address``), the documents (``openai_wire``), streams (``openai_stream``), connections (``http_pool``),
spending caps.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import orjson

from locum.core.errors import LocumError, UpstreamError
from locum.core.files import sha256_bytes
from locum.core.text import one_line
from locum.runtime.breaker import CircuitBreaker, CircuitOpenError, RateLimit
from locum.runtime.completion import LEFT_OUT, Completion, CompletionRequest, FinishedStream
from locum.runtime.http_exchange import (
    BrokenOffError,
    ClosedError,
    ConnectError,
    Exchange,
    PoolError,
    SilenceError,
    SizeError,
)
from locum.runtime.http_pool import HttpPool
from locum.runtime.openai_address import address_of, checked_url, read_key
from locum.runtime.openai_habits import ServerHabits
from locum.runtime.openai_stream import BadChunkError, OpenAiStream, StreamRefusedError, WholeStream
from locum.runtime.openai_wire import (
    BAD_DOCUMENT,
    CountError,
    Document,
    encode,
    is_over_context,
    read_completion,
    request_body,
    retry_after_s,
    said,
    said_code,
)
from locum.runtime.protocol import CompletionStream, Forwarded, Stop, pause
from locum.schema.task import LlmSpec

_BODY_BYTES_MAX = 16 << 20
_STREAM_BYTES_MAX = 256 << 20
_ERROR_BYTES_MAX = 8 << 10
_CONNECTIONS_MAX = 64
_ATTEMPTS_MAX = 5
_BACKOFF_S, _BACKOFF_MAX_S = 0.5, 8.0
_RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504, 529})
_SERVER_FAILED = frozenset(
    {
        "upstream-unreachable",
        "upstream-timeout",
        "upstream-server-error",
        "upstream-bad-answer",
        "upstream-too-large",
        "upstream-broken-off",
    }
)

T = TypeVar("T")


class OpenAiGenerator:
    """A generator over HTTP; safe to call from several threads.

    Args:
        llm: URL, model name, environment variable with the key, and the time-outs.
        sleep: waits between retries (tests pass their own); by default a wait that ``close`` and a stop end.
        breaker: the circuit; by default one of this generator's own.

    Attributes:
        breaker: the circuit that all requests share.

    Raises:
        UserError: the URL or the environment's proxy may not be used, or the key's variable is empty.
    """

    def __init__(
        self,
        llm: LlmSpec,
        *,
        sleep: Callable[[float], object] | None = None,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._llm = llm
        url = checked_url(llm.base_url or "")
        self._key = read_key(llm.api_key_env)
        self._path = url.path.rstrip("/")
        self._address = address_of(url)
        self._where = f"{url.scheme}://{self._address.netloc}"
        self._closing = Stop()
        self._sleep = sleep
        self.breaker = breaker or CircuitBreaker()
        self._limit = RateLimit()
        self._habits = ServerHabits()
        self._fingerprint: str | None = None
        self._pool = HttpPool(
            self._address,
            connections=_CONNECTIONS_MAX,
            connect_s=llm.connect_timeout_s,
            idle_s=llm.idle_timeout_s,
        )

    @property
    def model(self) -> str:
        """The name it is asked by."""
        return self._llm.model

    @property
    def fingerprint(self) -> str | None:
        """Who gave the latest answer, as it called itself: ``model`` or ``model/system_fingerprint``."""
        return self._fingerprint

    def complete(self, request: CompletionRequest) -> Completion:
        """Ask, and wait for the whole answer.

        A refusal, or an answer that the provider's filter stopped, has ``finish_reason`` content_filter. When
        the server counts no tokens, both counts are 0 and ``extra["usage"]`` is ``missing``.

        Raises:
            UpstreamError: no proper answer in time; the code says why.
            LocumError: the generator is closed, or OpenAI's API lacks an option of the request.
        """
        return self._whole(self._sender(request, request_body(request, self.model)), Stop())

    def _whole(self, sender: _Sender, stop: Stop) -> Completion:
        def attempt(deadline_s: float, turn: int) -> Completion:
            completion = sender.told(self._parse(self._send(sender, deadline_s, _BODY_BYTES_MAX, stop).read()))
            self.breaker.succeeded(turn)
            return completion

        completion, attempts = self._retrying(attempt, stop, sender)
        self._note(completion, attempts)
        return completion

    def stream(self, request: CompletionRequest, stop: Stop | None = None) -> CompletionStream:
        """The same answer in pieces; returns when the server has begun to answer. ``stop`` ends the wait for that.

        A server that ignores the wish and answers in one piece is taken as it is. A request for the ``whole`` is
        sent when the first chunk is asked for, and can be stopped from then on.

        Raises:
            LocumError: as ``complete``; ``runtime-closed`` when it was stopped.
        """
        stop = stop or Stop()
        body = request_body(request, self.model)
        if request.whole:
            return WholeStream(partial(self._whole, self._sender(request, body)))
        body["stream"] = True
        sender = self._sender(request, body)

        def attempt(deadline_s: float, turn: int) -> tuple[Exchange | Completion, int]:
            exchange = self._send(sender, deadline_s, _STREAM_BYTES_MAX, stop)
            if exchange.header("content-type").startswith("text/event-stream"):
                return exchange, turn
            exchange.lower_cap(_BODY_BYTES_MAX)
            completion = self._parse(exchange.read())
            self.breaker.succeeded(turn)
            return completion, turn

        (answer, turn), attempts = self._retrying(attempt, stop, sender)
        if isinstance(answer, Completion):
            self._note(answer, attempts)
            return FinishedStream(answer)
        return OpenAiStream(answer, self.model, {"attempts": str(attempts)}, self._stream_end(turn, sender))

    def forward(self, request: CompletionRequest) -> Forwarded | None:
        """Send a request for the whole answer at once, for an event loop that waits for it without a thread.

        What is sent is the first attempt; whether it is the last is decided when the stream is read, as ``complete``
        does it. None when it cannot be sent without waiting: no kept connection is free, it is large, the circuit is
        not closed, the server asked for a pause.

        Raises:
            LocumError: OpenAI's API lacks an option of the request.
        """
        sender = self._sender(request, request_body(request, self.model))
        if self._closing.is_set or not self.breaker.is_closed or self._limit.left_s > 0:
            return None
        turn, deadline_s = self.breaker.admit(), time.monotonic() + self._llm.timeout_s
        exchange = self._pool.ahead(sender.message(), deadline_s, _BODY_BYTES_MAX)
        if exchange is None:
            return None
        sender.ahead = _Ahead(exchange, turn, deadline_s)
        return Forwarded(WholeStream(partial(self._whole, sender), exchange), exchange)

    def close(self) -> None:
        """Stop what is under way and close the connections; a second call does nothing."""
        self._closing.set()
        self._pool.close()

    def _retrying(self, attempt: Callable[[float, int], T], stop: Stop, sender: _Sender) -> tuple[T, int]:
        """Attempts until one returns; with it, how many there were. The first one may be under way already.

        However many there were, the circuit hears of one request.
        """
        ahead = sender.ahead
        deadline_s = ahead.deadline_s if ahead is not None else time.monotonic() + self._llm.timeout_s
        turn = ahead.turn if ahead is not None else self._admit(deadline_s, stop)
        try:
            failures = 0
            for number in count(1):
                if ahead is None and (self._closing.is_set or stop.is_set):
                    raise _closed()
                ahead = None
                try:
                    return self._tried(attempt, deadline_s, turn), number
                except _Retry as retry:
                    failed, wait_s = retry.error, retry.after_s
                    failed.retry_after_s = retry.after_s
                    probes = not (self.breaker.is_closed or retry.learned)  # a probe is not repeated
                    failures += not retry.learned  # a lesson takes a field away, so there are few
                    if failures == _ATTEMPTS_MAX or probes:
                        raise failed from retry.__cause__
                self._rest(_backoff_s(failures) if wait_s is None else wait_s, deadline_s, stop, failed)
            raise AssertionError("unreachable: the last failure raises")
        except BaseException as error:
            self._judge(turn, error, sender)
            raise

    def _tried(self, attempt: Callable[[float, int], T], deadline_s: float, turn: int) -> T:
        """One attempt; a failure of the network gets our name."""
        try:
            return attempt(deadline_s, turn)
        except PoolError as error:
            raise self._failure(error) from error

    def _admit(self, deadline_s: float, stop: Stop) -> int:
        """Wait out a pause that the server asked for, and ask the circuit."""
        if self._closing.is_set or stop.is_set:
            raise _closed()
        if (left_s := self._limit.left_s) > 0:
            cause = f"the server asked to be left alone, for another {left_s:.0f} s"
            error = self._error("upstream-rate-limited", cause, f"ask again in {left_s:.0f} s")
            error.retry_after_s = left_s
            self._rest(left_s, deadline_s, stop, error)
        try:
            return self.breaker.admit()
        except CircuitOpenError as circuit:
            last = f"; the last failure: {circuit.cause}" if circuit.cause else ""
            cause = f"it failed again and again and is left alone for a while{last}"
            error = self._error("upstream-circuit-open", cause, f"ask again in {circuit.retry_after_s:.0f} s")
            error.retry_after_s = circuit.retry_after_s
            raise error from None

    def _rest(self, wait_s: float, deadline_s: float, stop: Stop, failed: UpstreamError) -> None:
        """Wait before the next attempt, and longer where the server asks anybody for it.

        Raises:
            UpstreamError: ``failed``, at once, when the wait would pass the deadline.
            LocumError: it was stopped.
        """
        while True:
            until_s, wait_s = self._limit.until_s, max(wait_s, self._limit.left_s)
            if time.monotonic() + wait_s >= deadline_s:
                raise failed
            if self._sleep is not None:
                self._sleep(wait_s)
            else:
                pause(wait_s, stop, self._closing)
            if self._limit.until_s == until_s:
                return
            wait_s = 0.0

    def _judge(self, turn: int, error: BaseException, sender: _Sender) -> None:
        """What a failure says about the server: that it fails, that it is alive, or nothing."""
        if not isinstance(error, UpstreamError):
            self.breaker.forget(turn)
        elif error.code in _SERVER_FAILED:
            unread = error.code == "upstream-unreachable"  # by the server: the text cannot be the reason
            self.breaker.failed(turn, None if unread else sender.about(), f"{error.cause} [{error.code}]")
        else:
            self.breaker.succeeded(turn)

    def _sender(self, request: CompletionRequest, body: Document) -> _Sender:
        path = self._path + ("/chat/completions" if request.prompt is None else "/completions")
        left_out = set[str]() if request.flexible else None
        return _Sender(body, self._head(path, stream="stream" in body), self._habits, left_out)

    def _send(self, sender: _Sender, deadline_s: float, cap: int, stop: Stop) -> Exchange:
        """Send a request, and give the answer's beginning when its status is 200."""
        sent, sender.ahead = sender.ahead, None
        ahead = sent.exchange if sent is not None else None
        exchange = self._pool.post(sender.message(), deadline_s, cap, lambda begun: stop.calls(begun.abort), ahead)
        self._check(exchange, sender)
        return exchange

    def _head(self, path: str, *, stream: bool) -> bytes:
        """Request line and headers; the idempotency key is the same for all attempts."""
        lines = [
            f"POST {path} HTTP/1.1",
            f"host: {self._address.netloc}",
            f"accept: {'text/event-stream' if stream else 'application/json'}",
            "accept-encoding: identity",
            "content-type: application/json",
            "user-agent: locum",
            f"idempotency-key: {random.getrandbits(128):032x}",
            *([f"authorization: Bearer {self._key}"] if self._key else []),
            "",
        ]
        return "\r\n".join(lines).encode("ascii")

    def _check(self, exchange: Exchange, sender: _Sender) -> None:
        """Refuse what is no proper beginning of an answer.

        Raises:
            UpstreamError: and ``_Retry`` where it may pass.
            PoolError: the body that says why does not arrive.
        """
        if exchange.header("content-encoding") not in ("", "identity"):
            exchange.abort()
            raise self._error("upstream-bad-answer", "the body is compressed, which was not asked for")
        if exchange.status == 200:
            return
        told = exchange.read_start(_ERROR_BYTES_MAX)
        if exchange.status in (400, 422) and self._habits.learns(
            sender.body, told, _loads(told), flexible=sender.left_out is not None
        ):
            raise _Retry(self._error("upstream-bad-request", "the server wants other fields"), 0.0, learned=True)
        self._refuse(exchange, told)

    def _refuse(self, exchange: Exchange, body: bytes) -> NoReturn:
        status = exchange.status
        document = _loads(body)
        text = said(document) or one_line(body[:300].decode("utf-8", "replace"))
        cause = f"status {status}: {text}" if text else f"status {status}"
        if said_code(document) == "insufficient_quota":
            raise self._error("upstream-rate-limited", cause, "the account's quota is used up; asking again is no use")
        if status in _RETRY_STATUS:
            code = "upstream-rate-limited" if status == 429 else "upstream-server-error"
            after_s = retry_after_s(exchange.header("retry-after"))
            if status == 429 and after_s is not None:
                self._limit.told(after_s)
            raise _Retry(self._error(code, cause), after_s)
        if status >= 500:
            raise self._error("upstream-server-error", cause)
        if status < 300:
            raise self._error("upstream-bad-answer", f"status {status} instead of an answer with status 200")
        if 300 <= status < 400:
            host = one_line(urlsplit(exchange.header("location")).netloc) or "elsewhere"
            raise self._error("upstream-redirect", f"status {status} to {host}", "set llm.base_url to the final URL")
        if status in (401, 403):
            variable = self._llm.api_key_env
            fix = f"check the key in ${variable}" if variable else "set llm.api_key_env"
            raise self._error("upstream-refused-key", cause, fix)
        if is_over_context(document, text):
            raise self._error("runtime-too-long", cause, "shorten the conversation")
        raise self._error("upstream-bad-request", cause, "check llm.base_url and llm.model")

    def _parse(self, body: bytes) -> Completion:
        try:
            return read_completion(body, self.model)
        except CountError as error:
            raise self._error("upstream-bad-answer", f"its count of tokens is none: {error}") from error
        except BAD_DOCUMENT as error:
            start = one_line(body[:200].decode("utf-8", "replace"), 80)
            raise self._error("upstream-bad-answer", f"not a completion: {start!r}") from error

    def _stream_end(
        self, turn: int, sender: _Sender
    ) -> Callable[[Exception | None, Completion | None], Exception | None]:
        """What happens when a stream ends: the circuit hears of it, and the error gets its name."""

        def ended(error: Exception | None, completion: Completion | None) -> Exception | None:
            if error is None:
                self.breaker.succeeded(turn)
                if completion is not None:
                    self._note(completion, None)
                return None
            if isinstance(error, StreamRefusedError):
                text = said(error.document) or "no reason given"
                named: Exception = self._error("upstream-server-error", f"an error within the stream: {text}")
            elif isinstance(error, BadChunkError):
                named = self._error("upstream-bad-answer", f"not a chunk of a completion: {one_line(str(error), 80)!r}")
            else:
                named = self._failure(error)
                named = named.error if isinstance(named, _Retry) else named
            self._judge(turn, named, sender)
            return named

        return ended

    def _failure(self, error: Exception) -> Exception:
        """Our name for what the pool says; a ``_Retry`` where it may pass."""
        if isinstance(error, ClosedError):
            return _closed()
        if isinstance(error, ConnectError):
            return _Retry(self._error("upstream-unreachable", str(error)))
        if isinstance(error, SizeError):
            return self._error("upstream-too-large", "the answer, or one line of it, is larger than is read here")
        if isinstance(error, SilenceError):
            if str(error) == "idle":
                return self._error("upstream-timeout", f"nothing more came for {self._llm.idle_timeout_s:g} s")
            return self._error("upstream-timeout", f"no whole answer within {self._llm.timeout_s:g} s")
        if isinstance(error, BrokenOffError):
            return _Retry(self._error("upstream-broken-off", str(error)))
        return error

    def _note(self, completion: Completion, attempts: int | None) -> None:
        if attempts is not None:
            completion.extra["attempts"] = str(attempts)
        version = completion.extra.get("system_fingerprint")
        self._fingerprint = f"{completion.model}/{version}" if version else completion.model

    def _error(self, code: str, cause: str, fix: str = "") -> UpstreamError:
        if self._key:
            cause = cause.replace(self._key, "[key]")  # some servers repeat what they were sent
        return UpstreamError(code, cause, fix=fix, where=self._where)


@dataclass(frozen=True)
class _Ahead:
    """A first attempt that is under way."""

    exchange: Exchange
    turn: int
    deadline_s: float


@dataclass
class _Sender:
    """A request, as it is sent once or several times.

    ``left_out``: settings that its server refused; None where none may be left out.
    """

    body: Document
    head: bytes
    habits: ServerHabits
    left_out: set[str] | None
    ahead: _Ahead | None = None

    def about(self) -> str:
        """What stands for the text that is asked."""
        return sha256_bytes(encode({"asked": self.body.get("messages", self.body.get("prompt"))}))

    def told(self, completion: Completion) -> Completion:
        """The answer, with what was left out to get it, where anything may be."""
        if self.left_out is not None:
            completion.extra[LEFT_OUT] = ",".join(sorted(self.left_out))
        return completion

    def message(self) -> bytes:
        """Request line, headers and body."""
        self.habits.adapt(self.body, self.left_out)
        encoded = encode(self.body)
        return b"%scontent-length: %d\r\n\r\n%s" % (self.head, len(encoded), encoded)


class _Retry(Exception):
    """A failure that may pass; carries the error to raise when it does not, and how long to wait.

    ``learned``: the request is sent again in the words that the server wants.
    """

    def __init__(self, error: UpstreamError, after_s: float | None = None, *, learned: bool = False) -> None:
        super().__init__(error)
        self.error = error
        self.after_s = after_s
        self.learned = learned


def _closed() -> LocumError:
    return LocumError("runtime-closed", "the LLM was closed, or its answer was stopped")


def _loads(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except ValueError:
        return None


def _backoff_s(attempt: int) -> float:
    """Full jitter (Brooker, AWS Architecture Blog, 2015): uniform up to a doubling, capped bound."""
    return random.uniform(0, min(_BACKOFF_MAX_S, _BACKOFF_S * 2**attempt))
