"""``POST /v1/chat/completions``: its document, what it asks an engine, its body and its events.

Notable: an abstention is an HTTP 200 whose ``content`` is the empty string, which is no label, with the reason in
``message.refusal``, where OpenAI's clients look for one. A piece of plain text is one encoded string between two
constant parts. Not here: which message a classifier reads (``targets``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from locum.gateway.calls import Answered, ChoicesCall, Opened, Stamp, choices_head, event, token_json, written
from locum.gateway.documents import (
    MAX_CHOICES,
    Document,
    FunctionSpec,
    JsonObject,
    Length,
    Metadata,
    Name,
    Penalty,
    SchemaFormat,
    Short,
    Text,
    WritingRequest,
    check_tools,
    format_asked,
    refuse,
    seeded,
    stops,
)
from locum.runtime.completion import Chunk, Completion, CompletionRequest, SchemaWords, ToolCallDelta
from locum.schema.message import Message, ToolCall


class TextPart(Document):
    """A piece of a message; text is the only kind that is read."""

    type: Literal["text"]
    text: Text


class CalledFunction(Document):
    """Name and arguments of a call, as the model wrote them."""

    name: Short
    arguments: Text


class ChatToolCall(Document):
    """A call that an assistant made in an earlier turn."""

    id: Short
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Document):
    """One turn. Of what clients copy from an earlier answer, a refusal is read as what was said where nothing else was,
    and empty fields are accepted.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=256)] | None = None
    name: Short | None = None
    tool_calls: Annotated[list[ChatToolCall], Field(min_length=1, max_length=128)] | None = None
    tool_call_id: Short | None = None
    refusal: Text | None = None
    annotations: Annotated[list[JsonObject], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None

    def message(self, place: int) -> Message:
        """As an engine takes it; several text parts are joined by line ends.

        Raises:
            ApiError: 400, when the role lacks what it needs or has what it may not.
        """
        at = f"messages.{place}"
        if self.content is None and not (self.role == "assistant" and (self.tool_calls or self.refusal)):
            refuse(f"{at}.content", "only an assistant's message with tool_calls or a refusal may lack it")
        if self.tool_calls is not None and self.role != "assistant":
            refuse(f"{at}.tool_calls", "only an assistant's message has them")
        if (self.role == "tool") != (self.tool_call_id is not None):
            refuse(f"{at}.tool_call_id", "a tool's message needs it, and no other has it")
        calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in self.tool_calls or ())
        role = "system" if self.role == "developer" else self.role
        return Message(role, self._text(), calls, self.tool_call_id)

    def _text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or self.refusal or ""


class ChatTool(Document):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Document):
    """The function to call."""

    name: Name


class NamedTool(Document):
    """A choice of one tool."""

    type: Literal["function"]
    function: NamedFunction


class ResponseFormat(Document):
    """What the answer must be: any text, any JSON object, or JSON that a schema allows."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None

    def fields(self) -> dict[str, Any]:
        """As an engine takes it."""
        at, sent = "response_format.json_schema", self.json_schema
        if sent is None:
            return format_asked(self.type, None, SchemaWords(), at)
        words = SchemaWords(name=sent.name, description=sent.description, strict=sent.strict)
        return format_asked(self.type, sent.schema_, words, at)


class ChatRequest(WritingRequest):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)]
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Length | None = None
    max_completion_tokens: Length | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ChatTool], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    store: Literal[False] | None = None
    metadata: Metadata | None = None


class ChatCall(ChoicesCall[ChatRequest]):
    """One chat request."""

    document = ChatRequest
    prefix = "chatcmpl-"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, asked: ChatRequest) -> None:
        super().__init__(asked)
        self._request = _request(asked)

    def requests(self, max_tokens: int) -> list[CompletionRequest]:
        """One for each choice, with seeds one after the other."""
        first = self._request if _length(self._asked) else replace(self._request, max_tokens=max_tokens)
        return [first, *(replace(first, seed=seeded(first.seed, i)) for i in range(1, self._asked.n or 1))]

    def choice(self, index: int, answered: Answered) -> dict[str, Any]:
        """A message, and why it ended."""
        completion = answered.completion
        message: dict[str, Any] = {
            "role": "assistant",
            "content": completion.text if completion.text or not completion.tool_calls else None,
            "refusal": answered.opened.origin.refusal or completion.extra.get("refusal"),
        }
        if completion.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in completion.tool_calls
            ]
        logprobs = None
        if completion.logprobs:
            logprobs = {"content": [token_json(token) for token in written(completion.logprobs)], "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": completion.finish_reason}

    def events(self, index: int) -> ChatEvents:
        """``chat.completion.chunk`` events of one choice."""
        return ChatEvents(self.stamp, index, with_logprobs=self._asked.logprobs is True)


class ChatEvents:
    """The events of one choice."""

    def __init__(self, stamp: Stamp, index: int, *, with_logprobs: bool) -> None:
        self._stamp = stamp
        self._index = index
        self._with_logprobs = with_logprobs
        self._fingerprint = ""
        self._before = self._after = b""

    def begin(self, opened: Opened, truncated_tokens: int) -> bytes:
        """The role, and where the answer comes from."""
        self._fingerprint = opened.fingerprint
        blank = self._event({"content": "\x00"})
        self._before, _, self._after = blank.partition(b'"\\u0000"')
        delta: dict[str, Any] = {"role": "assistant", "content": ""}
        if opened.origin.refusal is not None:
            delta["refusal"] = opened.origin.refusal
        return self._event(delta, locum=opened.origin.to_json(truncated_tokens))

    def piece(self, chunk: Chunk) -> bytes:
        """A ``delta``."""
        tokens = written(chunk.logprobs)
        if not tokens and not chunk.tool_calls and not chunk.refusal:
            return self._before + orjson.dumps(chunk.text) + self._after if chunk.text else b""
        delta: dict[str, Any] = {"content": chunk.text} if chunk.text or tokens else {}
        if chunk.refusal:
            delta["refusal"] = chunk.refusal
        if chunk.tool_calls:
            delta["tool_calls"] = [_call_delta(call) for call in chunk.tool_calls]
        logprobs = None
        if tokens and self._with_logprobs:
            logprobs = {"content": [token_json(token) for token in tokens], "refusal": None}
        return self._event(delta, logprobs=logprobs)

    def end(self, completion: Completion) -> bytes:
        """Why it ended."""
        return self._event({}, finish_reason=completion.finish_reason)

    def _event(
        self, delta: dict[str, Any], *, logprobs: Any = None, finish_reason: str | None = None, **more: Any
    ) -> bytes:
        choice = {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return event({**choices_head(self._stamp, ChatCall.chunk_kind, self._fingerprint, [choice]), **more})


def _request(asked: ChatRequest) -> CompletionRequest:
    messages = tuple(message.message(place) for place, message in enumerate(asked.messages))
    if asked.top_logprobs is not None and asked.logprobs is not True:
        refuse("top_logprobs", "it needs logprobs to be true")
    tools = tuple(tool.function.tool() for tool in asked.tools or ())
    choice = asked.tool_choice.function.name if isinstance(asked.tool_choice, NamedTool) else asked.tool_choice
    check_tools(tools, choice or "auto")
    format_fields = asked.response_format.fields() if asked.response_format is not None else {}
    if format_fields and asked.grammar is not None:
        refuse("grammar", "the answer is already held to response_format; give one of them")
    return CompletionRequest(
        messages=messages,
        max_tokens=_length(asked) or 1,
        stop=stops(asked.stop),
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        tools=tools,
        tool_choice=choice or "auto",
        parallel_tool_calls=asked.parallel_tool_calls,
        **format_fields,
        **asked.sampling(),
    )


def _length(asked: ChatRequest) -> int | None:
    return asked.max_completion_tokens or asked.max_tokens


def _call_delta(call: ToolCallDelta) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": call.arguments}
    if call.name is not None:
        function["name"] = call.name
    delta: dict[str, Any] = {"index": call.index, "function": function}
    if call.id is not None:
        delta.update(id=call.id, type="function")
    return delta
