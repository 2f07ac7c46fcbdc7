"""Small data files and tasks for the tests of the data room."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from locum.schema.task import Task

WORDS = re.findall(
    "[a-z]+",
    "river stone lamp garden winter engine paper cloud bridge silver copper violin market candle harbour meadow "
    "falcon ticket ladder orange planet mirror blanket thunder pocket castle window forest desert island",
)


def sentence(number: int) -> str:
    """A short sentence that is like no other: its words are the digits of the number in base 30."""
    words = []
    for _ in range(6):
        number, digit = divmod(number * 7 + 3, len(WORDS))
        words.append(WORDS[digit])
        number += digit * 31
    return " ".join(words)


def distinct_sentences(count: int, start: int = 0) -> list[str]:
    """Sentences without repeats."""
    found: dict[str, None] = {}
    number = start * 1_000_003
    while len(found) < count:
        found[f"{sentence(number)} {WORDS[number % 30]}{WORDS[(number // 30) % 30]}"] = None
        number += 17
    return list(found)


def labelled(count: int, labels: Iterable[str] = ("yes", "no"), start: int = 0) -> list[tuple[str, str]]:
    names = list(labels)
    return [(text, names[n % len(names)]) for n, text in enumerate(distinct_sentences(count, start))]


def write_csv(path: Path, rows: Iterable[Iterable[Any]], header: Iterable[str] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def make_task(**data: Any) -> Task:
    """A classify task; keyword arguments go under ``data``, except seed and guarantee."""
    top = {key: data.pop(key) for key in ("seed", "guarantee") if key in data}
    spec = {"train": "train.csv", "input": "text", "output": "label"} | data
    whole = {"version": 1, "name": "toy", "kind": "classify", "instruction": "Which?", "data": spec} | top
    return Task.model_validate(whole)
