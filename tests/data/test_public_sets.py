"""Public data sets, as they are: what preparing them must find. Figures counted by these tests, not quoted."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest
from data_toys import make_task

from locum.core.errors import DataError
from locum.data.inspect import inspect
from locum.data.load import load
from locum.data.prepare import prepare
from locum.data.verify import verify_splits
from locum.schema.data import SplitName

pytestmark = pytest.mark.data


def from_lines(source: Path, target: Path) -> Path:
    """``LABEL text`` lines, in Latin-1 as TREC has them, to CSV."""
    with source.open(encoding="latin-1") as lines, target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for line in lines:
            label, _, text = line.rstrip("\n").partition(" ")
            writer.writerow((text, label))
    return target


def test_banking77(tmp_path: Path, data_folder: Path) -> None:
    folder = data_folder / "banking77"
    start_s = time.monotonic()
    files: dict[SplitName, Path] = {"train": folder / "train.csv", "test": folder / "test.csv"}
    card = prepare(make_task(output="category"), files, tmp_path / "out")
    assert time.monotonic() - start_s < 8 * 4  # 2 s alone; other work may share the machine
    verify_splits(tmp_path / "out")
    assert len(card.labels) == 77
    assert card.duplicates["exact_across"] == 6
    assert card.splits["dev"].rows == pytest.approx(600, abs=5)
    assert card.splits["calibration"].rows == pytest.approx(800, abs=5)
    assert 3070 <= card.splits["test"].rows <= 3080
    assert all(count >= 2 for count in card.splits["dev"].labels.values())


def test_trec6_has_test_rows_in_train(tmp_path: Path, data_folder: Path) -> None:
    names: tuple[SplitName, ...] = ("train", "test")
    files = {name: from_lines(data_folder / "trec6" / f"{name}.txt", tmp_path / f"{name}.csv") for name in names}
    with pytest.raises(DataError, match="10 of 500 test rows") as caught:
        prepare(make_task(), files, tmp_path / "out")
    assert caught.value.code == "data-leakage"
    card = prepare(make_task(allow_leakage=True), files, tmp_path / "out")
    assert card.splits["test"].rows == 500
    verify_splits(tmp_path / "out")


def test_clinc150_with_its_own_validation(tmp_path: Path, data_folder: Path) -> None:
    whole = json.loads((data_folder / "clinc150" / "data_full.json").read_bytes())
    parts: dict[SplitName, list[str]] = {
        "train": ["train", "oos_train"],
        "dev": ["val", "oos_val"],
        "test": ["test", "oos_test"],
    }
    files: dict[SplitName, Path] = {}
    for split, keys in parts.items():
        files[split] = tmp_path / f"{split}.json"
        files[split].write_text(
            json.dumps([{"text": text, "label": label} for key in keys for text, label in whole[key]])
        )
    card = prepare(make_task(), files, tmp_path / "out")
    assert len(card.labels) == 151 and "oos" in card.labels
    assert card.contradictions == 4
    assert 0.999 < card.noise_ceiling < 1
    assert len(load(tmp_path / "out", "test")) > 5450
    verify_splits(tmp_path / "out")


def test_prompt_injection_validation_leaks_into_its_test(tmp_path: Path, data_folder: Path) -> None:
    folder = data_folder / "prompt_injection_slabs"
    files: dict[SplitName, Path] = {"train": folder / "train.csv", "test": folder / "test.csv"}
    prepare(make_task(), files, tmp_path / "out")
    verify_splits(tmp_path / "out")
    with pytest.raises(DataError, match="116 of 2,101 test rows"):
        prepare(make_task(), files | {"dev": folder / "validation.csv"}, tmp_path / "other")


def test_headlines_have_no_header(data_folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        inspect(data_folder / "headlines_gold" / "train.csv")
    assert caught.value.code == "data-no-header"


@pytest.mark.parametrize(
    ("path", "text", "label"),
    [
        ("banking77/train.csv", "text", "category"),
        ("prompt_injection_slabs/train.csv", "text", "label"),
        ("legal_unfair_tos/test.tsv", "text", "label"),
    ],
)
def test_init_would_propose_the_right_columns(data_folder: Path, path: str, text: str, label: str) -> None:
    seen = inspect(data_folder / path)
    assert (seen.input, seen.output, seen.kind) == ((text,), label, "classify")
