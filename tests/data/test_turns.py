"""Logs and chat data sets in the forms that people have: which turns are read, and what is proposed of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from data_toys import distinct_sentences, make_task

from locum.core.errors import DataError
from locum.data.inspect import inspect
from locum.data.load import iterate
from locum.data.prepare import prepare
from locum.data.readers import open_table
from locum.data.rows import Faults
from locum.data.turns import pick, turns_of
from locum.schema.kinds import form

COUNT = 120
TEXTS = [f"{('send it', 'pay it')[n % 2]} {text}" for n, text in enumerate(distinct_sentences(COUNT))]
TEAMS = [("post", "bank")[n % 2] for n in range(COUNT)]
REPLIES = [f"We will see to it: {text}." for text in reversed(TEXTS)]
RULE = "Name the team."


def call(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


def said(n: int, answer: str | None = None, rule: str | None = RULE) -> list[dict[str, Any]]:
    turns = [{"role": "system", "content": rule}] if rule else []
    turns.append({"role": "user", "content": TEXTS[n]})
    return [*turns, {"role": "assistant", "content": answer}] if answer else turns


def choices(answer: str) -> list[dict[str, Any]]:
    return [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}]


def output(answer: str) -> list[dict[str, Any]]:
    parts = [{"type": "output_text", "text": answer, "annotations": []}]
    return [{"type": "reasoning", "summary": []}, {"type": "message", "role": "assistant", "content": parts}]


LABELLED: dict[str, tuple[Any, str, str]] = {
    "OpenAI": (lambda n: {"messages": said(n, TEAMS[n]), "tools": []}, "messages.user", "messages.assistant"),
    "a developer, and parts": (
        lambda n: {
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": RULE}]},
                {"role": "user", "content": [{"type": "text", "text": TEXTS[n]}]},
                {"role": "assistant", "content": [{"type": "text", "text": TEAMS[n]}]},
            ]
        },
        "messages.user",
        "messages.assistant",
    ),
    "request and response": (
        lambda n: {
            "custom_id": f"r-{n}",
            "request": {"method": "POST", "body": {"model": "m", "messages": said(n)}},
            "response": {"status_code": 200, "body": {"choices": choices(TEAMS[n])}},
        },
        "request.body.messages.user",
        "response.body.choices.assistant",
    ),
    "stored completions": (
        lambda n: {"id": f"c-{n}", "object": "chat.completion", "choices": choices(TEAMS[n]), "messages": said(n)},
        "messages.user",
        "choices.assistant",
    ),
    "Responses": (
        lambda n: {"object": "response", "instructions": RULE, "input": TEXTS[n], "output": output(TEAMS[n])},
        "input",
        "output.assistant",
    ),
    "Responses with items": (
        lambda n: {"request": {"instructions": RULE, "input": said(n, rule=None)}, "response": output(TEAMS[n])},
        "request.input.user",
        "response.assistant",
    ),
    "ShareGPT": (
        lambda n: {
            "system": RULE,
            "conversations": [{"from": "human", "value": TEXTS[n]}, {"from": "gpt", "value": TEAMS[n]}],
        },
        "conversations.user",
        "conversations.assistant",
    ),
    "Gemini": (
        lambda n: {
            "systemInstruction": {"parts": [{"text": RULE}]},
            "contents": [
                {"role": "user", "parts": [{"text": TEXTS[n]}]},
                {"role": "model", "parts": [{"text": TEAMS[n]}]},
            ],
        },
        "contents.user",
        "contents.assistant",
    ),
    "turns and nothing around them": (lambda n: said(n, TEAMS[n]), "messages.user", "messages.assistant"),
    "Alpaca": (lambda n: {"instruction": RULE, "input": TEXTS[n], "output": TEAMS[n]}, "input", "output"),
    "worked examples in each prompt": (
        lambda n: {"messages": [*said(0, "bank"), {"role": "user", "content": TEXTS[n]}], "completion": TEAMS[n]},
        "messages.user",
        "completion",
    ),
}


def write(folder: Path, rows: list[Any], ending: str) -> Path:
    path = folder / f"rows.{ending}"
    if ending == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    elif ending == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(rows[0])
            writer.writerows([json.dumps(value) for value in row.values()] for row in rows)
    else:
        path.write_text(json.dumps(rows) if ending == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("name", LABELLED)
def test_logs_whose_answers_are_labels_build_a_classifier(tmp_path: Path, name: str, ending: str) -> None:
    make, read, told = LABELLED[name]
    rows = [make(n) for n in range(COUNT)]
    if ending == "parquet" and not isinstance(rows[0], dict):
        pytest.skip("Parquet has columns")
    path = write(tmp_path, rows, ending)
    seen = inspect(path)
    assert (seen.kind, seen.input, seen.output, seen.instruction) == ("classify", (read,), told, RULE)
    assert seen.labels == {"post": COUNT // 2, "bank": COUNT // 2}
    prepare(make_task(input=read, output=told), {"train": path}, tmp_path / "out")
    pairs = {(row.input, row.output) for row in iterate(tmp_path / "out", "train")}
    assert pairs and pairs <= set(zip(TEXTS, TEAMS, strict=True))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (lambda n: {"messages": said(n, REPLIES[n])}, ("chat", ("messages.user",), "messages.assistant")),
        (
            lambda n: {"messages": [*said(n - 1, REPLIES[n - 1]), *said(n, REPLIES[n], None)]},
            ("chat", ("messages.conversation",), "messages.assistant"),
        ),
        (
            lambda n: {"messages": said(n, REPLIES[n], f"Today is day {n % 9}.")},
            ("chat", ("messages.system", "messages.user"), "messages.assistant"),
        ),
        (
            lambda n: {"messages": [*said(n), call("route", team=TEAMS[n])]},
            ("extract", ("messages.user",), "messages.assistant"),
        ),
        (
            lambda n: {
                "input": said(n),
                "output": [{"type": "function_call", "name": "f", "arguments": f'{{"n": {n}}}'}],
            },
            ("extract", ("input.user",), "output.assistant"),
        ),
        (
            lambda n: {"prompt": said(n, rule=None), "chosen": said(n, REPLIES[n])[2:], "rejected": said(n, "no")[2:]},
            ("chat", ("prompt.user",), "chosen.assistant"),
        ),
        (
            lambda n: {"chosen": said(n, REPLIES[n]), "rejected": said(n, "no")},
            ("chat", ("chosen.user",), "chosen.assistant"),
        ),
        (
            lambda n: {
                "chosen": f"\n\nHuman: {TEXTS[n]}\n\nAssistant: {REPLIES[n]}",
                "rejected": f"\n\nHuman: {TEXTS[n]}\n\nAssistant: no",
            },
            ("chat", ("chosen.user",), "chosen.assistant"),
        ),
        (
            lambda n: {
                "instruction": TEXTS[n],
                "context": REPLIES[n] * (n % 2),
                "response": REPLIES[-n],
                "category": TEAMS[n],
            },
            ("chat", ("instruction", "context"), "response"),
        ),
        (lambda n: {"prompt": TEXTS[n], "chosen": REPLIES[n], "rejected": "no"}, ("chat", ("prompt",), "chosen")),
        (
            lambda n: {"messages": said(n, REPLIES[n]), "label": TEAMS[n]},
            ("classify", ("messages.user",), "label"),
        ),
        (
            lambda n: {"transcript": f"User: {TEXTS[n]}\nAssistant: {REPLIES[n]}", "category": TEAMS[n]},
            ("classify", ("transcript",), "category"),
        ),
    ],
)
def test_what_other_logs_make(tmp_path: Path, row: Any, expected: Any) -> None:
    seen = inspect(write(tmp_path, [row(n) for n in range(COUNT)], "jsonl"))
    assert (form(seen.kind or "none", seen.profile), seen.input, seen.output) == expected


def test_turns_in_a_text_column_and_by_number(tmp_path: Path) -> None:
    path = write(tmp_path, [{"messages": said(n, TEAMS[n])} for n in range(COUNT)], "csv")
    table = open_table(path, wanted=("messages.1.content", "messages.-1.content", "messages.assistant"))
    first = next(iter(table.rows(Faults("rows")))).columns
    assert first["messages.1.content"] == TEXTS[0]
    assert first["messages.-1.content"] == first["messages.assistant"] == TEAMS[0]


def test_the_picks_of_a_conversation_with_calls() -> None:
    turns = turns_of(
        [
            *said(1),
            call("find", n=1),
            {"role": "tool", "tool_call_id": "1", "content": "found"},
            {"role": "assistant", "content": "Here it is."},
            {"role": "user", "content": "And now?"},
            {"role": "assistant", "content": "", "tool_calls": call("a")["tool_calls"] + call("b", k=2)["tool_calls"]},
        ]
    )
    assert turns is not None
    assert (pick(turns, "system"), pick(turns, "user")) == (RULE, "And now?")
    assert pick(turns, "assistant") == {"calls": [{"name": "a", "arguments": {}}, {"name": "b", "arguments": {"k": 2}}]}
    assert pick(turns, "conversation").splitlines() == [
        f"user: {TEXTS[1]}",
        'assistant: {"name": "find", "arguments": {"n": 1}}',
        "tool: found",
        "assistant: Here it is.",
        "user: And now?",
    ]
    assert pick(turns[:3], "assistant") == {"name": "find", "arguments": {"n": 1}}
    assert pick(turns[:2], "assistant") is None


@pytest.mark.parametrize("value", ["text", [], [1], [{"a": 1}], {"role": "judge", "content": "x"}, [{"role": "user"}]])
def test_what_is_no_conversation(value: Any) -> None:
    assert turns_of(value) is None


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (lambda n: {"custom_id": f"r-{n}", "response": {"body": {"choices": choices(TEAMS[n])}}}, "custom_id"),
        (lambda n: {"custom_id": f"r-{n}", "body": {"messages": said(n)}}, "custom_id"),
        (lambda n: {"dialog": [{"who": "a", "says": TEXTS[n]}, {"who": "b", "says": TEAMS[n]}]}, "write them as"),
        (
            lambda n: {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, *said(n, TEAMS[n])[2:]]},
            "no text",
        ),
        (lambda n: {"tokens": TEXTS[n].split(), "tags": ["O"] * len(TEXTS[n].split())}, "write spans"),
    ],
)
def test_what_is_not_read_is_told_with_what_to_write(tmp_path: Path, row: Any, told: str) -> None:
    path = write(tmp_path, [row(n) for n in range(COUNT)], "jsonl")
    try:
        seen = inspect(path)
    except DataError as error:
        assert told in error.fix
    else:
        assert seen.kind is None
        assert told in seen.why


def test_an_image_is_not_read_as_if_it_were_not_there(tmp_path: Path) -> None:
    rows = [{"messages": said(n, TEAMS[n])} for n in range(COUNT)]
    rows[3]["messages"][1]["content"] = [{"type": "text", "text": "What is this?"}, {"type": "image_url"}]
    path = write(tmp_path, rows, "jsonl")
    with pytest.raises(DataError) as caught:
        prepare(make_task(input="messages.user", output="messages.assistant"), {"train": path}, tmp_path / "out")
    assert "rows.jsonl:4: the input is not text" in caught.value.cause
