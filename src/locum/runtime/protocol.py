"""The protocol that every engine answers: a classifier scores labels, a generator writes text, an embedder embeds.

Notable: seams of one or two methods. Whatever sits above (evaluation, cascade, gateway) sees only these, so an
ONNX file, a child process with llama.cpp and the LLM behind its URL are interchangeable, and
``runtime.fake`` stands in for each of them in tests. Everything blocks and is safe to call from several threads;
whoever has an event loop calls from threads of its own. Not here: any engine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol, Self, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import LocumError
from locum.runtime.completion import Chunk, Completion, CompletionRequest
from locum.schema.model import ModelSpec


@dataclass(frozen=True, eq=False)
class Scored:
    """What a classifier makes of texts.

    Attributes:
        logits: scores before the softmax and before the temperature, ``[n_texts, n_labels]``.
        dropped: how many tokens of each text were over the model's limit and not read, ``[n_texts]``; of a text many
            times as long as that, at least so many.
    """

    logits: NDArray[np.float32]
    dropped: NDArray[np.int64]


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

    def read(self, texts: Sequence[str]) -> Scored:
        """The same, with how much of each text was not read."""
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
        dropped: how many tokens of the text were not read, as in ``Scored``.
    """

    spans: NDArray[np.int64]
    logits: NDArray[np.float32]
    dropped: int = 0

    @property
    def truncated(self) -> bool:
        """Whether the text was cut at the model's limit."""
        return self.dropped > 0


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


@dataclass(frozen=True, eq=False)
class Embedded:
    """Vectors of texts.

    Attributes:
        vectors: of length one (Euclidean), ``[n_texts, dimensions]``.
        tokens: how many tokens were read of each text, ``[n_texts]``.
        dropped: how many were not, as in ``Scored``.
    """

    vectors: NDArray[np.float32]
    tokens: NDArray[np.int64]
    dropped: NDArray[np.int64]


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

    def read(self, texts: Sequence[str]) -> Embedded:
        """The same, with how much of each text was read, and how much was not."""
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


class Stop:
    """The wish to end an answer that is being made, which any thread may have at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[object, Callable[[], object]] = {}
        self.is_set = False

    def set(self) -> None:
        """End what is under way, and whatever would be from now on; a second call does nothing."""
        with self._lock:
            self.is_set = True
            for call in self._calls.values():
                call()
            self._calls.clear()

    def calls(self, call: Callable[[], object]) -> Callable[[], object]:
        """Call this, too, when the wish comes, from the thread that has it; at once when it is there already.

        Returns:
            How to call it off; once that has returned, it is not called any more.
        """
        place = object()
        with self._lock:
            late = self.is_set
            if not late:
                self._calls[place] = call
        if late:
            call()
        return partial(self._call_off, place)

    def _call_off(self, place: object) -> None:
        with self._lock:
            self._calls.pop(place, None)


def pause(seconds: float, *stops: Stop) -> None:
    """Wait, but not longer than until one of the wishes comes."""
    woken = threading.Event()
    calls_off = [stop.calls(woken.set) for stop in stops]
    woken.wait(seconds)
    for call_off in calls_off:
        call_off()


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

    def stream(self, request: CompletionRequest, stop: Stop | None = None) -> CompletionStream:
        """The same answer in pieces; returns once the engine has taken the request, and refuses as ``complete``.

        ``stop`` ends the wait for that within a second, with ``runtime-closed``; afterwards the stream has ``close``.
        """
        ...

    def close(self) -> None:
        """Release connections and child processes; a second call does nothing."""
        ...


class Arrival(Protocol):
    """An answer on its way, for an event loop that waits for it without a thread; used from that loop only.

    ``release`` is called once, when ``advance`` said so, after ``expire``, or to give up; the descriptor must not be
    watched any more then.
    """

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is something for ``advance``."""
        ...

    @property
    def wait_s(self) -> float:
        """For how long nothing may come; after that, ``expire``."""
        ...

    @property
    def is_plain(self) -> bool:
        """Whether the stream can be read to its end at once, without waiting; else a thread has to read it."""
        ...

    def advance(self) -> bool:
        """Take what has come, without waiting; whether the loop is to wait no longer."""
        ...

    def expire(self) -> None:
        """Nothing came within ``wait_s``; whoever reads the stream is told."""
        ...

    def release(self) -> None:
        """The loop waits no longer."""
        ...


@dataclass(frozen=True, eq=False)
class Forwarded:
    """A request that was sent: its answer as a stream, to be read when it has arrived."""

    stream: CompletionStream
    arrival: Arrival


@runtime_checkable
class Forwarder(Protocol):
    """A generator that can send a request without waiting."""

    def forward(self, request: CompletionRequest) -> Forwarded | None:
        """Send, and return at once; None when that cannot be, and ``stream`` is to be asked from a thread."""
        ...


def forwarder_of(generator: Generator) -> Forwarder | None:
    """The generator as one that can forward; None when it cannot."""
    return cast("Forwarder", generator) if _can_forward(type(generator)) else None


@cache
def _can_forward(kind: type) -> bool:
    """Looked up once for each kind: a protocol's check takes longer than to send a request."""
    return issubclass(kind, Forwarder)


@runtime_checkable
class Fallible(Protocol):
    """What loads its model into a process of its own, or holds something that does."""

    @property
    def problem(self) -> LocumError | None:
        """Why it would not answer now; None where it would, or would try."""
        ...


def problem_of(engine: object) -> LocumError | None:
    """Why an engine, or what holds one, would not answer now; None also where it does not tell."""
    return engine.problem if isinstance(engine, Fallible) else None


def unenforced_of(stream: object) -> tuple[str, ...]:
    """Places in a request's tools that the calls of an answer are not held to while they are written."""
    return stream.unenforced if isinstance(stream, HoldsCalls) else ()


@runtime_checkable
class HoldsCalls(Protocol):
    """An answer whose calls are held to the schemas of their functions, as far as that can be."""

    unenforced: tuple[str, ...]


@runtime_checkable
class Loading(Fallible, Protocol):
    """An engine that loads its model with the first request, or before."""

    def start(self) -> None:
        """Load the model now; raises LocumError when that cannot be."""
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
