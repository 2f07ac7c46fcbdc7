"""What a calibration row stands for: a message of the traffic, a new group, or a distinct text.

A proof for independent draws is only as good as the draws. Not here: the proofs (``cascade.certify``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from locum.schema.certificate import Sampling
from locum.schema.data import Row
from locum.schema.task import Task
from locum.stats.groups import one_of_each_group
from locum.stats.inputs import Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Drawn:
    """Rows that a proof may take as independent draws.

    Attributes:
        positions: which of the rows at hand, rising.
        sampling: what they stand for.
    """

    positions: Ints
    sampling: Sampling

    def take(
        self,
        confidence: Floats,
        correct: Bools,
        llm_correct: Bools | None,
        answers: Sequence[str | None],
    ) -> tuple[Sampling, Floats, Bools, Bools | None, Sequence[str | None]]:
        """What was asked of the rows, of those that were drawn; arrays that do not fit come back as they are."""
        if not len(confidence) == len(correct) == len(correct if llm_correct is None else llm_correct):
            return self.sampling, confidence, correct, llm_correct, answers  # the proof refuses them
        at = self.positions
        return (
            self.sampling,
            confidence[at],
            correct[at],
            None if llm_correct is None else llm_correct[at],
            [answers[position] for position in at] if answers else (),
        )


def every_row(n: int) -> Drawn:
    """All of n rows, as draws of the traffic."""
    return Drawn(np.arange(n, dtype=np.int64), Sampling(rows=n))


def independent_draws(rows: Sequence[Row], task: Task, copies_left_out: int = 0) -> Drawn:
    """The rows of a labelled file or split that count: all of them, or one of each group.

    Args:
        rows: as they are answered.
        task: names the groups' column, if any, and the seed of the draw.
        copies_left_out: rows that are not among them, because they are copies that no independent draws explain.
    """
    if task.data.group is None:
        unit = "text" if copies_left_out else "row"
        sampling = Sampling(unit=unit, rows=len(rows), copies_left_out=copies_left_out)
        return Drawn(np.arange(len(rows), dtype=np.int64), sampling)
    groups = [row.group or row.id for row in rows]
    said = [f"{row.input}\0{row.output}" for row in rows]
    drawn = one_of_each_group(groups, said, task.seed)
    return Drawn(drawn, Sampling(unit="group", group=task.data.group, rows=len(rows)))
