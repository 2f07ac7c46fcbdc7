"""``Prompt``: how a prompted student is asked; ``prompt.json`` beside its weights.

Notable: with ``neighbours`` the examples that stand nearest to an input are shown before it, taken from ``pool``, a
JSON Lines file of rows in the same folder; the fixed examples come first. Not here: choosing any of it.
"""

from __future__ import annotations

from locum.schema.base import Document
from locum.schema.data import Row


class Prompt(Document):
    """An instruction with worked examples.

    Attributes:
        instruction: what each input is to be answered by.
        examples: shown to every input, in order.
        neighbours: how many of the pool's nearest rows are shown as well, the nearest last.
        pool: name of the file with rows to take neighbours from.
    """

    schema_version: int = 1
    instruction: str
    examples: tuple[Row, ...] = ()
    neighbours: int = 0
    pool: str | None = None


class Arm(Document):
    """One prompt that was tried.

    Attributes:
        name: in words: the instruction's origin and the examples'.
        rows: dev rows that it answered.
        score: the task's metric on them.
    """

    name: str
    instruction: str
    examples: int
    neighbours: int
    rows: int
    score: float


class SearchReport(Document):
    """What a search for a prompt tried.

    Attributes:
        calls: answers that it spent; ``allowed`` at most.
        stopped_by: rounds (all played), or budget (time).
    """

    metric: str
    arms: tuple[Arm, ...]
    chosen: str
    calls: int
    allowed: int
    seconds: float
    stopped_by: str
