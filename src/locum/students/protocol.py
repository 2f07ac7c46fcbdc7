"""``StudentModel`` and ``Drafter``: a student as the cascade sees it, and one as evaluation sees it.

Notable: a draft is an answer before anyone says how sure it is. Its features are plain numbers by name, so that the
confidence can be fitted, and fitted again, from a file without asking the model. Not here: any student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from locum.schema.model import ModelSpec


@dataclass(frozen=True)
class LocalAnswer:
    """What a student answers to one input.

    Attributes:
        output: the answer; None when what it wrote is none.
        confidence: calibrated estimate that it is right; NaN when there is none.
        truncated_tokens: how many tokens of the input were over the model's limit and not read.
        fields: the same for each field of the answer, by path; None where nothing is known of fields.
        unlike: why the input is to be handed over whatever the confidence, being unlike what the student learned from;
            None where it is not.
    """

    output: str | None
    confidence: float
    truncated_tokens: int = 0
    fields: Mapping[str, float] | None = None
    unlike: str | None = None


@dataclass(frozen=True)
class Draft:
    """An answer with what is known of how it came.

    Attributes:
        output: the answer; None when what was written is none.
        features: numbers by name, for the confidence; the same names for every answer of a student.
        seconds: time that it took.
        input_tokens, output_tokens: read and written; 0 where the engine does not count.
        truncated_tokens: how many tokens of the input were not read.
        fields: features of each field of the answer, by path, for the kinds whose answers have fields.
        samples: further answers that were sampled, for the kinds that score them; None is no answer.
    """

    output: str | None
    features: Mapping[str, float] = field(default_factory=dict[str, float])
    seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    truncated_tokens: int = 0
    fields: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    samples: tuple[str | None, ...] = ()


@runtime_checkable
class StudentModel(Protocol):
    """A student as the cascade sees it."""

    @property
    def spec(self) -> ModelSpec:
        """What is served."""
        ...

    def answer(self, texts: Sequence[str]) -> list[LocalAnswer]:
        """Answers in order; safe to call from several threads.

        Raises:
            LocumError: the engine failed.
        """
        ...

    def close(self) -> None:
        """Release engine, memory and child processes; a second call does nothing."""
        ...


@runtime_checkable
class Drafter(Protocol):
    """A student as evaluation sees it: answers with features, before the confidence is fitted."""

    @property
    def spec(self) -> ModelSpec:
        """What is served."""
        ...

    def draft(self, texts: Sequence[str]) -> list[Draft]:
        """Drafts in order; several are made at once where the engine can.

        Raises:
            LocumError: the engine failed.
        """
        ...

    def close(self) -> None:
        """Release engine, memory and child processes; a second call does nothing."""
        ...
