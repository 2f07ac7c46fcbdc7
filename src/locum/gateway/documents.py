"""What the endpoints' documents share: typed and bounded fields, conversations, tools, formats, sampling.

Notable: fields are allowed by name, never denied by name, so a nested ``api_base`` or an image URL has nowhere to
stand. Every field of OpenAI's API has a name here, null is as absent, and a fault names its field. What a document
means for an engine is said by its ``CompletionRequest``, and what only an LLM behind a URL can take by its ``AsSent``.
Not here: the endpoints' own documents (``chat``, ``completions``, ``responses``, ``embeddings``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from locum.core.registry import nearest
from locum.core.text import one_line
from locum.gateway.errors import ApiError
from locum.gateway.strict_json import parse_json
from locum.runtime.completion import AsSent, SchemaWords, Tool

Text = Annotated[str, StringConstraints(max_length=1_000_000)]
Short = Annotated[str, StringConstraints(max_length=512)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Length = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Metadata = Annotated[dict[Short, Short], Field(max_length=16)]
Temperature = Annotated[float, Field(ge=0, le=2, description="0 takes the most probable token; default 1.")]
TopK = Annotated[int, Field(ge=0, le=100_000, description="Sample from so many tokens; 0 is off.")]
MinP = Annotated[float, Field(ge=0, le=1, description="Drop tokens below this share of the best one's probability.")]
RepeatPenalty = Annotated[float, Field(ge=0.1, le=10, description="Divides the logit of a token that occurred.")]
Grammar = Annotated[str, Field(min_length=1, max_length=65_536, description="GBNF grammar of the whole answer.")]
Truncate = Annotated[bool, Field(description="Drop the oldest part of a prompt that does not fit, and say so.")]
JsonObject = dict[str, Any]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Verbosity = Literal["low", "medium", "high"]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
LogitBias = Annotated[dict[TokenId, Bias], Field(max_length=300, description="Only for NAME@llm, or empty.")]
MAX_CHOICES = 16


class TokenArrays(list[list[int]]):
    """Ids of a tokenizer that a client sent in the place of texts, one array for each."""


def _token_arrays(value: object, read: ValidatorFunctionWrapHandler) -> Any:
    """Arrays of ids as such; everything else is read as text."""
    arrays = cast("list[Any]", value) if isinstance(value, list) else []
    one = [arrays] if arrays and all(type(each) is int for each in arrays) else arrays
    if one and all(isinstance(each, list) and each and all(type(item) is int for item in each) for each in one):
        return TokenArrays(one)
    return read(value)


OrTokens = WrapValidator(_token_arrays)
"""For a field of texts: whoever reads it sees ``TokenArrays`` where ids were sent, and can say so."""


class Document(BaseModel):
    """A request, or a part of one: unknown fields are refused, types are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


D = TypeVar("D", bound=Document)


class Sampling(Document):
    """How the next token is chosen; beside OpenAI's fields stand Locum's own: those that only a model here can take."""

    temperature: Temperature | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Seed | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repeat_penalty: RepeatPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    grammar: Grammar | None = None
    adapter: Annotated[str, Field(max_length=128, description="Name of the LoRA adapter to answer with.")] | None = None
    truncate: Truncate | None = None

    def sampling(self) -> dict[str, Any]:
        """The fields of a ``CompletionRequest`` that are set here."""
        fields: dict[str, Any] = {"temperature": 1.0 if self.temperature is None else self.temperature}
        for name in _SAMPLING & self.model_fields_set:
            value = getattr(self, name)
            if value is not None:
                fields[name] = value
        return fields


_SAMPLING = frozenset(Sampling.model_fields) - {"temperature"}


class StreamOptions(Document):
    """What a stream carries besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class WritingRequest(Sampling):
    """What is asked of every endpoint that writes text.

    Attributes:
        only_llm: fields that change the answer, and that only an LLM behind a URL takes.
        hinting: fields that only such an LLM takes, and that may be left out.
    """

    only_llm: ClassVar[tuple[str, ...]] = ("moderation",)
    hinting: ClassVar[tuple[str, ...]] = ()

    model: Short
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    user: Short | None = None
    metadata: Metadata | None = None
    service_tier: Short | None = None
    safety_identifier: Short | None = None
    prompt_cache_key: Short | None = None
    prompt_cache_options: JsonObject | None = None
    prompt_cache_retention: Short | None = None
    moderation: Annotated[JsonObject, Field(description="Only for NAME@llm.")] | None = None

    def asks(self, name: str) -> bool:
        """Whether a field was sent and asks for something; null, false, what is empty and a bias of 0 do not."""
        value = getattr(self, name) if name in self.model_fields_set else None
        return bool(any(cast("JsonObject", value).values()) if name == "logit_bias" and value else value)

    def as_sent(self, fields: Mapping[str, Any], left_out: Sequence[str] = ()) -> AsSent:
        """The request as it was sent.

        Args:
            fields: of OpenAI's API, for an LLM behind a URL.
            left_out: what is asked of nobody.
        """
        options = self.stream_options
        if options is not None and options.include_obfuscation:
            left_out = (*left_out, "stream_options.include_obfuscation")
        if self.model_fields_set.isdisjoint(self.only_llm) and self.model_fields_set.isdisjoint(self.hinting):
            return AsSent(fields, left_out=tuple(left_out))  # nearly always, and it costs each request
        return AsSent(
            fields,
            tuple(name for name in self.only_llm if self.asks(name)),
            tuple(name for name in self.hinting if self.asks(name)),
            tuple(left_out),
        )

    def sampling(self) -> dict[str, Any]:
        """As before, and whether the answer is wanted in one piece, which is cheaper over HTTP."""
        return super().sampling() | {"whole": self.stream is not True}


class SchemaFormat(Document):
    """A JSON Schema with a name."""

    name: Name
    schema_: Annotated[JsonObject, Field(alias="schema")]
    description: Text | None = None
    strict: bool | None = None


class FunctionSpec(Document):
    """A function that the model may call."""

    name: Name
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """As an engine takes it; a function of which no parameters are told has none, as at OpenAI."""
        parameters = self.parameters or {"type": "object", "properties": {}}
        if parameters.get("properties") == {} and parameters.keys() <= _NO_PARAMETERS:
            parameters = {**parameters, "additionalProperties": False}
        return Tool(self.name, self.description or "", parameters, self.strict)


_NO_PARAMETERS = frozenset({"type", "properties", "required", "title", "description", "$schema"})
"""What may stand in a schema of which the empty list of properties is all that it says."""
_WORDS = frozenset({"auto", "none", "required"})
UNKNOWN_ITEM = "unknown_item"
"""The type of pydantic's fault for an item of a kind that is not read."""


def check_tools(tools: Sequence[Tool], choice: str, left_out: Sequence[str] = ()) -> None:
    """Refuse tools that could not be told apart, and a choice that is none of them.

    Args:
        tools: the functions.
        choice: auto, none, required, or a function's name.
        left_out: tools of other kinds, by the field that holds each.

    Raises:
        ApiError: 400 ``invalid_value``; ``unsupported_value`` where a call is required, and no function may be called.
    """
    names = [tool.name for tool in tools]
    if choice == "required" and left_out and not names:
        refuse("tool_choice", "a call is required, and functions are the only tools here", "unsupported_value")
    if len(set(names)) != len(names) or _WORDS & set(names):
        refuse("tools", "each function needs a name of its own, other than auto, none and required")
    if choice not in _WORDS and choice not in names:
        refuse("tool_choice", f"there is no function {choice!r} among the tools")
    if choice == "required" and not names:
        refuse("tool_choice", "a call is required, and there are no tools")


class ToolNamed(Document):
    """One of several tools that may be called; what tells a tool of another kind is not read."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    type: Short
    name: Short | None = None
    function: JsonObject | None = None

    @property
    def named(self) -> Any:
        """The function's name, where either API has it."""
        return self.name or (self.function or {}).get("name")


class AllowedTools(Document):
    """The tools that may be called now, of all that were sent."""

    mode: Literal["auto", "required", "none"]
    tools: Annotated[list[ToolNamed], Field(max_length=128)]

    def of(self, tools: Sequence[Tool]) -> tuple[Tool, ...]:
        """Those of the functions that may be called.

        Raises:
            ApiError: 400, when there is no such function.
        """
        names = {tool.named for tool in self.tools if tool.type == "function"}
        for name in names - {tool.name for tool in tools}:
            refuse("tool_choice", f"there is no function {one_line(str(name), 80)!r} among the tools")
        return tuple(tool for tool in tools if tool.name in names)


def format_asked(kind: str, schema: JsonObject | None, words: SchemaWords, param: str) -> dict[str, Any]:
    """The fields of a ``CompletionRequest`` that hold an answer to a format; none for plain text.

    Args:
        kind: the format's type: text, json_object (any object), or json_schema.
        schema: the one that was sent, if any.
        words: how it was put.
        param: the field that holds it.

    Raises:
        ApiError: 400, when it is sent for another type, or missing for its own.
    """
    if (kind == "json_schema") != (schema is not None):
        refuse(param, "it is needed for the type json_schema, and for no other")
    if kind == "json_object":
        return {"json_schema": {"type": "object"}, "schema_words": SchemaWords(any_object=True)}
    return {} if schema is None else {"json_schema": schema, "schema_words": words}


def refuse(param: str, why: str, code: str = "invalid_value") -> NoReturn:
    """Refuse a field's value.

    Raises:
        ApiError: always; status 400.
    """
    raise ApiError(400, code, f"{param}: {why}", param=param)


def seeded(seed: int | None, index: int) -> int | None:
    """The seed of the choice at ``index``: each its own, and the first the one that was asked for."""
    if seed is None or index == 0:
        return seed
    return (seed + index + 2**63) % 2**64 - 2**63


def stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Stop strings as an engine takes them."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def read_document(kind: type[D], body: bytes) -> D:
    """The typed request.

    Raises:
        ApiError: 400, naming the first field at fault and, for an unknown field, the nearest known one.
    """
    return typed_document(kind, parse_json(body))


def typed_document(kind: type[D], value: dict[str, Any]) -> D:
    """The same of a body that is an object already.

    Raises:
        ApiError: as ``read_document``.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as problem:
        raise _field_error(kind, _meant(problem.errors(include_url=False, include_input=False), value), value) from None


def _meant(found: Sequence[Any], value: Any) -> dict[str, Any]:
    """The fault to tell of: of a union's alternatives the one that takes JSON of the kind sent, and there the deepest.

    A wrong ``type`` comes first, because by it the other fields are wrong or right; then unknown fields. Where no
    alternative takes the kind of JSON that was sent, the fault names all kinds that are taken.
    """
    faults = [(_path(fault["loc"], value), dict(fault)) for fault in found]
    faults.sort(key=lambda each: (_order(*each), -len(each[0]), _is_of_kind(each[1])))
    path, first = faults[0]
    if not _is_of_kind(first):
        return first
    said = dict.fromkeys(fault["msg"] for at, fault in faults if at == path and _is_of_kind(fault))
    return {**first, "msg": " or ".join([first["msg"], *(each.removeprefix(_SHOULD_BE) for each in [*said][1:])])}


_SHOULD_BE = "Input should be "


def _order(path: Sequence[str], fault: dict[str, Any]) -> int:
    if fault["type"] == "literal_error" and path[-1:] == ["type"]:
        return 0
    return 1 if fault["type"] == "extra_forbidden" else 2


def _is_of_kind(fault: dict[str, Any]) -> bool:
    """Whether a fault says that another kind of JSON was expected (a string, a list, an object)."""
    return fault["type"].endswith("_type")


def _path(location: tuple[int | str, ...], value: Any) -> list[str]:
    """The steps of a fault's location that are in the request; the rest name alternatives of a union."""
    steps: list[str] = []
    here = value
    for place, step in enumerate(location):
        is_last = place == len(location) - 1
        if isinstance(here, dict) and step in here:
            here = cast("dict[int | str, Any]", here)[step]
        elif isinstance(here, list) and isinstance(step, int) and 0 <= step < len(cast("list[Any]", here)):
            here = cast("list[Any]", here)[step]
        elif not (is_last and isinstance(here, dict) and _may_be_a_field(str(step))):
            continue  # an alternative of a union
        steps.append(str(step))
    return steps


def _may_be_a_field(step: str) -> bool:
    """Whether a step that is not in the request is an absent field, and not the name of a type."""
    return "[" not in step and "-" not in step and not step[:1].isupper() and step not in _TYPE_NAMES


_TYPE_NAMES = frozenset({"str", "int", "float", "bool", "literal", "none", "dict"})


def _field_error(kind: type[Document], fault: dict[str, Any], value: dict[str, Any]) -> ApiError:
    steps = _path(fault["loc"], value)
    param = one_line(".".join(steps), 120)
    last = steps[-1] if steps else ""
    if fault["type"] == "extra_forbidden":
        known = nearest(last, _known_fields(kind, len(steps) == 1) - {last})  # it may be a field elsewhere
        hint = f"did you mean {known!r}?" if known else "this gateway does not take it"
        return ApiError(400, "unknown_field", f"unknown field {param!r}: {hint}", param=param)
    if fault["type"] == "missing":
        return ApiError(400, "missing_field", f"the field {param!r} is required", param=param)
    code = "unsupported_value" if fault["type"] in ("literal_error", UNKNOWN_ITEM) else "invalid_value"
    return ApiError(400, code, f"{param}: {one_line(fault['msg'], 300)}", param=param)


def _known_fields(kind: type[Document], at_top: bool) -> set[str]:
    """The names that may stand there: a document's own, or those of any of its parts."""
    if at_top:
        return set(kind.model_fields)
    parts: dict[str, Any] = kind.model_json_schema().get("$defs", {})
    return {name for part in parts.values() for name in part.get("properties", {})}
