"""Rows in memory as a file: what is kept of them, whatever holds them, and what is refused."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import DataError, DeviceError
from locum.core.progress import Event, listening
from locum.data.frames import keep_frame, write_frame
from locum.data.readers import open_table
from locum.data.rows import Faults

NAN = float("nan")
COLUMNS: dict[str, list[Any]] = {
    "text": ["é", 'two\n"lines"', None],
    "count": [1, -2, 2**60],
    "share": [0.1, NAN, 3.0],
    "right": [True, False, True],
    "at": [datetime(2024, 2, 29, 23, 59), None, datetime(2025, 1, 1)],
    "tags": [["x", "y"], [], ["z"]],
}
ROWS = [dict(zip(COLUMNS, cells, strict=True)) for cells in zip(*COLUMNS.values(), strict=True)]


class FakePolars:
    """What is used of a polars DataFrame."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.columns = list(rows[0])

    def __iter__(self) -> Any:
        raise AssertionError("iterating it gives columns")

    def iter_rows(self, *, named: bool = False) -> Any:
        return iter(self.rows) if named else (tuple(row.values()) for row in self.rows)


def frame(kind: str) -> Any:
    if kind == "pandas":
        return pytest.importorskip("pandas").DataFrame(COLUMNS, index=[7, 8, 9])
    if kind == "arrow":
        return pytest.importorskip("pyarrow").table(COLUMNS)
    if kind == "batch":
        return pytest.importorskip("pyarrow").RecordBatch.from_pydict(COLUMNS)
    if kind == "polars":
        try:
            import polars  # pyright: ignore[reportMissingImports]
        except ImportError:
            return FakePolars(ROWS)
        return polars.DataFrame(COLUMNS)
    return iter(ROWS) if kind == "generator" else ROWS


@pytest.mark.parametrize("kind", ["pandas", "arrow", "batch", "polars", "generator", "list"])
def test_the_same_rows_are_the_same_file_whatever_holds_them(tmp_path: Path, kind: str) -> None:
    path = keep_frame(frame(kind), tmp_path)
    assert path.name == keep_frame(ROWS, tmp_path / "other").name
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"text": "é", "count": 1, "share": 0.1, "right": True, "at": "2024-02-29T23:59:00", "tags": ["x", "y"]},
        {"text": 'two\n"lines"', "count": -2, "share": None, "right": False, "at": None, "tags": []},
        {"text": None, "count": 2**60, "share": 3.0, "right": True, "at": "2025-01-01T00:00:00", "tags": ["z"]},
    ]
    assert [each.name for each in tmp_path.iterdir()] in ([path.name], [path.name, "other"], ["other", path.name])


def test_columns_of_pandas_keep_what_they_mean(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    given = pandas.DataFrame({"kind": pandas.Categorical(["a", None]), 7: pandas.array([1, None], dtype="Int64")})
    given["day"] = pandas.to_datetime(["2024-05-06", None])
    lines = write_frame(given, tmp_path / "x.rows.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"kind": "a", "7": 1, "day": "2024-05-06T00:00:00"},
        {"kind": None, "7": None, "day": None},
    ]


def test_class_numbers_of_a_data_set_become_their_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    names = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    given = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=names)
    lines = write_frame(given, tmp_path / "x.rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["yes", "no", None]


def test_single_cells_of_other_kinds(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    row = {
        "n": numpy.int16(3),
        "f": numpy.float32(0.5),
        "b": numpy.bool_(True),
        "t": numpy.datetime64("2024-01-02"),
        "none": numpy.datetime64("NaT"),
        "grid": numpy.array([[1, 2], [3, 4]]),
        "money": Decimal("2.50"),
        "whole": Decimal("7.00"),
        "day": date(2024, 1, 2),
        "took": timedelta(seconds=90),
        "deep": {"a": (NAN, [numpy.int8(1)])},
    }
    assert json.loads(write_frame([row], tmp_path / "x.rows.jsonl").read_text()) == {
        "n": 3, "f": 0.5, "b": True, "t": "2024-01-02", "none": None, "grid": [[1, 2], [3, 4]], "money": 2.5,
        "whole": 7, "day": "2024-01-02", "took": "0:01:30", "deep": {"a": [None, [1]]},
    }  # fmt: skip


def test_infinite_numbers_are_told(tmp_path: Path) -> None:
    told: list[Event] = []
    with listening(told.append):
        path = write_frame([{"x": float("inf")}, {"x": -float("inf")}, {"x": NAN}], tmp_path / "x.rows.jsonl")
    assert path.read_text() == '{"x":null}\n' * 3
    (event,) = told
    assert "'x'" in event.label and event.facts == {"rows": 2}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("text", "str"),
        ({"text": ["a"]}, "dict"),
        (3, "int"),
        (["a", "b"], "row 1"),
        ([{"x": 1}, {"x": b"raw"}], "row 2, column 'x'"),
        ([{"x": 2**64}], "column 'x'"),
        ([{"x": "\ud800"}], "column 'x'"),
        ([{("a", "b"): 1}], "('a', 'b')"),
        ([], "list"),
    ],
)
def test_what_is_no_table_or_no_cell_is_refused_and_leaves_no_file(tmp_path: Path, given: Any, named: str) -> None:
    with pytest.raises(DataError) as caught:
        write_frame(given, tmp_path / "x.rows.jsonl")
    assert named in caught.value.cause and caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError) as caught:
        keep_frame(ROWS, tmp_path / "file" / "rows")
    assert str(tmp_path / "file") in str(caught.value)


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(DataError, match="'text'"):
        write_frame(pandas.DataFrame([["a", "b"]], columns=["text", "text"]), tmp_path / "x.rows.jsonl")


def test_such_a_file_is_read_as_what_it_is_whatever_the_task_says_of_its_own_files(tmp_path: Path) -> None:
    path = keep_frame([{"text": "größer", "label": "a"}], tmp_path)
    table = open_table(path, format="csv", encoding="utf-16", wanted=("text", "label"))
    assert [row.columns for row in table.rows(Faults(str(path)))] == [{"text": "größer", "label": "a"}]
