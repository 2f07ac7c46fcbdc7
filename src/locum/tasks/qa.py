"""``qa``: a question, often with the passage that answers it; scored as SQuAD scores (Rajpurkar et al. 2016, 2018).

Notable: a gold answer is a text, or a JSON list of texts that are all right; an empty one means that the passage does
not answer, and then the right thing to say is ``UNANSWERABLE``. Not here: the scores themselves (``scoring.answers``).
"""

from __future__ import annotations

from collections.abc import Sequence

from locum.schema.data import Row
from locum.scoring.answers import exact_match, f1, normalise_answer
from locum.scoring.spoken import spoken
from locum.stats.rowwise import Metric
from locum.tasks.written import Written, mean, right_from, several

UNANSWERABLE = "unanswerable"
"""What a student says when the question has no answer."""


class QuestionAnswering(Written):
    """Short answers, with F1 over words and exact match."""

    name = "qa"
    addition = (
        "Answer with the shortest text that answers the question, and nothing else. "
        f"When it cannot be answered, say: {UNANSWERABLE}"
    )
    tokens = 48
    version = 2

    def target(self, row: Row) -> str:
        """The first right answer."""
        return next((answer for answer in several(row.output) if answer), UNANSWERABLE)

    def parse(self, completion: str, text: str) -> str | None:
        """The first line, without a cue before it or a full stop after it; None for a refusal."""
        said = spoken(completion)
        if not said:
            return None
        line = said.splitlines()[0].strip()
        for cue in ("answer:", "a:"):
            line = line[len(cue) :].strip() if line.casefold().startswith(cue) else line
        return None if self.refused(line, text) else line.strip("\"'`*").removesuffix(".").strip() or None

    def same(self, output: str, other: str | None) -> bool:
        """Whether two answers are one, as SQuAD normalises them."""
        return other is not None and normalise_answer(output) == normalise_answer(other)

    def features(self, text: str, output: str) -> dict[str, float]:
        """Whether the answer stands in the input, and its length in words."""
        return {"in_input": float(output.casefold() in text.casefold()), "words": float(len(output.split()))}

    def score(self, outputs: Sequence[str | None], rows: Sequence[Row]) -> dict[str, Metric]:
        """F1 over words, and accuracy: the share whose F1 reaches ``target.correct_at`` (1: exact match)."""
        pairs = [(self._said(output), _golds(row.output)) for output, row in zip(outputs, rows, strict=True)]
        graded = [0.0 if said is None else f1(said, right) for said, right in pairs]
        if self.task.correct_at < 1.0:
            return {"f1": mean(graded), "accuracy": right_from(graded, self.task.correct_at)}
        exact = [0.0 if said is None else exact_match(said, right) for said, right in pairs]
        return {"f1": mean(graded), "accuracy": mean(exact)}

    def _said(self, output: str | None) -> str | None:
        """The answer as the scorer takes it: an abstention is the empty text."""
        if output is None:
            return None
        return "" if normalise_answer(output) == UNANSWERABLE else output


def _golds(gold: str) -> tuple[str, ...]:
    return several(gold) or ("",)
