"""``Run``: the answers to one call, read from blocking engines in threads, handed to the event loop in bounded steps.

Notable: the loop never waits for an engine and never computes. Each choice has a thread that opens it, reads its
pieces and encodes them; what is ready is taken by the loop in one go, so a fast engine costs one write for many
tokens. A slow reader fills a bounded buffer and then holds up the thread, not memory. ``cancel`` stops everything
from the loop at any time: closing a stream may itself take a moment, so that happens in threads of its own.
Not here: HTTP (``app``), what the bytes say (``calls``).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from locum.core.errors import LocumError
from locum.gateway.asgi import ClientGone
from locum.gateway.calls import Answered, Call, Events, Opened
from locum.gateway.errors import ApiError, from_engine_error, unexpected
from locum.gateway.pool import DaemonPool
from locum.gateway.targets import Target
from locum.runtime.completion import Chunk, Completion, CompletionRequest
from locum.runtime.protocol import CompletionStream

_BUFFER_BYTES = 64 << 10


@dataclass(frozen=True)
class Begun:
    """What is known of an answer before its first byte leaves."""

    opened: Opened
    truncated_tokens: int


@dataclass(frozen=True)
class Timing:
    """How fast one choice was; seconds on the monotonic clock since the call."""

    route: str
    first_s: float
    whole_s: float


class Run:
    """The answers to one call.

    Args:
        target: who answers.
        call: what was asked.
        requests: one for each choice.
        readers: where each choice has its thread.
        closers: where streams are closed.
        loop: the event loop that takes the pieces.

    Attributes:
        timings: of each choice that has ended.
    """

    def __init__(
        self,
        target: Target,
        call: Call[Any],
        requests: Sequence[CompletionRequest],
        *,
        readers: DaemonPool,
        closers: DaemonPool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._target = target
        self._call = call
        self._closers = closers
        self._loop = loop
        self._start_s = time.monotonic()
        self._lock = threading.Condition()
        self._cancelled = False
        self._ready: list[bytes] = []
        self._ready_bytes = 0
        self._running = len(requests)
        self._failure: BaseException | None = None
        self._streams: dict[int, CompletionStream] = {}
        self._begun: list[Begun | None] = [None] * len(requests)
        self._ended: list[Answered | None] = [None] * len(requests)
        self._changed = asyncio.Event()
        self.timings: dict[int, Timing] = {}
        for index, request in enumerate(requests):
            # Who reads no pieces lets the engine answer in one, which is cheaper over HTTP.
            readers.submit(partial(self._read, index, request if call.stream else replace(request, whole=True)))

    async def begun(self) -> Begun:
        """Wait until every choice has its first piece; the first choice's.

        Raises:
            ApiError: one of them failed before that.
        """
        while True:
            self._changed.clear()
            self._raise_failure()
            if all(each is not None for each in self._begun):
                break
            await self._changed.wait()
        begun = [each for each in self._begun if each is not None]
        return Begun(begun[0].opened, max(each.truncated_tokens for each in begun))

    async def pieces(self) -> AsyncIterator[bytes]:
        """All that is ready, again and again, until every choice has ended.

        Raises:
            ApiError: a choice failed on its way; what it had written before came first.
        """
        while True:
            self._changed.clear()
            ready, running = self._take()
            if ready:
                yield ready
            elif self._failure is not None:
                self._raise_failure()
            elif not running:
                return
            else:
                await self._changed.wait()

    async def answers(self) -> list[Answered]:
        """Wait for the end of every choice.

        Raises:
            ApiError: one of them failed.
            ClientGone: see ``abandon``.
        """
        while True:
            self._changed.clear()
            self._raise_failure()
            if self._running == 0:
                break
            await self._changed.wait()
        return [each for each in self._ended if each is not None]

    def abandon(self) -> None:
        """The client is gone: stop every choice, and let whoever waits know. From the loop only."""
        self._failure = self._failure or ClientGone("the client closed the connection")
        self.cancel()
        self._changed.set()

    def cancel(self) -> None:
        """Stop every choice that has not ended; does not block."""
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = True
            self._lock.notify_all()
            streams = list(self._streams.values())
        for stream in streams:
            self._closers.submit(stream.close)

    def _take(self) -> tuple[bytes, int]:
        with self._lock:
            ready, self._ready, self._ready_bytes = self._ready, [], 0
            self._lock.notify_all()
            return b"".join(ready), self._running

    def _raise_failure(self) -> None:
        if self._failure is None:
            return
        if isinstance(self._failure, (ApiError, ClientGone)):
            raise self._failure
        if isinstance(self._failure, LocumError):
            raise from_engine_error(self._failure) from self._failure
        raise unexpected(self._failure) from self._failure

    def _read(self, index: int, request: CompletionRequest) -> None:
        """In a thread: one choice, from its opening to its end."""
        try:
            if not self._cancelled:
                self._follow(index, self._target.open(self._call.model, request))
        except BaseException as error:  # noqa: BLE001 - carried to whoever waits, as an envelope
            self._target.count_failure(error)
            with self._lock:
                self._failure = self._failure or error
        with self._lock:
            self._running -= 1
        self._wake()

    def _follow(self, index: int, opened: Opened) -> None:
        """Read an open stream to its end; the encoder is there when the answer leaves piece by piece."""
        encoder = self._call.events(index) if self._call.stream else None
        completion: Completion | None = None
        first_s = 0.0
        with opened.stream as stream:
            with self._lock:
                self._streams[index] = stream
                if self._cancelled:  # while it was opened, when there was nothing to close yet
                    return
            for chunk in stream:
                if self._cancelled:
                    break
                if not first_s:
                    first_s = time.monotonic() - self._start_s
                    self._begin(index, Begun(opened, _truncated(chunk)), encoder)
                if encoder is not None:
                    self._put(encoder.piece(chunk))
                if chunk.final is not None:
                    completion = chunk.final
                    break
            with self._lock:
                del self._streams[index]
        if self._cancelled:
            return
        if completion is None:
            raise LocumError("runtime-engine-failed", "the answer broke off before its end")
        if encoder is not None:
            self._put(encoder.end(completion))
        self.timings[index] = Timing(opened.origin.route, first_s, time.monotonic() - self._start_s)
        self._ended[index] = Answered(opened, completion)

    def _begin(self, index: int, begun: Begun, encoder: Events | None) -> None:
        if encoder is not None:
            self._put(encoder.begin(begun.opened, begun.truncated_tokens))
            self._begun[index] = begun
            self._wake()

    def _put(self, data: bytes) -> None:
        """Hand bytes to the loop, waiting while too many lie ready, until nobody wants them any more."""
        if not data:
            return
        with self._lock:
            while self._ready_bytes > _BUFFER_BYTES and not self._cancelled:
                self._lock.wait()
            self._ready.append(data)
            self._ready_bytes += len(data)
            alone = len(self._ready) == 1
        if alone:
            self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:  # the loop has stopped: the process is ending, and nobody waits
            with self._lock:
                self._cancelled = True


def _truncated(chunk: Chunk) -> int:
    return chunk.truncated_tokens or (chunk.final.truncated_tokens if chunk.final is not None else 0)
