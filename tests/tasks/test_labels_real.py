"""Reading labels of real tasks, and real refusals (public data sets)."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from locum.tasks.labels import LabelReader

pytestmark = pytest.mark.data


@pytest.fixture
def intents(data_folder: Path) -> list[str]:
    return [str(label) for label in json.loads((data_folder / "banking77" / "categories.json").read_text())]


def test_every_intent_is_read_in_the_usual_forms(intents: list[str]) -> None:
    reader = LabelReader(intents)
    for label in intents:
        spaced = label.replace("_", " ").capitalize()
        for text in (label, spaced, f"`{label}`", f"Label: {label}", f'{{"label": "{label}"}}', f"{label}\n\nBecause."):
            assert reader.read(text) == label, text


def test_fault_61_real_refusals_are_not_labels(data_folder: Path, intents: list[str]) -> None:
    with (data_folder / "refusal_labels" / "refusal.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    refusals = [row["assistant_response"] for row in rows if float(row["human_score"]) == 1]
    assert len(refusals) > 20
    reader = LabelReader([*intents, "spam", "harmful", "request", "information", "illegal", "help"])
    read = [text for text in refusals if reader.read(text) is not None]
    assert len(read) <= 0.02 * len(refusals), read
