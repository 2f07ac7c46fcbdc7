"""``BatchedClassifier``: one thread reads for all, in batches of what waits anyway; ``LimitedGenerator``.

Notable: nothing waits for a batch to fill. The reader takes all that came while it was busy (up to a cap) in one
call, so a lone request has no added wait and a crowd gets the engine's batch throughput. When a batch fails, its
texts are tried one by one: one bad input costs its own caller only. Not here: how many may wait (``app``).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Self

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import LocumError, UpstreamError
from locum.runtime.breaker import CircuitBreaker
from locum.runtime.completion import Chunk, Completion, CompletionRequest
from locum.runtime.protocol import Classifier, CompletionStream, Forwarded, Generator, Scored, Stop, forwarder_of
from locum.schema.model import ModelSpec

_Job = tuple[list[str], "Future[Scored]"]


class BatchedClassifier:
    """A classifier that many threads may ask at once.

    Args:
        inner: the engine; asked from one thread only.
        max_batch: most texts in one call, unless a single caller brings more.
    """

    def __init__(self, inner: Classifier, max_batch: int) -> None:
        self._inner = inner
        self._max_batch = max_batch
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="student", daemon=True)
        self._reader.start()

    @property
    def spec(self) -> ModelSpec:
        """What is served."""
        return self._inner.spec

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The engine's scores, ``[len(texts), n_labels]``; waits for the reader.

        Raises:
            LocumError: the engine failed, or is closed.
        """
        return self.read(texts).logits

    def read(self, texts: Sequence[str]) -> Scored:
        """The scores, and how much of each text was not read; waits for the reader.

        Raises:
            LocumError: the engine failed, or is closed.
        """
        future: Future[Scored] = Future()
        with self._lock:
            if self._closed:
                raise LocumError("runtime-closed", "the student was asked after it was closed")
            self._jobs.put((list(texts), future))
        return future.result()

    def close(self) -> None:
        """Finish what waits, then close the engine; a second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._reader.join()
        self._inner.close()

    def _read(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch, last = self._gather(job)
            self._answer(batch)
            if last:
                return

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        """All that waits, up to the cap; and whether the end was among it."""
        batch, texts = [first], len(first[0])
        while texts < self._max_batch:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return batch, True
            batch.append(job)
            texts += len(job[0])
        return batch, False

    def _answer(self, batch: list[_Job]) -> None:
        try:
            read = self._inner.read([text for texts, _ in batch for text in texts])
        except Exception as error:  # noqa: BLE001 - handed to the callers; the reader must go on
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for job in batch:
                self._answer([job])
            return
        start = 0
        for texts, future in batch:
            own = slice(start, start + len(texts))
            future.set_result(Scored(read.logits[own], read.dropped[own]))
            start += len(texts)


class LimitedGenerator:
    """An LLM that at most ``limit`` callers ask at once; the next is refused, so that none holds up local answers."""

    def __init__(self, inner: Generator, limit: int) -> None:
        self._inner = inner
        self._free = threading.BoundedSemaphore(limit)
        breaker = getattr(inner, "breaker", None)
        if isinstance(breaker, CircuitBreaker):
            breaker.several_callers = True

    @property
    def model(self) -> str:
        """The LLM's name."""
        return self._inner.model

    def complete(self, request: CompletionRequest) -> Completion:
        """Ask the LLM.

        Raises:
            UpstreamError: ``gateway-llm-busy``, or what the LLM raises.
        """
        if not self._free.acquire(blocking=False):
            raise _busy()
        try:
            return self._inner.complete(request)
        finally:
            self._free.release()

    def stream(self, request: CompletionRequest, stop: Stop | None = None) -> CompletionStream:
        """The LLM's answer in pieces; the place is free again when the stream ends or is closed.

        Raises:
            UpstreamError: ``gateway-llm-busy``, or what the LLM raises.
        """
        if not self._free.acquire(blocking=False):
            raise _busy()
        try:
            return _LimitedStream(self._inner.stream(request, stop), self._free.release)
        except BaseException:
            self._free.release()
            raise

    def forward(self, request: CompletionRequest) -> Forwarded | None:
        """The LLM's answer on its way, when it can be asked without waiting; else None.

        Raises:
            UpstreamError: ``gateway-llm-busy``.
            LocumError: the LLM refuses the request.
        """
        forwarder = forwarder_of(self._inner)
        if forwarder is None:
            return None
        if not self._free.acquire(blocking=False):
            raise _busy()
        sent: Forwarded | None = None
        try:
            sent = forwarder.forward(request)
        finally:
            if sent is None:
                self._free.release()
        return None if sent is None else Forwarded(_LimitedStream(sent.stream, self._free.release), sent.arrival)

    def close(self) -> None:
        """Close the LLM."""
        self._inner.close()


def _busy() -> UpstreamError:
    return UpstreamError("gateway-llm-busy", "too many requests are with the LLM already")


class _LimitedStream:
    """A stream that gives its place back once, when it ends, fails or is closed."""

    def __init__(self, inner: CompletionStream, release: Callable[[], None]) -> None:
        self._inner = inner
        self._release = release
        self._lock = threading.Lock()
        self._held = True

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        try:
            return next(self._inner)
        except UpstreamError:
            self._give_back()
            raise
        except LocumError as error:  # an LLM in a file on this machine: it failed, not the student's engine
            self._give_back()
            raise UpstreamError(error.code, error.cause, fix=error.fix, where=error.where) from error
        except BaseException:  # the end of the stream as well
            self._give_back()
            raise

    def close(self) -> None:
        self._inner.close()
        self._give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _give_back(self) -> None:
        with self._lock:
            held, self._held = self._held, False
        if held:
            self._release()
