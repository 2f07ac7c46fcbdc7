"""``custom``: written answers, scored by a function of the user's own, or by an LLM as a judge (``scorer: judge``).

Notable: what counts as correct is a score that reaches ``target.correct_at``, so a certificate speaks of that scorer's
word and of nothing else. Not here: finding and calling scorers (``scorers``), judging (``judging``).
"""

from __future__ import annotations

from collections.abc import Sequence

from locum.schema.data import Row
from locum.stats.rowwise import Metric
from locum.tasks.judging import judge_rows
from locum.tasks.scorers import JUDGE, load_scorer, score_one
from locum.tasks.written import Written, mean, right_from


class Custom(Written):
    """Answers with a score of the user's choice."""

    name = "custom"
    tokens = least = 256
    version = 2

    def fault(self, row: Row) -> str | None:
        """Any text is a gold answer; that there is such a scorer is settled here, before anything is trained.

        Raises:
            UserError: ``tasks-scorer``.
        """
        del row
        if self._scorer != JUDGE:
            load_scorer(self._scorer)
        return None

    def score(self, outputs: Sequence[str | None], rows: Sequence[Row]) -> dict[str, Metric]:
        """The mean score, and accuracy: the share of answers whose score reaches ``target.correct_at``.

        Raises:
            UserError: ``tasks-scorer``, ``tasks-scorer-failed`` or ``tasks-judge``.
        """
        if self._scorer == JUDGE:
            scores = judge_rows(self.task, outputs, rows)
        else:
            pairs = zip(outputs, rows, strict=True)
            scores = [0.0 if output is None else score_one(self._scorer, output, row.output) for output, row in pairs]
        return {"score": mean(scores), "accuracy": right_from(scores, self.task.correct_at)}

    @property
    def _scorer(self) -> str:
        return self.task.scorer or JUDGE
