"""Function calls told from text, whole and letter by letter."""

from __future__ import annotations

import json

import pytest

from locum.runtime.call_reader import CallReader
from locum.runtime.completion import ToolCallDelta

NAMES = ("find", "find_all", "stop")
ONE = '{"name": "find", "arguments": {"q": "a } \\" b"}}'
TWO = '{"name": "stop", "arguments": {}}'


def read(text: str, step: int, *, tag: str = "<tool_call>\n", binds: bool = False, fits: bool = True):
    """The text that is left, the calls, and the deltas that were told, of a text that comes in steps."""
    reader = CallReader(NAMES, tag, lambda _name, _arguments: fits, binds=binds)
    said: list[str | ToolCallDelta] = []
    for place in range(0, len(text), step):
        said += reader.feed(text[place : place + step])
    said += reader.finish()
    deltas = [part for part in said if not isinstance(part, str)]
    return "".join(part for part in said if isinstance(part, str)), reader.calls, deltas


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "names", "left"),
    [
        (ONE, ["find"], ""),
        (f"\n {ONE}\n", ["find"], ""),
        (f"```json\n{ONE}\n```", ["find"], ""),
        (f"```\n{ONE}\n```\n", ["find"], ""),
        (f"<tool_call>\n{ONE}\n</tool_call>", ["find"], ""),
        (f"<tools>\n{ONE}\n</tools>", ["find"], ""),
        (f"<tool_call>{ONE}</tool_call>\n<tool_call>{TWO}</tool_call>", ["find", "stop"], ""),
        (f"{ONE}\n{TWO}", ["find", "stop"], ""),
        (f"[{ONE}, {TWO}]", ["find", "stop"], ""),
        (f"[TOOL_CALLS][{ONE}]", ["find"], ""),
        (f"Let me look.\n```json\n{ONE}\n```", ["find"], "Let me look.\n"),
        (f"Let me look. <tool_call>\n{ONE}\n</tool_call>", ["find"], "Let me look. "),
        ('{"name": "find_all", "parameters": {"q": 1}}', ["find_all"], ""),
        ('{"name": "find", "arguments": "{\\"q\\": 1}"}', ["find"], ""),
        ('{"type": "function", "function": {"name": "find", "arguments": {"q": 1}}}', ["find"], ""),
        ('{"arguments": {"q": 1}, "name": "find"}', ["find"], ""),
    ],
)
def test_calls_are_read(text: str, names: list[str], left: str, step: int) -> None:
    rest, calls, deltas = read(text, step)
    assert [call.name for call in calls] == names and rest == left
    assert all(isinstance(json.loads(call.arguments), dict) for call in calls)
    assert [delta.name for delta in deltas] == names and len({call.id for call in calls}) == len(calls)


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain words",
        "<b>bold</b> and <tool",
        '{"city": "Oslo"}',
        '{"name": "other", "arguments": {}}',
        '{"name": "fin", "arguments": {}}',
        '{"name": "find"}',
        '{"name": "find", "arguments": [1]}',
        '{"name": "find", "arguments": {}, "more": 1}',
        '{"name": "find", "arguments": {"q": ',
        f"So write {ONE}",
        f"{ONE} is how one calls it.",
        f"Like this:\n```json\n{ONE}\n```\nThen it answers.",
        '```python\nprint({"name": "find"})\n```',
        "[1, 2]\n[TOOL] x",
    ],
)
def test_anything_else_stays_text(text: str, step: int) -> None:
    rest, calls, deltas = read(text, step)
    assert (rest, calls, deltas) == (text, [], [])


def test_a_call_that_breaks_its_schema_is_text() -> None:
    assert read(ONE, 5, fits=False) == (ONE, [], [])


def test_text_is_not_held_back_longer_than_it_may_be_a_call() -> None:
    reader = CallReader(NAMES, "<tool_call>", lambda *_: True)
    assert reader.feed("Two ") == ["Two "]
    assert reader.feed("lines <to") == ["lines "]
    assert reader.feed("p>\n") == ["<top>\n"]
    assert reader.feed('{"na') == [] and reader.feed('me": "x') == ['{"name": "x']


@pytest.mark.parametrize("before", ["", "```json\n", "Well: <tool_call>\n"])
def test_a_call_is_due_where_its_arguments_begin_and_is_told_as_they_come(before: str) -> None:
    reader = CallReader(NAMES, "<tool_call>\n", lambda *_: True)
    said = reader.feed(before + '{"name": "find", "arguments": {"never')
    assert reader.due == "find" and reader.text.endswith('"arguments":') and reader.over == len(' {"never')
    reader.due = None
    for piece in (' {"q"', ': "}', '"}', "}\n</tool_call>"):
        said += reader.feed(piece)
    assert reader.finish() == [] and reader.pending is None
    deltas = [part for part in said if not isinstance(part, str)]
    assert deltas[0].name == "find" and deltas[0].arguments == "" and all(part.name is None for part in deltas[1:])
    assert "".join(part.arguments for part in deltas) == reader.calls[0].arguments == '{"q": "}"}'


def test_a_call_that_is_cut_is_pending_and_no_call() -> None:
    reader = CallReader(NAMES, "", lambda *_: True)
    reader.feed('{"name": "find", "arguments":')
    reader.due = None
    reader.feed(' {"q": "ha')
    assert reader.finish() == [] and reader.calls == []
    assert reader.pending is not None and reader.pending.arguments == '{"q": "ha'
