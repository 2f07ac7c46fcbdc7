"""``ChunkGenerator``: a generator whose streams give exactly the chunks of a script, errors and waits among them.

Notable: where ``FakeGenerator`` answers like a model, this one answers like a model in trouble: it breaks off, hangs,
or never says that it has finished; and it can write without end. Not here: whole replies (``FakeGenerator``).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Self

from locum.core.errors import LocumError
from locum.runtime.completion import Chunk, Completion, CompletionRequest
from locum.runtime.protocol import Stop

Step = Chunk | str | float | BaseException
"""A chunk; a text for one; seconds to wait; or an error to raise."""


class ChunkStream:
    """A stream of the steps of a script.

    Args:
        steps: what happens, in order.

    Attributes:
        given: how many chunks were taken.
        closed: set by ``close``.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps = iter(steps)
        self.given = 0
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Chunk]:
        """Itself."""
        return self

    def __next__(self) -> Chunk:
        """The next chunk; waits are ended by ``close``."""
        while True:
            if self.closed.is_set():
                raise StopIteration
            step = next(self._steps)
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, (int, float)):
                self.closed.wait(step)
                continue
            self.given += 1
            return Chunk(step) if isinstance(step, str) else step

    def close(self) -> None:
        """End; a second call does nothing."""
        self.closed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class ChunkGenerator:
    """Gives every request the stream of a script.

    Args:
        script: the steps, or a function of the request that gives them, or raises.
        model: its name.

    Attributes:
        requests: all requests so far.
        streams: all streams so far.
    """

    def __init__(
        self, script: Iterable[Step] | Callable[[CompletionRequest], Iterable[Step]], *, model: str = "fake-llm"
    ) -> None:
        self._script = script if callable(script) else tuple(script)
        self._model = model
        self.requests: list[CompletionRequest] = []
        self.streams: list[ChunkStream] = []
        self.closed = False

    @property
    def model(self) -> str:
        """The name given."""
        return self._model

    def stream(self, request: CompletionRequest, stop: Stop | None = None) -> ChunkStream:
        """The script's stream.

        Raises:
            LocumError: ``runtime-closed`` when it was stopped already.
        """
        self.requests.append(request)
        if stop is not None and stop.is_set:
            raise LocumError("runtime-closed", "the answer was stopped before it began")
        stream = ChunkStream(self._script(request) if callable(self._script) else self._script)
        self.streams.append(stream)
        return stream

    def complete(self, request: CompletionRequest) -> Completion:
        """The end of the script's stream.

        Raises:
            ValueError: the script has no end.
        """
        with self.stream(request) as stream:
            for chunk in stream:
                if chunk.final is not None:
                    return chunk.final
        raise ValueError("the script has no final chunk")

    def close(self) -> None:
        """Remember it."""
        self.closed = True


def final(text: str = "", *, finish_reason: str = "stop", tokens: int = 1, **more: object) -> Chunk:
    """The last chunk of an answer.

    Args:
        text: the whole answer.
        finish_reason: why it ended.
        tokens: read and written, both.
        **more: further fields of the ``Completion``.
    """
    return Chunk(final=Completion(text, finish_reason, tokens, tokens, "fake-llm", **more))  # type: ignore[arg-type]


def endless(text: str = "word ", wait_s: float = 0.0) -> Iterator[Step]:
    """Steps of an answer that never ends."""
    return itertools.cycle((text, wait_s) if wait_s else (text,))
