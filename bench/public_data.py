"""The public data sets of the classification benchmark, turned into CSV files with columns ``text`` and ``label``.

Notable: only the form changes (file format, label names); test rows are those of the source, and all other labelled
rows are training rows, which Locum splits as it sees fit and its peers see whole. A set without a test file keeps
none. Files are found through ``LOCUM_DATA``, else in ``../shared/data``; nothing of them is kept in the project.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
Rows = Iterable[tuple[str, str]]


def data_folder() -> Path:
    """The folder with the public data sets; ends the program with a clear sentence when it is absent."""
    folder = Path(os.environ.get("LOCUM_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        raise SystemExit(f"the public data sets are not at {folder}: set LOCUM_DATA to their folder")
    return folder


def _csv_columns(path: Path, text: str, label: str, delimiter: str = ",") -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter=delimiter):
            yield row[text], row[label]


def _label_first(path: Path, encoding: str = "utf-8") -> Rows:
    for line in path.read_text(encoding=encoding).split("\n"):
        label, _, text = line.strip().partition(" ")
        if text:
            yield text, label


def _banking77(folder: Path) -> dict[str, Rows]:
    return {
        split: _csv_columns(folder / "banking77" / f"{split}.csv", "text", "category") for split in ("train", "test")
    }


def _clinc150(folder: Path) -> dict[str, Rows]:
    data = json.loads((folder / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    names = {"train": "train", "dev": "val", "test": "test"}
    return {split: [tuple(row) for row in data[name] + data[f"oos_{name}"]] for split, name in names.items()}


def _trec6(folder: Path) -> dict[str, Rows]:
    return {split: _label_first(folder / "trec6" / f"{split}.txt", "latin-1") for split in ("train", "test")}


def _sst2(folder: Path) -> dict[str, Rows]:
    names = {"0": "negative", "1": "positive"}
    return {
        split: [(text, names[label]) for text, label in _label_first(folder / "sst2" / f"{split}.txt")]
        for split in ("train", "dev", "test")
    }


def _headlines(folder: Path) -> dict[str, Rows]:
    def read(path: Path) -> Rows:
        with path.open(encoding="utf-8", newline="") as file:
            for question, label, *_ in csv.reader(file):
                yield question.removeprefix("Q: ").removesuffix("\nA:").strip(), label

    return {split: read(folder / "headlines_gold" / f"{split}.csv") for split in ("train", "test")}


def _unfair_tos(folder: Path) -> dict[str, Rows]:
    return {"train": _csv_columns(folder / "legal_unfair_tos" / "test.tsv", "text", "label", "\t")}


def _prompt_injection(folder: Path) -> dict[str, Rows]:
    names = {"train": "train", "dev": "validation", "test": "test"}
    kinds = {"0": "benign", "1": "injection"}
    return {
        split: [
            (text, kinds.get(label, label))
            for text, label in _csv_columns(folder / "prompt_injection_slabs" / f"{name}.csv", "text", "label")
        ]
        for split, name in names.items()
    }


DATASETS: dict[str, tuple[Callable[[Path], dict[str, Rows]], str]] = {
    "banking77": (_banking77, "Which banking intent does the message express?"),
    "clinc150": (_clinc150, "Which intent does the message express? oos when it is none of the others."),
    "trec6": (_trec6, "What kind of answer does the question ask for?"),
    "sst2": (_sst2, "Is the sentiment of this film review positive or negative?"),
    "headlines_gold": (
        _headlines,
        "Does the headline say that gold goes up, down, stays neutral, or none of these?",
    ),
    "legal_unfair_tos": (_unfair_tos, "Which kind of unfair clause is this sentence of the terms of service, if any?"),
    "prompt_injection": (_prompt_injection, "Is this message a prompt injection or jailbreak, or benign?"),
}


def write_task(name: str, folder: Path, build_minutes: float) -> Path:
    """Write a data set's CSV files and its task file; every set gets the same settings.

    Args:
        name: a key of ``DATASETS``.
        folder: where to write.
        build_minutes: the budget.

    Returns:
        The task file.
    """
    read, instruction = DATASETS[name]
    folder.mkdir(parents=True, exist_ok=True)
    splits = read(data_folder())
    if "dev" in splits:
        splits["train"] = [*splits["train"], *splits.pop("dev")]
    for split, rows in splits.items():
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(rows)
    lines = [
        "version: 1",
        f"name: {name}",
        "kind: classify",
        f"instruction: {json.dumps(instruction)}",
        "data:",
        *(f"  {split}: {split}.csv" for split in splits),
        "  input: text",
        "  output: label",
        "  allow_leakage: true  # public sets repeat some rows between train and test; they are removed from train",
        f"budget: {{build_minutes: {build_minutes}}}",
    ]
    task = folder / "task.yaml"
    task.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return task
