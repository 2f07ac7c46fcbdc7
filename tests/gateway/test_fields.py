"""The fields of OpenAI's API: null, what asks for nothing or in vain, what goes on to an LLM, what is sent back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_type_hints

import openai
import pydantic
import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from locum.bundle.student import open_bundle
from locum.cascade.identity import identify
from locum.cascade.router import Router
from locum.core.errors import UserError
from locum.gateway.bundle_target import BundleTarget
from locum.gateway.chat import ChatCall
from locum.runtime.completion import Chunk, Completion, CompletionRequest, RequestFault, ToolCallDelta
from locum.runtime.constraints import check_arguments
from locum.runtime.llama_request import too_long
from locum.schema.message import ToolCall
from locum.schema.task import LlmSpec
from locum.testing import ChunkGenerator, FakeEmbedder, FakeGenerator, Scripted
from locum.testing.bundles import pico_bundle

pytestmark = pytest.mark.engines
USER: Any = {"role": "user", "content": "good morning"}
PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [USER]}),
    "completions": ("/v1/completions", {"prompt": "good morning"}),
    "responses": ("/v1/responses", {"input": "good morning"}),
    "embeddings": ("/v1/embeddings", {"input": "good morning"}),
}
DOCUMENTED = {
    "chat": chat_create_params.CompletionCreateParamsBase,
    "completions": completion_create_params.CompletionCreateParamsBase,
    "responses": response_create_params.ResponseCreateParamsBase,
    "embeddings": embedding_create_params.EmbeddingCreateParams,
}
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = ToolCall("call_1", "weather", '{"city":"Bern"}')


CHAT = {"model": "tiny", "messages": [USER]}


class City(pydantic.BaseModel):
    city: str


@pytest.fixture
def model(start_model):
    return start_model(FakeGenerator(["one two three"]), FakeEmbedder())


def _post(gateway, endpoint: str, name: str = "tiny", **fields: Any):
    path, body = PATHS[endpoint]
    return gateway.http.post(path, json={"model": name, **body, **fields})


@pytest.mark.parametrize("endpoint", PATHS)
def test_no_documented_field_is_unknown_and_null_is_as_absent(model, endpoint: str):
    names = [name for name in get_type_hints(DOCUMENTED[endpoint]) if name not in ("model", *PATHS[endpoint][1])]
    assert len(names) > 2
    for name in names:
        answered = _post(model, endpoint, **{name: None})
        assert answered.status_code == 200, (name, answered.text)
    together = _post(model, endpoint, **dict.fromkeys([*names, "user"]))
    assert together.status_code == 200 and together.json()["locum"].get("left_out", []) == []
    assert _post(model, endpoint, usr=None).json()["error"]["code"] == "unknown_field", "a slip is one with null, too"


NOTHING: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"logit_bias": {"7": 0, "8": 0.0}, "top_logprobs": 0}),
    ("completions", {"logit_bias": {"7": 0}}),
    ("responses", {"top_logprobs": 0}),
    ("chat", {"modalities": ["text"], "service_tier": "auto", "logit_bias": {}, "n": 1, "store": False}),
    ("chat", {"prompt_cache_key": "k", "safety_identifier": "s", "user": "u", "metadata": {"a": "b"}, "tools": []}),
    ("chat", {"prompt_cache_options": {"mode": "implicit"}, "prompt_cache_retention": "24h", "function_call": "none"}),
    ("chat", {"functions": []}),
    ("completions", {"best_of": 1, "suffix": "", "logit_bias": {}, "echo": False, "n": 1}),
    ("completions", {"best_of": 2, "n": 2}),
    ("responses", {"store": False, "background": False, "context_management": [], "service_tier": "flex"}),
    ("responses", {"max_tool_calls": 3, "client_metadata": {"a": {"b": 1}}, "prompt_cache_key": "k", "include": []}),
    ("responses", {"reasoning": {}, "text": {"verbosity": None}, "presence_penalty": 0.0, "access_programs": {}}),
    ("embeddings", {"user": "u"}),
]  # fmt: skip


@pytest.mark.parametrize(("endpoint", "fields"), NOTHING)
def test_what_asks_for_nothing_here_is_accepted(model, endpoint: str, fields: dict[str, Any]):
    answered = _post(model, endpoint, **fields)
    assert answered.status_code == 200, answered.text
    assert answered.json()["locum"].get("left_out", []) == []


@pytest.mark.parametrize(
    ("endpoint", "fields", "param"),
    [
        ("chat", {"logit_bias": {"15339": -100}}, "logit_bias"),
        ("chat", {"modalities": ["audio", "text"]}, "modalities"),
        ("chat", {"audio": {"voice": "ash", "format": "wav"}}, "audio"),
        ("chat", {"web_search_options": {}}, "web_search_options"),
        ("chat", {"moderation": {"model": "m"}}, "moderation"),
        ("chat", {"store": True}, "store"),
        ("chat", {"functions": [FUNCTION]}, "functions"),
        ("chat", {"function_call": {"name": "weather"}}, "function_call"),
        ("chat", {"tools": [{"type": "custom", "custom": {"name": "x"}}], "tool_choice": "required"}, "tool_choice"),
        ("completions", {"suffix": "the end"}, "suffix"),
        ("completions", {"best_of": 4, "n": 2}, "best_of"),
        ("completions", {"logit_bias": {"1": 5}}, "logit_bias"),
        ("responses", {"prompt": {"id": "pmpt_1"}}, "prompt"),
        ("responses", {"conversation": {"id": "conv_1"}}, "conversation"),
        ("responses", {"context_management": [{"type": "compaction"}]}, "context_management"),
        ("responses", {"moderation": {"model": "m"}}, "moderation"),
        ("responses", {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ("responses", {"tools": [{"type": "custom", "name": "x"}], "tool_choice": "required"}, "tool_choice"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_field_that_was_sent(model, endpoint: str, fields: dict, param: str):
    error = _post(model, endpoint, **fields).json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_value", param)


@pytest.mark.parametrize(("field", "near"), [("reasoning_efort", "reasoning_effort"), ("servicetier", "service_tier")])
def test_a_slip_in_a_field_is_told_with_its_name(model, field: str, near: str):
    error = _post(model, "chat", **{field: "low"}).json()["error"]
    assert error["code"] == "unknown_field" and repr(near) in error["message"]


def test_what_is_not_done_is_listed(model):
    chat = _post(model, "chat", reasoning_effort="low", verbosity="high", tools=[{"type": "custom", "custom": {}}])
    assert chat.json()["locum"]["left_out"] == ["tools.0", "reasoning_effort", "verbosity"]
    options = {"include_usage": True, "include_obfuscation": True}
    streamed = _post(model, "chat", stream=True, stream_options=options).text.split("\n\n")
    assert json.loads(streamed[0].removeprefix("data: "))["locum"]["left_out"] == ["stream_options.include_obfuscation"]
    usage = json.loads(streamed[-3].removeprefix("data: "))["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_codex_and_others_send_what_nobody_does_here(model):
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    fields = {
        "instructions": "You are a coding agent.",
        "input": [{"type": "message", **USER}, thought, {"type": "reasoning", "summary": []}, USER],
        "tools": [
            {"type": "function", **FUNCTION, "strict": False, "output_schema": None},
            {"type": "web_search", "external_web_access": False},
            {"type": "namespace", "name": "agents", "description": "d", "tools": [{"type": "function", **FUNCTION}]},
            {"type": "local_shell"},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto", "context": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199",
        "client_metadata": {"x-codex-installation-id": "1"},
        "text": {"verbosity": "low"},
    }
    body = _post(model, "responses", **fields).json()
    assert body["status"] == "completed" and [tool["name"] for tool in body["tools"]] == ["weather"]
    assert body["locum"]["left_out"] == [
        "tools.1", "tools.2", "tools.3", "include.0", "reasoning.summary", "input.1", "reasoning.effort",
        "text.verbosity",
    ]  # fmt: skip
    assert body["reasoning"] == {"effort": "medium", "summary": "auto"} and body["text"]["verbosity"] == "low"


def test_of_allowed_tools_only_those_are_offered(start_model):
    offered: list[Any] = []

    def says(request: CompletionRequest) -> Completion:
        offered.append(([tool.name for tool in request.tools], request.tool_choice))
        return Completion("ok", "stop", 1, 1, "m")

    gateway = start_model(ChunkGenerator(lambda request: [*_pieces(says(request))]))
    both = [FUNCTION, {**FUNCTION, "name": "time"}]
    chat = [{"type": "function", "function": each} for each in both]
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "time"}}, {"type": "custom"}]}
    _post(gateway, "chat", tools=chat, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    flat = [{"type": "function", **each} for each in both]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}
    body = _post(gateway, "responses", tools=flat, tool_choice=choice).json()
    assert offered == [(["time"], "auto"), (["weather"], "auto")] and body["tool_choice"] == choice


def _pieces(whole: Completion) -> Any:
    if whole.text:
        yield Chunk(whole.text)
    for index, call in enumerate(whole.tool_calls):
        yield Chunk(tool_calls=(ToolCallDelta(index, call.arguments, call.id, call.name),))
    yield Chunk(final=whole)


def _calls_once(request: CompletionRequest) -> Any:
    asked = request.tools and not any(message.role == "tool" for message in request.messages)
    if asked:
        return _pieces(Completion("", "tool_calls", 1, 1, "m", tool_calls=(CALL,)))
    return _pieces(Completion('{"city": "Bern"}', "stop", 1, 1, "m"))


def test_a_message_of_an_answer_may_be_sent_back_in_every_form(start_model):
    tools: Any = [{"type": "function", "function": {**FUNCTION, "strict": True}}]
    result = {"role": "tool", "tool_call_id": "call_1", "content": "4 degrees"}
    with start_model(ChunkGenerator(_calls_once)).client() as client:
        said = client.chat.completions.create(model="tiny", messages=[USER], tools=tools).choices[0].message
        parsed = client.chat.completions.parse(model="tiny", messages=[USER], tools=tools).choices[0].message
        assert parsed.tool_calls[0].function.parsed_arguments == {"city": "Bern"}
        form = client.chat.completions.parse(model="tiny", messages=[USER], response_format=City).choices[0].message
        for turn in (said, said.model_dump(), said.to_dict(), parsed, parsed.model_dump()):
            turns: Any = [USER, turn, result, USER]
            assert client.chat.completions.create(model="tiny", messages=turns).choices[0].message.content
        turns = [USER, form.model_dump(warnings=False), USER]
        assert client.chat.completions.create(model="tiny", messages=turns).choices[0].message.content
        kept = {**said.model_dump(), "locum": {"route": "local"}, "annotations": [{"type": "url_citation"}]}
        kept |= {"provider_specific_fields": {"refusal": None}, "reasoning_content": "Hm."}  # as LiteLLM keeps it
        assert client.chat.completions.create(model="tiny", messages=[USER, kept, result]).choices[0].message.content


def test_the_output_of_a_response_may_be_sent_back_in_every_form(start_model):
    tools: Any = [{"type": "function", **FUNCTION}]
    result = {"type": "function_call_output", "call_id": "call_1", "output": "4 degrees", "id": None, "status": None}
    with start_model(ChunkGenerator(_calls_once)).client() as client:
        called = client.responses.create(model="tiny", input="x", tools=tools, store=False).output
        text = client.responses.create(model="tiny", input="x", store=False).output
        form = client.responses.parse(model="tiny", input="x", text_format=City, store=False).output
        for output in (called, text, form):
            for back in (list(output), [item.model_dump() for item in output], [item.to_dict() for item in output]):
                items: Any = [USER, *back, *([result] if output is called else []), USER]
                after = client.responses.create(model="tiny", input=items, tools=tools, store=False)
                assert after.status == "completed"


def test_the_llm_by_name_is_sent_what_came_and_nothing_else(start):
    gateway = start(script=["ok"])
    gateway.ask(USER["content"], "pico@llm")
    turns = [
        {"role": "developer", "content": "Be brief.", "name": "ops"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "eve"},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "audio": None, "locum": {}},
        USER,
    ]
    fields = {
        "messages": turns, "reasoning_effort": "low", "verbosity": "low", "seed": 3, "logit_bias": {"5": 1},
        "metadata": {"a": "b"}, "store": True, "user": "u", "service_tier": "flex", "max_completion_tokens": 7,
        "tools": [{"type": "function", "function": FUNCTION}], "web_search_options": {}, "parallel_tool_calls": True,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
    }  # fmt: skip
    body = _post(gateway, "chat", "pico@llm", **fields, temperature=None).json()
    assert body["locum"]["left_out"] == []
    bare, full = (each.body for each in gateway.upstream.received)
    assert bare == {"model": "big", "messages": [USER]}
    turns[2] = {"role": "assistant", "content": "c"}
    assert full == {"model": "big", **fields}
    assert _post(gateway, "chat", "pico@llm", top_p=0.5, topp=1).json()["error"]["code"] == "unknown_field"


def test_streams_choices_and_prompts_of_the_llm_by_name(start):
    gateway = start(script=["ok"])
    _post(gateway, "chat", "pico@llm", stream=True)
    _post(gateway, "chat", "pico@llm", n=2, seed=5)
    _post(gateway, "completions", "pico@llm", prompt=["a", "b"], suffix="z", best_of=1)
    sent = [each.body for each in gateway.upstream.received]
    assert sent[0] == {"model": "big", "messages": [USER], "stream": True, "stream_options": {"include_usage": True}}
    assert sorted((body["seed"], "n" in body) for body in sent[1:3]) == [(5, False), (6, False)]
    prompts = sorted(sent[3:], key=lambda body: body["prompt"])
    assert prompts == [{"model": "big", "prompt": each, "suffix": "z"} for each in ("a", "b")]


def test_a_response_of_the_llm_is_asked_for_as_a_chat(start):
    gateway = start(script=["ok"])
    items = [
        {"role": "developer", "content": "d"},
        {"role": "user", "content": [{"type": "input_text", "text": "u"}]},
        {"type": "reasoning", "summary": [], "id": "rs"},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "4"},
    ]
    body = _post(
        gateway, "responses", "pico@llm", instructions="i", input=items, tools=[{"type": "function", **FUNCTION}],
        reasoning={"effort": "low", "summary": "auto"}, text={"verbosity": "low", "format": {"type": "json_object"}},
        max_output_tokens=9, metadata={"a": "b"}, store=False,
    ).json()  # fmt: skip
    assert body["locum"]["left_out"] == ["reasoning.summary"]
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert gateway.upstream.received[0].body == {
        "model": "big", "max_tokens": 9, "metadata": {"a": "b"}, "reasoning_effort": "low", "verbosity": "low",
        "store": False, "response_format": {"type": "json_object"},
        "tools": [{"type": "function", "function": FUNCTION}],
        "messages": [
            {"role": "system", "content": "i"}, {"role": "developer", "content": "d"},
            {"role": "user", "content": "u"}, {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "4"},
        ],
    }  # fmt: skip


def test_how_to_work_goes_along_with_an_input_that_is_handed_over(start):
    gateway = start(script=["cash"])
    plain = gateway.ask("good morning").json()
    hinted = gateway.ask(
        "good morning", reasoning_effort="low", user="u", prediction={"type": "content", "content": "x"}, seed=4
    ).json()
    assert plain["locum"]["route"] == hinted["locum"]["route"] == "llm"
    assert hinted["locum"]["left_out"] == ["prediction"]
    first, second = (each.body for each in gateway.upstream.received)
    assert second == {**first, "reasoning_effort": "low", "user": "u"}, "the task's own prompt and decoding"
    local = gateway.ask("my card did not arrive, delivery was due", reasoning_effort="low").json()
    assert local["locum"]["route"] == "local" and local["locum"]["left_out"] == ["reasoning_effort"]


def test_nothing_goes_along_where_the_certificate_speaks_of_the_llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pico_bundle(tmp_path / "b")
    seen: list[Any] = []
    monkeypatch.setattr(Router, "answer", lambda _self, *asked: seen.append(asked[3]) or 1 / 0)
    with open_bundle(tmp_path / "b", threads=1) as student:
        target = BundleTarget(student)
        asked = {"model": "pico", "messages": [USER], "reasoning_effort": "low"}
        (request,) = ChatCall.read(json.dumps(asked).encode()).requests(9)
        named = identify(LlmSpec(model="big", base_url="http://127.0.0.1:9/v1"), ["big"], [])
        certificate = student.certificate
        for llm in (None, named):
            bound = certificate.model_copy(update={"llm": llm})
            monkeypatch.setattr(type(student), "certificate", property(lambda _self, bound=bound: bound))
            with pytest.raises(ZeroDivisionError):
                target.open("pico", request)
    assert seen == [{"reasoning_effort": "low"}, {}]


def test_options_of_a_stream_need_a_stream(model):
    for endpoint in ("chat", "completions", "responses"):
        options = {"include_obfuscation": False}
        for fields in ({}, {"stream": False}, {"stream": None}):
            error = _post(model, endpoint, stream_options=options, **fields).json()["error"]
            assert (error["code"], error["param"]) == ("invalid_value", "stream_options")
        assert _post(model, endpoint, stream_options=options, stream=True).status_code == 200


def test_a_student_counts_nothing_in_numbers(start):
    gateway = start()
    text = "my card did not arrive, delivery was due"
    assert gateway.ask(text).json()["usage"]["total_tokens"] == 0
    streamed = gateway.ask(text, stream=True, stream_options={"include_usage": True}).text
    assert json.loads(streamed.split("\n\n")[-3].removeprefix("data: "))["usage"]["prompt_tokens"] == 0
    response = gateway.http.post("/v1/responses", json={"model": "pico", "input": text}).json()
    assert response["usage"]["total_tokens"] == response["usage"]["output_tokens_details"]["reasoning_tokens"] == 0


def test_a_client_reads_the_context_error_by_its_words(start_model):
    gateway = start_model(ChunkGenerator([too_long(6031, 4096)]))
    with gateway.client() as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=[USER])
    assert caught.value.code == "context_length_exceeded"
    assert "This model's maximum context length is 4096 tokens. However, the prompt has 6031" in caught.value.message


@pytest.mark.parametrize(
    "refusal",
    [
        {"message": "request (9 tokens) exceeds the available context size (8 tokens)", "code": 400},
        {"message": "the conversation is too long", "code": "context_length_exceeded"},
        {"message": "This model's maximum context length is 8 tokens.", "code": None},
    ],
)
def test_the_context_error_of_an_llm_keeps_its_name(start, refusal: dict):
    gateway = start(script=[Scripted(status=400, body=json.dumps({"error": refusal}).encode())])
    error = gateway.ask("x", "pico@llm").json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "this model's maximum context length is" in error["message"].lower()


def test_an_error_names_the_field_of_its_endpoint(start, start_model):
    gateway = start_model(ChunkGenerator([too_long(9, 8)]))
    for endpoint, field in (("chat", "messages"), ("completions", "prompt"), ("responses", "input")):
        assert _post(gateway, endpoint).json()["error"]["param"] == field
    bundle = start()
    asked: list[tuple[dict[str, Any], str]] = [
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"input": " "}, "input"),
    ]
    for fields, field in asked:
        error = _post(bundle, "responses", "pico", **fields).json()["error"]
        assert error["param"] == field


def test_a_hint_that_the_server_refuses_costs_no_answer_and_is_told(start):
    refusal = {"message": "Unsupported parameter: 'reasoning_effort' is not supported with this model."}

    def says(body: Any) -> Any:
        refused = "reasoning_effort" in body
        return Scripted(status=400, body=json.dumps({"error": refusal}).encode()) if refused else "cash"

    gateway = start(script=says)
    for _ in range(2):
        answered = gateway.ask("good morning", reasoning_effort="low", verbosity="low").json()
        assert answered["choices"][0]["message"]["content"] == "cash"
        assert answered["locum"]["left_out"] == ["reasoning_effort"]
    assert ["reasoning_effort" in each.body for each in gateway.upstream.received] == [True, False, False]
    asked = gateway.ask("good morning", "pico@llm", reasoning_effort="low")
    assert asked.json()["error"]["code"] == "llm_refused", "what is asked by name is not changed"


@pytest.mark.parametrize("told", [None, {}, {"type": "object", "properties": {}}, {"properties": {}, "required": []}])
def test_a_function_of_which_no_parameters_are_told_has_none(told: Any):
    function = {"name": "now"} if told is None else {"name": "now", "parameters": told}
    asked = ChatCall.read(json.dumps({**CHAT, "tools": [{"type": "function", "function": function}]}).encode())
    (tool,) = asked.requests(9)[0].tools
    assert check_arguments(tool.parameters, {}) and not check_arguments(tool.parameters, {"zone": "UTC"})


def test_a_function_that_takes_any_object_still_does():
    for told in ({"type": "object"}, {"type": "object", "properties": {}, "additionalProperties": True}):
        tool = {"type": "function", "function": {"name": "note", "parameters": told}}
        (request,) = ChatCall.read(json.dumps({**CHAT, "tools": [tool]}).encode()).requests(9)
        assert check_arguments(request.tools[0].parameters, {"zone": "UTC"})


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_name_functions_that_there_are(model, mode: str):
    offered = {"type": "function", "function": FUNCTION}
    gone = [{"type": "function", "function": {"name": "wether"}}]
    chat = _post(
        model,
        "chat",
        tools=[offered],
        tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": gone}},
    )
    flat = [{"type": "function", "name": "wether"}]
    responses = _post(
        model,
        "responses",
        tools=[{"type": "function", **FUNCTION}],
        tool_choice={"type": "allowed_tools", "mode": mode, "tools": flat},
    )
    for said in (chat, responses):
        assert said.status_code == 400 and said.json()["error"]["param"] == "tool_choice"
        assert "'wether'" in said.json()["error"]["message"]


def test_a_field_of_responses_is_named_as_it_was_sent(start):
    gateway = start()
    shown = ["message.output_text.logprobs"]
    for fields, own in (
        ({"truncation": "auto"}, "truncation"),
        ({"truncate": True}, "truncate"),
        ({"include": shown}, "include"),
        ({"include": shown, "top_logprobs": 2}, "top_logprobs"),
    ):
        error = _post(gateway, "responses", "pico@local", **fields).json()["error"]
        assert error["param"] == own and error["message"].startswith(f"{own}: "), error


def test_an_option_that_the_llm_does_not_have_is_named(start):
    gateway = start(script=["hello"])
    asked = (("chat", {"min_p": 0.1}, "min_p"), ("responses", {"truncation": "auto"}, "truncation"))
    for endpoint, fields, own in asked:
        error = _post(gateway, endpoint, "pico@llm", **fields).json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_value", own) and own in error["message"]


def test_arguments_of_an_earlier_call_are_named_by_their_item(start_model):
    places = ["messages.1.tool_calls.1.function.arguments", "messages.3.tool_calls.0.function.arguments"]
    faults = [RequestFault("runtime-request-value", f"{place}: no JSON object").about(place) for place in places]
    gateway = start_model(FakeGenerator(faults))

    def call(arguments: str) -> dict[str, Any]:
        return {"type": "function_call", "call_id": "c", "name": "weather", "arguments": arguments}

    given = {"type": "function_call_output", "call_id": "c", "output": "rain"}
    thought = {"type": "reasoning", "id": "r", "summary": []}
    items = [{"role": "user", "content": "x"}, thought, call("{}"), call("[1]"), given, thought, call('{"a')]
    for own in ("input.3.arguments", "input.6.arguments"):
        error = gateway.http.post("/v1/responses", json={"model": "tiny", "input": items}).json()["error"]
        assert error["param"] == own and error["message"].startswith(f"{own}: ")


@pytest.mark.parametrize(
    ("code", "told", "chat", "responses"),
    [
        ("runtime-constraint-unsupported", "unsupported_value", "response_format", "text.format"),
        ("runtime-constraint-schema", "invalid_value", "response_format", "text.format"),
        ("runtime-constraint-grammar", "invalid_value", "grammar", "grammar"),
    ],
)
def test_a_fault_of_what_the_answer_is_held_to_names_its_field(start_model, code: str, told: str, chat: str, responses):
    gateway = start_model(FakeGenerator([UserError(code, "#/properties/x: cannot be")] * 2))
    for endpoint, own in (("chat", chat), ("responses", responses)):
        error = _post(gateway, endpoint).json()["error"]
        assert (error["code"], error["param"]) == (told, own)
