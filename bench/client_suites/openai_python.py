"""OpenAI's Python client: plain calls, its helpers that parse and stream, and what it returns sent back."""

from __future__ import annotations

import openai
from cases import (
    ASK_WEATHER,
    BUNDLE_MODEL,
    BUNDLE_URL,
    CHAT_MODEL,
    CHAT_URL,
    EMBED_MODEL,
    EMBED_URL,
    KEY,
    WEATHER,
    case,
    main,
)
from pydantic import BaseModel

chat = openai.OpenAI(base_url=CHAT_URL, api_key=KEY, max_retries=0)
later = openai.AsyncOpenAI(base_url=CHAT_URL, api_key=KEY, max_retries=0)
embed = openai.OpenAI(base_url=EMBED_URL, api_key=KEY, max_retries=0)
bundle = openai.OpenAI(base_url=BUNDLE_URL, api_key=KEY, max_retries=0)

HELLO = [{"role": "user", "content": "Say hi."}]
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": WEATHER}}
STRICT = {"type": "function", "function": {**TOOL["function"], "strict": True}}


class City(BaseModel):
    """A place."""

    name: str
    country: str


@case
def models_listed() -> None:
    assert CHAT_MODEL in [model.id for model in chat.models.list()]
    assert chat.models.retrieve(CHAT_MODEL).id == CHAT_MODEL


@case
def chat_whole() -> None:
    answer = chat.chat.completions.create(model=CHAT_MODEL, messages=HELLO, max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@case
def chat_nullable_fields() -> None:
    names = [
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "metadata",
        "n",
        "presence_penalty",
        "reasoning_effort",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "temperature",
        "top_logprobs",
        "top_p",
        "verbosity",
        "audio",
        "prediction",
        "modalities",
    ]
    chat.chat.completions.create(model=CHAT_MODEL, messages=HELLO, max_tokens=2, extra_body=dict.fromkeys(names))


@case
def chat_fields_that_ask_for_nothing() -> None:
    chat.chat.completions.create(
        model=CHAT_MODEL,
        messages=HELLO,
        max_completion_tokens=2,
        logit_bias={},
        modalities=["text"],
        n=1,
        service_tier="auto",
        store=False,
        metadata={},
        verbosity="medium",
        user="u",
        prompt_cache_key="k",
        safety_identifier="s",
        parallel_tool_calls=True,
        reasoning_effort="low",
    )


@case
def chat_streamed() -> None:
    parts = list(
        chat.chat.completions.create(
            model=CHAT_MODEL, messages=HELLO, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    assert parts[-1].usage.completion_tokens > 0
    assert not parts[-1].choices
    assert any(part.choices and part.choices[0].finish_reason for part in parts)


@case
def chat_stream_helper() -> None:
    with chat.chat.completions.stream(model=CHAT_MODEL, messages=HELLO, max_tokens=64) as stream:
        kinds = {event.type for event in stream}
        assert "content.delta" in kinds and "content.done" in kinds
        assert stream.get_final_completion().choices[0].message.content


@case
async def chat_async() -> None:
    async with later.chat.completions.stream(model=CHAT_MODEL, messages=HELLO, max_tokens=64) as stream:
        async for _event in stream:
            pass
        assert (await stream.get_final_completion()).choices[0].message.content


@case
def chat_parsed() -> None:
    answer = chat.chat.completions.parse(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": "Paris is in France."}],
        response_format=City,
        max_tokens=60,
    )
    assert isinstance(answer.choices[0].message.parsed, City)


@case
def chat_parsed_while_streamed() -> None:
    with chat.chat.completions.stream(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": "Paris is in France."}],
        response_format=City,
        max_tokens=60,
    ) as stream:
        stream.until_done()
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, City)


def _called(**settings: object) -> object:
    answer = chat.chat.completions.create(
        model=CHAT_MODEL, messages=[{"role": "user", "content": ASK_WEATHER}], max_tokens=60, temperature=0, **settings
    )
    choice = answer.choices[0]
    assert choice.finish_reason in ("tool_calls", "stop"), choice.finish_reason
    assert choice.message.tool_calls[0].function.name == "get_weather"
    import json

    assert set(json.loads(choice.message.tool_calls[0].function.arguments)) == {"city"}
    return choice.message


@case
def tool_required() -> None:
    _called(tools=[TOOL], tool_choice="required")


@case
def tool_named() -> None:
    _called(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "get_weather"}})


@case
def tool_strict() -> None:
    _called(tools=[STRICT], tool_choice="required", parallel_tool_calls=False)


@case
def tool_auto() -> None:
    _called(tools=[TOOL])


@case
def tool_result_sent_back() -> None:
    said = _called(tools=[TOOL], tool_choice="required")
    turns = [
        {"role": "user", "content": ASK_WEATHER},
        said.model_dump(),
        {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "18 degrees"},
    ]
    answer = chat.chat.completions.create(
        model=CHAT_MODEL, messages=turns, tools=[TOOL], tool_choice="none", max_tokens=20
    )
    assert answer.choices[0].message.content


@case
def tool_streamed() -> None:
    with chat.chat.completions.stream(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": ASK_WEATHER}],
        max_tokens=60,
        temperature=0,
        tools=[STRICT],
        tool_choice="required",
    ) as stream:
        kinds = {event.type for event in stream}
        assert "tool_calls.function.arguments.done" in kinds
        assert stream.get_final_completion().choices[0].message.tool_calls


@case
def tool_parsed() -> None:
    answer = chat.chat.completions.parse(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": "Paris is in France. Note it down."}],
        max_tokens=60,
        tools=[openai.pydantic_function_tool(City)],
        tool_choice="required",
    )
    assert isinstance(answer.choices[0].message.tool_calls[0].function.parsed_arguments, City)


@case
def tools_with_schema() -> None:
    chat.chat.completions.create(
        model=CHAT_MODEL,
        messages=HELLO,
        tools=[TOOL],
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": City.model_json_schema()}},
    )


@case
def tools_with_logprobs() -> None:
    answer = chat.chat.completions.create(model=CHAT_MODEL, messages=HELLO, tools=[TOOL], max_tokens=8, logprobs=True)
    assert answer.choices[0].logprobs.content


@case
def answer_sent_back() -> None:
    said = chat.chat.completions.create(model=CHAT_MODEL, messages=HELLO, max_tokens=4).choices[0].message
    chat.chat.completions.create(model=CHAT_MODEL, messages=[*HELLO, said.model_dump(), *HELLO], max_tokens=4)


@case
def stream_options_without_stream() -> None:
    try:
        chat.chat.completions.create(model=CHAT_MODEL, messages=HELLO, stream_options={"include_usage": True})
    except openai.BadRequestError as error:
        assert error.param == "stream_options", error.param
    else:
        raise AssertionError("accepted")


@case
def typing_error_named() -> None:
    try:
        chat.chat.completions.create(model=CHAT_MODEL, messages=HELLO, extra_body={"temprature": 1})
    except openai.BadRequestError as error:
        assert error.code == "unknown_field" and "temperature" in error.message
    else:
        raise AssertionError("accepted")


@case
def completion_best_of() -> None:
    answer = chat.completions.create(model=CHAT_MODEL, prompt="Once", max_tokens=2, best_of=1)
    assert answer.object == "text_completion"


@case
def completion_echo_logprobs() -> None:
    answer = chat.completions.create(
        model=CHAT_MODEL, prompt="Once upon a time", max_tokens=1, echo=True, logprobs=1, temperature=0
    )
    choice = answer.choices[0]
    assert choice.text.startswith("Once upon a time")
    assert choice.logprobs.token_logprobs[0] is None and len(choice.logprobs.tokens) >= 4


@case
def response_whole() -> None:
    answer = chat.responses.create(model=CHAT_MODEL, input="Say hi.", max_output_tokens=16)
    assert answer.output_text and answer.usage.output_tokens > 0


@case
def response_fields_of_agents() -> None:
    chat.responses.create(
        model=CHAT_MODEL,
        input="hi",
        max_output_tokens=16,
        store=False,
        include=["reasoning.encrypted_content"],
        reasoning={"summary": "auto"},
        prompt_cache_key="k",
        extra_body={"client_metadata": {"a": "b"}},
    )


@case
def response_streamed() -> None:
    with chat.responses.stream(model=CHAT_MODEL, input="Say hi.", max_output_tokens=16) as stream:
        kinds = [event.type for event in stream]
        assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete")
        assert "response.output_text.delta" in kinds


@case
def response_parsed() -> None:
    answer = chat.responses.parse(model=CHAT_MODEL, input="Paris is in France.", text_format=City, max_output_tokens=60)
    assert isinstance(answer.output_parsed, City)


@case
def response_called() -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True}
    first = chat.responses.create(
        model=CHAT_MODEL, input=ASK_WEATHER, tools=[tool], tool_choice="required", max_output_tokens=60, temperature=0
    )
    call = next(item for item in first.output if item.type == "function_call")
    turns = [
        {"role": "user", "content": ASK_WEATHER},
        *[item.model_dump() for item in first.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"},
    ]
    chat.responses.create(model=CHAT_MODEL, input=turns, tools=[tool], tool_choice="none", max_output_tokens=20)


@case
def embedding_base64() -> None:
    found = embed.embeddings.create(model=EMBED_MODEL, input=["hello", "world"])
    assert len(found.data) == 2 and isinstance(found.data[0].embedding[0], float)


@case
def embedding_of_2048() -> None:
    assert len(embed.embeddings.create(model=EMBED_MODEL, input=["a"] * 2048).data) == 2048


@case
def embedding_tokens_refused_plainly() -> None:
    try:
        embed.embeddings.create(model=EMBED_MODEL, input=[[1, 2]])
    except openai.BadRequestError as error:
        assert "token" in error.message and "check_embedding_ctx_length" in error.message, error.message


@case
def bundle_usage_counted() -> None:
    answer = bundle.chat.completions.create(
        model=f"{BUNDLE_MODEL}@local", messages=[{"role": "user", "content": "my card"}]
    )
    assert answer.usage.total_tokens >= 0


@case
def bundle_response() -> None:
    assert bundle.responses.create(model=f"{BUNDLE_MODEL}@local", input="my card").usage.total_tokens >= 0


@case
def bundle_llm_as_it_is() -> None:
    answer = bundle.chat.completions.create(
        model=f"{BUNDLE_MODEL}@llm",
        messages=[{"role": "developer", "content": "Be kind.", "name": "d"}, *HELLO],
        reasoning_effort="low",
        user="u",
        metadata={"a": "b"},
    )
    assert answer.choices[0].message.content


@case
def context_exceeded() -> None:
    try:
        chat.chat.completions.create(
            model=CHAT_MODEL, messages=[{"role": "user", "content": "word " * 9000}], max_tokens=4
        )
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded" and "maximum context length" in error.message, error.message
    else:
        raise AssertionError("accepted")


if __name__ == "__main__":
    main()
