"""Open Responses' acceptance tests, told again: each answer must be valid by the specification's own types.

Notable: the specification's tests are a page and a script for Bun that no registry carries; the types are those of
``openresponses-types``, made from its OpenAPI document. The seven requests are of the kinds that it names: a text, a
stream, a system prompt, a tool, an image, several turns, and answers sent back.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import openresponses_types as types
from cases import ASK_WEATHER, CHAT_MODEL, CHAT_URL, WEATHER, ByDesign, case, main

TOOL = {"type": "function", "name": "get_weather", "description": "Weather", "parameters": WEATHER}
EVENTS = {
    next(iter(kind.model_fields["type"].annotation)).value: kind
    for name, kind in vars(types).items()
    if name.endswith("StreamingEvent")
}
"""Type of a streamed event → what it must look like."""


def _post(**body: Any) -> str:
    request = urllib.request.Request(
        f"{CHAT_URL}/responses",
        json.dumps({"model": CHAT_MODEL, "max_output_tokens": 40, **body}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
        return answer.read().decode()


def _whole(**body: Any) -> dict[str, Any]:
    answer = json.loads(_post(**body))
    missing = [name for name, field in types.ResponseResource.model_fields.items() if name not in answer]
    assert not missing, f"missing: {', '.join(missing)}"
    types.ResponseResource.model_validate(answer)
    return answer


def _message(text: str, role: str = "user") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": text}


@case
def basic_text() -> None:
    answer = _whole(input=[_message("Say hello in three words.")])
    assert answer["output"] and answer["status"] in ("completed", "incomplete")


@case
def streamed() -> None:
    events = []
    for line in _post(input=[_message("Count from one to three.")], stream=True).splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            events.append(json.loads(line[6:]))
    for event in events:
        EVENTS[event["type"]].model_validate(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    types.ResponseResource.model_validate(events[-1]["response"])


@case
def system_prompt() -> None:
    assert _whole(input=[_message("You talk like a pirate.", "system"), _message("Say hello.")])["output"]


@case
def tool_called() -> None:
    answer = _whole(input=[_message(ASK_WEATHER)], tools=[TOOL], tool_choice="required", temperature=0)
    assert any(item["type"] == "function_call" for item in answer["output"])


@case
def image() -> None:
    pixel = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
        "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    parts = [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": pixel}]
    try:
        _whole(input=[{"type": "message", "role": "user", "content": parts}])
    except urllib.error.HTTPError as error:
        told = json.load(error)["error"]
        assert error.code == 400 and told["code"] == "unsupported_value" and told["param"], told
        raise ByDesign(f"the models here read no images: {told['message']}") from None


@case
def several_turns() -> None:
    turns = [_message("My name is Ada."), _message("Hello Ada.", "assistant"), _message("What is my name?")]
    assert _whole(input=turns)["output"]


@case
def answer_sent_back() -> None:
    first = _whole(input=[_message("Say hello.")])
    assert _whole(input=[_message("Say hello."), *first["output"], _message("Again.")])["output"]


if __name__ == "__main__":
    main()
