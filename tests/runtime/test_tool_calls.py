"""Function calls through llama.cpp: a random decoder calls as it must, and a real one as it should."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from locum.core.errors import LocumError, UserError
from locum.runtime.completion import Completion, CompletionRequest, RequestFault, Tool
from locum.runtime.constraints import check_arguments, compile_tool
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.llamacpp import LlamaGenerator
from locum.runtime.tool_calls import CallForm, form_of, plan_calls
from locum.schema.message import Message, ToolCall
from locum.testing.pico_gguf import CHATML, pico_gguf

SMALL = EngineSettings(n_ctx=2048, slots=1, threads=1, stream_interval_s=0.0, timeout_s=120)
TAGGED = """{%- for tool in tools or [] %}{{ tool | tojson }}
{% endfor %}{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.tool_calls %}{% for c in m.tool_calls %}<call>{"name": "{{ c.function.name }}", "arguments": \
{{ c.function.arguments | tojson }}}</call>{% endfor %}{% else %}{{ m.content }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must take turns, please.') }}{% endif %}{{ m.content }}{% endfor %}"
)


def tool(name: str, *, strict: bool | None = None, **properties: Any) -> Tool:
    parameters = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return Tool(name, "", parameters, strict)


PLACE = tool("place", city={"enum": ["Oslo", "Rome"]})
AMOUNT = tool("amount", n={"type": "number", "minimum": 1000, "maximum": 2000})
CODE = tool("code", x={"type": "string", "pattern": r"^\w{3}$"})
SOFT = tool("soft", x={"type": "string", "pattern": "^(?=ab)[a-z]{4}$"}, y={"type": "integer", "multipleOf": 3})
ASK = CompletionRequest((Message("user", "Now."),), max_tokens=200, tools=(PLACE,))


@pytest.fixture(scope="module", params=["tagged", "plain"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaGenerator]:
    """A template that writes calls in tags, and one that has no form for them."""
    template = TAGGED if request.param == "tagged" else "{{ tools | tojson if tools }}" + CHATML
    path = tmp_path_factory.mktemp("calls") / "pico.gguf"
    with closing(LlamaGenerator(pico_gguf(path, template=template, n_ctx=4096).path, SMALL)) as opened:
        yield opened


def arguments(completion: Completion, tools: tuple[Tool, ...]) -> list[Any]:
    """The arguments of every call, which fit their tool's schema by an independent check."""
    schemas = {each.name: each.parameters for each in tools}
    made = [json.loads(call.arguments) for call in completion.tool_calls]
    for call, value in zip(completion.tool_calls, made, strict=True):
        jsonschema.Draft202012Validator(schemas[call.name]).validate(value)
    return made


@pytest.mark.engines
@pytest.mark.parametrize("one", [PLACE, AMOUNT, CODE, Tool("free", "", {}), tool("nothing")])
def test_a_forced_call_comes_and_keeps_its_schema(model: LlamaGenerator, one: Tool) -> None:
    for seed in range(2):
        asked = replace(ASK, tools=(one, replace(PLACE, name="other")), temperature=1.0, seed=seed, stop=('"', "}"))
        for choice in ("required", one.name):
            done = model.complete(replace(asked, tool_choice=choice))
            assert done.finish_reason == "tool_calls" or done.cut_call is not None
            assert done.text == "" and (choice == "required" or {c.name for c in done.tool_calls} <= {one.name})
            arguments(done, asked.tools)


@pytest.mark.engines
def test_a_stream_tells_the_name_and_then_the_arguments(model: LlamaGenerator) -> None:
    chunks = list(model.stream(replace(ASK, tool_choice="place")))
    deltas = [delta for chunk in chunks for delta in chunk.tool_calls]
    final = chunks[-1].final
    assert final is not None and deltas[0].name == "place" and deltas[0].arguments == ""
    assert len(deltas) > 2 and all(delta.id is None for delta in deltas[1:])
    assert "".join(delta.arguments for delta in deltas) == final.tool_calls[0].arguments
    assert final.finish_reason == "tool_calls" and deltas[0].id == final.tool_calls[0].id


@pytest.mark.engines
def test_a_call_that_begins_in_the_prompt_costs_its_arguments_alone(model: LlamaGenerator) -> None:
    done = model.complete(replace(ASK, tool_choice="required"))
    assert done.output_tokens <= len(done.tool_calls[0].arguments) + 4  # a byte is a token here


@pytest.mark.engines
@pytest.mark.parametrize("limit", [1, 5, 12])
def test_a_call_that_the_limit_cuts_is_no_call(model: LlamaGenerator, limit: int) -> None:
    asked = replace(ASK, tools=(PLACE, AMOUNT), tool_choice="required", max_tokens=limit)
    done = model.complete(asked)
    assert (done.finish_reason, done.tool_calls, done.text) == ("length", (), "")
    assert done.output_tokens <= limit


@pytest.mark.engines
def test_several_calls_come_where_they_may(model: LlamaGenerator) -> None:
    asked = replace(ASK, tools=(PLACE, AMOUNT), tool_choice="required", temperature=2.0, max_tokens=700)
    counts = {
        wish: [
            len(arguments(model.complete(replace(asked, seed=seed, parallel_tool_calls=wish)), asked.tools))
            for seed in range(8)
        ]
        for wish in (True, False, None)
    }
    assert max(counts[True]) > 1 and max(counts[False]) <= 1 and max(counts[None]) <= 1


@pytest.mark.engines
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_log_probabilities_come_with_tools(model: LlamaGenerator, choice: str) -> None:
    chunks = list(model.stream(replace(ASK, logprobs=2, tool_choice=choice, max_tokens=40)))
    final = chunks[-1].final
    assert final is not None and final.logprobs == tuple(t for chunk in chunks for t in chunk.logprobs)
    assert 0 < len(final.logprobs) <= final.output_tokens and all(len(t.top) == 2 for t in final.logprobs)


@pytest.mark.engines
def test_with_tools_an_answer_keeps_its_schema_or_is_a_call(model: LlamaGenerator) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    for seed in range(4):
        done = model.complete(replace(ASK, json_schema=schema, temperature=1.0, seed=seed))
        assert done.tool_calls or "ok" in json.loads(done.text)
        arguments(done, ASK.tools)
    assert model.complete(replace(ASK, json_schema=schema, tool_choice="required")).tool_calls


@pytest.mark.engines
def test_what_is_not_enforced_is_told_and_the_rest_is(model: LlamaGenerator) -> None:
    with model.stream(replace(ASK, tools=(PLACE, SOFT), max_tokens=3)) as stream:
        assert stream.unenforced == (
            "tools.1.function.parameters.properties.x.pattern",
            "tools.1.function.parameters.properties.y.multipleOf",
        )
    strict = replace(SOFT, strict=True)
    for tools, choice in (((PLACE, strict), "auto"), ((PLACE, SOFT), "required"), ((PLACE, SOFT), "soft")):
        with pytest.raises(RequestFault, match=r"pattern: look-around.*multipleOf") as caught:
            model.stream(replace(ASK, tools=tools, tool_choice=choice))
        assert caught.value.param == "tools.1.function.parameters.properties.x.pattern"
    model.complete(replace(ASK, tools=(PLACE, SOFT), tool_choice="place"))  # which is enforced


@pytest.mark.engines
def test_arguments_of_earlier_calls(model: LlamaGenerator) -> None:
    def after(said: str) -> CompletionRequest:
        call, result = ToolCall("c1", "place", said), Message("tool", "ok", tool_call_id="c1")
        return replace(ASK, messages=(*ASK.messages, Message("assistant", "", (call,)), result), max_tokens=2)

    assert model.render(after("")) == model.render(after(" ")) == model.render(after("{}"))
    for wrong in ("no", '{"city": "Ro', "[]", '"x"'):
        for asked in (after(wrong), replace(after(wrong), tools=())):
            with pytest.raises(RequestFault) as caught:
                model.complete(asked)
            assert caught.value.param == "messages.1.tool_calls.0.function.arguments"


@pytest.mark.engines
def test_a_templates_own_words_come_first(tmp_path: Path) -> None:
    path = pico_gguf(tmp_path / "m.gguf", template=ALTERNATES).path
    with closing(LlamaGenerator(path, SMALL)) as opened:
        one, other = Message("user", "a"), Message("assistant", "b")
        for messages in ((one, one), (one, other, one, one)):
            for more in ({}, {"logprobs": 0}):
                with pytest.raises(RequestFault, match="m.gguf: Roles must take turns, please") as caught:
                    opened.complete(CompletionRequest(messages, **more))
                assert (caught.value.param, caught.value.code) == ("messages", "runtime-request-value")


@pytest.mark.engines
@pytest.mark.parametrize(
    "template", ["{% for m in messages %}\n{{ m.content }}\n{% endfo %}", "{{ messages[0]['content' }}"]
)
def test_a_template_that_cannot_be_read_is_told_with_the_place(tmp_path: Path, template: str) -> None:
    with closing(LlamaGenerator(pico_gguf(tmp_path / "m.gguf", template=template).path, SMALL)) as opened:
        with pytest.raises(UserError, match=r"line \d") as caught:
            opened.start()
        assert caught.value.code == "runtime-chat-template" and "--no-jinja" not in str(caught.value)


def test_the_form_of_a_template_is_seen_from_what_it_writes() -> None:
    def render(messages: tuple[Message, ...]) -> str | None:
        if any(len(message.tool_calls) > 1 for message in messages):
            return None
        return "".join(
            f"[INST]{m.content}"
            if m.role == "user"
            else "".join(f'<c>{{"name": "{c.name}", "parameters": {c.arguments}}}</c>' for c in m.tool_calls)
            for m in messages
        )

    form = form_of(render)
    assert form == CallForm("<c>", '{"name":', ', "parameters":', "", "</c>", native=True)
    assert not form_of(lambda _: None).native and not form_of(lambda messages: str(len(messages))).native


def test_hostile_schemas_of_tools_are_refused_by_place_and_foolish_ones_read() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(30):
        deep = {"type": "object", "properties": {"x": deep}}
    with pytest.raises(RequestFault) as caught:
        plan_calls(replace(ASK, tools=(PLACE, Tool("deep", "", deep))), CallForm())
    assert caught.value.param == "tools.1.function.parameters"
    foolish = {
        "properties": {"a": {"type": "int"}, "b": {"type": "string", "required": True}, "c": {"$ref": "http://x/y"}}
    }
    plan = plan_calls(replace(ASK, tools=(Tool("f", "", foolish),)), CallForm())
    assert [place.split("properties.")[1] for place in plan.unenforced] == ["a.type", "b.required", "c.$ref"]
    assert plan.relaxed[0].parameters["properties"] == {"a": {}, "b": {"type": "string"}, "c": {}}
    with pytest.raises(LocumError):
        plan_calls(replace(ASK, json_schema={"type": "nothing"}), CallForm())


@pytest.mark.parametrize(
    ("schema", "value", "fits"),
    [
        ({"properties": {"x": {"multipleOf": 3}}}, {"x": 4}, False),
        ({"properties": {"x": {"type": "array", "uniqueItems": True}}}, {"x": [1, 1]}, False),
        ({"properties": {"x": {"pattern": "^(?!a)"}}}, {"x": "ab"}, False),
        ({"properties": {"x": {"format": "email"}}}, {"x": "hello world"}, False),
        ({"properties": {"x": {"format": "date-time"}}}, {"x": "2024-02-30T10:00:00Z"}, False),
        ({"properties": {"x": {"format": "date-time"}}}, {"x": "2024-02-29T10:00:00Z"}, True),
        ({"properties": {"x": {"format": "uri"}}}, {"x": "not an address"}, False),
        ({"properties": {"x": {"format": "int64"}}}, {"x": 5}, True),
        ({"properties": {"x": {"$ref": "http://127.0.0.1:9/x"}}}, {"x": 5}, True),
        ({"properties": {"x": {"type": "int"}}}, {"x": 5}, True),
        ({"properties": {"x": {"pattern": "^(a+)+$"}}}, {"x": "a" * 40 + "b"}, False),
    ],
)
def test_arguments_are_checked_as_far_as_they_can_be(schema: dict[str, Any], value: Any, *, fits: bool) -> None:
    assert check_arguments(schema, value) is fits


def test_a_tools_rules_stand_beside_anothers() -> None:
    one, other = (compile_tool(SOFT.parameters, root) for root in ("t0", "t1"))
    names = [{line.split(" ::=")[0] for line in each.rules.splitlines() if line[:1] == "t"} for each in (one, other)]
    assert names[0] and not names[0] & names[1]
