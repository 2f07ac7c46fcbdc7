"""``Prompt``: how a prompted student is asked; ``prompt.json`` beside its weights.

Notable: with ``neighbours`` the examples that stand nearest to an input are shown before it, taken from ``pool``, a
JSON Lines file of rows in the same folder; the fixed examples come first. Not here: choosing any of it.
"""

from __future__ import annotations

from locum.schema.base import Document
from locum.schema.data import Row
from locum.schema.training import Budgets


class Demonstration(Row):
    """A row with the right answer that a model gave to it, which is shown in the gold answer's place.

    Attributes:
        answer: as a model writes it.
    """

    answer: str


class Prompt(Document):
    """An instruction with worked examples.

    Attributes:
        instruction: what each input is to be answered by.
        examples: shown to every input, in order; bootstrapped demonstrations, and rows with their gold answers.
        neighbours: how many of the pool's nearest rows are shown as well, the nearest last.
        pool: name of the file with rows to take neighbours from.
    """

    schema_version: int = 1
    instruction: str
    examples: tuple[Demonstration | Row, ...] = ()
    neighbours: int = 0
    pool: str | None = None


class Arm(Document):
    """One prompt that was tried.

    Attributes:
        name: in words: the instruction's origin and the examples'.
        bootstrapped: how many of the examples are bootstrapped, so show the model's own answer.
        rows: dev rows that it answered.
        score: the task's metric on them.
    """

    name: str
    instruction: str
    examples: int
    bootstrapped: int = 0
    neighbours: int
    rows: int
    score: float


class SearchReport(Document):
    """What a search for a prompt tried.

    Attributes:
        calls: answers that were asked of models, whatever for; ``allowed`` at most.
        proposing: calls among them that proposed instructions.
        bootstrapping: calls among them that answered training rows, to bootstrap demonstrations.
        stopped_by: rounds (all played), or budget (time).
        same_for: the budgets that would have found the same; None where its own alone is known to.
    """

    metric: str
    arms: tuple[Arm, ...]
    chosen: str
    calls: int
    proposing: int = 0
    bootstrapping: int = 0
    allowed: int
    seconds: float
    stopped_by: str
    same_for: Budgets | None = None
