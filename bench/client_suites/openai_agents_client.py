"""OpenAI's Agents SDK over both of its models: text, a tool, a typed answer, both at once, and streams."""

from __future__ import annotations

import contextlib

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from agents.exceptions import MaxTurnsExceeded
from cases import ASK_WEATHER, CHAT_MODEL, CHAT_URL, KEY, case, main
from pydantic import BaseModel

set_tracing_disabled(True)
client = openai.AsyncOpenAI(base_url=CHAT_URL, api_key=KEY, max_retries=0)
chat = OpenAIChatCompletionsModel(model=CHAT_MODEL, openai_client=client)
responses = OpenAIResponsesModel(model=CHAT_MODEL, openai_client=client)
settings = ModelSettings(max_tokens=120, temperature=0)
quiet = RunConfig(tracing_disabled=True)


class City(BaseModel):
    """A place."""

    name: str
    country: str


CALLED: list[str] = []


@function_tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    CALLED.append(city)
    return f"18 degrees in {city}"


async def _run(model: object, text: str, **more: object) -> object:
    choice = more.pop("tool_choice", None)
    agent = Agent(
        name="a",
        instructions="Answer briefly.",
        model=model,
        model_settings=ModelSettings(max_tokens=120, temperature=0, tool_choice=choice),
        **more,
    )
    return (await Runner.run(agent, text, max_turns=6, run_config=quiet)).final_output


async def _calls(model: object) -> None:
    CALLED.clear()
    with contextlib.suppress(MaxTurnsExceeded):  # when to stop calling is the small model's own affair
        await _run(model, ASK_WEATHER, tools=[get_weather], tool_choice="required")
    assert CALLED


@case
async def chat_text() -> None:
    assert await _run(chat, "Say hi.")


@case
async def chat_tool() -> None:
    await _calls(chat)


@case
async def chat_typed() -> None:
    assert isinstance(await _run(chat, "Paris is in France.", output_type=City), City)


@case
async def chat_typed_with_tool() -> None:
    assert isinstance(await _run(chat, "Paris is in France.", output_type=City, tools=[get_weather]), City)


@case
async def chat_streamed() -> None:
    run = Runner.run_streamed(Agent(name="a", model=chat, model_settings=settings), "Say hi.", run_config=quiet)
    assert [event async for event in run.stream_events()]
    assert run.final_output


@case
async def responses_text() -> None:
    assert await _run(responses, "Say hi.")


@case
async def responses_tool() -> None:
    await _calls(responses)


@case
async def responses_typed() -> None:
    assert isinstance(await _run(responses, "Paris is in France.", output_type=City), City)


@case
async def responses_typed_with_tool() -> None:
    assert isinstance(await _run(responses, "Paris is in France.", output_type=City, tools=[get_weather]), City)


@case
async def responses_streamed() -> None:
    run = Runner.run_streamed(Agent(name="a", model=responses, model_settings=settings), "Say hi.", run_config=quiet)
    assert [event async for event in run.stream_events()]
    assert run.final_output


if __name__ == "__main__":
    main()
