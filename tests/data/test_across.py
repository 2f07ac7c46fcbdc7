"""Inputs that other tasks hold out: all splits but train, of all the others, in their normal form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from locum.core.errors import DataError
from locum.data.across import held_out_by_others
from locum.data.verify import input_hash


def prepared(folder: Path, **splits: list[str]) -> Path:
    folder.mkdir()
    for split in ("train", "dev", "calibration", "test"):
        lines = [{"id": f"{split}:{n}", "input": text, "output": "x"} for n, text in enumerate(splits.get(split, []))]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_each_task_is_told_what_all_the_others_hold_out_and_not_its_own(tmp_path: Path) -> None:
    folders = {
        "a": prepared(tmp_path / "a", train=["t"], dev=["one"], test=["two"]),
        "b": prepared(tmp_path / "b", train=["u"], calibration=["three"]),
        "c": prepared(tmp_path / "c", train=["v"], test=["one"]),
    }
    found = held_out_by_others(folders)
    assert found == {
        "a": {input_hash("three"), input_hash("one")},
        "b": {input_hash("one"), input_hash("two")},
        "c": {input_hash("one"), input_hash("two"), input_hash("three")},
    }
    assert held_out_by_others({"a": folders["a"]}) == {"a": frozenset()}


def test_one_text_in_two_forms_is_one_input() -> None:
    assert input_hash("caf\u00e9\r\n") == input_hash("cafe\u0301 ".strip())
    assert input_hash("a") != input_hash("A")


def test_a_split_that_is_gone_is_an_error(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "a")
    (folder / "test.jsonl").unlink()
    with pytest.raises(DataError, match="no test split"):
        held_out_by_others({"a": folder})
