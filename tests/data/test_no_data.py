"""Files that hold no rows as they are: what they are said to be, what to do, and JSON documents that are unwrapped."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import DataError
from locum.data.readers import open_table
from locum.data.rows import Faults

ROWS: list[dict[str, Any]] = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]


def packed(*members: str) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for member in members:
                archive.writestr(member, "text,label\n")

    return write


def database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("create table rows (text, label)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("name", "write", "what", "fix"),
    [
        ("rows.xlsx", packed("[Content_Types].xml", "xl/workbook.xml"), "Excel workbook", "CSV"),
        ("rows.csv", packed("mimetype", "content.xml"), "OpenDocument", "CSV"),
        ("rows.zip", packed("train.csv", "notes.txt"), "train.csv", "unpack"),
        ("rows.pt", packed("archive/data.pkl"), "PyTorch", "JSON Lines"),
        (
            "rows.xls",
            lambda path: path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 60),
            "old Office",
            "CSV",
        ),
        ("rows.db", database, "SQLite", "sqlite3 -header -csv"),
        ("rows.npy", lambda path: path.write_bytes(b"\x93NUMPY\x01\0" + b"\0" * 60), "NumPy", "Parquet"),
        ("rows.pkl", lambda path: path.write_bytes(b"\x80\x05K\x01."), "pickle", "Parquet"),
        ("sheet.csv", lambda path: path.write_text("\n<!DOCTYPE html><html lang='en'>"), "web page", "CSV"),
        ("rows.xml", lambda path: path.write_text('<?xml version="1.0"?><rows/>'), "XML", "JSON Lines"),
    ],
)
def test_what_is_no_data_is_named_with_what_to_do(
    tmp_path: Path, name: str, write: Callable[[Path], Any], what: str, fix: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError) as caught:
        open_table(tmp_path / name)
    assert caught.value.code == "data-archive"
    assert what in caught.value.cause
    assert fix in caught.value.fix


def test_a_file_that_is_not_there_has_a_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "tickets.csv").write_text("text,label\na,b\n")
    for given, told in ((tmp_path / "ticket.csv", "tickets.csv"), (Path("https:/sheets.example/rows"), "download it")):
        with pytest.raises(DataError) as caught:
            open_table(given)
        assert told in caught.value.fix


def test_a_folder_of_text_files_names_them(tmp_path: Path) -> None:
    (tmp_path / "train.csv.gz").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        open_table(tmp_path)
    assert "train.csv.gz" in caught.value.fix


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["rows.json", "rows.txt"])
def test_a_document_around_the_rows_is_read_whole(tmp_path: Path, indent: int | None, name: str) -> None:
    path = tmp_path / name
    path.write_text(json.dumps({"version": 1, "data": ROWS}, indent=indent))
    table = open_table(path)
    faults = Faults("rows")
    assert [row.columns for row in table.rows(faults)] == ROWS
    assert faults.total == 0


def test_one_line_with_turns_is_a_row_and_no_document(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert [found.columns for found in open_table(path).rows(Faults("rows"))] == [row]


@pytest.mark.parametrize(
    "text", ['{\n "a": 1\n}\n', '{\n "a": 1\n}\n{\n "a": 2\n}\n', json.dumps({"x": ROWS, "y": ROWS}, indent=1)]
)
def test_a_document_whose_rows_are_not_known_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        list(open_table(path).rows(Faults("rows")))
    assert caught.value.code == "data-format"
    assert "jq" in caught.value.fix
