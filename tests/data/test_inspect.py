from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_toys import labelled, write_csv

from locum.core.errors import DataError
from locum.data.inspect import inspect


def test_proposes_columns_kind_and_labels(tmp_path: Path) -> None:
    rows = [(f"T-{n:05}", text, label, n * 1.5) for n, (text, label) in enumerate(labelled(200, ["a", "b", "b"]))]
    seen = inspect(write_csv(tmp_path / "rows.csv", rows, header=("ticket", "message", "queue", "price")))
    assert (seen.format, seen.encoding, seen.delimiter, seen.rows, seen.complete) == ("csv", "utf-8", ",", 200, True)
    assert seen.input == ("message",)
    assert seen.output == "queue"
    assert seen.kind == "classify" and "2 values" in seen.why
    assert seen.labels == {"b": 133, "a": 67}
    views = {view.name: view for view in seen.columns}
    assert views["ticket"].looks_like == "id" and "different" in views["ticket"].why
    assert views["price"].type == "number" and views["price"].looks_like == "id"
    assert views["message"].samples[0] == rows[0][1]


@pytest.mark.parametrize(
    ("text", "label"), [("文本", "类别"), ("Nachricht", "Abteilung"), ("c1", "c2"), ("label", "x")]
)
def test_names_of_columns_are_not_needed(tmp_path: Path, text: str, label: str) -> None:
    seen = inspect(write_csv(tmp_path / "rows.csv", labelled(100), header=(text, label)))
    assert (seen.input, seen.output) == ((text,), label)


def test_names_break_ties(tmp_path: Path) -> None:
    rows = [(text, label, n % 3) for n, (text, label) in enumerate(labelled(100))]
    seen = inspect(write_csv(tmp_path / "rows.csv", rows, header=("text", "intent", "shard")))
    assert seen.output == "intent"
    assert any("shard" in warning for warning in seen.warnings)


def test_says_why_the_columns_make_no_task(tmp_path: Path) -> None:
    rows = [{"id": n, "body": f"answer {n} {text}"} for n, (text, _) in enumerate(labelled(50))]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    seen = inspect(path)
    assert seen.kind is None and seen.output is None
    assert "hardly repeat" in seen.why


def test_counts_missing_values_types_and_bad_rows(tmp_path: Path) -> None:
    lines = [
        {"text": text, "label": n % 2, "flag": n % 2 == 0, "tags": ["x"]} for n, (text, _) in enumerate(labelled(40))
    ]
    lines[3]["flag"] = None
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*map(json.dumps, lines), "not json", "{}"]))
    seen = inspect(path)
    views = {view.name: view for view in seen.columns}
    assert views["flag"].type == "true/false" and views["flag"].missing == pytest.approx(2 / 41, abs=1e-3)
    assert views["tags"].type == "nested" and views["label"].type == "number"
    assert seen.output == "label"
    assert any("rows.jsonl:41" in warning for warning in seen.warnings)


def test_labels_alike_are_pointed_at(tmp_path: Path) -> None:
    seen = inspect(write_csv(tmp_path / "rows.csv", labelled(90, ["Spam", "spam", "ham"])))
    assert any("differ only in case" in warning for warning in seen.warnings)


def test_long_files_are_sampled(tmp_path: Path) -> None:
    seen = inspect(write_csv(tmp_path / "rows.csv", ((f"row {n} text", n % 2) for n in range(20_005))))
    assert (seen.rows, seen.complete) == (20_000, False)
    assert seen.columns[0].distinct == 5000


def test_header_only_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        inspect(write_csv(tmp_path / "rows.csv", []))
    assert caught.value.code == "data-empty"
