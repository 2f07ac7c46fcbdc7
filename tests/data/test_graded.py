"""Answers that people graded: read from any format, every fault with its line, each answer once."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import DataError
from locum.data.graded import also_in, read_graded
from locum.data.prepare import prepare
from locum.schema.judging import GradedAnswer
from locum.schema.task import Task

ROWS: list[dict[str, Any]] = [
    {"text": "What is it?", "answer": "A river.", "grade": 5, "gold": "The river Po."},
    {"text": "Who was it?", "answer": "Ada", "grade": 3, "gold": None},
    {"text": "Who was it?", "answer": "Bob", "grade": 1, "gold": None},
]


def make_task(judge: dict[str, Any] | None = None, **data: Any) -> Task:
    return Task.model_validate(
        {
            "version": 1,
            "name": "toy",
            "kind": "generate",
            "profile": "custom",
            "scorer": "judge",
            "judge": {"human": "judged", **(judge or {})},
            "instruction": "Answer.",
            "data": {"train": "t.jsonl", "input": "text", "output": "answer", **data},
            "llm": {"model": "judge.gguf"},
        }
    )


def read(path: Path, task: Task) -> Any:
    assert task.judged is not None
    return read_graded(path, task, task.judged)


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format of the path's name."""
    if path.suffix == ".jsonl":
        return lines(path, rows)
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("name", ["judged.csv", "judged.tsv", "judged.jsonl", "judged.parquet"])
def test_every_format_gives_the_same_answers(tmp_path: Path, name: str) -> None:
    found = read(written(tmp_path / name, ROWS), make_task({"reference": "gold"}, format="jsonl"))
    assert [(each.input, each.answer, each.grade) for each in found.answers] == [
        (row["text"], row["answer"], row["grade"]) for row in ROWS
    ]
    assert [each.reference for each in found.answers] == ["The river Po.", None, None]
    assert (found.file.rows, found.file.references, found.file.copies) == (3, 1, 0)
    assert found.file.address == name
    assert found.file.format == name.rpartition(".")[2]


def test_inputs_and_answers_are_cleaned_as_the_tasks_rows_are(tmp_path: Path) -> None:
    row = {"question": " Who? ", "passage": ["one", "two"], "said": "Ca\u0301 \u200bva ", "mark": "4.0", "grade": "x"}
    task = make_task({"answer": "said", "grade": "mark"}, input=["question", "passage"])
    (found,) = read(lines(tmp_path / "j.jsonl", [row]), task).answers
    assert found == GradedAnswer(
        id="j.jsonl:1", input="question: Who?\npassage: one\ntwo", answer="C\u00e1 va", reference=None, grade=4
    )
    nested = {"text": "Who?", "a": {"said": "Ada"}, "by": {"people": 2}}
    (found,) = read(
        lines(tmp_path / "n.jsonl", [nested]), make_task({"answer": "a.said", "grade": "by.people"})
    ).answers
    assert (found.answer, found.grade) == ("Ada", 2)


def test_all_faults_are_told_together_with_their_lines(tmp_path: Path) -> None:
    bad = [
        ROWS[0] | {"grade": 6},
        ROWS[0] | {"grade": None},
        ROWS[0] | {"grade": 2.5},
        ROWS[0] | {"grade": "good"},
        ROWS[0] | {"grade": True},
        ROWS[0] | {"answer": "  "},
        ROWS[0] | {"answer": None},
        ROWS[0] | {"text": ""},
        ROWS[0] | {"grade": 4, "gold": None},
    ]
    path = lines(tmp_path / "j.jsonl", [*ROWS, *bad])
    with pytest.raises(DataError) as caught:
        read(path, make_task())
    assert caught.value.code == "data-bad-rows"
    said = str(caught.value).splitlines()
    assert "9 rows cannot be used" in said[0]
    for number, part in {
        4: "no grade, a whole number from 1 to 5: 6",
        5: "null",
        6: "2.5",
        7: "'good'",
        8: "True",
        9: "an empty answer",
        10: "no answer",
        11: "empty input",
        12: "the same answer with another grade: 4 here and 5 at j.jsonl:1",
    }.items():
        assert any(line.strip().startswith(f"j.jsonl:{number}: ") and part in line for line in said), number
    skipped = read(path, make_task(skip_bad=True))
    assert len(skipped.answers) == 3
    assert sum(skipped.file.skipped.values()) == 9


def test_a_row_that_says_the_same_once_more_is_left_out_and_counted(tmp_path: Path) -> None:
    found = read(lines(tmp_path / "j.jsonl", [*ROWS, ROWS[1], ROWS[1]]), make_task())
    assert (len(found.answers), found.file.rows, found.file.copies) == (3, 3, 2)


def test_of_two_grades_true_and_false_are_the_names(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "answer": "a", "grade": said} for n, said in enumerate((True, False, "TRUE", 1, "2"))]
    found = read(lines(tmp_path / "j.jsonl", rows), make_task({"grades": 2}))
    assert [each.grade for each in found.answers] == [2, 1, 2, 1, 2]


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        ({"answer": "answr"}, "did you mean 'answer' for 'answr'?"),
        ({"reference": "zzzz"}, "under judge.answer, judge.gr"),
    ],
)
def test_a_column_that_is_not_there_is_told_with_the_settings_name(
    tmp_path: Path, judge: dict[str, Any], expected: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(lines(tmp_path / "j.jsonl", ROWS), make_task(judge))
    assert caught.value.code == "data-columns"
    assert expected in str(caught.value)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "j.csv").write_text("text,answer,grade\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "j.csv", make_task())
    assert caught.value.code == "data-empty"


def test_inputs_that_also_stand_in_the_tasks_rows_are_counted_by_split(tmp_path: Path) -> None:
    rows = [{"text": f"question {n} of many", "answer": f"answer {n}"} for n in range(40)]
    held = [{"text": f"held out {n}", "answer": "x"} for n in range(3)]
    task = make_task()
    files = {"train": lines(tmp_path / "train.jsonl", rows), "test": lines(tmp_path / "test.jsonl", held)}
    prepare(task, files, tmp_path / "out")
    texts = ["held out 0", "held out 0", "held out 2", "never seen", *(row["text"] for row in rows)]
    answers = [
        GradedAnswer(id=str(n), input=text, answer=f"a {n}", reference=None, grade=1) for n, text in enumerate(texts)
    ]
    found = also_in(answers, tmp_path / "out", ("train", "dev", "calibration", "test"))
    assert found["test"] == 3
    assert found["train"] + found["dev"] + found["calibration"] == 40
