"""LiteLLM's library as a client: completion, streams, tools, schemas, embeddings, and which exception it raises."""

from __future__ import annotations

import json
import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("LITELLM_TELEMETRY", "False")

import litellm
from cases import ASK_WEATHER, CHAT_MODEL, CHAT_URL, EMBED_MODEL, EMBED_URL, KEY, WEATHER, case, main
from pydantic import BaseModel

litellm.suppress_debug_info = True
CHAT = {"model": f"openai/{CHAT_MODEL}", "api_base": CHAT_URL, "api_key": KEY, "num_retries": 0}
TEXT = {"model": f"text-completion-openai/{CHAT_MODEL}", "api_base": CHAT_URL, "api_key": KEY, "num_retries": 0}
HELLO = [{"role": "user", "content": "Say hi."}]
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": WEATHER}}


class City(BaseModel):
    """A place."""

    name: str
    country: str


@case
def whole() -> None:
    answer = litellm.completion(messages=HELLO, max_tokens=8, **CHAT)
    assert answer.choices[0].message.content and answer.usage.total_tokens > 0


@case
def streamed() -> None:
    parts = list(
        litellm.completion(messages=HELLO, max_tokens=8, stream=True, stream_options={"include_usage": True}, **CHAT)
    )
    whole = litellm.stream_chunk_builder(parts)
    assert whole.choices[0].message.content and whole.usage.completion_tokens > 0


@case
async def asynchronous() -> None:
    answer = await litellm.acompletion(messages=HELLO, max_tokens=8, **CHAT)
    assert answer.choices[0].message.content


@case
def every_parameter() -> None:
    litellm.completion(
        messages=HELLO,
        max_tokens=4,
        temperature=0.5,
        top_p=0.9,
        seed=1,
        stop=["zzz"],
        user="u",
        n=1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        logprobs=True,
        top_logprobs=2,
        metadata={"a": "b"},
        **CHAT,
    )


@case
def schema() -> None:
    answer = litellm.completion(
        messages=[{"role": "user", "content": "Paris is in France."}], response_format=City, max_tokens=60, **CHAT
    )
    City.model_validate_json(answer.choices[0].message.content)


@case
def tool_required() -> None:
    answer = litellm.completion(
        messages=[{"role": "user", "content": ASK_WEATHER}], tools=[TOOL], tool_choice="required", max_tokens=60, **CHAT
    )
    assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments)["city"]


@case
def tool_result_sent_back() -> None:
    asked = [{"role": "user", "content": ASK_WEATHER}]
    said = (
        litellm.completion(messages=asked, tools=[TOOL], tool_choice="required", max_tokens=60, **CHAT)
        .choices[0]
        .message
    )
    turns = [*asked, said.model_dump(), {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "18"}]
    litellm.completion(messages=turns, tools=[TOOL], tool_choice="none", max_tokens=8, **CHAT)


@case
def tool_streamed() -> None:
    parts = list(
        litellm.completion(
            messages=[{"role": "user", "content": ASK_WEATHER}],
            tools=[TOOL],
            tool_choice="required",
            max_tokens=60,
            stream=True,
            **CHAT,
        )
    )
    said = litellm.stream_chunk_builder(parts).choices[0].message
    assert json.loads(said.tool_calls[0].function.arguments)["city"]


@case
def text_completion() -> None:
    answer = litellm.text_completion(prompt="Once upon a time", max_tokens=4, **TEXT)
    assert answer.choices[0].text is not None


@case
def embedding() -> None:
    found = litellm.embedding(model=f"openai/{EMBED_MODEL}", input=["a", "b"], api_base=EMBED_URL, api_key=KEY)
    assert len(found.data) == 2


@case
def responses() -> None:
    answer = litellm.responses(input="Say hi.", max_output_tokens=16, **CHAT)
    assert answer.output


@case
def context_window_exception() -> None:
    try:
        litellm.completion(messages=[{"role": "user", "content": "word " * 9000}], max_tokens=4, **CHAT)
    except litellm.ContextWindowExceededError:
        return
    raise AssertionError("accepted")


@case
def bad_request_exception() -> None:
    try:
        litellm.completion(messages=[{"role": "user", "content": "hi"}], max_tokens=4, logit_bias={"1": 500}, **CHAT)
    except litellm.BadRequestError:
        return
    raise AssertionError("accepted")


if __name__ == "__main__":
    main()
