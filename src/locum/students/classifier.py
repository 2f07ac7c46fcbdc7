"""``ClassifierStudent``: a student that scores labels; its confidence is the largest probability at its temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from locum.core.errors import LocumError
from locum.runtime.protocol import Classifier, problem_of
from locum.schema.model import ModelSpec
from locum.students.guard import Guard, unlikeness
from locum.students.protocol import LocalAnswer
from locum.tasks.classify import confidence, predicted


class ClassifierStudent:
    """Labels from logits.

    Args:
        classifier: an open engine; the student closes it.
        guard: what hands inputs over that are unlike all training rows or those of their label; None hands none over.
    """

    def __init__(self, classifier: Classifier, guard: Guard | None = None) -> None:
        self.classifier = self._engine = classifier
        self._guard = guard

    @property
    def spec(self) -> ModelSpec:
        """What is served."""
        return self.classifier.spec

    @property
    def problem(self) -> LocumError | None:
        """Why the engine would not answer now; None where that is not known."""
        return problem_of(self._engine)

    def answer(self, texts: Sequence[str]) -> list[LocalAnswer]:
        """The most probable label of each input, and its probability; no label where the scores are no numbers.

        Raises:
            LocumError: the engine failed.
        """
        spec = self.spec
        read = self.classifier.read(texts)
        columns, sure = predicted(read.logits), confidence(read.logits, spec.temperature)
        labels = [None if column < 0 else spec.labels[column] for column in columns]
        return [
            LocalAnswer(label, float(value), int(dropped), unlike=unlike)
            for label, value, dropped, unlike in zip(
                labels, sure, read.dropped, unlikeness(self._guard, texts, labels), strict=True
            )
        ]

    def wrap(self, layer: Callable[[Classifier], Classifier]) -> None:
        """Put a layer around the engine (batching), before the first answer."""
        self.classifier = layer(self.classifier)

    def close(self) -> None:
        """Close the engine."""
        self.classifier.close()
