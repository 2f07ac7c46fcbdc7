"""Tool calls: names, arguments by type, several calls in any order, arguments that are no JSON."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from locum.core.errors import UserError
from locum.schema.message import ToolCall
from locum.scoring import tool_calls
from locum.stats import rowwise


def call(name: str, arguments: object = None, **given: object) -> ToolCall:
    return ToolCall("1", name, arguments if isinstance(arguments, str) else json.dumps(given))


GOLD = [call("weather", city="Bonn", days=3)]


@pytest.mark.parametrize(
    ("calls", "name", "exact", "f1"),
    [
        ([call("weather", days=3.0, city=" Bonn")], 1, 1, 1),
        ([call("weather", city="Bonn", days="3")], 1, 0, 2 * 2 / 6),
        ([call("weather", city="Bonn")], 1, 0, 2 * 2 / 5),
        ([call("forecast", city="Bonn", days=3)], 0, 0, 0),
        ([], 0, 0, 0),
        ([*GOLD, *GOLD], 0, 0, 2 * 3 / 9),
        ([call("weather", "{city: Bonn")], 1, 0, 2 * 1 / 5),
        ([call("weather", "[" * 100_000)], 1, 0, 2 * 1 / 5),
    ],
)
def test_one_call(calls: list[ToolCall], name: float, exact: float, f1: float) -> None:
    assert tool_calls.name_match(calls, GOLD) == name
    assert tool_calls.exact_match(calls, GOLD) == exact
    assert tool_calls.argument_f1(calls, GOLD) == pytest.approx(f1)


def test_several_calls_in_any_order() -> None:
    gold = [call("a", x=1), call("b", x=2)]
    assert tool_calls.exact_match(gold[::-1], gold) == 1.0
    assert tool_calls.exact_match([call("a", x=2), call("b", x=1)], gold) == 0.0
    assert tool_calls.name_match([call("a", x=2), call("b", x=1)], gold) == 1.0


def test_no_call_is_right_when_none_is_wanted() -> None:
    assert tool_calls.name_match([], []) == tool_calls.exact_match([], []) == tool_calls.argument_f1([], []) == 1.0
    assert tool_calls.exact_match(GOLD, []) == tool_calls.argument_f1(GOLD, []) == 0.0


def test_nothing_written_is_no_arguments() -> None:
    assert tool_calls.exact_match([call("now", "")], [call("now")]) == 1.0
    assert tool_calls.argument_f1([call("now", "")], [call("now")]) == 1.0


def test_rows_add_up() -> None:
    rows = tool_calls.argument_rows([GOLD, []], [GOLD, GOLD])
    assert rows.counts.tolist() == [[3, 3, 3], [0, 0, 3]]
    assert rowwise.value(rows) == pytest.approx(2 * 3 / 9)
    with pytest.raises(UserError) as caught:
        tool_calls.argument_rows([], [])
    assert caught.value.code == "scoring-input"


@pytest.mark.data
def test_the_calls_of_glaive_match_themselves_alone(data_folder: Path) -> None:
    rows = json.loads((data_folder / "instructions" / "glaive_toolcall_en_demo.json").read_bytes())
    texts = [turn["value"] for row in rows for turn in row["conversations"] if turn["from"] == "function_call"]
    said = [json.loads(text) for text in texts]
    calls = [ToolCall("1", one["name"], json.dumps(one["arguments"])) for one in said if isinstance(one, dict)]
    assert len(calls) > 200
    assert all(tool_calls.exact_match([one], [one]) == 1.0 for one in calls)
    assert sum(tool_calls.exact_match([a], [b]) for a, b in pairwise(calls)) < len(calls) / 20
