"""Rows as well-known sets on the Hugging Face Hub hold them become examples without a script in between."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from locum.data.examples import Example, ExampleReader
from locum.data.readers import read_rows
from locum.data.rows import Faults
from locum.schema.task import Task

SQUAD = {"question": "Who?", "context": "Ada wrote it.", "answers": {"text": ["Ada"], "answer_start": [0]}}
PUBMEDQA = {"question": "Does it help?", "context": {"contexts": ["We tried.", "It did."]}, "final_decision": "yes"}
MS_MARCO = {"query": "what is a locum", "passages": {"is_selected": [0, 1], "passage_text": ["a place", "a doctor"]}}


def examples(folder: Path, row: dict[str, Any], **fields: Any) -> tuple[list[Example], Faults]:
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    data = {"train": "rows.jsonl", **fields.pop("data")}
    task = Task.model_validate({"version": 1, "name": "x", "instruction": "Answer.", "data": data, **fields})
    faults = Faults("rows")
    reader = ExampleReader(task, faults, Counter())
    found = [reader.take(raw) for raw in read_rows(folder / "rows.jsonl", task.data)]
    return [example for example in found if example is not None], faults


def test_squad(tmp_path: Path) -> None:
    data = {"input": ["question", "context"], "output": "answers.text"}
    (example,), _ = examples(tmp_path, SQUAD, kind="generate", profile="qa", data=data)
    assert example == ("question: Who?\ncontext: Ada wrote it.", '["Ada"]')


def test_pubmedqa_whose_context_is_a_list_of_paragraphs(tmp_path: Path) -> None:
    data = {"input": ["question", "context.contexts"], "output": "final_decision"}
    (example,), _ = examples(tmp_path, PUBMEDQA, kind="classify", data=data)
    assert example == ("question: Does it help?\ncontext.contexts: We tried.\nIt did.", "yes")


def test_ms_marco(tmp_path: Path) -> None:
    data = {"input": ["query", "passages.passage_text"], "output": "passages.is_selected"}
    (example,), _ = examples(tmp_path, MS_MARCO, kind="rank", data=data)
    assert json.loads(example.input)["passages.passage_text"] == ["a place", "a doctor"]
    assert json.loads(example.output) == [0, 1]


@pytest.mark.parametrize("context", [[], ["a", 1], {"a": 1}])
def test_what_is_no_list_of_texts_is_no_input(tmp_path: Path, context: Any) -> None:
    data = {"input": ["question", "context"], "output": "final_decision"}
    found, faults = examples(tmp_path, PUBMEDQA | {"context": context}, kind="classify", data=data)
    assert not found
    assert faults.counts == {"the input is not text": 1}
