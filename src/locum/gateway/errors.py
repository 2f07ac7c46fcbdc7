"""``ApiError``: a refusal in the form of OpenAI's API, ``{"error": {message, type, param, code}}``.

Notable: codes are stable and listed in ``API_CODES``; a message never repeats the content of a request beyond
field and model names, with hidden characters spelled. What engines raise becomes one of these here, in one place.
Not here: where each is raised.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from locum.core.errors import DeviceError, LocumError, ModelFileError, SourceError, UpstreamError, UserError
from locum.core.text import one_line
from locum.runtime.completion import RequestFault

API_CODES: dict[str, str] = {
    "invalid_json": "The body is not JSON, nests too deep, repeats a key, or holds NaN or a number beyond 64 bits.",
    "invalid_value": "A field has a value or type that it may not have.",
    "unknown_field": "A field is not one that the gateway knows.",
    "missing_field": "A required field is absent.",
    "unsupported_value": "OpenAI's API knows the field or value, what is served here does not.",
    "empty_input": "The input, or the last user message, holds no text.",
    "input_too_long": "The input is longer than the gateway reads.",
    "context_length_exceeded": "The prompt does not fit the model's context, and truncate was not set.",
    "model_not_found": "No such model is served here.",
    "llm_not_configured": "The model NAME@llm needs an LLM in the task file.",
    "invalid_api_key": "The key is missing or wrong.",
    "host_not_allowed": "The Host or Origin header names another host.",
    "host_missing": "There is no Host header, or more than one.",
    "not_found": "There is nothing at this path.",
    "method_not_allowed": "The path does not take this method.",
    "body_too_large": "The body is larger than the gateway reads.",
    "headers_too_large": "The headers are larger than the gateway reads.",
    "receive_timeout": "The headers or the body did not arrive in time.",
    "ambiguous_length": "The length of the body is told in two ways.",
    "review_full": "The file that reviewed answers are appended to has reached its limit.",
    "review_failed": "What was said of an answer cannot be written to the file now.",
    "overloaded": "Too many requests wait; try again.",
    "llm_failed": "The LLM did not answer properly; nothing uncertified is given instead.",
    "llm_refused": "The LLM, asked by name, does not take the request as it is; to ask again does not help.",
    "llm_timeout": "The LLM did not answer in time.",
    "engine_failed": "The model's engine failed.",
    "engine_unavailable": "The model's engine is not running: it is starting again, or cannot load the model.",
    "engine_timeout": "The model's engine did not answer in time.",
    "internal_error": "An unexpected error inside the gateway.",
}

RESTART_S = 2
"""When to ask again while an engine is started again."""
_UNAVAILABLE = frozenset(
    {"runtime-child-died", "core-child-killed", "runtime-child-start", "runtime-closed", "runtime-memory"}
)


class ApiError(Exception):
    """A refusal with its HTTP status.

    Args:
        status: HTTP status.
        code: a key of ``API_CODES``.
        message: cause and fix.
        param: the field at fault.
        retry_after_s: sent as ``Retry-After``.
        headers: further headers.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        if code not in API_CODES:
            raise KeyError(f"API code {code!r} is not listed")
        super().__init__(status, code, message, param)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self._headers = headers or {}

    @property
    def type(self) -> str:
        """OpenAI's coarse error type for the status."""
        if self.status in (401, 403):
            return "authentication_error"
        if self.status in (502, 504):
            return "upstream_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    def to_json(self) -> dict[str, Any]:
        """The envelope."""
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}

    def to_bytes(self) -> bytes:
        """The envelope as JSON."""
        return orjson.dumps(self.to_json())

    @property
    def headers(self) -> dict[str, str]:
        """What is sent beside the envelope."""
        headers = dict(self._headers)
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        if self.code == "ambiguous_length":
            headers["connection"] = "close"  # nobody knows where the next request begins
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def unexpected(error: BaseException) -> ApiError:
    """What an error that nobody foresaw becomes: its type and nothing else of it."""
    return ApiError(500, "internal_error", f"an unexpected error ({type(error).__name__}); please report it")


def context_error(cause: str, fix: str, param: str = "messages") -> ApiError:
    """The refusal of a prompt that does not fit, in the words by which clients know it.

    LiteLLM falls back to a larger model when it reads "This model's maximum context length is", LangChain shortens the
    conversation by the code.
    """
    known = "This model's maximum context length is"
    said = cause if known in cause else f"{known} exceeded: {cause}"
    return ApiError(400, "context_length_exceeded", "; ".join(part for part in (said, fix) if part), param=param)


def from_llm_error(error: LocumError, llm: str | None = None, *, handed_over: bool = False) -> ApiError:
    """What a failure of the LLM becomes: 400 for a prompt over its context, 504 in case of a time-out, 503 when it is
    rate-limited, else 502.

    A request that the LLM rejects is the caller's to put right where he asked the LLM by name, and a 400; where a
    student handed over, he could not know, and it is a 502.

    What a server says is told; what an engine on this machine says may speak of the machine, and only its code is.

    Args:
        error: the failure.
        llm: the LLM's name, told to the caller.
        handed_over: whether the caller asked a student, not the LLM.
    """
    name = "the LLM" if llm is None else f"the LLM {one_line(llm, 80)!r}"
    told = f": {one_line(error.cause)}" if error.code.startswith("upstream-") else ""
    cause = f"{name} failed{told} [{error.code}]"
    if error.code == "runtime-too-long":
        return context_error(one_line(error.cause), error.fix)
    if error.code == "upstream-timeout":
        return ApiError(504, "llm_timeout", cause)
    if error.code == "gateway-llm-busy":
        return ApiError(503, "overloaded", error.cause, retry_after_s=1)
    if error.code in ("upstream-rate-limited", "upstream-circuit-open"):
        wait_s = getattr(error, "retry_after_s", None)
        return ApiError(503, "llm_failed", cause, retry_after_s=5 if wait_s is None else max(1, math.ceil(wait_s)))
    if error.code == "upstream-bad-request" and not handed_over:
        return ApiError(400, "llm_refused", cause)
    return ApiError(502, "llm_failed", cause)


_CONSTRAINT_FIELDS = {
    "runtime-constraint-grammar": "grammar",
    "runtime-constraint-schema": "response_format",
    "runtime-constraint-unsupported": "response_format",
}
"""The field of a chat that a constraint's fault is of."""


def from_engine_error(error: LocumError) -> ApiError:
    """What a local engine raised.

    The request's own mistakes are a 400 with the engine's words, a process that is starting again is a 503 that
    says when to come back, and what remains is a 500 without details, which may speak of the machine.
    """
    if isinstance(error, RequestFault):
        unsupported = error.code in ("runtime-constraint-unsupported", "runtime-unsupported-option")
        code = "unsupported_value" if unsupported else "invalid_value"
        remedy = f" ({one_line(error.fix)})" if error.fix else ""
        return ApiError(400, code, one_line(error.cause, 2000) + remedy, param=error.param)
    if isinstance(error, UpstreamError) or error.code == "runtime-too-long":
        return from_llm_error(error)
    if error.code == "runtime-unsupported-option":
        return ApiError(400, "unsupported_value", one_line(error.cause))
    if error.code == "runtime-prompt-ids":
        return ApiError(400, "invalid_value", one_line(error.cause), param="prompt")
    if error.code == "runtime-unknown-adapter":
        return ApiError(400, "invalid_value", one_line(error.cause), param="adapter")
    if error.code in _UNAVAILABLE:
        said = f"the model's engine is not running, it is started again [{error.code}]"
        return ApiError(503, "engine_unavailable", said, retry_after_s=RESTART_S)
    if error.code == "runtime-busy":
        return ApiError(503, "overloaded", one_line(error.cause), retry_after_s=1)
    if error.code == "runtime-timeout":
        return ApiError(504, "engine_timeout", f"the model's engine did not answer in time [{error.code}]")
    if isinstance(error, UserError) and not isinstance(error, (ModelFileError, DeviceError, SourceError)):
        code = "unsupported_value" if error.code == "runtime-constraint-unsupported" else "invalid_value"
        said = f"{one_line(error.cause)} [{error.code}]"
        return ApiError(400, code, said, param=_CONSTRAINT_FIELDS.get(error.code))
    return ApiError(500, "engine_failed", f"the model's engine failed [{error.code}]")
