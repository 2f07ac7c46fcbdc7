"""Small tasks of every kind, and rows for them."""

from __future__ import annotations

from typing import Any

from locum.schema.data import Row
from locum.schema.prompt import Prompt
from locum.schema.task import Task
from locum.tasks import open_kind
from locum.tasks.protocol import TaskKind

PERSON_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
NEEDS: dict[str, dict[str, Any]] = {
    "extract": {"answer_schema": PERSON_SCHEMA},
    "custom": {"scorer": "judge", "llm": {"model": "judge.gguf"}},
}
WHOLE_KINDS = ("classify", "tag", "extract", "rank")


def task_fields(form: str, **top: Any) -> dict[str, Any]:
    """What a task file of a form says at least; ``top`` replaces or adds."""
    kind = {"kind": form} if form in WHOLE_KINDS else {"kind": "generate", "profile": form}
    data: dict[str, Any] = {"train": "train.jsonl", "input": "text", "output": "answer"}
    if form == "rank":
        data["input"] = ["query", "candidates"]
    whole = {"version": 1, "name": "toy", **kind, "instruction": "Do the task.", "data": data}
    return {**whole, **NEEDS.get(form, {}), **top}


def make_kind(form: str, labels: tuple[str, ...] = (), prompt: Prompt | None = None, **top: Any) -> TaskKind:
    """The kind of a toy task."""
    return open_kind(Task.model_validate(task_fields(form, **top)), labels, prompt)


def make_row(output: str, text: str = "some input", place: str = "train.jsonl:1") -> Row:
    """One row."""
    return Row(id=place, input=text, output=output)


def make_rows(*outputs: str, text: str = "some input") -> list[Row]:
    """Rows with one input."""
    return [make_row(output, text, f"train.jsonl:{number}") for number, output in enumerate(outputs, 1)]
