"""``TaskKind``: what every kind of task answers, so that evaluation and the cascade need know none of them.

Notable: a kind is a value made for one task and one prompt; two kinds with the same ``prompt_hash`` send a model the
same words, so stored answers can be used again and a certificate can name the prompt it speaks about. An output is
always text: a label, a JSON document, an answer. So is a gold answer, which a kind may read as more (several right
answers, tests to pass). Whatever is read or scored comes with its input, because places in it, candidates of it or a
function's head may be what an answer speaks of. Not here: any kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from locum.schema.data import Row
from locum.schema.message import Message
from locum.stats.rowwise import Metric


@dataclass(frozen=True)
class Decoding:
    """How a prompted model writes the answer, beside greedily.

    Attributes:
        max_tokens: most tokens that an answer needs.
        stop: strings that end it.
        json_schema: the answer must be JSON that this schema allows.
    """

    max_tokens: int
    stop: tuple[str, ...] = ()
    json_schema: dict[str, Any] | None = None


@runtime_checkable
class TaskKind(Protocol):
    """How one task is put to a prompted model, and how what comes back is read and scored."""

    @property
    def name(self) -> str:
        """The form's name: the kind in a task file, or its profile."""
        ...

    @property
    def prompt_hash(self) -> str:
        """SHA-256 of everything that shapes a prompt but the input itself, and of how the answer is read."""
        ...

    @property
    def sample(self) -> str:
        """An input of the form that the kind reads, which stands for any when a prompt is shown."""
        ...

    @property
    def decoding(self) -> Decoding:
        """How answers are written."""
        ...

    def messages(self, text: str, shots: Sequence[Row] = ()) -> tuple[Message, ...]:
        """The conversation that asks for the answer to one input.

        Args:
            text: the input.
            shots: further worked examples, chosen for this input; they stand right before it.
        """
        ...

    def parse(self, completion: str, text: str) -> str | None:
        """The answer in what a model wrote; None when there is none (a refusal, nothing, something else).

        Args:
            completion: what was written.
            text: the input it was asked about.
        """
        ...

    def target(self, row: Row) -> str | None:
        """What a student is to write for a row; None when its gold answer is only a check."""
        ...

    def written(self, output: str, text: str) -> str:
        """An answer as a model writes it; ``parse`` reads it back.

        Args:
            output: the answer.
            text: the input that it answers.
        """
        ...

    def fault(self, row: Row) -> str | None:
        """Why a row's gold answer, or its input, cannot be used; None when both can."""
        ...

    def same(self, output: str, other: str | None) -> bool:
        """Whether two answers say the same, for the agreement of sampled answers."""
        ...

    def features(self, text: str, output: str) -> dict[str, float]:
        """Numbers about an answer that bear on whether it is right; always the same names."""
        ...

    def score(self, outputs: Sequence[str | None], rows: Sequence[Row]) -> dict[str, Metric]:
        """The task's metrics over rows; ``accuracy`` is the mean of 0 and 1 by which rows count as right.

        Args:
            outputs: parsed answers; None scores 0 everywhere.
            rows: with their inputs and right answers, in the same order.
        """
        ...


@runtime_checkable
class Fielded(Protocol):
    """A kind whose answers have fields, each of which is right or wrong by itself."""

    def right_fields(self, output: str, row: Row) -> dict[str, bool]:
        """Whether each field of an answer is right, by its path in the answer (``items[2].price``)."""
        ...


@runtime_checkable
class Sampled(Protocol):
    """A kind that says more when several answers to an input were sampled; these are kept."""

    def score_samples(self, samples: Sequence[Sequence[str | None]], rows: Sequence[Row]) -> dict[str, Metric]:
        """Metrics of sampled answers, beside those of ``score``.

        Args:
            samples: parsed answers of each row, drawn alike and independently; None is no answer.
            rows: with their inputs and right answers, in the same order.
        """
        ...
