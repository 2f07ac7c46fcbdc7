"""Local files for the harness's own tasks: which file holds which split, and how its columns become the task's.

Notable: a task keeps the harness's definition, prompt and metric; only where its rows come from is replaced. A file in
the columns of the task's own data set is taken as it is; plain files in the columns below are turned into them, so
that figures can be compared with published ones. Where a plain file lacks something of the original, that is said.
Not here: loading tasks (``harness_tasks``), data sets on a hub, which the harness loads by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from locum.core.errors import DataError
from locum.core.files import atomic_file, sha256_file
from locum.data.readers import open_table
from locum.data.rows import Faults

Row = dict[str, Any]

SPLITS = ("train", "validation", "test", "dev")
ENDINGS = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".jsonl.gz", ".csv.gz")
_WHOLE_NUMBERS = frozenset({"label", "answer", "gold"})
_LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Plain:
    """Plain files of one of the harness's data sets, below the user's folder.

    Attributes:
        files: path without ending by the split's name in the task.
        convert: a row in the columns of the original; rows that have them already are left alone.
        subset: column whose value must be the task's ``dataset_name``, where one file holds several sets.
        settings: fields of the task's definition that the files make necessary.
        remark: what differs from the original.
        definitions: folder of the harness that defines the tasks, so that not all 15,000 are read.
    """

    files: Mapping[str, str]
    definitions: str
    convert: Callable[[Row], Row] | None = None
    subset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    remark: str = ""


def _arc(row: Row) -> Row:
    if "answerKey" in row:
        return row
    letters = list(_LETTERS[: len(row["choices"])])
    return {
        "question": row["query"].removeprefix("Question: "),
        "choices": {"text": row["choices"], "label": letters},
        "answerKey": letters[row["gold"]],
    }


def _boolq(row: Row) -> Row:
    return row if "label" in row else {**row, "label": int(row["answer"])}


def _lambada(row: Row) -> Row:
    return row if "text" in row else {"text": f"{row['context']} {row['continuation']}"}


PLAIN: dict[tuple[str, str | None], Plain] = {
    ("allenai/ai2_arc", "ARC-Easy"): Plain({"test": "arc/arc_easy"}, "arc", _arc),
    ("allenai/ai2_arc", "ARC-Challenge"): Plain({"test": "arc/arc_challenge"}, "arc", _arc),
    ("Rowan/hellaswag", None): Plain({"train": "hellaswag/train", "validation": "hellaswag/val"}, "hellaswag"),
    ("baber/piqa", None): Plain({"train": "piqa/train", "validation": "piqa/val"}, "piqa"),
    ("aps/super_glue", "boolq"): Plain(
        {"train": "boolq/train", "validation": "boolq/val"},
        "super_glue/boolq",
        _boolq,
        remark="SuperGLUE begins a passage with its title, which these files may lack",
    ),
    ("allenai/sciq", None): Plain(
        {"train": "sciq/train", "validation": "sciq/val"},
        "sciq",
        settings={"test_split": None},
        remark="of the validation split; published figures are of the test split",
    ),
    ("EleutherAI/lambada_openai", "default"): Plain({"test": "lambada/lambada_openai"}, "lambada", _lambada),
    ("openai/gsm8k", "main"): Plain({"train": "gsm8k/train", "test": "gsm8k/test"}, "gsm8k"),
    ("cais/mmlu", "*"): Plain(
        {"test": "mmlu/test", "validation": "mmlu/validation", "dev": "mmlu/dev"}, "mmlu/default", subset="subject"
    ),
}
"""By ``dataset_path`` and ``dataset_name`` of the task; ``*`` is any name."""


@dataclass(frozen=True)
class Local:
    """Where a task's rows were put.

    Attributes:
        files: JSON Lines in the columns of the task, by split.
        settings: fields of the task's definition that the files make necessary.
        remark: what differs from the original data set; empty for nothing.
    """

    files: Mapping[str, Path]
    settings: Mapping[str, Any]
    remark: str


def plain_of(config: Mapping[str, Any]) -> Plain | None:
    """The plain files that are known for a task's data set; None when none are."""
    path, name = str(config.get("dataset_path")), config.get("dataset_name")
    return PLAIN.get((path, name)) or PLAIN.get((path, "*"))


def local_rows(task: str, config: Mapping[str, Any], data: Path, work: Path) -> Local:
    """Put a task's rows where the harness can read them.

    Looked for, in this order: ``DATA/TASK.jsonl`` (the split that is evaluated), ``DATA/TASK/SPLIT.jsonl``, and the
    plain files of ``PLAIN``; instead of ``.jsonl`` any of ``ENDINGS``.

    Args:
        task: its name.
        config: its definition in the harness.
        data: the user's folder.
        work: where the rows are written.

    Returns:
        Files whose names go by their content, so that the harness's cache of them is never stale.

    Raises:
        DataError: there is no file for the split that is evaluated, or one cannot be read or lacks a column.
    """
    plain = plain_of(config)
    settings = dict(plain.settings) if plain else {}
    found, remark = _own_files(task, config, data), ""
    if not found and plain is not None:
        found = {split: _with_ending(data / name) for split, name in plain.files.items()}
        found = {split: path for split, path in found.items() if path is not None}
        remark = plain.remark
    else:
        settings = {name: value for name, value in settings.items() if "test" not in found}
    wanted = _evaluated({**config, **settings})
    if wanted not in found:
        raise DataError(
            "data-missing",
            f"no file for the {wanted} split of {task}",
            where=str(data),
            fix=f"put it at {task}.jsonl or {task}/{wanted}.jsonl, or see docs/benchmarks.md for the names it may have",
        )
    subset = str(config.get("dataset_name")) if plain and plain.subset else None
    files = {
        split: _stage(path, work / task, split, plain, subset)
        for split, path in found.items()
        if path is not None and split in SPLITS
    }
    return Local(files, settings, remark)


def _evaluated(config: Mapping[str, Any]) -> str:
    """The split that the harness evaluates: test where the task has one, else validation."""
    return str(config.get("test_split") or config.get("validation_split") or "test")


def _own_files(task: str, config: Mapping[str, Any], data: Path) -> dict[str, Path | None]:
    """Files that carry the task's own name."""
    if (single := _with_ending(data / task)) is not None:
        return {_evaluated(config): single}
    paths = {split: _with_ending(data / task / split) for split in SPLITS}
    return {split: path for split, path in paths.items() if path is not None}


def _with_ending(bare: Path) -> Path | None:
    candidates = (bare.with_name(bare.name + ending) for ending in ENDINGS)
    return next((path for path in candidates if path.is_file()), None)


def _stage(path: Path, folder: Path, split: str, plain: Plain | None, subset: str | None) -> Path:
    """Write one split in the task's columns, when that was not done before."""
    target = folder / f"{split}-{sha256_file(path)[:16]}.jsonl"
    if target.is_file():
        return target
    column = plain.subset if plain and plain.subset else ""
    rows = [row for row in _rows(path) if not column or row.get(column, subset) == subset]
    if not rows:
        raise DataError("data-empty", f"no rows of {subset or split} in it", where=str(path))
    convert = plain.convert if plain and plain.convert else dict[str, Any]
    with atomic_file(target) as file:
        for number, row in enumerate(rows, 1):
            try:
                file.write(json.dumps(convert(row)).encode() + b"\n")
            except (KeyError, IndexError, TypeError, AttributeError) as error:
                raise DataError(
                    "data-columns",
                    f"row {number} lacks what the task needs, or holds another type: {error!r}; "
                    f"its columns: {', '.join(row)}",
                    where=str(path),
                    fix="see docs/benchmarks.md for the columns",
                ) from error
    return target


@lru_cache(maxsize=4)
def _rows(path: Path) -> tuple[Row, ...]:
    """All rows of a file; one that holds the 57 sets of MMLU is read once."""
    return tuple(_read(path))


def _read(path: Path) -> Iterator[Row]:
    table = open_table(path)
    faults = Faults(str(path))
    text = path.name.removesuffix(".gz").endswith((".csv", ".tsv"))
    for raw in table.rows(faults):
        yield {name: _cell(name, value) for name, value in raw.columns.items()} if text else raw.columns
    table.recheck()
    faults.settle(False)


def _cell(name: str, value: Any) -> Any:
    """A cell of a CSV file: lists and objects are JSON, and so are whole numbers that say which answer is right."""
    if not isinstance(value, str):
        return value
    if value.startswith(("[", "{")) or (name in _WHOLE_NUMBERS and value.isascii() and value.isdigit()):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
