"""``ApiError``: a refusal in the form of OpenAI's API, ``{"error": {message, type, param, code}}``.

Notable: codes are stable and listed in ``API_CODES``; a message never repeats the content of a request beyond
field and model names, with hidden characters spelled. Not here: where each is raised.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from locum.core.errors import LocumError
from locum.core.files import canonical_json
from locum.core.text import one_line

API_CODES: dict[str, str] = {
    "invalid_json": "The body is not JSON, nests too deep, repeats a key, or holds NaN or a number beyond 64 bits.",
    "invalid_value": "A field has a value or type that it may not have.",
    "unknown_field": "A field is not one that the gateway knows.",
    "missing_field": "A required field is absent.",
    "unsupported_value": "OpenAI's API knows the value, this gateway does not.",
    "empty_input": "The last user message holds no text.",
    "input_too_long": "The last user message is longer than the gateway reads.",
    "model_not_found": "No such model is served here.",
    "llm_not_configured": "The model NAME@llm needs an LLM in the task file.",
    "invalid_api_key": "The key is missing or wrong.",
    "host_not_allowed": "The Host or Origin header names another host.",
    "not_found": "There is nothing at this path.",
    "method_not_allowed": "The path does not take this method.",
    "body_too_large": "The body is larger than the gateway reads.",
    "receive_timeout": "The body did not arrive in time.",
    "ambiguous_length": "The length of the body is told in two ways.",
    "overloaded": "Too many requests wait; try again.",
    "shutting_down": "The gateway is stopping.",
    "llm_failed": "The LLM did not answer properly; nothing uncertified is given instead.",
    "llm_timeout": "The LLM did not answer in time.",
    "engine_failed": "The student's engine failed.",
    "internal_error": "An unexpected error inside the gateway.",
}


_BODY_UNREAD = frozenset({401, 403, 408, 413, 503})
"""Refusals that may come before the body was read; the connection is closed rather than the rest received."""


class ApiError(Exception):
    """A refusal with its HTTP status.

    Args:
        status: HTTP status.
        code: a key of ``API_CODES``.
        message: cause and fix.
        param: the field at fault.
        retry_after_s: sent as ``Retry-After``.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        if code not in API_CODES:
            raise KeyError(f"API code {code!r} is not listed")
        super().__init__(status, code, message, param)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

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

    def to_response(self) -> Response:
        """The envelope as a response."""
        headers = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        if self.status in _BODY_UNREAD or self.code == "ambiguous_length":
            headers["connection"] = "close"
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return json_response(self.to_json(), status=self.status, headers=headers)


def json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response; NaN cannot be sent."""
    return Response(canonical_json(value).encode(), status_code=status, headers=headers, media_type="application/json")


def from_llm_error(error: LocumError) -> ApiError:
    """What a failure of the LLM becomes: 504 in case of a time-out, 503 when it is rate-limited, else 502."""
    cause = f"the LLM failed: {one_line(error.cause)} [{error.code}]"
    if error.code == "upstream-timeout":
        return ApiError(504, "llm_timeout", cause)
    if error.code == "gateway-llm-busy":
        return ApiError(503, "overloaded", error.cause, retry_after_s=1)
    if error.code == "upstream-rate-limited":
        return ApiError(503, "llm_failed", cause, retry_after_s=5)
    return ApiError(502, "llm_failed", cause)
