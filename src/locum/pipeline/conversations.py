"""Rows as conversations, in the very form in which a student will be asked.

Notable: rows whose gold answer is only a check teach nothing and are left out, counted. Not here: token ids
(``train.conversations``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from locum.core.errors import DataError
from locum.core.files import atomic_file
from locum.data.load import iterate
from locum.data.verify import input_hash
from locum.fit.ladder import LEAST_ROWS
from locum.schema.data import SplitName
from locum.schema.training import Conversation, Turn
from locum.tasks.protocol import TaskKind


@dataclass
class Rows:
    """A split's rows, and what became of them.

    Attributes:
        kind: the task, with the prompt it is asked by.
        folder: its prepared data.
        task: name to put into the rows, where there are several tasks.
        held_out: hashes of inputs that may not be written.
        written: rows that say what to write.
        only_checked: rows left out, since their gold answer is only a check.
        leaked: ids of rows left out, since another task holds their input out.
    """

    kind: TaskKind
    folder: Path
    split: SplitName
    task: str | None = None
    held_out: Collection[int] = ()
    written: int = 0
    only_checked: int = 0
    leaked: list[str] = field(default_factory=list[str])

    def conversations(self) -> Iterator[Conversation]:
        """The rows that are not left out; ids begin with the task's name where there are several tasks."""
        for row in iterate(self.folder, self.split):
            if self.held_out and input_hash(row.input) in self.held_out:
                self.leaked.append(row.id)
                continue
            completion = self.kind.target(row)
            if completion is None:
                self.only_checked += 1
                continue
            self.written += 1
            turns = tuple(Turn(role=m.role, content=m.content) for m in self.kind.messages(row.input))
            name = row.id if self.task is None else f"{self.task}/{row.id}"
            yield Conversation(id=name, messages=turns, completion=completion, task=self.task)

    def require(self) -> None:
        """Refuse to learn from hardly any rows.

        Raises:
            DataError: ``data-nothing-to-learn``.
        """
        if self.written >= LEAST_ROWS:
            return
        whose = f" of the task {self.task}" if self.task else ""
        leaked = f"; {len(self.leaked)} were left out, since another task holds them out" if self.leaked else ""
        raise DataError(
            "data-nothing-to-learn",
            f"{self.written} {self.split} rows{whose} say what to write (at least {LEAST_ROWS} are needed){leaked}",
            fix="give rows with right answers, or use prompted students (method: prompt or few_shot)",
        )


def write_conversations(path: Path, parts: Iterable[Rows]) -> None:
    """Write the rows of one split of one task or several.

    Args:
        path: JSON Lines of ``Conversation``; complete or absent.
        parts: in the order they are written; each counts what became of its rows.

    Raises:
        DataError: hardly any row of a task says what to write.
    """
    with atomic_file(path) as file:
        for part in parts:
            for line in part.conversations():
                file.write(orjson.dumps(line.to_json(), option=orjson.OPT_APPEND_NEWLINE))
            part.require()
