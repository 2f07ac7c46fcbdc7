"""Instructor: a typed answer in every mode that OpenAI's API has, and a list streamed one item after the other."""

from __future__ import annotations

import instructor
import openai
from cases import CHAT_MODEL, CHAT_URL, KEY, case, main
from pydantic import BaseModel

client = openai.OpenAI(base_url=CHAT_URL, api_key=KEY, max_retries=0)
ASK = [{"role": "user", "content": "Paris is in France."}]


class City(BaseModel):
    """A place."""

    name: str
    country: str


def _typed(mode: instructor.Mode) -> None:
    found = instructor.from_openai(client, mode=mode).chat.completions.create(
        model=CHAT_MODEL, messages=ASK, response_model=City, max_tokens=80, max_retries=0
    )
    assert isinstance(found, City)


@case
def tools() -> None:
    _typed(instructor.Mode.TOOLS)


@case
def tools_strict() -> None:
    _typed(instructor.Mode.TOOLS_STRICT)


@case
def json_schema() -> None:
    _typed(instructor.Mode.JSON_SCHEMA)


@case
def json_object() -> None:
    _typed(instructor.Mode.JSON)


@case
def responses_tools() -> None:
    found = instructor.from_openai(client, mode=instructor.Mode.RESPONSES_TOOLS).responses.create(
        model=CHAT_MODEL, input=ASK, response_model=City, max_output_tokens=80, max_retries=0
    )
    assert isinstance(found, City)


@case
def parts_while_streamed() -> None:
    found = list(
        instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA).chat.completions.create_partial(
            model=CHAT_MODEL, messages=ASK, response_model=City, max_tokens=80, max_retries=0
        )
    )
    assert found[-1].name


@case
def parts_of_a_call_while_streamed() -> None:
    found = list(
        instructor.from_openai(client, mode=instructor.Mode.TOOLS).chat.completions.create_partial(
            model=CHAT_MODEL, messages=ASK, response_model=City, max_tokens=80, max_retries=0
        )
    )
    assert found[-1].name


if __name__ == "__main__":
    main()
