"""The protocol that every engine answers: a classifier scores labels, a generator writes text.

Notable: two one-method seams. Whatever sits above (evaluation, cascade, gateway) sees only these, so an
ONNX file, a child process with llama.cpp and the LLM behind its URL are interchangeable, and
``runtime.fake`` stands in for each of them in tests. Not here: any engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from locum.schema.message import Message as Message
from locum.schema.model import ModelSpec


@runtime_checkable
class Classifier(Protocol):
    """A student that scores every label of its task."""

    @property
    def spec(self) -> ModelSpec:
        """What is served: labels in the order of the logits' columns, temperature, limits."""
        ...

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores before the softmax and before the temperature, ``[len(texts), n_labels]``."""
        ...

    def close(self) -> None:
        """Release threads, memory and child processes; a second call does nothing."""
        ...


@dataclass(frozen=True)
class CompletionRequest:
    """What a generator is asked.

    Attributes:
        messages: the conversation so far.
        max_tokens: most tokens to write.
        temperature: 0 takes the most probable token each time.
        stop: strings that end the answer and are not part of it.
        seed: for sampling.
    """

    messages: tuple[Message, ...]
    max_tokens: int = 256
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """What a generator wrote.

    Attributes:
        finish_reason: stop, length, or content_filter.
        model: the name the engine gave itself, as a fingerprint of what answered.
    """

    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    model: str
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether it can be taken for an answer, or a label: not refused, not filtered, not empty."""
        return self.finish_reason != "content_filter" and bool(self.text.strip())


@runtime_checkable
class Generator(Protocol):
    """A model that writes text: the LLM, or a small decoder."""

    @property
    def model(self) -> str:
        """Its name, for reports."""
        ...

    def complete(self, request: CompletionRequest) -> Completion:
        """Answer one request, blocking; safe to call from several threads."""
        ...

    def close(self) -> None:
        """Release connections and child processes; a second call does nothing."""
        ...
