"""What may be asked: strict JSON, then typed and bounded documents that refuse what they do not know.

Notable: fields are allowed by name, never denied by name, so a nested ``api_base`` or an image URL has
nowhere to stand. Which text is classified is defined once, in ``input_of``: the text parts of the **last user
message**. Earlier turns and system messages are accepted, so that a client of the LLM need not change, and not
read; how many is told in the answer. Not here: routes (``app``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from locum.core.registry import nearest
from locum.core.strict_json import NotStrictJson, parse_object
from locum.core.text import one_line
from locum.gateway.errors import ApiError
from locum.runtime.protocol import CompletionRequest
from locum.schema.message import Message

Text = Annotated[str, StringConstraints(max_length=1_000_000)]
Short = Annotated[str, StringConstraints(max_length=512)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Length = Annotated[int, Field(ge=1, le=1_000_000)]


class _Typed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class TextPart(_Typed):
    """A piece of a message; text is the only kind that a classifier reads."""

    type: Literal["text"]
    text: Text


class ChatMessage(_Typed):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=256)]
    name: Short | None = None

    @property
    def text(self) -> str:
        """The content; several text parts are joined by line ends."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class StreamOptions(_Typed):
    """What a stream carries besides the answer."""

    include_usage: bool = False


class ResponseFormat(_Typed):
    """Only plain text: the answer is a label."""

    type: Literal["text"]


class ChatRequest(_Typed):
    """``POST /v1/chat/completions``.

    The student's answer does not depend on ``temperature``, ``top_p``, ``seed``, ``stop``, the penalties or a
    length: they are accepted, bounded, and passed on only by ``NAME@llm`` (temperature, length, stop, seed).
    """

    model: Short
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Length | None = None
    max_completion_tokens: Length | None = None
    stop: Short | Annotated[list[Short], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logprobs: Literal[False] | None = None
    response_format: ResponseFormat | None = None
    user: Short | None = None
    metadata: Annotated[dict[Short, Short], Field(max_length=16)] | None = None


def parse_json(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        ApiError: 400 ``invalid_json``: not JSON in UTF-8, nested deeper than 16, a key twice, NaN or infinity, a
            number of more than 19 digits, a lone surrogate, or not an object.
    """
    try:
        return parse_object(body)
    except NotStrictJson as problem:
        raise ApiError(400, "invalid_json", f"the body cannot be read: {problem}") from None


def read_chat_request(body: bytes) -> ChatRequest:
    """The typed request.

    Raises:
        ApiError: 400, naming the first field at fault and, for an unknown field, the nearest known one.
    """
    value = parse_json(body)
    try:
        return ChatRequest.model_validate(value)
    except ValidationError as problem:
        # Of a union's alternatives the deepest fault is the one the caller meant.
        faults = sorted(problem.errors(include_url=False, include_input=False), key=lambda fault: -len(fault["loc"]))
        unknown = [fault for fault in faults if fault["type"] == "extra_forbidden"]
        raise _field_error(dict((unknown or faults)[0]), value) from None


def _field_error(fault: dict[str, Any], value: dict[str, Any]) -> ApiError:
    steps = [step for step in fault["loc"] if not (isinstance(step, str) and ("[" in step or step in _UNION_STEPS))]
    param = one_line(".".join(str(step) for step in steps), 120)
    last = str(steps[-1]) if steps else ""
    if fault["type"] == "extra_forbidden":
        known = nearest(last, ChatRequest.model_fields if len(steps) == 1 else ChatMessage.model_fields)
        hint = f"did you mean {known!r}?" if known else "the gateway of a classifier does not take it"
        return ApiError(400, "unknown_field", f"unknown field {param!r}: {hint}", param=param)
    if fault["type"] == "missing":
        return ApiError(400, "missing_field", f"the field {param!r} is required", param=param)
    if last in ("n", "logprobs") or param == "response_format.type" or param.endswith(".type"):
        return ApiError(400, "unsupported_value", f"{param}: {fault['msg']}", param=param)
    return ApiError(400, "invalid_value", f"{param}: {fault['msg']}", param=param)


_UNION_STEPS = frozenset({"constrained-str", "str", "TextPart", "list[TextPart]", "literal"})


def input_of(request: ChatRequest, max_chars: int) -> tuple[str, int]:
    """The text to classify, and how many of the messages are not read.

    The text is that of the last user message; system messages, earlier turns and what an assistant said are not
    part of it, because the certificate speaks of single inputs.

    Raises:
        ApiError: 400 ``empty_input`` or ``input_too_long``.
    """
    users = [index for index, message in enumerate(request.messages) if message.role == "user"]
    text = request.messages[users[-1]].text if users else ""
    if not text.strip():
        raise ApiError(400, "empty_input", "the last user message holds no text", param="messages")
    if len(text) > max_chars:
        said = f"the last user message has {len(text):,} characters; at most {max_chars:,} are read"
        raise ApiError(400, "input_too_long", said, param=f"messages.{users[-1]}.content")
    return text, len(request.messages) - 1


def as_completion_request(request: ChatRequest) -> CompletionRequest:
    """The whole conversation, for ``NAME@llm``."""
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return CompletionRequest(
        messages=tuple(
            Message("system" if message.role == "developer" else message.role, message.text)
            for message in request.messages
        ),
        max_tokens=request.max_completion_tokens or request.max_tokens or 1024,
        temperature=request.temperature if request.temperature is not None else 1.0,
        stop=stop,
        seed=request.seed,
    )
