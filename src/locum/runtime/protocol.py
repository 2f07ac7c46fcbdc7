"""The protocol that every engine answers: a classifier scores labels, a generator writes text, an embedder embeds.

Notable: seams of one or two methods. Whatever sits above (evaluation, cascade, gateway) sees only these, so an
ONNX file, a child process with llama.cpp and the LLM behind its URL are interchangeable, and
``runtime.fake`` stands in for each of them in tests. Everything blocks and is safe to call from several threads;
whoever has an event loop calls from threads of its own. Not here: any engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from locum.runtime.completion import Chunk, Completion, CompletionRequest
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


@dataclass(frozen=True, eq=False)
class TaggedText:
    """Token scores of one text.

    Attributes:
        spans: start and end of each token in the text, in characters, ``[n_tokens, 2]``.
        logits: scores of every tag for each token, ``[n_tokens, n_tags]``.
        truncated: whether the text was cut at the model's limit.
    """

    spans: NDArray[np.int64]
    logits: NDArray[np.float32]
    truncated: bool


@runtime_checkable
class Tagger(Protocol):
    """A student that scores every tag for every token of a text."""

    @property
    def spec(self) -> ModelSpec:
        """What is served: tags in the order of the logits' columns."""
        ...

    def tag(self, texts: Sequence[str]) -> list[TaggedText]:
        """Scores before the softmax, one entry a text."""
        ...

    def close(self) -> None:
        """Release threads and memory; a second call does nothing."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """A model that turns texts into vectors."""

    @property
    def model(self) -> str:
        """Its name."""
        ...

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length one (Euclidean), ``[len(texts), dimensions]``."""
        ...

    def count_tokens(self, text: str) -> int:
        """How many tokens the model reads of a text that is not cut."""
        ...

    def close(self) -> None:
        """Release threads, memory and child processes; a second call does nothing."""
        ...


class CompletionStream(Protocol):
    """The chunks of one answer; the last one has ``final``.

    A context manager: leaving it, or ``close``, which any thread may call at any time, stops the engine's work
    on the answer within a second. Iterating after that ends.
    """

    def __iter__(self) -> Iterator[Chunk]:
        """Itself."""
        ...

    def __next__(self) -> Chunk:
        """The next chunk, waiting for it; raises LocumError when the engine fails on the way."""
        ...

    def close(self) -> None:
        """Stop; a second call does nothing."""
        ...

    def __enter__(self) -> Self:
        """Itself."""
        ...

    def __exit__(self, *exception: object) -> None:
        """Close."""
        ...


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

    def stream(self, request: CompletionRequest) -> CompletionStream:
        """The same answer in pieces; returns once the engine has taken the request, and refuses as ``complete``."""
        ...

    def close(self) -> None:
        """Release connections and child processes; a second call does nothing."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """A generator that can also weigh given continuations without writing them."""

    def score(self, request: CompletionRequest, continuations: Sequence[str]) -> NDArray[np.float64]:
        """Sum of the log-probabilities of each continuation's tokens after the prompt, ``[len(continuations)]``."""
        ...


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model makes of given continuations.

    Attributes:
        logprobs: sum of the log-probabilities of each one's tokens, ``[n]``.
        greedy: whether each token of it is the most probable one in its place, ``[n]``.
    """

    logprobs: NDArray[np.float64]
    greedy: NDArray[np.bool_]


@runtime_checkable
class GreedyScorer(Protocol):
    """A scorer that also tells which continuations the model would write itself at temperature 0."""

    def score_greedy(self, request: CompletionRequest, continuations: Sequence[str]) -> Scores:
        """As ``Scorer.score``, with what greedy decoding would do."""
        ...
