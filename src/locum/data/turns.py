"""Turns of a conversation, as logs and chat data sets write them, and the picks that a column's name makes of them.

Notable: OpenAI's ``messages`` (content as text or parts, tool calls, ``developer``), items of its Responses API, the
``choices`` of an answer, ShareGPT's ``conversations``, Anthropic's and Gemini's parts are all read as one thing: who
speaks, the text, the calls. ``messages.user`` picks from it (``pick``). What is not text (an image) stays as it is, so
that the row is refused and not read without it. Not here: which columns make a task (``shapes``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant", "tool"]
PICKS = ("user", "assistant", "system", "conversation")
"""The last user turn; the assistant's after it; what the system says; all turns before the answer but the system's."""

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("user", "human", "prompter", "customer"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "chatbot", "ai", "agent"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "function_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
}
_CALLING = frozenset({"function_call", "tool_call"})
"""Roles of ShareGPT's turns whose text is a call."""
_SPEAKER_KEYS = ("role", "from", "speaker")
_TEXT_KEYS = ("content", "value", "text", "parts", "message")
_SILENT = frozenset({"reasoning", "thinking", "redacted_thinking", "item_reference"})
"""Items and parts that say nothing to the user."""
_TRANSCRIPTS = (
    re.compile(r"\s*<\|im_start\|>(\w+)\n"),
    re.compile(r"(?:\A\s*|\n\s*)(?:### )?(Human|User|System|Assistant): ?"),
)


class Turn(NamedTuple):
    """Who speaks, the text (None for none; a list of parts where one is no text), and the calls of functions."""

    role: Role
    text: Any
    calls: tuple[dict[str, Any], ...] = ()


def turns_of(value: Any) -> list[Turn] | None:
    """A value as turns; None where it is no conversation, nor a part of one.

    Args:
        value: a list of messages, items or choices, one message, one of these as JSON text, or a transcript in ChatML
            or after ``Human:`` and ``Assistant:``.
    """
    value = from_json(value)
    if isinstance(value, str):
        return _transcript(value)
    items: list[Any] = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, dict) for item in items):
        return None
    if all("message" in item and "finish_reason" in item for item in items):  # an answer's choices: the first counts
        items = [items[0]["message"]]
    turns: list[Turn] = []
    for item in items:
        found = _turns(item) if isinstance(item, dict) else None
        if found is None:
            return None
        turns += found
    return turns or None


def _transcript(text: str) -> list[Turn] | None:
    """A conversation that stands in one text; None for any other text."""
    for pattern in _TRANSCRIPTS:
        if pattern.match(text) is None:
            continue
        marks = list(pattern.finditer(text))
        ends = [*(mark.start() for mark in marks[1:]), len(text)]
        said = [(mark[1].casefold(), text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)]
        if "assistant" in {name for name, _ in said} <= _ROLES.keys():
            return [Turn(_ROLES[name], words.replace("<|im_end|>", "").strip() or None) for name, words in said]
    return None


def pick(turns: Sequence[Turn], name: str) -> Any:
    """What a name of ``PICKS`` stands for in a conversation; None where there is no such turn.

    An answer is the text of the last assistant turn after the last user turn; its calls where none has text: one call
    is an object of name and arguments, several are ``{"calls": [...]}``.
    """
    if name == "system":
        said = [turn.text for turn in turns if turn.role == "system" and turn.text]
        return "\n\n".join(said) if all(isinstance(text, str) for text in said) and said else None
    last = max((place for place, turn in enumerate(turns) if turn.role == "user"), default=-1)
    if name == "user":
        return turns[last].text if last >= 0 else None
    answers = [place for place, turn in enumerate(turns) if place > last and turn.role == "assistant"]
    told = [place for place in answers if turns[place].text] or answers
    if name == "assistant":
        return _said(turns[told[-1]]) if told else None
    before = [turn for turn in turns[: told[-1] if told else len(turns)] if turn.role != "system"]
    texts = [(turn.role, _said(turn)) for turn in before]
    if any(isinstance(text, list) for _, text in texts):
        return [text for _, text in texts]  # something that is no text
    return "\n".join(f"{role}: {_as_text(said)}" for role, said in texts if said is not None) or None


def from_json(value: Any) -> Any:
    """A value; a JSON list or object that a text holds is read."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _said(turn: Turn) -> Any:
    if turn.text or not turn.calls:
        return turn.text
    return turn.calls[0] if len(turn.calls) == 1 else {"calls": list(turn.calls)}


def _as_text(said: Any) -> str:
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)


def _turns(item: dict[str, Any]) -> list[Turn] | None:
    """One message or item: mostly one turn, none for what says nothing; None where it is neither."""
    named = any(key in item for key in _TEXT_KEYS)
    item = {key: value for key, value in item.items() if value is not None}  # Parquet gives each row every key
    kind = item.get("type")
    if kind in _SILENT and not any(key in item for key in _SPEAKER_KEYS):
        return []
    if kind == "function_call" and "name" in item:
        return [Turn("assistant", None, (_call(item),))]
    if kind == "function_call_output":
        return [Turn("tool", _text(item.get("output"))[0])]
    if item.get("object") == "text_completion" or ("finish_reason" in item and isinstance(item.get("text"), str)):
        return [Turn("assistant", item.get("text"))]
    speaker = next((item[key] for key in _SPEAKER_KEYS if isinstance(item.get(key), str)), None)
    role = _ROLES.get(speaker.casefold()) if speaker is not None else None
    holds = [key for key in _TEXT_KEYS if key in item]
    if role is None or not (named or "tool_calls" in item or "function_call" in item):
        return None
    text, calls, results = _text(item[holds[0]] if holds else None)
    if speaker is not None and speaker.casefold() in _CALLING and isinstance(call := from_json(text), dict):
        return [Turn("assistant", None, (_call(call),))]
    given = item.get("tool_calls") or ([item["function_call"]] if item.get("function_call") else [])
    calls += [_call(call.get("function", call)) for call in given if isinstance(call, dict)]
    if text is None and isinstance(item.get("refusal"), str):
        text = item["refusal"]
    said = [] if results and not text else [Turn(role, text, tuple(calls))]
    return [*(Turn("tool", result) for result in results), *said]


def _text(content: Any) -> tuple[Any, list[dict[str, Any]], list[Any]]:
    """The text of a message's content, the calls in it, and the results of calls; the parts where one is no text."""
    if not isinstance(content, list):
        return content, [], []
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[Any] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, dict):
            return content, [], []
        elif kind == "tool_use" or part.get("functionCall") is not None:
            calls.append(_call(part.get("functionCall", part)))
        elif kind == "tool_result":
            results.append(_text(part.get("content"))[0])
        elif (text := _part(part)) is not None:
            texts.append(text)
        elif kind not in _SILENT:
            return content, [], []
    return "\n".join(texts) or None, calls, results


def _part(part: dict[str, Any]) -> str | None:
    for key in ("text", "refusal"):
        text = part.get(key)
        if isinstance(text, dict):  # as OpenAI's Assistants write it
            text = text.get("value")
        if isinstance(text, str):
            return text
    return None


def _call(call: dict[str, Any]) -> dict[str, Any]:
    arguments = next((call[key] for key in ("arguments", "input", "args") if call.get(key) is not None), {})
    return {"name": call.get("name"), "arguments": from_json(arguments)}


def reach(columns: dict[str, Any], name: str) -> tuple[bool, Any]:
    """What stands at ``a.b.c`` in a row: members of objects, items of lists by number, picks of turns.

    Returns:
        Whether it is there, null or not, and the value.
    """
    value: Any = columns
    parts = name.split(".")
    for place, part in enumerate(parts):
        value = from_json(value)
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.lstrip("-").isdecimal() and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        elif part in PICKS and place == len(parts) - 1 and place and (turns := turns_of(value)) is not None:
            return True, pick(turns, part)
        else:
            return False, None
    return True, value


def conversations(columns: dict[str, Any], deep: int = 3) -> Iterator[tuple[str, list[Turn]]]:
    """The values of a row that are turns, each with the name that reaches it (``request.messages``).

    Args:
        columns: a row, or an object in it.
        deep: how many objects to go down.
    """
    for name, value in columns.items():
        value = from_json(value)
        if (turns := turns_of(value)) is not None:
            yield name, turns
        elif isinstance(value, dict) and deep:
            for inner, found in conversations(value, deep - 1):
                yield f"{name}.{inner}", found
