"""A judge in figures: answers that people graded, and how far the judge's verdicts on them are people's.

Notable: a judged task always has a ``JudgeReport``; without answers that people graded its ``agreement`` is None, and
whatever shows it says that this was not measured. Not here: judging (``tasks.judging``), the statistics
(``scoring.judge``).
"""

from __future__ import annotations

from pydantic import Field

from locum.schema.base import Document
from locum.schema.data import SplitName
from locum.schema.evaluation import Interval


class GradedAnswer(Document):
    """An answer that people graded.

    Attributes:
        id: where it stands, ``judged.csv:17``.
        input: as the student would read it.
        reference: a good answer, when there is one.
        grade: people's, from 1.
    """

    id: str
    input: str
    answer: str
    reference: str | None
    grade: int


class GradedFile(Document):
    """The file of answers that people graded.

    Attributes:
        rows: answers that were used, each once.
        copies: rows that say the same once more, left out.
        skipped: rows that could not be used, by reason; only with ``data.skip_bad``.
        cut: inputs that were longer than ``data.max_field_chars``.
        references: answers with a reference for the judge to see.
        also_in: answers whose input also stands in a split of the task; nothing is learned from them here.
    """

    address: str
    sha256: str
    bytes: int
    rows: int
    format: str
    encoding: str
    copies: int = 0
    skipped: dict[str, int] = Field(default_factory=dict)
    cut: int = 0
    references: int = 0
    also_in: dict[SplitName, int] = Field(default_factory=dict)


class JudgeAgreement(Document):
    """How far a judge's verdicts are people's. A verdict that cannot be read is no grade, and counts as wrong.

    Attributes:
        n: answers; ``unreadable`` of them without a verdict that can be read.
        equal: share with the same grade.
        kappa: Cohen's; ``kappa_quadratic`` weighs a difference by its square. Of readable verdicts; None when judge
            and people give one and the same grade throughout.
        right: share on which judge and people agree whether it is right, as the certificate counts it.
        kappa_right: Cohen's kappa of that; None as above.
        judged_right: answers that the judge takes as right; ``judged_right_only`` of them by the judge alone.
        people_right: answers that people take as right.
        kinder_by: mean of the judge's grade less people's, in grades, over readable verdicts; None for fewer than two.
    """

    n: int
    unreadable: int
    equal: Interval
    kappa: float | None
    kappa_quadratic: float | None
    right: Interval
    kappa_right: float | None
    judged_right: int
    judged_right_only: int
    people_right: int
    kinder_by: Interval | None


class JudgeReport(Document):
    """Who judged, by what, and how far that is people's verdict.

    Attributes:
        model: the judging LLM, as the task file names it.
        grades: how many there are; ``right_from`` is the lowest that counts as right.
        agreement: None when it was not measured, because no answers graded by people were given.
        graded: the file they came from.
    """

    model: str
    criterion: str
    grades: int
    right_from: int
    agreement: JudgeAgreement | None = None
    graded: GradedFile | None = None
