"""Records that are appended and survive a kill at any byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from locum.core.appended import AppendedLines, read_lines
from locum.core.errors import DeviceError

RECORDS = [{"key": "a", "text": "ü\n"}, {"key": "b", "n": 2}]


def test_what_was_appended_is_read_again_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    for record in RECORDS:
        with AppendedLines(path) as lines:
            lines.append(record)
    assert list(read_lines(path)) == RECORDS
    assert list(read_lines(tmp_path / "absent")) == []


def test_a_record_is_on_the_disk_before_the_file_is_closed(tmp_path: Path) -> None:
    with AppendedLines(tmp_path / "a") as lines:
        lines.append(RECORDS[0])
        assert list(read_lines(tmp_path / "a")) == RECORDS[:1]


def test_a_kill_at_any_byte_costs_one_record_at_most(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with AppendedLines(whole) as lines:
        for record in RECORDS:
            lines.append(record)
    content = whole.read_bytes()
    first = content.index(b"\n") + 1
    for size in range(len(content)):
        cut = tmp_path / "cut"
        cut.write_bytes(content[:size])
        with AppendedLines(cut) as lines:
            lines.append({"key": "new"})
        kept = RECORDS[: (size >= first - 1) + (size >= len(content) - 1)]  # the line's end may be lost alone
        assert list(read_lines(cut)) == [*kept, {"key": "new"}]


def test_lines_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'7\n[1]\nnull\n\xff\xfe\n{"key": "x"}\n')
    assert list(read_lines(tmp_path / "a")) == [{"key": "x"}]


def test_a_folder_in_its_place_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError), AppendedLines(tmp_path):
        pass
