"""Labels of several files: what is one label however it is written, and what no training row has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_toys import labelled, make_task, write_csv

from locum.core.errors import DataError
from locum.data.label_sets import same_otherwise, spellings
from locum.data.labelled import read_labelled
from locum.data.load import iterate
from locum.data.prepare import prepare
from locum.schema.data import DataCard

WRITTEN: dict[str, tuple[Any, Any]] = {
    "csv": ("1.0", "0.0"),
    "tsv": ("1.00", "0"),
    "jsonl": (1.0, 0.0),
    "json": ("1.0", "0.0"),
    "parquet": (1.0, 0.0),
    "arrow": (1, 0),
}


def write(path: Path, rows: list[tuple[str, Any]]) -> Path:
    """Rows in the form that the name's ending says."""
    records = [{"text": text, "label": label} for text, label in rows]
    match path.suffix:
        case ".csv":
            return write_csv(path, rows)
        case ".tsv":
            path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
        case ".jsonl":
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
        case ".json":
            path.write_text(json.dumps(records))
        case ".parquet":
            arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            parquet.write_table(arrow.Table.from_pylist(records), path)
        case _:
            arrow = pytest.importorskip("pyarrow")
            table = arrow.Table.from_pylist(records)
            with arrow.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table)
    return path


def build(folder: Path, train: Path, other: Path, split: str = "test", **options: Any) -> DataCard:
    return prepare(make_task(**options), {"train": train, split: other}, folder / "out")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("split", ["test", "dev", "calibration"])
def test_whole_numbers_are_one_label_in_every_format(tmp_path: Path, form: str, split: str) -> None:
    train = write_csv(tmp_path / "train.csv", labelled(300, ["1", "0"]))
    other = write(
        tmp_path / f"other.{form}", [(t, WRITTEN[form][n % 2]) for n, (t, _) in enumerate(labelled(80, "a", 9))]
    )
    card = build(tmp_path, train, other, split)
    assert card.labels == ("0", "1")
    assert {row.output for row in iterate(tmp_path / "out", split)} == {"0", "1"}  # pyright: ignore[reportArgumentType]
    assert card.splits[split].labels == {"0": 40, "1": 40}  # pyright: ignore[reportArgumentType]
    assert not any("no training row" in warning for warning in card.warnings)


def test_the_training_file_may_be_the_one_with_fractions_of_nought(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", labelled(300, ["2.0", "-1.0", "2"]))
    card = build(tmp_path, train, write_csv(tmp_path / "test.csv", labelled(60, ["2", "-1"], 9)))
    assert card.labels == ("-1", "2")
    assert card.splits["test"].rows == 60


def test_truth_values_are_one_label(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", labelled(300, ["True", "False"]))
    other = write(tmp_path / "test.jsonl", [(text, label == "yes") for text, label in labelled(60, start=9)])
    assert build(tmp_path, train, other).labels == ("false", "true")


@pytest.mark.parametrize(
    "labels",
    [["1.0", "1.5", "2"], ["1.1", "1.10", "1"], ["1.0", "1", "n/a"], ["007", "7.0"], ["true", "True", "maybe"]],
)
def test_other_columns_stay_as_they_are_written(tmp_path: Path, labels: list[str]) -> None:
    assert spellings(labels) == {}
    card = prepare(make_task(), {"train": write_csv(tmp_path / "train.csv", labelled(300, labels))}, tmp_path / "out")
    assert set(card.labels) == set(labels)


def refused(folder: Path, train: Path, other: Path, split: str = "test") -> DataError:
    with pytest.raises(DataError) as caught:
        build(folder, train, other, split)
    assert caught.value.code == "data-labels-apart" and caught.value.exit_code == 2
    assert other.name in caught.value.where
    assert not (folder / "out").exists()
    return caught.value


@pytest.mark.parametrize("split", ["test", "dev", "calibration"])
def test_labels_that_no_training_row_has_are_refused_with_both_sets(tmp_path: Path, split: str) -> None:
    train = write_csv(tmp_path / "train.csv", labelled(300, ["up", "down"]))
    error = refused(tmp_path, train, write_csv(tmp_path / "o.csv", labelled(60, ["left", "right"], 9)), split)
    assert "'left', 'right'" in error.cause and "'down', 'up'" in error.cause
    assert "written differently" not in error.cause


@pytest.mark.parametrize(
    ("train_labels", "labels", "said"),
    [
        (["1.5", "2.0"], ["1,5", "2"], "same numbers written differently"),
        (["1e0", "n/a"], ["1"], "same numbers written differently"),
        (["very-good", "bad"], ["Very good", "BAD"], "same names written differently"),
        (["1.0", "2.0", "n/a"], ["1", "2", "n/a"], "same numbers written differently"),
        (["ham", "spam"], ["0", "1"], "one holds numbers and the other names"),
    ],
)
def test_what_was_written_differently_is_said(
    tmp_path: Path, train_labels: list[str], labels: list[str], said: str
) -> None:
    train = write_csv(tmp_path / "train.csv", labelled(300, train_labels))
    assert said in refused(tmp_path, train, write_csv(tmp_path / "test.csv", labelled(60, labels, 9))).cause


def test_a_file_with_class_names_beside_one_with_class_numbers_is_explained(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = labelled(300, "ab")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    columns = {"text": [text for text, _ in rows], "label": [int(label == "b") for _, label in rows]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "train.parquet")
    error = refused(tmp_path, tmp_path / "train.parquet", write_csv(tmp_path / "test.csv", labelled(60, ["0", "1"], 9)))
    assert "0 = 'no', 1 = 'yes'" in error.cause


def test_spans_with_other_labels_are_refused(tmp_path: Path) -> None:
    def spans(name: str, label: str, start: int) -> Path:
        path = tmp_path / name
        rows = [{"text": text, "label": [[0, 4, label]]} for text, _ in labelled(60, start=start)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    task = make_task().model_copy(update={"kind": "tag"})
    files: Any = {"train": spans("train.jsonl", "PERSON", 1), "test": spans("test.jsonl", "PER", 5)}
    with pytest.raises(DataError, match="'PER'; train.jsonl has 'PERSON'"):
        prepare(task, files, tmp_path / "out")


def test_a_minority_of_unknown_labels_is_a_warning_that_names_its_twin(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", labelled(300, ["1.0", "2.5", "n/a"]))
    test = write_csv(tmp_path / "test.csv", labelled(100, ["1", "2.5", "n/a", "n/a"], 9))
    warning = next(each for each in build(tmp_path, train, test).warnings if "no training row" in each)
    assert "'1' may be '1.0' written differently" in warning


def test_fresh_rows_are_spelled_as_the_bundle_spells_its_labels(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "fresh.csv", labelled(40, ["1", "0.0"]))
    assert {row.output for row in read_labelled(path, make_task(), ("1.0", "0.0")).rows} == {"1.0", "0.0"}
    assert {row.output for row in read_labelled(path, make_task(), ("1", "0")).rows} == {"1", "0"}
    with pytest.raises(DataError) as caught:
        read_labelled(path, make_task(), ("high", "low"))
    assert caught.value.code == "data-labels-apart"


def test_twins_are_found_by_value() -> None:
    assert same_otherwise(["1", "01.0", "x y", "é"], ["1.0", "X-Y", "e"]) == {"1": "1.0", "01.0": "1.0", "x y": "X-Y"}
