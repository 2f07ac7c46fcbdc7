"""The LLM behind any OpenAI-compatible URL, over httpx.

Notable: one deadline covers an answer with all its retries, on the monotonic clock. Only what may pass is
retried (429, 5xx, lost connections), with full jitter, and a ``Retry-After`` that fits the deadline is
honoured. Redirects are not followed, bodies are capped, and the key comes from the named environment
variable and appears in no message. Not here: streaming, spending caps, circuit breaking (``gateway``).
"""

from __future__ import annotations

import email.utils
import ipaddress
import json
import os
import random
import time
from collections.abc import Callable
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx

from locum.core.errors import LocumError, UpstreamError, UserError
from locum.core.text import one_line
from locum.runtime.completion import Completion, CompletionRequest, FinishedStream
from locum.schema.task import LlmSpec

_BODY_BYTES_MAX = 16 << 20
_CONNECT_S = 10.0
_ATTEMPTS_MAX = 5
_BACKOFF_S, _BACKOFF_MAX_S = 0.5, 8.0
_RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504, 529})
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")


class OpenAiGenerator:
    """A generator over HTTP; safe to call from several threads.

    Args:
        llm: URL, model name, environment variable with the key, and seconds for one answer.
        sleep: waits between retries (tests pass their own).

    Raises:
        UserError: the URL may not be used, or the key's environment variable is empty.
    """

    def __init__(self, llm: LlmSpec, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._llm = llm
        self._url = _chat_url(llm.base_url or "")
        self._key = _read_key(llm.api_key_env)
        self._sleep = sleep
        self._length_field = "max_tokens"
        headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "locum"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        self._client = httpx.Client(
            headers=headers,
            follow_redirects=False,
            trust_env=not _is_local(self._url.host),  # a proxy is for the world outside, not for this machine
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
        )

    @property
    def model(self) -> str:
        """The name it is asked by."""
        return self._llm.model

    def complete(self, request: CompletionRequest) -> Completion:
        """Ask, and wait for the whole answer.

        A refusal, or an answer that the provider's filter stopped, has ``finish_reason`` content_filter. When
        the server counts no tokens, both counts are 0 and ``extra["usage"]`` is ``missing``.

        Raises:
            UpstreamError: no proper answer in time; the code says why.
            LocumError: the generator is closed.
        """
        if self._client.is_closed:
            raise LocumError("runtime-closed", "the LLM was asked after it was closed")
        deadline_s = time.monotonic() + self._llm.timeout_s
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            try:
                completion = self._attempt(request, deadline_s)
                completion.extra["attempts"] = str(attempt)
                return completion
            except _Retry as retry:
                wait_s = retry.after_s if retry.after_s is not None else _backoff_s(attempt)
                if attempt == _ATTEMPTS_MAX or time.monotonic() + wait_s >= deadline_s:
                    raise retry.error from retry.__cause__
                self._sleep(wait_s)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def stream(self, request: CompletionRequest) -> FinishedStream:
        """The answer as a stream, in one piece.

        Raises:
            LocumError: as ``complete``.
        """
        return FinishedStream(self.complete(request))

    def close(self) -> None:
        """Close the connections; a second call does nothing."""
        self._client.close()

    def _attempt(self, request: CompletionRequest, deadline_s: float) -> Completion:
        left_s = max(0.001, deadline_s - time.monotonic())
        timeout = httpx.Timeout(left_s, connect=min(_CONNECT_S, left_s))
        try:
            with self._client.stream("POST", self._url, json=self._body(request), timeout=timeout) as response:
                body = self._read(response, deadline_s)
        except httpx.ConnectTimeout as error:
            raise _Retry(self._error("upstream-unreachable", "no connection in time")) from error
        except httpx.TimeoutException as error:
            raise self._error("upstream-timeout", f"no answer within {self._llm.timeout_s:g} s") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise _Retry(self._error("upstream-unreachable", f"{type(error).__name__}: {error}")) from error
        if response.status_code != 200:
            if self._adapts(response.status_code, body):
                raise _Retry(self._error("upstream-bad-request", "the server wants other field names"), 0.0)
            self._refuse(response, body)
        return self._parse(body)

    def _body(self, request: CompletionRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._llm.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            self._length_field: request.max_tokens,
            "temperature": request.temperature,
        }
        if request.stop:
            body["stop"] = list(request.stop)
        if request.seed is not None:
            body["seed"] = request.seed
        return body

    def _read(self, response: httpx.Response, deadline_s: float) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self._error("upstream-bad-answer", "the body is compressed, which was not asked for")
        parts: list[bytes] = []
        size = 0
        for chunk in response.iter_raw():
            size += len(chunk)
            if size > _BODY_BYTES_MAX:
                raise self._error("upstream-too-large", f"the body is over {_BODY_BYTES_MAX >> 20} MiB")
            if time.monotonic() > deadline_s:  # bytes that trickle in never trip the read time-out
                raise self._error("upstream-timeout", f"no whole answer within {self._llm.timeout_s:g} s")
            parts.append(chunk)
        return b"".join(parts)

    def _adapts(self, status: int, body: bytes) -> bool:
        """Newer OpenAI models reject ``max_tokens`` by name and say which field they want."""
        if status == 400 and self._length_field == "max_tokens" and b"max_completion_tokens" in body:
            self._length_field = "max_completion_tokens"
            return True
        return False

    def _refuse(self, response: httpx.Response, body: bytes) -> NoReturn:
        status = response.status_code
        said = self._said(body)
        if status in _RETRY_STATUS:
            code = "upstream-rate-limited" if status == 429 else "upstream-server-error"
            raise _Retry(self._error(code, f"status {status}{said}"), _retry_after_s(response))
        if 300 <= status < 400:
            host = one_line(urlsplit(response.headers.get("location", "")).netloc) or "elsewhere"
            raise self._error("upstream-redirect", f"status {status} to {host}", "set llm.base_url to the final URL")
        if status in (401, 403):
            variable = self._llm.api_key_env
            fix = f"check the key in ${variable}" if variable else "set llm.api_key_env"
            raise self._error("upstream-refused-key", f"status {status}{said}", fix)
        raise self._error("upstream-bad-request", f"status {status}{said}", "check llm.base_url and llm.model")

    def _said(self, body: bytes) -> str:
        try:
            error = json.loads(body)["error"]
            text = error["message"] if isinstance(error, dict) else error
        except (ValueError, KeyError, TypeError):
            text = body[:300].decode("utf-8", "replace")
        return f": {one_line(str(text))}" if text else ""

    def _parse(self, body: bytes) -> Completion:
        try:
            document = json.loads(body)
            choice = document["choices"][0]
            message = choice["message"]
            text = _text(message.get("content"))
            refusal = message.get("refusal")
            usage = document.get("usage") or {}
            tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            model = str(document.get("model") or self._llm.model)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            start = one_line(body[:200].decode("utf-8", "replace"), 80)
            raise self._error("upstream-bad-answer", f"not a chat completion: {start!r}") from error
        extra = {} if usage else {"usage": "missing"}
        if document.get("system_fingerprint"):
            extra["system_fingerprint"] = str(document["system_fingerprint"])
        finish = str(choice.get("finish_reason") or "stop")
        if refusal:
            extra["refusal"] = str(refusal)
            finish = "content_filter"
        return Completion(text, finish, *tokens, model, extra)

    def _error(self, code: str, cause: str, fix: str = "") -> UpstreamError:
        if self._key:
            cause = cause.replace(self._key, "[key]")  # some servers repeat what they were sent
        return UpstreamError(code, cause, fix=fix, where=f"{self._url.scheme}://{self._url.netloc.decode()}")


class _Retry(Exception):
    """A failure that may pass; carries the error to raise when it does not, and how long to wait."""

    def __init__(self, error: UpstreamError, after_s: float | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.after_s = after_s


def _text(content: Any) -> str:
    """The message's text; some servers send a list of parts."""
    if isinstance(content, list):
        return "".join(str(part["text"]) for part in content if part.get("type", "text") == "text")
    if content is None:
        return ""
    if not isinstance(content, str):
        raise TypeError(f"content is {type(content).__name__}")
    return content


def _backoff_s(attempt: int) -> float:
    """Full jitter (Brooker, AWS Architecture Blog, 2015): uniform up to a doubling, capped bound."""
    return random.uniform(0, min(_BACKOFF_MAX_S, _BACKOFF_S * 2**attempt))


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds the server asks to wait (RFC 9110, 10.2.3: a number or a date); None when it does not say."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.replace(".", "", 1).isdigit():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, when.timestamp() - time.time())  # a date is on the wall clock, there is no other


def _chat_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url.rstrip("/") + "/chat/completions")
    except httpx.InvalidURL as error:
        raise UserError("upstream-url", f"llm.base_url is malformed: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError("upstream-url", "llm.base_url must be https://HOST/v1")
    if url.userinfo or url.query or url.fragment:
        raise UserError(
            "upstream-url",
            "llm.base_url holds a user name, query or fragment",
            fix="keep only https://HOST/v1; name the key's environment variable in llm.api_key_env",
        )
    if url.scheme == "http" and not _is_local(url.host):
        raise UserError(
            "upstream-url",
            f"http:// to {url.host} would send prompts and key unencrypted",
            fix="use https://; http:// is for this machine and private networks",
        )
    return url


def _is_local(host: str) -> bool:
    """Whether a host is this machine, a private address, or a name that only a local network has."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.lower().endswith(_LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_link_local


def _read_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        state = "holds characters that no key has" if key else "is not set"
        raise UserError("upstream-key-missing", f"environment variable {variable} {state}", fix=f"export {variable}=…")
    return key
