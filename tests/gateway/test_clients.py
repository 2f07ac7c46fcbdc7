"""Clients that others wrote, against a real server: OpenAI's for Python and Node, and LangChain's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pydantic
import pytest

from locum.runtime.completion import Chunk, Completion, TokenLogprob, ToolCallDelta
from locum.schema.message import ToolCall
from locum.testing import ChunkGenerator, FakeEmbedder, FakeGenerator

pytestmark = pytest.mark.engines
TURNS: Any = [{"role": "user", "content": "What is the weather in Bern?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": PARAMETERS}}
CALL = ToolCall("call_1", "weather", '{"city":"Bern"}')
NODE_VERSION = "7.55.0"


def _answer(request) -> Completion | str:
    """What the scripted model says: a call when it has tools, JSON when it must, its log-probabilities when asked."""
    if request.tools and not any(message.role == "tool" for message in request.messages):
        return Completion("", "tool_calls", 9, 4, "m", tool_calls=(CALL,))
    if request.json_schema is not None:
        return Completion('{"city": "Bern", "degrees": 4}', "stop", 9, 8, "m")
    if request.logprobs is not None:
        tokens = (TokenLogprob("4", -0.1, (("4", -0.1), ("5", -2.0))), TokenLogprob("°", -0.2))
        return Completion("4°", "stop", 9, 2, "m", logprobs=tokens)
    said = (request.prompt or request.messages[-1].content).split()[-1]
    return Completion(f"seed {request.seed} after {said}", "stop", 9, 4, "m")


def _pieces(request) -> list[Chunk]:
    whole = _answer(request)
    assert isinstance(whole, Completion)
    calls = [
        Chunk(tool_calls=(ToolCallDelta(index, "", call.id, call.name), ToolCallDelta(index, call.arguments)))
        for index, call in enumerate(whole.tool_calls)
    ]
    if whole.logprobs:
        return [*(Chunk(token.token, (token,)) for token in whole.logprobs), Chunk(final=whole)]
    return [*(Chunk(letter) for letter in whole.text), *calls, Chunk(final=whole)]


@pytest.fixture
def gateway(start_model):
    return start_model(ChunkGenerator(_pieces), FakeEmbedder())


@pytest.fixture
def client(gateway):
    with gateway.client() as made:
        yield made


def test_chat_whole_and_streamed(client: openai.OpenAI):
    whole = client.chat.completions.create(model="tiny", messages=TURNS, seed=5, extra_body={"top_k": 3})
    assert whole.choices[0].message.content == "seed 5 after Bern?" and whole.usage.total_tokens == 13
    with client.chat.completions.stream(model="tiny", messages=TURNS, seed=5) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == "seed 5 after Bern?"


def test_choices(client: openai.OpenAI):
    said = client.chat.completions.create(model="tiny", messages=TURNS, n=3, seed=1)
    assert [choice.message.content for choice in said.choices] == [f"seed {s} after Bern?" for s in (1, 2, 3)]
    assert [choice.index for choice in said.choices] == [0, 1, 2] and said.usage.completion_tokens == 12


def test_log_probabilities(client: openai.OpenAI):
    said = client.chat.completions.create(model="tiny", messages=TURNS, logprobs=True, top_logprobs=2)
    tokens = said.choices[0].logprobs.content
    assert [token.token for token in tokens] == ["4", "°"] and tokens[0].top_logprobs[1].logprob == -2.0
    assert tokens[1].bytes == [0xC2, 0xB0]
    old = client.completions.create(model="tiny", prompt="x", logprobs=2).choices[0].logprobs
    assert old.tokens == ["4", "°"] and old.text_offset == [0, 1] and old.top_logprobs[0]["5"] == -2.0


def test_tools_there_and_back(client: openai.OpenAI):
    said = client.chat.completions.create(model="tiny", messages=TURNS, tools=[TOOL], tool_choice="auto")
    message = said.choices[0].message
    assert said.choices[0].finish_reason == "tool_calls" and message.content is None
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Bern"}
    turns = [*TURNS, message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "4 degrees"}]
    after = client.chat.completions.create(model="tiny", messages=turns, tools=[TOOL])
    assert after.choices[0].message.content == "seed None after degrees"
    with client.chat.completions.stream(model="tiny", messages=TURNS, tools=[TOOL]) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed[0].id == "call_1" and streamed[0].function.arguments == '{"city":"Bern"}'


class Weather(pydantic.BaseModel):
    city: str
    degrees: int


def test_structured_answers_are_parsed(client: openai.OpenAI):
    chat = client.chat.completions.parse(model="tiny", messages=TURNS, response_format=Weather)
    assert chat.choices[0].message.parsed == Weather(city="Bern", degrees=4)
    response = client.responses.parse(model="tiny", input="weather", text_format=Weather, store=False)
    assert response.output_parsed == Weather(city="Bern", degrees=4)


def test_completions(client: openai.OpenAI):
    said = client.completions.create(model="tiny", prompt=["a", "b"], n=2, seed=7)
    assert [choice.text for choice in said.choices] == [
        "seed 7 after a", "seed 8 after a", "seed 7 after b", "seed 8 after b"
    ]  # fmt: skip
    chunks = list(client.completions.create(model="tiny", prompt="a", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "seed None after a"


def test_embeddings_in_both_codings(client: openai.OpenAI):
    coded = client.embeddings.create(model="tiny", input=["one two", "b"])  # the client asks for base64
    plain = client.embeddings.create(model="tiny", input=["one two", "b"], encoding_format="float")
    assert np.allclose([each.embedding for each in coded.data], [each.embedding for each in plain.data])
    assert coded.data[0].embedding == pytest.approx(FakeEmbedder().embed(["one two"])[0].tolist())
    assert coded.usage.prompt_tokens == 3
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="tiny", input="x", dimensions=9)
    assert caught.value.param == "dimensions"
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="tiny", input=[[1, 2]])


def test_responses_whole_and_streamed(client: openai.OpenAI):
    whole = client.responses.create(model="tiny", input="hi there", instructions="Be brief.", store=False)
    assert whole.output_text == "seed None after there" and whole.status == "completed"
    assert whole.usage.total_tokens == 13 and whole.instructions == "Be brief."
    with client.responses.stream(model="tiny", input="hi there", store=False) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == "seed None after there"
    tool = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}
    called = client.responses.create(model="tiny", input="hi", tools=[tool], store=False)
    assert called.output[0].type == "function_call" and called.output[0].arguments == '{"city":"Bern"}'
    back = [*called.output, {"type": "function_call_output", "call_id": "call_1", "output": "4 degrees"}]
    after = client.responses.create(model="tiny", input=back, tools=[tool], store=False)
    assert after.output_text == "seed None after degrees"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", input="x", previous_response_id=whole.id)
    assert caught.value.param == "previous_response_id"


def test_a_length_that_was_reached_is_incomplete(start_model):
    with start_model(FakeGenerator(["one two three"])).client() as client:
        cut = client.responses.create(model="tiny", input="x", max_output_tokens=2, store=False)
        assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"
        assert cut.output[0].status == "incomplete"
        assert client.chat.completions.create(model="tiny", messages=TURNS, max_tokens=2).choices[0].finish_reason == (
            "length"
        )


def test_errors_are_typed_and_name_what_is_wrong(client: openai.OpenAI, start_model):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="tinny", messages=TURNS)
    assert missing.value.code == "model_not_found" and "'tiny'" in missing.value.message
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(model="tiny", messages=TURNS, extra_body={"top_kk": 3})
    assert unknown.value.code == "unknown_field" and unknown.value.param == "top_kk"
    with start_model(None, FakeEmbedder()).client() as only, pytest.raises(openai.BadRequestError):
        only.chat.completions.create(model="tiny", messages=TURNS)


def test_a_stream_that_fails_raises_in_the_client(start_model):
    with start_model(ChunkGenerator(["a", 0.3, ZeroDivisionError("x")])).client() as client:
        with pytest.raises(openai.APIError):
            list(client.chat.completions.create(model="tiny", messages=TURNS, stream=True))
        with pytest.raises(openai.APIError) as caught:
            list(client.responses.create(model="tiny", input="x", stream=True, store=False))
        assert caught.value.code == "internal_error"


def test_langchain(gateway):
    models = pytest.importorskip("langchain_openai", reason="langchain-openai is in the dev extra")
    chat = models.ChatOpenAI(base_url=f"{gateway.url}/v1", api_key="none", model="tiny", max_retries=0, seed=5)
    assert chat.invoke("hello there").content == "seed 5 after there"
    assert "".join(chunk.content for chunk in chat.stream("hello there")) == "seed 5 after there"
    called = chat.bind_tools([TOOL]).invoke("weather?").tool_calls
    assert called[0]["name"] == "weather" and called[0]["args"] == {"city": "Bern"}
    parsed = chat.with_structured_output(Weather).invoke("weather?")
    assert parsed == Weather(city="Bern", degrees=4)
    embedder = models.OpenAIEmbeddings(
        base_url=f"{gateway.url}/v1", api_key="none", model="tiny", check_embedding_ctx_length=False
    )
    assert len(embedder.embed_documents(["a", "b c"])) == 2


NODE_SCRIPT = """
import OpenAI from "openai";
const client = new OpenAI({baseURL: process.argv[2], apiKey: "none", maxRetries: 0});
const messages = [{role: "user", content: "hello there"}];
const whole = await client.chat.completions.create({model: "tiny", messages, seed: 5});
let streamed = "";
const chunks = await client.chat.completions.create({model: "tiny", messages, seed: 5, stream: true,
  stream_options: {include_usage: true}});
let usage = null;
for await (const chunk of chunks) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
const tools = [{type: "function", function: {name: "weather", parameters: {type: "object", properties: {}}}}];
const called = await client.chat.completions.create({model: "tiny", messages, tools});
const vectors = await client.embeddings.create({model: "tiny", input: ["a", "b"]});
const response = await client.responses.create({model: "tiny", input: "hello there", store: false});
let deltas = "";
for await (const event of await client.responses.create({model: "tiny", input: "hi you", store: false, stream: true}))
  if (event.type === "response.output_text.delta") deltas += event.delta;
let refused = null;
try { await client.chat.completions.create({model: "tiny", messages, n: 99}); }
catch (error) { refused = {status: error.status, code: error.code, param: error.param}; }
const gone = new AbortController();
const left = await client.chat.completions.create({model: "tiny", messages, stream: true}, {signal: gone.signal});
for await (const chunk of left) { gone.abort(); break; }
console.log(JSON.stringify({whole: whole.choices[0].message.content, route: whole.locum.route, streamed,
  usage: usage.total_tokens, called: called.choices[0].message.tool_calls[0].function.name,
  vectors: vectors.data.map(each => each.embedding.length), response: response.output_text, deltas, refused,
  models: (await client.models.list()).data.map(each => each.id)}));
"""


def _node_project() -> Path:
    """A folder with the pinned client, installed once; the test is skipped where that cannot be."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not here")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "locum-tests" / f"openai-{NODE_VERSION}"
    if not (cache / "node_modules" / "openai" / "package.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "package.json").write_text('{"private": true, "type": "module"}')
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"openai@{NODE_VERSION}"]
        done = subprocess.run(command, cwd=cache, capture_output=True, text=True, timeout=200, check=False)
        if done.returncode != 0:
            pytest.skip(f"npm cannot install openai@{NODE_VERSION}: {done.stderr.strip()[-200:]}")
    return cache


def test_node(gateway):
    project = _node_project()
    script = project / f"check-{os.getpid()}.mjs"
    script.write_text(NODE_SCRIPT)
    try:
        command = ["node", str(script), f"{gateway.url}/v1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    finally:
        script.unlink()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "whole": "seed 5 after there",
        "route": "local",
        "streamed": "seed 5 after there",
        "usage": 13,
        "called": "weather",
        "vectors": [4, 4],
        "response": "seed None after there",
        "deltas": "seed None after you",
        "refused": {"status": 400, "code": "invalid_value", "param": "n"},
        "models": ["tiny"],
    }
