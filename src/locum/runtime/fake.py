"""A classifier and a generator that answer from a script, with latencies and faults on demand.

Notable: they keep the protocol's promises (thread safety, ``close``), count what they were asked, and are
public through ``locum.testing``, so that a user's own tests can use them. Not here: an HTTP server that
plays the LLM (``locum.testing.upstream``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import LocumError, UserError
from locum.runtime.completion import Chunk, Completion, CompletionRequest
from locum.runtime.protocol import Scored, Stop, pause
from locum.schema.model import ModelSpec

Reply = str | Completion | BaseException


def fake_spec(labels: Sequence[str], *, name: str = "fake", temperature: float = 1.0) -> ModelSpec:
    """A ``ModelSpec`` that belongs to no file."""
    return ModelSpec(
        name=name,
        engine="linear",
        family="linear",
        precision="fp32",
        labels=tuple(labels),
        weights="none",
        max_tokens=512,
        parameters=0,
        temperature=temperature,
        files={},
    )


class FakeClassifier:
    """Scores looked up by text.

    Args:
        labels: label names in column order.
        script: text to its answer: a label, or a row of logits. A function is called with the text.
        default: the answer to texts that the script lacks; None gives zeros for every label.
        margin: logit of the named label, when an answer is a label; the others get 0.
        latency_s: how long each call takes, or a function of the number of texts.
        fault: raised by every call while it is set.
        temperature: of the ``spec``.

    Attributes:
        asked: all texts so far, in order.
        closed: whether ``close`` was called.
    """

    def __init__(
        self,
        labels: Sequence[str],
        script: Mapping[str, str | Sequence[float]] | Callable[[str], str | Sequence[float]] | None = None,
        *,
        default: str | Sequence[float] | None = None,
        margin: float = 5.0,
        latency_s: float | Callable[[int], float] = 0.0,
        fault: BaseException | None = None,
        temperature: float = 1.0,
    ) -> None:
        self._spec = fake_spec(labels, temperature=temperature)
        self._script = script if script is not None else {}
        self._default = default
        self._margin = margin
        self._latency_s = latency_s
        self.fault = fault
        self.asked: list[str] = []
        self.closed = False
        self._lock = threading.Lock()

    @property
    def spec(self) -> ModelSpec:
        """Labels and temperature as given."""
        return self._spec

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The scripted scores, ``[len(texts), n_labels]``.

        Raises:
            LocumError: after ``close``, or whatever ``fault`` is.
        """
        if self.closed:
            raise LocumError("runtime-closed", "the fake classifier was asked after it was closed")
        with self._lock:
            self.asked.extend(texts)
        wait_s = self._latency_s(len(texts)) if callable(self._latency_s) else self._latency_s
        if wait_s:
            time.sleep(wait_s)
        if self.fault is not None:
            raise self.fault
        result = np.zeros((len(texts), len(self._spec.labels)), dtype=np.float32)
        for row, text in enumerate(texts):
            answer = self._script(text) if callable(self._script) else self._script.get(text, self._default)
            if isinstance(answer, str):
                result[row, self._spec.labels.index(answer)] = self._margin
            elif answer is not None:
                result[row] = answer
        return result

    def read(self, texts: Sequence[str]) -> Scored:
        """The scripted scores; words over ``spec.max_tokens`` are said not to be read.

        Raises:
            LocumError: as ``logits``.
        """
        dropped = [max(0, len(text.split()) - self._spec.max_tokens) for text in texts]
        return Scored(self.logits(texts), np.array(dropped, dtype=np.int64))

    def close(self) -> None:
        """Remember it."""
        self.closed = True


class FakeStream:
    """A scripted answer in pieces of one word.

    Args:
        completion: the whole answer.
        chunk_s: how long each piece takes.
        fault: raised after ``fault_after`` pieces, when given.
    """

    def __init__(
        self, completion: Completion, *, chunk_s: float = 0.0, fault: BaseException | None = None, fault_after: int = 0
    ) -> None:
        words = completion.text.split(" ")
        pieces = [words[0], *(" " + word for word in words[1:])]
        self._pieces = iter(pieces)
        self._completion: Completion | None = completion
        self._truncated_tokens = completion.truncated_tokens
        self._chunk_s = chunk_s
        self._fault, self._left = fault, fault_after
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Chunk]:
        """Itself."""
        return self

    def __next__(self) -> Chunk:
        """The next word, and at the end the whole answer."""
        if self._closed.wait(self._chunk_s) if self._chunk_s else self._closed.is_set():
            raise StopIteration
        if self._fault is not None:
            if self._left == 0:
                raise self._fault
            self._left -= 1
        piece = next(self._pieces, None)
        if piece is not None:
            dropped, self._truncated_tokens = self._truncated_tokens, 0
            return Chunk(piece, truncated_tokens=dropped)
        if self._completion is None:
            raise StopIteration
        final, self._completion = self._completion, None
        return Chunk(final=final)

    def close(self) -> None:
        """End; a second call does nothing."""
        self._closed.set()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed.is_set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class FakeGenerator:
    """Answers in the order of a script, or by a function.

    Args:
        script: replies, used one after the other and then from the start again, or a function of the request.
            A reply is a text, a ``Completion``, or an exception to raise.
        model: its name.
        latency_s: how long each answer takes; of a stream, until it begins.
        chunk_s: how long each piece of a stream takes.

    Attributes:
        requests: all requests so far.
        streams: all streams so far; ``closed`` tells whether the caller stopped one.
        closed: whether ``close`` was called.
    """

    def __init__(
        self,
        script: Sequence[Reply] | Callable[[CompletionRequest], Reply] = ("ok",),
        *,
        model: str = "fake-llm",
        latency_s: float = 0.0,
        chunk_s: float = 0.0,
    ) -> None:
        if not callable(script) and not script:
            raise ValueError("the script holds no reply")
        self._script = script
        self._model = model
        self._latency_s = latency_s
        self._chunk_s = chunk_s
        self.streams: list[FakeStream] = []
        self.requests: list[CompletionRequest] = []
        self.closed = False
        self._lock = threading.Lock()

    @property
    def model(self) -> str:
        """The name given."""
        return self._model

    def complete(self, request: CompletionRequest) -> Completion:
        """The next reply of the script; a text is cut at ``stop`` and ``max_tokens`` words.

        Raises:
            LocumError: after ``close``; or whatever the script says.
        """
        return self._answer(request, Stop())

    def stream(self, request: CompletionRequest, stop: Stop | None = None) -> FakeStream:
        """The next reply of the script, word by word. ``stop`` ends the wait for its beginning.

        Raises:
            LocumError: as ``complete``; ``runtime-closed`` when it was stopped.
        """
        stream = FakeStream(self._answer(request, stop or Stop()), chunk_s=self._chunk_s)
        self.streams.append(stream)
        return stream

    def close(self) -> None:
        """Remember it."""
        self.closed = True

    def _answer(self, request: CompletionRequest, stop: Stop) -> Completion:
        if request.echo or request.prompt_ids is not None:
            raise UserError("runtime-unsupported-option", "a script reads text and gives no prompt back")
        if self.closed:
            raise LocumError("runtime-closed", "the fake generator was asked after it was closed")
        with self._lock:
            turn = len(self.requests)
            self.requests.append(request)
        pause(self._latency_s, stop)
        if stop.is_set:
            raise LocumError("runtime-closed", "the fake generator's answer was stopped")
        reply = self._script(request) if callable(self._script) else self._script[turn % len(self._script)]
        if isinstance(reply, BaseException):
            raise reply
        return reply if isinstance(reply, Completion) else self._as_completion(reply, request)

    def _as_completion(self, text: str, request: CompletionRequest) -> Completion:
        for stop in request.stop:
            text = text.split(stop, 1)[0]
        words = text.split()
        cut = len(words) > request.max_tokens
        return Completion(
            text=" ".join(words[: request.max_tokens]) if cut else text,
            finish_reason="length" if cut else "stop",
            input_tokens=sum(len(message.content.split()) for message in request.messages),
            output_tokens=min(len(words), request.max_tokens),
            model=self._model,
        )
