"""What ``POST /v1/responses`` takes, and what it asks an engine.

Notable: nothing is kept between requests, so whatever refers to an earlier response is refused in words, and
``store`` may only be false. Items of text, function calls and their results are read, and the thoughts of an earlier
answer skipped; other kinds have no document and so no way in. An LLM behind a URL is asked as a chat.
Not here: the answer (``responses``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import AliasChoices, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from locum.core.text import one_line
from locum.gateway.documents import (
    UNKNOWN_ITEM,
    AllowedTools,
    Document,
    Effort,
    FunctionSpec,
    JsonObject,
    Length,
    Name,
    Short,
    Text,
    ToolNamed,
    Verbosity,
    WritingRequest,
    check_tools,
    format_asked,
    refuse,
    stops,
)
from locum.runtime.completion import AsSent, CompletionRequest, SchemaWords, Tool
from locum.schema.message import Message, ToolCall


class ResponseText(Document):
    """A piece of text in a message, as users write it or as an earlier answer gave it; its citations are not read."""

    type: Literal["input_text", "output_text", "text"]
    text: Text
    annotations: Annotated[list[JsonObject], Field(max_length=256)] | None = None
    logprobs: list[JsonObject] | None = None
    prompt_cache_breakpoint: JsonObject | None = None
    parsed: Any = None


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


class SentBack(Document):
    """What an item of an answer says beside its content."""

    id: Short | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    created_by: Short | None = None


class MessageItem(SentBack):
    """A message of the conversation."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Said
    phase: Literal["commentary", "final_answer"] | None = None


class FunctionItem(SentBack):
    """What a call and its result have alike."""

    call_id: Short
    caller: JsonObject | None = None
    namespace: Short | None = None


class FunctionCallItem(FunctionItem):
    """A call that the model made in an earlier answer; a client may have parsed its arguments."""

    type: Literal["function_call"]
    name: Short
    arguments: Text
    async_: Annotated[bool | None, Field(validation_alias=AliasChoices("async", "async_"))] = None
    parsed_arguments: Any = None


class FunctionOutputItem(FunctionItem):
    """What a called function gave."""

    type: Literal["function_call_output"]
    output: Texts
    name: Short | None = None


class ReasoningItem(SentBack):
    """The thoughts of an earlier answer, which no model here can read again."""

    type: Literal["reasoning"]
    summary: list[JsonObject] | None = None
    content: list[JsonObject] | None = None
    encrypted_content: str | None = None


_ITEMS = ("message", "function_call", "function_call_output", "reasoning")
_WHY_NOT = {
    "item_reference": "nothing is kept here that it could name: send the item itself",
    "compaction": "nobody here can read it: send the conversation itself",
}


def _kind_of_item(item: Any) -> str:
    """The type that an item says it has; a message need not say so."""
    if isinstance(item, SentBack):
        return str(getattr(item, "type", None) or "message")
    item = cast("JsonObject", item)
    kind = item.get("type")
    if kind is None:
        return "item_reference" if "id" in item and not item.keys() & {"role", "content"} else "message"
    return str(kind)


def _readable(item: Any) -> Any:
    """Refuse what is no item, and an item of a kind that is not read, in words."""
    read = f"{', '.join(_ITEMS[:-1])} or {_ITEMS[-1]}"
    if not isinstance(item, dict | SentBack):
        raise PydanticCustomError(UNKNOWN_ITEM, "An item is an object of type {read}", {"read": read})
    kind = _kind_of_item(item)
    if kind not in _ITEMS:
        said = {"kind": one_line(kind, 60), "why": _WHY_NOT.get(kind, f"an item is of type {read}")}
        raise PydanticCustomError(UNKNOWN_ITEM, "An item of type '{kind}' is not read: {why}", said)
    return cast("Any", item)


Item = Annotated[
    Annotated[
        Annotated[MessageItem, Tag("message")]
        | Annotated[FunctionCallItem, Tag("function_call")]
        | Annotated[FunctionOutputItem, Tag("function_call_output")]
        | Annotated[ReasoningItem, Tag("reasoning")],
        Discriminator(_kind_of_item),
    ],
    BeforeValidator(_readable),
]

OtherKind = Literal[
    "apply_patch", "code_interpreter", "computer", "computer_use", "computer_use_preview", "custom", "file_search",
    "image_generation", "local_shell", "mcp", "namespace", "programmatic_tool_calling", "shell", "tool_search",
    "web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11",
]  # fmt: skip
"""Tools of OpenAI's API that are run by the service, or called in other ways than a function; none is offered here."""


class FunctionTool(FunctionSpec):
    """A function that the model may call."""

    type: Literal["function"]
    output_schema: JsonObject | None = None
    allowed_callers: Annotated[list[Short], Field(max_length=16)] | None = None
    defer_loading: bool | None = None


class OtherTool(Document):
    """A tool of another kind, which is left out; what it says of itself is not read."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    type: OtherKind


def _kind_of_tool(tool: Any) -> str:
    kind = cast("JsonObject", tool).get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "function" if kind in (None, "function") else "other"


AnyTool = Annotated[
    Annotated[FunctionTool, Tag("function")] | Annotated[OtherTool, Tag("other")], Discriminator(_kind_of_tool)
]


class ToolChoice(Document):
    """A choice of one tool, or of those that may be called now."""

    type: Literal["function", "allowed_tools"] | OtherKind
    name: Name | None = None
    mode: Literal["auto", "required", "none"] | None = None
    tools: Annotated[list[ToolNamed], Field(max_length=128)] | None = None
    server_label: Short | None = None


class Reasoning(Document):
    """How a model that thinks is to think."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: Short | None = None


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

    def as_chat(self) -> JsonObject:
        """As a chat's ``response_format``."""
        fields = self.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
        return {"type": self.type, "json_schema": fields} if self.schema_ is not None else {"type": self.type}


class TextConfig(Document):
    """The form of the answer."""

    format: TextFormat | None = None
    verbosity: Verbosity | None = None


_LOGPROBS = "message.output_text.logprobs"
Includable = Literal[
    "message.output_text.logprobs", "reasoning.encrypted_content", "file_search_call.results",
    "web_search_call.results", "web_search_call.action.sources", "message.input_image.image_url",
    "computer_call_output.output.image_url", "code_interpreter_call.outputs",
]  # fmt: skip
_NEEDS_A_MEMORY = {
    "previous_response_id": "nothing is kept here: send the conversation in input",
    "conversation": "nothing is kept here: send the conversation in input",
    "prompt": "no templates are kept here: send the prompt itself in instructions and input",
    "store": "nothing is kept here: send store: false",
    "background": "answers are given while the caller waits",
    "context_management": "a conversation is not compacted here: shorten it, or set truncation",
    "moderation": "nothing is moderated here",
}
"""What is asked for in vain; what stands in a field that asks for nothing (null, false, empty) is taken."""


class ResponseRequest(WritingRequest):
    """``POST /v1/responses``."""

    only_llm: ClassVar[tuple[str, ...]] = ()

    input: Text | Annotated[list[Item], Field(min_length=1, max_length=1024)]
    instructions: Text | None = None
    max_output_tokens: Length | None = None
    include: Annotated[list[Includable], Field(max_length=16)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    tools: Annotated[list[AnyTool], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    truncation: Annotated[Literal["auto", "disabled"], Field(description="auto is truncate: true.")] | None = None
    store: Annotated[bool, Field(description="Only false: nothing is kept.")] | None = None
    background: Annotated[bool, Field(description="Only false.")] | None = None
    previous_response_id: Annotated[Short, Field(description="Always refused: nothing is kept.")] | None = None
    conversation: Annotated[Short | JsonObject, Field(description="Always refused: nothing is kept.")] | None = None
    prompt: Annotated[JsonObject, Field(description="Always refused: nothing is kept.")] | None = None
    context_management: Annotated[list[JsonObject], Field(description="Only empty.")] | None = None
    access_programs: JsonObject | None = None
    image: JsonObject | None = None
    client_metadata: JsonObject | None = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether tokens are to come with their log-probabilities."""
        return _LOGPROBS in (self.include or ()) or bool(self.top_logprobs)

    @property
    def functions(self) -> list[FunctionTool]:
        """The tools that are functions."""
        return [tool for tool in self.tools or () if isinstance(tool, FunctionTool)]

    def tool_fields(self) -> tuple[tuple[Tool, ...], str]:
        """The functions that may be called, and which of them to call.

        Raises:
            ApiError: 400, when there is no such function, or another tool is to be called.
        """
        tools, choice = tuple(tool.tool() for tool in self.functions), self.tool_choice
        others = [f"tools.{place}" for place, tool in enumerate(self.tools or ()) if isinstance(tool, OtherTool)]
        if isinstance(choice, ToolChoice):
            if choice.type == "allowed_tools":
                check_tools(tools, "auto")
                tools = AllowedTools(mode=choice.mode or "auto", tools=choice.tools or []).of(tools)
                choice = choice.mode
            elif choice.type != "function":
                refuse("tool_choice", f"no tool of type {choice.type} is offered here", "unsupported_value")
            elif choice.name is None:
                refuse("tool_choice.name", "the field is required", "missing_field")
            else:
                choice = choice.name
        check_tools(tools, choice or "auto", others)
        return tools, choice or "auto"

    def request(self) -> CompletionRequest:
        """What to ask an engine.

        Raises:
            ApiError: 400, when fields do not go together, or something is asked that needs a memory.
        """
        for name, why in _NEEDS_A_MEMORY.items():
            if self.asks(name):
                refuse(name, why, "unsupported_value")
        tools, chosen = self.tool_fields()
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
            tool_choice=chosen,
            sent=self._as_sent(tools),
            **format_fields,
            **fields,
        )

    def _as_sent(self, tools: Sequence[Tool]) -> AsSent:
        """The request as a chat, with what was sent and nothing more."""
        chat = {name: getattr(self, name) for name in _ALIKE if getattr(self, name) is not None}
        chat["messages"] = self._turns()
        if self.max_output_tokens is not None:
            chat["max_tokens"] = self.max_output_tokens
        if self.wants_logprobs:
            chat["logprobs"] = True
        if self.store is not None:
            chat["store"] = self.store
        if tools:
            names = {tool.name for tool in tools}
            spec = {"name", "description", "parameters", "strict"}
            functions = [tool.model_dump(include=spec, exclude_none=True) for tool in self.functions]
            chat["tools"] = [{"type": "function", "function": each} for each in functions if each["name"] in names]
            choice = self.tool_choice
            if isinstance(choice, ToolChoice):
                named = choice.type == "function"
                choice = {"type": "function", "function": {"name": choice.name}} if named else choice.mode
            chat |= {"tool_choice": choice, "parallel_tool_calls": self.parallel_tool_calls}
        hints: list[str] = []
        if self.reasoning is not None and self.reasoning.effort is not None:
            chat["reasoning_effort"] = self.reasoning.effort
            hints.append("reasoning.effort")
        if self.text is not None and self.text.verbosity is not None:
            chat["verbosity"] = self.text.verbosity
            hints.append("text.verbosity")
        if self.text is not None and self.text.format is not None:
            chat["response_format"] = self.text.format.as_chat()
        return replace(self.as_sent(chat, self._left_out()), hints=tuple(hints))

    def _left_out(self) -> list[str]:
        """The fields that nobody is asked for: tools that are no functions, thoughts, what they would have shown."""
        names = [f"tools.{place}" for place, tool in enumerate(self.tools or ()) if isinstance(tool, OtherTool)]
        names += [f"include.{place}" for place, each in enumerate(self.include or ()) if each != _LOGPROBS]
        thinking = self.reasoning.model_dump(exclude_none=True) if self.reasoning is not None else {}
        nothing = {"context": "auto", "mode": "standard", "effort": self.reasoning and self.reasoning.effort}
        names += [f"reasoning.{name}" for name, value in thinking.items() if nothing.get(name) != value]
        for place, item in enumerate(self.input if isinstance(self.input, list) else ()):
            if isinstance(item, ReasoningItem) and (item.summary or item.content or item.encrypted_content):
                names.append(f"input.{place}")
        return names

    def _turns(self) -> list[JsonObject]:
        """The messages of a chat; a developer's stay a developer's."""
        turns: list[JsonObject] = [{"role": "system", "content": self.instructions}] if self.instructions else []
        items = [MessageItem(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        for item in items:
            if isinstance(item, MessageItem):
                turns.append({"role": item.role, "content": _joined(item.content)})
            elif isinstance(item, FunctionOutputItem):
                turns.append({"role": "tool", "tool_call_id": item.call_id, "content": _joined(item.output)})
            elif isinstance(item, FunctionCallItem):
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                if turns and turns[-1]["role"] == "assistant":
                    turns[-1].setdefault("tool_calls", []).append(call)
                else:
                    turns.append({"role": "assistant", "content": None, "tool_calls": [call]})
        return turns

    def item_of_call(self, message: int, place: int) -> int:
        """Where in ``input`` the call at a place of a message stands."""
        before = sum(len(turn.get("tool_calls", ())) for turn in self._turns()[:message])
        calls = [at for at, item in enumerate(self.input) if isinstance(item, FunctionCallItem)]
        return calls[before + place]

    def _messages(self) -> list[Message]:
        """The conversation; calls that follow one another belong to one turn of the assistant."""
        messages: list[Message] = []
        for turn in self._turns():
            role = "system" if turn["role"] == "developer" else turn["role"]
            calls = tuple(ToolCall(call["id"], **call["function"]) for call in turn.get("tool_calls", ()))
            messages.append(Message(role, turn["content"] or "", calls, turn.get("tool_call_id")))
        return messages


_ALIKE = (
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "top_logprobs", "user", "metadata",
    "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
)  # fmt: skip
"""Fields that a chat has by the same names."""
