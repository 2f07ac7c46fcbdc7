"""Files of every kind of task, prepared from end to end; gold answers that cannot be used are told with their place."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from data_toys import distinct_sentences

from locum.core.errors import DataError, UserError
from locum.data.labelled import read_labelled
from locum.data.load import iterate, label_names
from locum.data.normalise import normalise
from locum.data.prepare import prepare
from locum.schema.data import DataCard, Row
from locum.schema.task import Task
from locum.tasks import open_kind
from locum.tasks.tag import load_spans

PERSON = {"type": "object", "properties": {"who": {"type": "string"}, "age": {"type": "integer"}}, "required": ["who"]}
SENTENCES = distinct_sentences(40)


def make_task(kind: str, profile: str | None = None, **options: Any) -> Task:
    data = {"train": "train.jsonl", "input": "text", "output": "answer"} | options.pop("data", {})
    whole = {"version": 1, "name": "toy", "kind": kind, "profile": profile, "instruction": "Do it.", "data": data}
    return Task.model_validate(whole | options)


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prepared(tmp_path: Path, task: Task, rows: Iterable[dict[str, Any]]) -> tuple[DataCard, dict[str, Row]]:
    """The card, and the rows of all splits by input."""
    path = write_lines(tmp_path / "train.jsonl", rows)
    card = prepare(task, {"train": path}, tmp_path / "out")
    found = [row for split in card.splits for row in iterate(tmp_path / "out", split)]
    assert sum(split.rows for split in card.splits.values()) == len(found)
    return card, {row.input: row for row in found}


def refused(tmp_path: Path, task: Task, bad: dict[str, Any], good: Iterable[dict[str, Any]]) -> str:
    """What is said of a file whose third line is bad."""
    lines = list(good)
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, task, [*lines[:2], bad, *lines[2:]])
    assert caught.value.code == "data-bad-rows"
    assert "train.jsonl:3: " in str(caught.value)
    return str(caught.value)


def spans_of(text: str) -> list[dict[str, Any]]:
    first, second, *_ = text.split(" ")
    return [
        {"start": len(first) + 1, "end": len(first) + 1 + len(second), "label": "SECOND"},
        {"start": 0, "end": len(first), "label": "FIRST"},
    ]


def test_spans_of_a_file_become_spans_of_what_is_read(tmp_path: Path) -> None:
    rows = [{"text": f"{text}", "answer": spans_of(text)} for text in SENTENCES]
    shifted = "  a\r\nBob\u200b \r\nmet"
    rows.append({"text": shifted, "answer": [[5, 9, "FIRST"]]})
    card, found = prepared(tmp_path, make_task("tag"), rows)
    assert card.labels == label_names(tmp_path / "out") == ("FIRST", "SECOND")
    assert sum(split.labels["SECOND"] for split in card.splits.values()) == len(SENTENCES)
    assert found["a\nBob \nmet"].output == '[[2,5,"FIRST"]]'
    for text in SENTENCES:
        words = [text[start:end] for start, end, _ in load_spans(found[text].output)]
        assert words == text.split(" ")[:2]


def test_spans_may_stand_in_a_csv_file_as_json(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["text", "answer"], *([text, json.dumps(spans_of(text))] for text in SENTENCES)])
    rows = read_labelled(path, make_task("tag")).rows
    assert [row.output for row in rows] == [
        json.dumps(sorted([s["start"], s["end"], s["label"]] for s in spans_of(text)), separators=(",", ":"))
        for text in SENTENCES
    ]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "no answer: null; a text without spans has an empty list"),
        ("", "the spans cannot be used: no JSON"),
        ([[0, 999, "X"]], "span 0 to 999 (X) is not within the text"),
        ([[0, 5, "X"], [2, 7, "Y"]], "overlaps"),
        ([{"start": 0, "end": 4, "label": "X", "text": "else"}], "and not 'else'"),
    ],
)
def test_bad_spans_are_told_with_their_place(tmp_path: Path, answer: Any, why: str) -> None:
    good = [{"text": text, "answer": spans_of(text)} for text in SENTENCES]
    assert why in refused(tmp_path, make_task("tag"), {"text": "river stone lamp", "answer": answer}, good)


def test_a_file_without_any_span_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, make_task("tag"), [{"text": text, "answer": []} for text in SENTENCES])
    assert caught.value.code == "data-one-label"


def test_the_spans_of_presidio_stand_where_they_should(tmp_path: Path, data_folder: Path) -> None:
    path = data_folder / "pii_presidio" / "synth_dataset_v2.json"
    task = make_task("tag", data={"input": "full_text", "output": "spans"})
    card = prepare(task, {"train": path}, tmp_path / "out")
    raw = {str(number): entry for number, entry in enumerate(json.loads(path.read_text(encoding="utf-8")), 1)}
    assert {"PERSON", "STREET_ADDRESS", "CREDIT_CARD"} <= set(card.labels)
    checked = 0
    for split in card.splits:
        for row in iterate(tmp_path / "out", split):
            given = raw[row.id.partition(":")[2]]["spans"]
            wanted = sorted((span["start_position"], span["entity_type"], span["entity_value"]) for span in given)
            found = [(label, normalise(row.input[start:end])) for start, end, label in load_spans(row.output)]
            assert found == [(label, normalise(quote)) for _, label, quote in wanted]
            checked += len(found)
    assert checked > 2000


def test_extraction_from_columns_and_from_objects(tmp_path: Path) -> None:
    rows = [{"text": text, "who": text.split()[0], "age": 7} for text in SENTENCES]
    task = make_task("extract", answer_schema=PERSON, data={"output": ["who", "age"]})
    _, found = prepared(tmp_path, task, rows)
    assert json.loads(found[SENTENCES[0]].output) == {"who": SENTENCES[0].split()[0], "age": 7}
    objects = [{"text": text, "answer": {"who": text.split()[0]}} for text in SENTENCES]
    _, found = prepared(tmp_path, make_task("extract", answer_schema=PERSON), objects)
    assert found[SENTENCES[0]].output == f'{{"who":"{SENTENCES[0].split()[0]}"}}'


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("Ann", "the answer cannot be used: no JSON"),
        ([1], "no JSON object"),
        ({"age": 1}, "'who' is a required property"),
        ({"who": "Ann", "age": "7"}, "$.age: '7' is not of type 'integer'"),
        (None, "no answer: null"),
    ],
)
def test_bad_objects_are_told_with_their_place(tmp_path: Path, answer: Any, why: str) -> None:
    good = [{"text": text, "answer": {"who": "Ann"}} for text in SENTENCES]
    task = make_task("extract", answer_schema=PERSON)
    assert why in refused(tmp_path, task, {"text": "river stone", "answer": answer}, good)


@pytest.mark.parametrize(
    ("profile", "good", "bad", "why"),
    [
        ("maths", "Two and two: 2+2=4\n#### 4", "Two and two make four.", "ends in '#### 72'"),
        ("summarise", "Short.", ["Short.", ""], "a gold summary is empty"),
        ("translate", ["Kurz.", "Knapp."], [], "a gold translation is empty"),
    ],
)
def test_written_answers_and_those_that_cannot_be(tmp_path: Path, profile: str, good: Any, bad: Any, why: str) -> None:
    rows = [{"text": text, "answer": good} for text in SENTENCES]
    task = make_task("generate", profile)
    _, found = prepared(tmp_path, task, rows)
    assert found[SENTENCES[0]].output == (good if isinstance(good, str) else json.dumps(good, separators=(",", ":")))
    assert why in refused(tmp_path, task, {"text": "river stone", "answer": bad}, rows)


def test_queries_with_candidates(tmp_path: Path) -> None:
    task = make_task("rank", data={"input": ["query", "candidates"]})
    rows = [{"query": text, "candidates": [text, "other"], "answer": [0]} for text in SENTENCES]
    _, found = prepared(tmp_path, task, rows)
    text = json.dumps({"query": SENTENCES[0], "candidates": [SENTENCES[0], "other"]}, separators=(",", ":"))
    assert found[text].output == "[0]"
    bad = {"query": "river", "candidates": ["one", "two", "three"], "answer": [7]}
    assert "'7' is none of the 3 candidates" in refused(tmp_path, task, bad, rows)
    assert "the candidates are no list" in refused(tmp_path, task, bad | {"candidates": None}, rows)
    assert "the query is empty" in refused(tmp_path, task, bad | {"query": ""}, rows)


def test_code_with_tests_comes_from_columns(tmp_path: Path) -> None:
    task = make_task("generate", "code", data={"output": ["canonical_solution", "test", "entry_point"]})
    test = "\n\ndef check(candidate):\n    assert candidate() == 1\n"
    rows = [
        {
            "text": f'def f():\n    """{text}"""\n',
            "canonical_solution": "    return 1",
            "test": test,
            "entry_point": "f",
        }
        for text in SENTENCES
    ]
    _, found = prepared(tmp_path, task, rows)
    row = found[rows[0]["text"].strip()]
    assert open_kind(task).target(row) == "    return 1"
    assert "entry_point '1f' is no" in refused(tmp_path, task, rows[0] | {"text": "other", "entry_point": "1f"}, rows)
    assert "it has no test" in refused(tmp_path, task, rows[0] | {"text": "other", "test": ""}, rows)


def test_conversations_with_instructions_and_with_answers(tmp_path: Path) -> None:
    columns = ("instruction_id_list", "kwargs")
    task = make_task("generate", "chat", data={"output": columns})
    rows: list[dict[str, Any]] = [
        {"text": text, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]} for text in SENTENCES
    ]
    _, found = prepared(tmp_path, task, rows)
    assert open_kind(task).target(found[SENTENCES[0]]) is None
    bad = rows[0] | {"text": "other", "instruction_id_list": ["punctuation:no_coma"]}
    assert "did you mean 'punctuation:no_comma'" in refused(tmp_path, task, bad, rows)
    plain = make_task("generate", "chat")
    _, found = prepared(tmp_path, plain, [{"text": text, "answer": "All right."} for text in SENTENCES])
    assert open_kind(plain).target(found[SENTENCES[0]]) == "All right."


def test_a_scorer_that_is_not_installed_is_told_when_the_data_are_read(tmp_path: Path) -> None:
    task = make_task("generate", "custom", scorer="not-installed")
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, task, [{"text": text, "answer": "x"} for text in SENTENCES])
    assert caught.value.code == "tasks-scorer"
    judged = make_task("generate", "custom", scorer="judge", llm={"model": "judge.gguf"})
    _, found = prepared(tmp_path, judged, [{"text": text, "answer": "x"} for text in SENTENCES])
    assert len(found) == len(SENTENCES)


def test_an_answer_that_is_nested_too_deeply_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    deep = "[" * 900 + "]" * 900
    path.write_text('{"text": "a", "label": "b"}\n{"text": "c", "label": ' + deep + "}\n")
    task = make_task("generate", "qa", data={"output": "label"})
    with pytest.raises(DataError, match=r"rows\.jsonl:2: too deeply nested"):
        read_labelled(path, task)
