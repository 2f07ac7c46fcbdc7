"""Bootstrapped demonstrations: a model answers training rows, and what it gets right it is shown as its own example.

Notable: as DSPy's BootstrapFewShot (Khattab et al. 2023, arXiv 2310.03714). The model is shown labelled rows while it
answers, never the row itself; an answer that counts as right becomes a demonstration with the text of the model's own,
so working that leads to a right answer is shown even where the gold answer has none. Not here: which sets are tried,
and what is labelled in them (``search``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from locum.evaluate.answers import right
from locum.runtime.protocol import Generator
from locum.schema.data import Row
from locum.schema.model import ModelSpec
from locum.schema.prompt import Demonstration, Prompt
from locum.schema.task import Task
from locum.students.writing import WritingStudent
from locum.tasks import open_kind


@dataclass(frozen=True)
class Bootstrapped:
    """Demonstrations, and how many rows were asked for them."""

    demonstrations: tuple[Demonstration, ...]
    asked: int


def bootstrap(
    generator: Generator, spec: ModelSpec, task: Task, prompt: Prompt, rows: Sequence[Row], wanted: int
) -> Bootstrapped:
    """Ask rows, as many at once as demonstrations are wanted, until there are enough of them or no row is left.

    Args:
        generator: the model.
        spec: of its folder; labels are those of the task.
        task: what is asked.
        prompt: how the model is asked; its examples are none of the rows.
        rows: to answer, in order.
        wanted: demonstrations, at least one.

    Raises:
        LocumError: the engine failed.
    """
    kind = open_kind(task, spec.labels, prompt)
    student = WritingStudent(spec, generator, kind, prompt)
    found: list[Demonstration] = []
    asked = 0
    while len(found) < wanted and asked < len(rows):
        some = rows[asked : asked + wanted]
        asked += len(some)
        outputs = [draft.output for draft in student.draft([row.input for row in some])]
        passed = right(kind.score(outputs, some))
        found += [
            Demonstration(**vars(row), answer=kind.written(output, row.input))
            for row, output, is_right in zip(some, outputs, passed, strict=True)
            if is_right and output is not None
        ]
    return Bootstrapped(tuple(found[:wanted]), asked)
