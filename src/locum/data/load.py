"""Reading a prepared folder back.

Notable: a split's file is checked line by line against the ``Row`` document, so a damaged folder is an error
and never a shorter data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from locum.core.errors import DataError
from locum.schema.data import DataCard, Row, SplitName


@dataclass(frozen=True)
class Examples:
    """A whole split in memory; three lists of one length."""

    ids: list[str]
    inputs: list[str]
    outputs: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def split_path(folder: Path, split: SplitName) -> Path:
    """Where a split stands in a prepared folder."""
    return folder / f"{split}.jsonl"


def iterate(folder: Path, split: SplitName) -> Iterator[Row]:
    """Rows of a split, one at a time, in the folder's own order (by seeded hash of the input).

    Raises:
        DataError: the folder lacks the split, or a line is not a row.
    """
    path = split_path(folder, split)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield Row.from_json(line, f"{path}:{number}", DataError)
    except FileNotFoundError as error:
        fix = "prepare the data again (locum build)"
        raise DataError("data-split", f"no {split} split", where=str(folder), fix=fix) from error


def load(folder: Path, split: SplitName) -> Examples:
    """A whole split.

    Raises:
        DataError: as ``iterate``.
    """
    examples = Examples([], [], [])
    for row in iterate(folder, split):
        examples.ids.append(row.id)
        examples.inputs.append(row.input)
        examples.outputs.append(row.output)
    return examples


def label_names(folder: Path) -> tuple[str, ...]:
    """All labels of the prepared data, in the order that class numbers follow.

    Raises:
        DataError: ``labels.json`` is missing or damaged.
    """
    path = folder / "labels.json"
    fix = "prepare the data again (locum build)"
    try:
        names = orjson.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError("data-split", "no labels.json", where=str(folder), fix=fix) from error
    except orjson.JSONDecodeError as error:
        raise DataError("schema-invalid", f"not valid JSON: {error}", where=str(path), fix=fix) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError("schema-invalid", "not a list of labels", where=str(path), fix=fix)
    return tuple(names)


def read_card(folder: Path) -> DataCard:
    """The data card of a prepared folder.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = folder / "card.json"
    try:
        return DataCard.from_json(path.read_bytes(), str(path), DataError)
    except FileNotFoundError as error:
        fix = "prepare the data again (locum build)"
        raise DataError("data-split", "no card.json", where=str(folder), fix=fix) from error
