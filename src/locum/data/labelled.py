"""``read_labelled``: a file of inputs and right answers as rows, cleaned as the build cleaned its own.

Notable: for measuring and certifying a bundle on fresh rows; exact copies are dropped, because the same row twice
is not two observations. Not here: splitting, near-duplicates (``prepare``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from locum.core.errors import DataError
from locum.core.progress import note, warn
from locum.data.examples import ExampleReader
from locum.data.label_sets import check_known, spellings
from locum.data.readers import open_table, wanted_columns
from locum.data.rows import Faults
from locum.schema.data import Row
from locum.schema.task import Task

_PLACES_SHOWN = 5


def read_labelled(path: Path, task: Task, labels: Sequence[str] = ()) -> list[Row]:
    """All usable rows of a file, in its order.

    Args:
        path: any format that a build reads.
        task: names the columns and the options for reading.
        labels: what the student can answer; labels of the file are written as these are.

    Raises:
        DataError: the file cannot be read, lacks a column, holds bad rows, none that can be used, or labels that the
            student does not have and no other.
    """
    spec = task.data
    wanted = wanted_columns(spec)
    table = open_table(path, format=spec.format, encoding=spec.encoding, wanted=wanted)
    faults = Faults(str(path))
    examples = ExampleReader(task, faults, Counter())
    rows: dict[tuple[str, str], Row] = {}
    copies = 0
    for raw in table.rows(faults):
        example = examples.take(raw)
        if example is None:
            continue
        if (example.input, example.output) in rows:
            copies += 1
            continue
        rows[example.input, example.output] = Row(id=raw.place, input=example.input, output=example.output)
    table.recheck()
    examples.finish(spec.skip_bad)
    faults.settle(spec.skip_bad)
    for column, count in examples.missing.counts.items():
        places = ", ".join(examples.missing.by_reason[column][:_PLACES_SHOWN])
        warn(f"{path.name}: rows without a value in the input column {column!r}", rows=count, places=places)
    if copies:
        note(f"{path.name}: {copies} exact copies left out")
    if not rows:
        raise DataError("data-empty", "no usable rows", where=str(path), fix="give a file with rows")
    return _in_known_spelling(list(rows.values()), labels, path) if task.kind == "classify" else list(rows.values())


def _in_known_spelling(rows: list[Row], labels: Sequence[str], path: Path) -> list[Row]:
    """Rows whose labels are spelled as the student's are, where they are the same numbers or truth values."""
    alike = spellings({row.output for row in rows}, labels)
    rows = [row.model_copy(update={"output": alike[row.output]}) if row.output in alike else row for row in rows]
    check_known(Counter(row.output for row in rows), labels, where=str(path), source="the bundle")
    return list({(row.input, row.output): row for row in reversed(rows)}.values())[::-1]  # the first of each copy
