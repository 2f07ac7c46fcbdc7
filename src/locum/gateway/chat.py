"""``POST /v1/chat/completions``: its document, what it asks an engine, its body and its events.

Notable: an abstention is an HTTP 200 whose ``content`` is the empty string, which is no label, with the reason in
``message.refusal``, where OpenAI's clients look for one. A piece of plain text is one encoded string between two
constant parts. Not here: which message a classifier reads (``targets``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import Field

from locum.gateway.calls import Answered, ChoicesCall, Opened, Stamp, choices_head, event, token_json, written
from locum.gateway.documents import (
    MAX_CHOICES,
    AllowedTools,
    Document,
    Effort,
    FunctionSpec,
    JsonObject,
    Length,
    LogitBias,
    Name,
    SchemaFormat,
    Short,
    Text,
    Verbosity,
    WritingRequest,
    check_tools,
    format_asked,
    refuse,
    seeded,
    stops,
)
from locum.runtime.completion import Chunk, Completion, CompletionRequest, SchemaWords, Tool, ToolCallDelta
from locum.schema.message import Message, ToolCall


class TextPart(Document):
    """A piece of a message: text, or why an assistant did not answer."""

    type: Literal["text", "refusal"]
    text: Text | None = None
    refusal: Text | None = None
    prompt_cache_breakpoint: JsonObject | None = None

    def words(self, at: str) -> str:
        """What it says.

        Raises:
            ApiError: 400, when it lacks the field of its type.
        """
        words = self.text if self.type == "text" else self.refusal
        if words is None:
            refuse(f"{at}.{self.type}", "the field is required", "missing_field")
        return words


class CalledFunction(Document):
    """Name and arguments of a call, as the model wrote them; a client may have parsed these."""

    name: Short
    arguments: Text
    parsed_arguments: Any = None


class ChatToolCall(Document):
    """A call that an assistant made in an earlier turn."""

    id: Short
    type: Literal["function"]
    function: CalledFunction
    index: int | None = None


class ChatMessage(Document):
    """One turn. Of what clients copy from an earlier answer, a refusal is read as what was said where nothing else was,
    and what a client added to it (what it parsed, citations, the thoughts of a model) is accepted and not read.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=256)] | None = None
    name: Short | None = None
    tool_calls: Annotated[list[ChatToolCall], Field(max_length=128)] | None = None
    tool_call_id: Short | None = None
    refusal: Text | None = None
    annotations: Annotated[list[JsonObject], Field(max_length=256)] | None = None
    audio: Annotated[JsonObject, Field(description="Always refused: nothing is kept.")] | None = None
    function_call: Annotated[JsonObject, Field(description="Always refused: see tool_calls.")] | None = None
    parsed: Any = None
    reasoning: Text | None = None
    reasoning_content: Text | None = None
    provider_specific_fields: JsonObject | None = None
    locum: JsonObject | None = None

    def message(self, place: int) -> Message:
        """As an engine takes it; several text parts are joined by line ends.

        Raises:
            ApiError: 400, when the role lacks what it needs or has what it may not.
        """
        at = f"messages.{place}"
        if self.content is None and not (self.role == "assistant" and (self.tool_calls or self.refusal)):
            refuse(f"{at}.content", "only an assistant's message with tool_calls or a refusal may lack it")
        if self.tool_calls and self.role != "assistant":
            refuse(f"{at}.tool_calls", "only an assistant's message has them")
        if self.audio is not None:
            refuse(f"{at}.audio", "nothing is kept here that it could name; send what was said", "unsupported_value")
        if self.function_call is not None:
            refuse(f"{at}.function_call", "functions are called by tool_calls here", "unsupported_value")
        if (self.role == "tool") != (self.tool_call_id is not None):
            refuse(f"{at}.tool_call_id", "a tool's message needs it, and no other has it")
        calls: tuple[ToolCall, ...] = ()
        if self.tool_calls:
            made = ((call.id, call.function.name, call.function.arguments) for call in self.tool_calls)
            calls = tuple(ToolCall(*each) for each in made)
        role = "system" if self.role == "developer" else self.role
        return Message(role, self._text(at), calls, self.tool_call_id)

    def _text(self, at: str) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.words(f"{at}.content.{place}") for place, part in enumerate(self.content))
        return self.content or self.refusal or ""


class ChatTool(Document):
    """A tool; functions are the only kind that is offered, and a custom one is left out."""

    type: Literal["function", "custom"]
    function: FunctionSpec | None = None
    custom: JsonObject | None = None


class NamedFunction(Document):
    """The function to call."""

    name: Name


class ToolChoice(Document):
    """A choice of one function, or of those that may be called now."""

    type: Literal["function", "allowed_tools", "custom"]
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None
    custom: JsonObject | None = None


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

    only_llm: ClassVar[tuple[str, ...]] = ("logit_bias", "moderation", "store", "web_search_options")
    hinting: ClassVar[tuple[str, ...]] = ("prediction", "reasoning_effort", "verbosity")

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)]
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Length | None = None
    max_completion_tokens: Length | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ChatTool], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    logit_bias: LogitBias | None = None
    reasoning_effort: Effort | None = None
    verbosity: Verbosity | None = None
    prediction: JsonObject | None = None
    web_search_options: Annotated[JsonObject, Field(description="Only for NAME@llm.")] | None = None
    store: Annotated[bool, Field(description="true only for NAME@llm: nothing is kept here.")] | None = None
    modalities: Annotated[list[Literal["text", "audio"]], Field(description="Only text.")] | None = None
    audio: Annotated[JsonObject, Field(description="Always refused: only text is written.")] | None = None
    functions: Annotated[list[JsonObject], Field(description="Always refused: see tools.")] | None = None
    function_call: Annotated[str | JsonObject, Field(description="Always refused: see tool_choice.")] | None = None

    def asks(self, name: str) -> bool:
        """As before; options without a word ask for a search, too."""
        return super().asks(name) or (name == "web_search_options" and self.web_search_options is not None)


class ChatCall(ChoicesCall[ChatRequest]):
    """One chat request."""

    document = ChatRequest
    prefix = "chatcmpl-"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, asked: ChatRequest, fields: Mapping[str, Any]) -> None:
        super().__init__(asked, fields)
        self._request = _request(asked, fields)

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


def _request(asked: ChatRequest, fields: Mapping[str, Any]) -> CompletionRequest:
    messages = tuple(message.message(place) for place, message in enumerate(asked.messages))
    if asked.top_logprobs and asked.logprobs is not True:
        refuse("top_logprobs", "it needs logprobs to be true")
    _refuse_what_nobody_does(asked)
    tools, choice, left_out = _tools(asked)
    format_fields = asked.response_format.fields() if asked.response_format is not None else {}
    if format_fields and asked.grammar is not None:
        refuse("grammar", "the answer is already held to response_format; give one of them")
    return CompletionRequest(
        messages=messages,
        max_tokens=_length(asked) or 1,
        stop=stops(asked.stop),
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=asked.parallel_tool_calls,
        sent=asked.as_sent(fields, left_out),
        **format_fields,
        **asked.sampling(),
    )


def _refuse_what_nobody_does(asked: ChatRequest) -> None:
    """Refuse what neither a model here nor an LLM behind this API can do."""
    if "audio" in (asked.modalities or ()):
        refuse("modalities", "only text is written here", "unsupported_value")
    if asked.audio is not None:
        refuse("audio", "only text is written here", "unsupported_value")
    if asked.functions:
        refuse("functions", "functions stand in tools here", "unsupported_value")
    if asked.function_call not in (None, "auto", "none"):
        refuse("function_call", "a function is chosen by tool_choice here", "unsupported_value")


def _tools(asked: ChatRequest) -> tuple[tuple[Tool, ...], str, list[str]]:
    """The functions, which of them to call, and the fields of tools that are none."""
    if asked.tools is None and asked.tool_choice is None:
        return (), "auto", []
    tools: list[Tool] = []
    left_out: list[str] = []
    for place, tool in enumerate(asked.tools or ()):
        if tool.type != "function":
            left_out.append(f"tools.{place}")
        elif tool.function is None:
            refuse(f"tools.{place}.function", "the field is required", "missing_field")
        else:
            tools.append(tool.function.tool())
    choice = asked.tool_choice
    if not isinstance(choice, ToolChoice):
        check_tools(tools, choice or "auto", left_out)
        return tuple(tools), choice or "auto", left_out
    if choice.type == "allowed_tools" and choice.allowed_tools is not None:
        allowed = choice.allowed_tools.of(tools)
        check_tools(tools, "auto")
        check_tools(allowed, choice.allowed_tools.mode, left_out)
        return allowed, choice.allowed_tools.mode, left_out
    if choice.type == "custom":
        refuse("tool_choice", "functions are the only tools here", "unsupported_value")
    if choice.type == "allowed_tools" or choice.function is None:
        refuse(f"tool_choice.{choice.type}", "the field is required", "missing_field")
    check_tools(tools, choice.function.name, left_out)
    return tuple(tools), choice.function.name, left_out


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
