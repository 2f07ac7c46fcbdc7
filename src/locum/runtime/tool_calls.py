"""How a model is made to call functions: the form that its template writes, and the grammars that bind a call.

Notable: a call that must come begins in the prompt, as far as it is known, so that nothing is written but what the
model decides: the name where there are several, and the arguments, held to the tool's own schema. One that need not
come is bound from where its arguments begin. So a grammar holds one tool's schema at a time, however many are offered.
Not here: telling calls from text (``call_reader``), asking the engine (``call_stream``).
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from locum.core.errors import UserError
from locum.runtime.completion import CompletionRequest, RequestFault, Tool
from locum.runtime.constraints import ToolRules, compile_schema, compile_tool
from locum.runtime.schema_scalars import literal
from locum.schema.message import Message, ToolCall

_WS = 'ws ::= ( " " | "\\n" [ \\t]{0,20} )?'
_FAULTS_TOLD = 20


@dataclass(frozen=True)
class CallForm:
    """The text in which a template writes calls.

    Attributes:
        before: what stands before the first one.
        name: from its brace to its name, without the space before that.
        between: from its name to its arguments, without the space before those.
        again: between two calls; empty where the template writes one.
        after: what stands after the last one.
        native: whether the template writes calls as JSON at all.
    """

    before: str = ""
    name: str = '{"name":'
    between: str = ', "arguments":'
    again: str = "\n"
    after: str = ""
    native: bool = False


PROBE_TOOL = Tool("weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
_CALLED = re.compile(
    r'(?P<name>\{\s*"name"\s*:)\s*"weather"(?P<between>\s*,\s*"(?:arguments|parameters)"\s*:)'
    r'\s*(?:\{\s*"city"\s*:\s*"Oslo"\s*\}|"\{[^}]*\}")[^{}]*\}'
)
_CLOSING = re.compile(r"\s*</[a-z_]+>|\]")


def form_of(render: Callable[[tuple[Message, ...]], str | None]) -> CallForm:
    """The form that a template gives to calls, seen from what it makes of a conversation with some.

    Args:
        render: a conversation with a tool ``weather`` as text; None where the template refuses it.
    """
    asked = Message("user", "Hello.")
    called = ToolCall("abcdefgh1", "weather", '{"city": "Oslo"}')
    begun = render((asked,))
    for calls in ((called, replace(called, id="abcdefgh2")), (called,)):
        results = tuple(Message("tool", "Rain.", tool_call_id=call.id) for call in calls)
        whole = render((asked, Message("assistant", "", calls), *results))
        if begun is None or whole is None or not whole.startswith(begun.rstrip()):
            continue
        said = whole[len(begun) :] if whole.startswith(begun) else whole[len(begun.rstrip()) :]
        found = [*_CALLED.finditer(said)]
        if len(found) < len(calls):
            continue
        first, last = found[0], found[len(calls) - 1]
        after = _CLOSING.match(said, last.end())
        return CallForm(
            before=said[: first.start()],
            name=first["name"],
            between=first["between"],
            again=said[first.end() : last.start()] if last is not first else "",
            after=after[0] if after is not None else "",
            native=True,
        )
    return CallForm()


@dataclass(frozen=True)
class CallPlan:
    """How one request's calls are asked for.

    Attributes:
        form: how they are written.
        tools: those that may be called, by name.
        start: what the answer begins with, which the model need not write.
        grammar: of what it writes first; None where that is free.
        forced: whether a call must come.
        unenforced: what no grammar holds the arguments to, as places in the request.
        held: tools of which that is so.
        tagged: whether only calls in the template's tag are calls, because the answer may be any JSON.
        bound: grammars of what follows when a tool's arguments begin, by its name.
        by_engine: the engine reads calls itself, in its own form, and they are checked when they are whole.
        relaxed: the tools without what is not enforced, for an engine that makes its own grammar.
    """

    form: CallForm
    tools: Mapping[str, Tool]
    start: str = ""
    grammar: str | None = None
    forced: bool = False
    unenforced: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    tagged: bool = False
    bound: Mapping[str, str] = field(default_factory=dict[str, str])
    by_engine: bool = False
    relaxed: tuple[Tool, ...] = ()


def plan_calls(request: CompletionRequest, form: CallForm) -> CallPlan:
    """Work out how the calls of a request are bound.

    Raises:
        RequestFault: a tool that must be enforced cannot be, or a schema is hostile; all faults in one.
        UserError: the schema of the answer cannot be enforced, or ``tool_choice`` names no tool.
        LocumError: ``runtime-busy``.
    """
    named = request.tool_choice not in ("auto", "required")
    places = [at for at, tool in enumerate(request.tools) if not named or tool.name == request.tool_choice]
    tools = {request.tools[at].name: request.tools[at] for at in places}
    forced = request.tool_choice != "auto"
    compiled = {at: _compiled(request.tools[at], at) for at in places}
    refused = [
        (_place(at, *fault[:2]), fault[2])
        for at, rules in compiled.items()
        for fault in rules.faults
        if forced or request.tools[at].strict
    ]
    if refused:
        told = "; ".join(f"{place}: {why.split(': ', 1)[-1]}" for place, why in refused[:_FAULTS_TOLD])
        more = f"; and {len(refused) - _FAULTS_TOLD} more" if len(refused) > _FAULTS_TOLD else ""
        why = "a call that is forced" if forced else "a strict function"
        raise RequestFault(
            "runtime-constraint-unsupported",
            f"{why} must keep to its schema, and this cannot be held to it: {told}{more}",
            fix="leave these keywords out" + ("" if not forced else ", or set tool_choice to auto"),
        ).about(refused[0][0])
    wish = request.parallel_tool_calls  # one that must come is several only where that was said: small models go on
    several = bool(form.again) and not named and (wish is True or (wish is None and not forced))
    heads = _heads(form, tools)
    bound = {
        request.tools[at].name: _bound(rules, at, form, heads if several else None) for at, rules in compiled.items()
    }
    plan = CallPlan(
        form=form,
        tools=tools,
        forced=forced,
        unenforced=tuple(_place(at, *fault[:2]) for at, rules in compiled.items() for fault in rules.faults),
        held=frozenset(request.tools[at].name for at, rules in compiled.items() if rules.faults),
        bound=bound,
        relaxed=tuple(_relaxed(request.tools[at], rules) for at, rules in compiled.items()),
    )
    if forced and len(tools) == 1:
        name = next(iter(tools))
        start = f"{form.before}{form.name} {json.dumps(name)}{form.between}"
        return replace(plan, start=start, grammar=bound[name])
    if forced:
        return replace(plan, start=f"{form.before}{form.name}", grammar=f"root ::= {heads}\n{_WS}\n")
    if request.json_schema is None:
        return plan
    compile_schema(request.json_schema)  # with the words of a schema that stands alone
    answer = compile_tool(request.json_schema, "s", is_object=False).rules
    call = f"{literal(form.before + form.name)} {heads}" if tools else ""
    return replace(plan, grammar=_joined(f"root ::= s | {call}", _WS, answer), tagged=bool(form.before.strip()))


def _compiled(tool: Tool, at: int) -> ToolRules:
    try:
        return compile_tool(tool.parameters, f"t{at}")
    except UserError as error:
        place = f"tools.{at}.function.parameters"
        raise RequestFault(error.code, f"{place}: {error.cause}", fix=error.fix).about(place) from None


def _place(at: int, where: str, keyword: str) -> str:
    """A place in a tool's schema as one in the request."""
    steps = [step for step in where.split("/")[1:] if step]
    return ".".join(["tools", str(at), "function", "parameters", *steps, *([keyword] if keyword else [])])


def _heads(form: CallForm, tools: Mapping[str, Tool]) -> str:
    """One of the names, and what stands between it and the arguments."""
    return "ws ( " + " | ".join(literal(json.dumps(name) + form.between) for name in tools) + " )"


def _bound(rules: ToolRules, at: int, form: CallForm, heads: str | None) -> str:
    """The arguments of a tool, the end of its call, and the beginning of another where there may be one."""
    tail = ""
    if heads is not None:
        ends = [literal(form.after)] if form.after else []
        tail = f" ( {' | '.join([*ends, f'{literal(form.again + form.name)} {heads}'])} )?"
    return _joined(f'root ::= ws t{at} ws "}}"{tail}', _WS, rules.rules)


def _joined(*parts: str) -> str:
    """One grammar of several, each rule once."""
    return "\n".join(dict.fromkeys(line for part in parts for line in part.splitlines() if line)) + "\n"


def _relaxed(tool: Tool, rules: ToolRules) -> Tool:
    """The tool for an engine that makes its own grammar of it: without what cannot be enforced."""
    parameters: Any = copy.deepcopy(tool.parameters)
    for where, keyword, _ in rules.faults:
        steps: Sequence[str] = [step for step in where.split("/")[1:] if step]
        here: Any = parameters
        for step in steps if keyword else steps[:-1]:
            here = here.get(step) if isinstance(here, dict) else here[int(step)] if step.isdecimal() else None
        last = keyword or (steps[-1] if steps else "")
        if not last or not isinstance(here, dict):
            return replace(tool, parameters={"type": "object"})
        if keyword:
            here.pop(last, None)  # pyright: ignore[reportUnknownMemberType]
        else:
            here[last] = {}
    return replace(tool, parameters=parameters)


def check_earlier_calls(messages: Sequence[Message]) -> None:
    """Refuse arguments of earlier calls that are no JSON object; none at all are an empty one.

    Raises:
        RequestFault: naming the field.
    """
    for at, message in enumerate(messages):
        for place, call in enumerate(message.tool_calls):
            try:
                value = json.loads(call.arguments) if call.arguments.strip() else {}
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                field_name = f"messages.{at}.tool_calls.{place}.function.arguments"
                raise RequestFault(
                    "runtime-request-value",
                    f"{field_name}: these are no JSON object, and the chat template reads one",
                    fix="send what the call was made with, or leave the call out",
                ).about(field_name)
