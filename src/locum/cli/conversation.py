"""A conversation with whoever answers: a bundle, a model in a file, or one behind a URL; and what each answer cost.

Notable: pieces come as they are written, made harmless for a terminal; stopping closes the stream, keeps what was said
so far and goes on. A bundle that classifies reads each message by itself, so it has no history. Not here: the terminal
(``chat``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from locum.core.text import visible
from locum.runtime.completion import CompletionRequest
from locum.schema.message import Message

if TYPE_CHECKING:
    from locum.bundle.student import Student
    from locum.runtime.protocol import CompletionStream, Generator


@dataclass(frozen=True)
class Turn:
    """One answer.

    Attributes:
        output: what was said, as it came; None when a bundle abstained.
        route: local, llm or abstain; None for a plain model.
        confidence: a bundle's own; None otherwise.
        fields: the same for each field of the answer, by path; None where fields have none.
        reason: why a bundle sent it where it went.
        tokens_per_s: written after the first one; None when there was no second.
        first_token_ms: from the question to the first piece.
        finish_reason: stop, length, … or ``stopped`` by Ctrl-C.
    """

    input: str
    output: str | None
    route: str | None
    confidence: float | None
    reason: str
    input_tokens: int | None
    output_tokens: int | None
    tokens_per_s: float | None
    first_token_ms: float | None
    finish_reason: str
    fields: Mapping[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        return asdict(self)

    def line(self) -> str:
        """The facts in one line for people; what is not known is left out."""
        parts = [
            "no answer (abstain)" if self.route == "abstain" else f"{self.route}" if self.route else "",
            "nothing found" if self.output == "[]" else "",
            f"confidence {self.confidence:.3f}" if self.confidence is not None else "",
            f"{self.output_tokens} tokens" if self.output_tokens is not None else "",
            f"{self.tokens_per_s:.1f} tokens/s" if self.tokens_per_s is not None else "",
            f"first after {self.first_token_ms:.0f} ms" if self.first_token_ms is not None else "",
            {"stop": "", "stopped": "stopped", "length": "cut at --max-tokens"}.get(
                self.finish_reason, self.finish_reason
            ),
            visible(self.reason),
        ]
        return " · ".join(part for part in parts if part)


class Partner(Protocol):
    """Who answers."""

    @property
    def name(self) -> str:
        """Its name, for the greeting."""
        ...

    @property
    def history(self) -> list[Message]:
        """What was said so far; empty for whoever reads each message by itself."""
        ...

    def reset(self, system: str | None) -> None:
        """Forget the conversation; ``system`` begins the next one."""
        ...

    def answer(self, text: str, show: Callable[[str], None]) -> Turn:
        """Answer, showing each piece as it comes; Ctrl-C (KeyboardInterrupt) ends the answer and not the session.

        Raises:
            LocumError: nobody could answer; the conversation is as it was before.
        """
        ...

    def close(self) -> None:
        """Release what is open."""
        ...


class ModelPartner:
    """A generator, with the conversation so far.

    Args:
        generator: closed by ``close``.
        system: first message of every conversation; None for none.
        max_tokens: of each answer.
        temperature: 0 takes the most probable token each time.
        truncate: when the conversation outgrows the context, drop its oldest part (and say so); not every engine can.
    """

    def __init__(
        self, generator: Generator, *, system: str | None, max_tokens: int, temperature: float, truncate: bool = False
    ) -> None:
        self._generator = generator
        self._max_tokens, self._temperature, self._truncate = max_tokens, temperature, truncate
        self.history: list[Message] = []
        self.reset(system)

    @property
    def name(self) -> str:
        """The model's."""
        return self._generator.model

    def reset(self, system: str | None) -> None:
        """Forget what was said."""
        self.history = [Message("system", system)] if system else []

    def answer(self, text: str, show: Callable[[str], None]) -> Turn:
        """Answer and remember both; an answer that was stopped is remembered as far as it came.

        Raises:
            LocumError: the engine failed or refused.
        """
        asked = [*self.history, Message("user", text)]
        request = CompletionRequest(
            tuple(asked), max_tokens=self._max_tokens, temperature=self._temperature, truncate=self._truncate
        )
        said: list[str] = []
        clock = _Clock()
        final = None
        stopped = False
        stream: CompletionStream | None = None
        try:
            stream = self._generator.stream(request)
            for chunk in _pieces(stream):
                if chunk.text:
                    clock.piece()
                    said.append(chunk.text)
                    show(visible(chunk.text))
                final = chunk.final or final
        except KeyboardInterrupt:
            stopped = True
        finally:
            if stream is not None:
                stream.close()
        output = final.text if final is not None else "".join(said)
        self.history = [*asked, Message("assistant", output)] if output or final else self.history
        tokens = final.output_tokens if final is not None else None
        dropped = final.truncated_tokens if final is not None else 0
        return Turn(
            input=text,
            output=output,
            route=None,
            confidence=None,
            reason=f"{dropped} tokens of the oldest part did not fit and were dropped" if dropped else "",
            input_tokens=final.input_tokens if final is not None else None,
            output_tokens=tokens,
            tokens_per_s=clock.rate(tokens),
            first_token_ms=clock.first_ms,
            finish_reason="stopped" if stopped else final.finish_reason if final is not None else "stop",
        )

    def close(self) -> None:
        """Close the generator."""
        self._generator.close()


class BundlePartner:
    """A bundle: each message is one input, answered by its policy."""

    def __init__(self, student: Student) -> None:
        self._student = student
        self.history: list[Message] = []

    @property
    def name(self) -> str:
        """The bundle's."""
        return self._student.name

    def reset(self, system: str | None) -> None:
        """Nothing is remembered; a bundle's instruction is its task's and cannot be replaced."""

    def answer(self, text: str, show: Callable[[str], None]) -> Turn:
        """Answer by the policy.

        Raises:
            LocumError: the engine failed, or the LLM did.
        """
        clock = _Clock()
        stopped = False
        found = None
        try:
            found = self._student(text)
        except KeyboardInterrupt:
            stopped = True
        clock.piece()
        if found is not None and found.output is not None:
            show(visible(found.output))
        return Turn(
            input=text,
            output=found.output if found is not None else None,
            route=found.route if found is not None else None,
            confidence=found.confidence if found is not None else None,
            reason=found.reason if found is not None and found.route != "local" else "",
            input_tokens=None,
            output_tokens=None,
            tokens_per_s=None,
            first_token_ms=clock.first_ms,
            finish_reason="stopped" if stopped else "stop",
            fields=found.fields if found is not None else None,
        )

    def close(self) -> None:
        """Close the bundle."""
        self._student.close()


class _Clock:
    """When the question was put, when the first piece came, and when the last."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()
        self._first_s: float | None = None
        self._last_s = self._start_s

    def piece(self) -> None:
        self._last_s = time.perf_counter()
        if self._first_s is None:
            self._first_s = self._last_s

    @property
    def first_ms(self) -> float | None:
        return None if self._first_s is None else round((self._first_s - self._start_s) * 1000, 1)

    def rate(self, tokens: int | None) -> float | None:
        """Tokens a second after the first; None unless there are two at different times."""
        if tokens is None or tokens < 2 or self._first_s is None or self._last_s <= self._first_s:
            return None
        return round((tokens - 1) / (self._last_s - self._first_s), 2)


def _pieces(stream: CompletionStream) -> Iterator[Any]:
    with stream:
        yield from stream
