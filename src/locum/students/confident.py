"""``ConfidentStudent``: a drafter with a fitted confidence, as the cascade sees it."""

from __future__ import annotations

from collections.abc import Sequence

from locum.core.errors import LocumError
from locum.runtime.protocol import problem_of
from locum.schema.confidence import ConfidenceModel
from locum.schema.model import ModelSpec
from locum.students.confidence import confidence_of, fields_of
from locum.students.guard import Guard, unlikeness
from locum.students.protocol import Drafter, LocalAnswer


class ConfidentStudent:
    """Drafts and how sure they are, of each field as well where its kind has fields.

    Args:
        drafter: answers; the student closes it.
        confidence: fitted on dev.
        guard: what hands inputs over that are unlike all training rows; None hands none over.
    """

    def __init__(self, drafter: Drafter, confidence: ConfidenceModel, guard: Guard | None = None) -> None:
        self._drafter = drafter
        self._confidence = confidence
        self._guard = guard

    @property
    def spec(self) -> ModelSpec:
        """What is served."""
        return self._drafter.spec

    @property
    def problem(self) -> LocumError | None:
        """Why the engine would not answer now; None where that is not known."""
        return problem_of(self._drafter)

    def answer(self, texts: Sequence[str]) -> list[LocalAnswer]:
        """Answers in order; what was written and is no answer has no confidence.

        Raises:
            LocumError: the engine failed.
        """
        drafts = self._drafter.draft(texts)
        sure = confidence_of(self._confidence, drafts)
        return [
            LocalAnswer(draft.output, float(value), draft.truncated_tokens, fields_of(self._confidence, draft), unlike)
            for draft, value, unlike in zip(drafts, sure, unlikeness(self._guard, texts), strict=True)
        ]

    def close(self) -> None:
        """Close the drafter."""
        self._drafter.close()
