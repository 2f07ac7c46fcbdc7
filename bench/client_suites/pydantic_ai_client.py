"""Pydantic AI: tools, and the three ways in which it asks for a typed answer, over chat completions and responses."""

from __future__ import annotations

import contextlib

from cases import ASK_WEATHER, CHAT_MODEL, CHAT_URL, KEY, case, main
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import UsageLimits

provider = OpenAIProvider(base_url=CHAT_URL, api_key=KEY)
settings = ModelSettings(max_tokens=120, temperature=0)
chat = OpenAIChatModel(CHAT_MODEL, provider=provider, settings=settings)
responses = OpenAIResponsesModel(CHAT_MODEL, provider=provider, settings=settings)
ASK = "Paris is in France."


class City(BaseModel):
    """A place."""

    name: str
    country: str


@case
def text() -> None:
    assert Agent(chat).run_sync("Say hi.").output


@case
def text_of_responses() -> None:
    assert Agent(responses).run_sync("Say hi.").output


@case
def tool_output() -> None:
    assert isinstance(Agent(chat, output_type=ToolOutput(City), retries=0).run_sync(ASK).output, City)


@case
def native_output() -> None:
    assert isinstance(Agent(chat, output_type=NativeOutput(City), retries=0).run_sync(ASK).output, City)


@case
def prompted_output() -> None:
    assert isinstance(Agent(chat, output_type=PromptedOutput(City), retries=2).run_sync(ASK).output, City)


@case
def tool_output_of_responses() -> None:
    assert isinstance(Agent(responses, output_type=ToolOutput(City), retries=0).run_sync(ASK).output, City)


@case
def native_output_of_responses() -> None:
    assert isinstance(Agent(responses, output_type=NativeOutput(City), retries=0).run_sync(ASK).output, City)


CALLED: list[str] = []


def _agent(model: object, **more: object) -> Agent:
    agent = Agent(model, **more)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Weather of a city."""
        CALLED.append(city)
        return f"18 degrees in {city}"

    return agent


@case
def a_tool() -> None:
    CALLED.clear()
    with contextlib.suppress(UsageLimitExceeded):  # when to stop calling is the small model's own affair
        _agent(chat).run_sync(ASK_WEATHER, usage_limits=UsageLimits(request_limit=4))
    assert CALLED


@case
def native_output_with_a_tool() -> None:
    agent = _agent(chat, output_type=NativeOutput(City), retries=1)
    assert isinstance(agent.run_sync(ASK, usage_limits=UsageLimits(request_limit=6)).output, City)


@case
async def streamed() -> None:
    async with Agent(chat).run_stream("Say hi.") as stream:
        assert [text async for text in stream.stream_text()]
        assert stream.usage.output_tokens > 0 if not callable(stream.usage) else stream.usage().output_tokens > 0


@case
async def typed_while_streamed() -> None:
    async with Agent(chat, output_type=NativeOutput(City)).run_stream(ASK) as stream:
        assert isinstance(await stream.get_output(), City)


if __name__ == "__main__":
    main()
