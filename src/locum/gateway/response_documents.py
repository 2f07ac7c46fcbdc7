"""What ``POST /v1/responses`` takes, and what it asks an engine.

Notable: nothing is kept between requests, so whatever refers to an earlier response is refused in words, and
``store`` may only be false. Items of text, function calls and their results are read; other kinds have no
document and so no way in. Not here: the answer (``responses``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag

from locum.gateway.documents import (
    UNKNOWN_ITEM,
    Document,
    FunctionSpec,
    JsonObject,
    Length,
    Metadata,
    Name,
    Short,
    Text,
    WritingRequest,
    check_tools,
    format_asked,
    refuse,
    stops,
)
from locum.runtime.completion import CompletionRequest, SchemaWords
from locum.schema.message import Message, ToolCall


class ResponseText(Document):
    """A piece of text in a message, as users write it or as an earlier answer gave it."""

    type: Literal["input_text", "output_text", "text"]
    text: Text
    annotations: Annotated[list[JsonObject], Field(max_length=0)] | None = None
    logprobs: list[JsonObject] | None = None


class ResponseRefusal(Document):
    """What an earlier answer said instead of answering."""

    type: Literal["refusal"]
    refusal: Text


def _kind_of_part(part: Any) -> str:
    """What a piece of a message is read as; a type that is neither is a fault of a text's type."""
    kind = cast("JsonObject", part).get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return "refusal part" if kind == "refusal" else "text part"


Part = Annotated[
    Annotated[ResponseText, Tag("text part")] | Annotated[ResponseRefusal, Tag("refusal part")],
    Discriminator(_kind_of_part),
]
Texts = Text | Annotated[list[ResponseText], Field(min_length=1, max_length=256)]
Said = Text | Annotated[list[Part], Field(min_length=1, max_length=256)]


def _joined(content: str | Sequence[ResponseText | ResponseRefusal]) -> str:
    """One text; pieces are joined by line ends."""
    if isinstance(content, str):
        return content
    return "\n".join(part.refusal if isinstance(part, ResponseRefusal) else part.text for part in content)


class MessageItem(Document):
    """A message of the conversation."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Said
    id: Short | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None

    def message(self) -> Message:
        """As an engine takes it."""
        return Message("system" if self.role == "developer" else self.role, _joined(self.content))


class FunctionCallItem(Document):
    """A call that the model made in an earlier answer."""

    type: Literal["function_call"]
    call_id: Short
    name: Short
    arguments: Text
    id: Short | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class FunctionOutputItem(Document):
    """What a called function gave."""

    type: Literal["function_call_output"]
    call_id: Short
    output: Texts
    id: Short | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


def _kind_of_item(item: Any) -> str | None:
    """The type that an item says it has; a message need not say so."""
    if isinstance(item, MessageItem | FunctionCallItem | FunctionOutputItem):
        return item.type or "message"
    if not isinstance(item, dict):
        return None
    kind = cast("JsonObject", item).get("type")
    return "message" if kind is None else str(kind)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")],
    Discriminator(
        _kind_of_item,
        custom_error_type=UNKNOWN_ITEM,
        custom_error_message="An item is an object of type message, function_call or function_call_output",
    ),
]


class FunctionTool(FunctionSpec):
    """A function that the model may call."""

    type: Literal["function"]


class ChosenFunction(Document):
    """A choice of one function."""

    type: Literal["function"]
    name: Name


class TextFormat(Document):
    """What the answer must be; a schema stands beside its name here."""

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    schema_: Annotated[JsonObject | None, Field(alias="schema")] = None
    description: Text | None = None
    strict: bool | None = None

    def fields(self) -> dict[str, Any]:
        """As an engine takes it."""
        words = SchemaWords(name=self.name or SchemaWords.name, description=self.description, strict=self.strict)
        return format_asked(self.type, self.schema_, words, "text.format.schema")


class TextConfig(Document):
    """The form of the answer."""

    format: TextFormat | None = None


class ResponseRequest(WritingRequest):
    """``POST /v1/responses``."""

    input: Text | Annotated[list[Item], Field(min_length=1, max_length=1024)]
    instructions: Text | None = None
    max_output_tokens: Length | None = None
    include: Annotated[list[Literal["message.output_text.logprobs"]], Field(max_length=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | ChosenFunction | None = None
    parallel_tool_calls: bool | None = None
    truncation: Annotated[Literal["auto", "disabled"], Field(description="auto is truncate: true.")] | None = None
    store: Annotated[bool, Field(description="Only false: nothing is kept.")] | None = None
    background: Annotated[bool, Field(description="Only false.")] | None = None
    previous_response_id: Annotated[Short, Field(description="Always refused: nothing is kept.")] | None = None
    metadata: Metadata | None = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether tokens are to come with their log-probabilities."""
        return bool(self.include) or self.top_logprobs is not None

    @property
    def chosen(self) -> str:
        """The tool choice in one word."""
        return self.tool_choice.name if isinstance(self.tool_choice, ChosenFunction) else self.tool_choice or "auto"

    def request(self) -> CompletionRequest:
        """What to ask an engine.

        Raises:
            ApiError: 400, when fields do not go together, or something is asked that needs a memory.
        """
        if self.previous_response_id is not None:
            refuse("previous_response_id", "nothing is kept here: send the conversation in input", "unsupported_value")
        if self.store:
            refuse("store", "nothing is kept here: send store: false", "unsupported_value")
        if self.background:
            refuse("background", "answers are given while the caller waits", "unsupported_value")
        tools = tuple(tool.tool() for tool in self.tools or ())
        check_tools(tools, self.chosen)
        fields: dict[str, Any] = self.sampling()
        fields["parallel_tool_calls"] = self.parallel_tool_calls
        if self.truncation == "auto":
            fields["truncate"] = True
        format_fields = self.text.format.fields() if self.text is not None and self.text.format is not None else {}
        if format_fields and self.grammar is not None:
            refuse("grammar", "the answer is already held to text.format; give one of them")
        return CompletionRequest(
            messages=tuple(self._messages()),
            stop=stops(self.stop),
            logprobs=(self.top_logprobs or 0) if self.wants_logprobs else None,
            tools=tools,
            tool_choice=self.chosen,
            **format_fields,
            **fields,
        )

    def _messages(self) -> list[Message]:
        """The conversation; calls that follow one another belong to one turn of the assistant."""
        messages = [Message("system", self.instructions)] if self.instructions else []
        items = [MessageItem(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        for item in items:
            if isinstance(item, MessageItem):
                messages.append(item.message())
            elif isinstance(item, FunctionOutputItem):
                messages.append(Message("tool", _joined(item.output), tool_call_id=item.call_id))
            else:
                call = ToolCall(item.call_id, item.name, item.arguments)
                last = messages[-1] if messages else None
                if last is not None and last.role == "assistant":
                    messages[-1] = Message("assistant", last.content, (*last.tool_calls, call))
                else:
                    messages.append(Message("assistant", "", (call,)))
        return messages
