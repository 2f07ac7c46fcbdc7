"""``read_graded``: answers that people graded, for a judge's agreement with them.

Notable: inputs and answers are read and cleaned as the task's own rows are, so the judge is asked about them as it is
asked about a student's. An answer is one observation: a row that says the same once more is left out, and one answer
with two grades is a fault, because two verdicts on it are not two answers. Format and encoding are found out from the
file, which need not be of the form of the task's data. Not here: judging (``tasks.judging``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.core.errors import DataError
from locum.core.progress import track
from locum.core.text import one_line
from locum.data.examples import BadRow, ExampleReader
from locum.data.load import iterate
from locum.data.readers import open_table
from locum.data.rows import Faults, RawRow, Table
from locum.schema.data import SplitName
from locum.schema.judging import GradedAnswer, GradedFile
from locum.schema.task import JudgeSpec, Task

_WHOLE = re.compile(r"[0-9]{1,3}(?:\.0+)?")
_VERDICTS = {"false": 1, "true": 2}


@dataclass(frozen=True)
class Graded:
    """What a file holds."""

    answers: tuple[GradedAnswer, ...]
    file: GradedFile


def read_graded(path: Path, task: Task, spec: JudgeSpec, *, address: str | None = None) -> Graded:
    """All answers of a file that people graded, in its order.

    Args:
        path: any format that a build reads.
        task: names the input columns, the longest field, and whether bad rows may be skipped.
        spec: names the columns of answer, grade and reference, and the number of grades.
        address: where the file came from; default: its name.

    Raises:
        DataError: the file cannot be read, lacks a column, holds bad rows (each with its line), or none to use.
    """
    table = open_graded(path, task, spec)
    faults = Faults(str(path))
    reader = _GradedReader(task, spec, faults)
    seen: dict[tuple[str, str, str | None], GradedAnswer] = {}
    copies = 0
    with track(f"read {path.name}", unit="row") as tracker:
        for raw in table.rows(faults):
            found = reader.read(raw)
            if found is None:
                continue
            first = seen.setdefault((found.input, found.answer, found.reference), found)
            if first.grade != found.grade:
                detail = f"{found.grade} here and {first.grade} at {first.id}; give each answer one grade"
                faults.add(raw.place, "the same answer with another grade", detail)
            copies += first is not found and first.grade == found.grade
            tracker.advance()
    table.recheck()
    faults.settle(task.data.skip_bad)
    if not seen:
        raise DataError("data-empty", "no answer that people graded", where=str(path), fix="give a file with rows")
    answers = tuple(seen.values())
    facts: dict[str, Any] = {name: getattr(table, name) for name in ("sha256", "bytes", "format", "encoding")}
    file = GradedFile(
        address=address or path.name,
        rows=len(answers),
        copies=copies,
        skipped=faults.counts,
        cut=reader.cut_count,
        references=sum(answer.reference is not None for answer in answers),
        **facts,
    )
    return Graded(answers, file)


def open_graded(path: Path, task: Task, spec: JudgeSpec) -> Table:
    """Open a file of graded answers, which looks for its columns.

    Raises:
        DataError: it is missing, empty or damaged, or lacks a column.
    """
    inputs = (task.data.input,) if isinstance(task.data.input, str) else task.data.input
    columns = [*inputs, spec.answer, spec.grade, *([spec.reference] if spec.reference else [])]
    named = "judge.answer, judge.grade, judge.reference and data.input"
    return open_table(path, wanted=columns, named=named)


def also_in(answers: Sequence[GradedAnswer], folder: Path, splits: Sequence[SplitName]) -> dict[SplitName, int]:
    """How many graded answers are about an input that also stands in a split of the prepared data.

    Args:
        answers: as read.
        folder: the prepared data.
        splits: which to look in.
    """
    counts = Counter(answer.input for answer in answers)
    found: dict[SplitName, int] = {}
    for split in splits:
        shared = {row.input for row in iterate(folder, split)} & counts.keys()
        found[split] = sum(counts[text] for text in shared)
    return found


class _GradedReader(ExampleReader):
    """Turns raw rows into graded answers."""

    def __init__(self, task: Task, spec: JudgeSpec, faults: Faults) -> None:
        super().__init__(task, faults, Counter())
        self._spec = spec

    def read(self, row: RawRow) -> GradedAnswer | None:
        """The row, or None when it is bad; the reason goes to the faults."""
        try:
            return GradedAnswer(
                id=row.place,
                input=self._input(row),
                answer=self._answer(row),
                reference=self._reference(row),
                grade=self._grade(row.columns.get(self._spec.grade)),
            )
        except BadRow as problem:
            reason, detail = problem.args
            self._faults.add(row.place, reason, detail)
            return None

    def _answer(self, row: RawRow) -> str:
        answer = self._written(row, (self._spec.answer,))
        if not answer:
            raise BadRow("an empty answer", "which a judge is not asked about: it counts as wrong")
        return answer

    def _reference(self, row: RawRow) -> str | None:
        name = self._spec.reference
        if name is None or row.columns.get(name) is None:
            return None
        return self._written(row, (name,)) or None

    def _grade(self, value: Any) -> int:
        """A whole number on the scale, as a number or as text; of two grades true and false as well."""
        best, said = self._spec.grades, str(value).strip().casefold()
        if best == 2 and said in _VERDICTS:
            return _VERDICTS[said]
        if not _WHOLE.fullmatch(said) or not 1 <= int(said.partition(".")[0]) <= best:
            shown = "null" if value is None else one_line(repr(value), 40)
            raise BadRow(f"no grade, a whole number from 1 to {best}", shown)
        return int(said.partition(".")[0])
