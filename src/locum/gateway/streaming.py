"""``Run``: the answers to one call, read from blocking engines in threads, handed to the event loop in bounded steps.

Notable: the loop never waits for an engine and never computes. A whole answer over HTTP is watched by the loop itself
while it is on its way (``Arrival``), because threads that wake each other cost more than all else about it; what turns
out to be no plain answer is left to a thread. Otherwise each choice has a thread that opens it, reads its pieces and
encodes them; what is ready is taken by the loop in one go, so a fast engine costs one write for many tokens. A slow
reader fills a bounded buffer and then holds up the thread, not memory. ``cancel`` stops everything from the loop at any
time: closing a stream may itself take a moment, so that happens in threads of its own.
Not here: HTTP (``app``), what the bytes say (``calls``).
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from locum.core.errors import LocumError
from locum.gateway.asgi import ClientGone
from locum.gateway.calls import Answered, Call, Events, Opened
from locum.gateway.errors import ApiError, from_engine_error, unexpected
from locum.gateway.pool import DaemonPool
from locum.gateway.targets import Target
from locum.runtime.completion import Chunk, Completion, CompletionRequest
from locum.runtime.protocol import Arrival, CompletionStream, Stop

_BUFFER_BYTES = 64 << 10
CAN_WATCH = sys.platform != "win32"
"""Whether event loops watch descriptors here; the one that Windows has by default does not."""


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
        opened: the answer to the only request, when it has begun already.

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
        opened: Opened | None = None,
    ) -> None:
        self._target = target
        self._call = call
        self._readers = readers
        self._closers = closers
        self._loop = loop
        self._start_s = time.monotonic()
        self._lock = threading.Condition()
        self._cancelled = False
        self._one_call = any(request.parallel_tool_calls is False for request in requests)
        self._stop = Stop()
        self._loop_thread = threading.get_ident()
        self._ready: list[bytes] = []
        self._ready_bytes = 0
        self._running = len(requests)
        self._failure: BaseException | None = None
        self._streams: dict[int, CompletionStream] = {}
        self._begun: list[Begun | None] = [None] * len(requests)
        self._ended: list[Answered | None] = [None] * len(requests)
        self._changed = asyncio.Event()
        self.timings: dict[int, Timing] = {}
        self._watched: Opened | None = None
        self._limit: asyncio.TimerHandle | None = None
        if opened is not None:
            self._watch(opened)
            return
        for index, request in enumerate(requests):
            readers.submit(partial(self._read, index, request))

    async def begun(self) -> Begun:
        """Wait for the first piece of any choice; others may have to wait until that one has ended.

        Raises:
            ApiError: a choice failed before that.
        """
        while True:
            self._changed.clear()
            self._raise_failure()
            begun = [each for each in self._begun if each is not None]
            if begun:
                return Begun(begun[0].opened, max(each.truncated_tokens for each in begun))
            await self._changed.wait()

    async def pieces(self) -> AsyncIterator[bytes]:
        """All that is ready, again and again, until every choice has ended.

        Raises:
            ApiError: a choice failed on its way; what it had written before came first.
        """
        while True:
            self._changed.clear()
            failed = self._failure is not None  # asked first: what the choice had written is ready then
            ready, running = self._take()
            if ready:
                yield ready
            if failed:
                self._raise_failure()
            elif not ready and not running:
                return
            elif not ready:
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
        if self._watched is not None:
            self._unwatch().stream.close()  # at once: nobody reads it
            return
        if self._running:  # what has ended needs no thread to be stopped
            for close in (self._stop.set, *(stream.close for stream in streams)):
                self._closers.submit(close)

    def _take(self) -> tuple[bytes, int]:
        with self._lock:
            ready, self._ready, self._ready_bytes = self._ready, [], 0
            self._lock.notify_all()
            return b"".join(ready), self._running

    def _raise_failure(self) -> None:
        if self._failure is None:
            return
        if isinstance(self._failure, ApiError):
            raise self._call.own(self._failure)
        if isinstance(self._failure, ClientGone):
            raise self._failure
        if isinstance(self._failure, LocumError):
            raise self._call.own(from_engine_error(self._failure)) from self._failure
        raise unexpected(self._failure) from self._failure

    def _watch(self, opened: Opened) -> None:
        """Wait for an answer on the loop."""
        self._watched = opened
        arrival = _arrival(opened)
        self._loop.add_reader(arrival.fileno(), self._arrived)
        self._limit = self._loop.call_later(arrival.wait_s, self._late)

    def _unwatch(self) -> Opened:
        """Wait no longer; the answer that was waited for."""
        opened, self._watched = self._watched, None
        if opened is None or self._limit is None:
            raise LocumError("core-internal", "no answer is being waited for")
        arrival = _arrival(opened)
        self._limit.cancel()
        self._loop.remove_reader(arrival.fileno())
        arrival.release()
        return opened

    def _arrived(self) -> None:
        """The next bytes are there: of a plain answer the last ones most of the time, and it is read here."""
        opened = self._watched
        if opened is None or self._limit is None:
            return
        arrival = _arrival(opened)
        if not arrival.advance():
            self._limit.cancel()
            self._limit = self._loop.call_later(arrival.wait_s, self._late)
            return
        self._unwatch()
        read = partial(self._finish, partial(self._follow, 0, opened))
        if arrival.is_plain:
            read()
        else:
            self._readers.submit(read)

    def _late(self) -> None:
        """Nothing came in time."""
        if self._watched is not None:
            opened = self._unwatch()
            _arrival(opened).expire()
            self._readers.submit(partial(self._finish, partial(self._follow, 0, opened)))

    def _read(self, index: int, request: CompletionRequest) -> None:
        """In a thread: one choice, from its opening to its end."""

        def work() -> None:
            if not self._cancelled:
                self._follow(index, self._target.open(self._call.model, request, self._stop))

        self._finish(work)

    def _finish(self, work: Callable[[], None]) -> None:
        """Read a choice to its end, and let whoever waits know."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - carried to whoever waits, as an envelope
            if not self._cancelled:
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
                if self._one_call:
                    chunk = chunk.with_one_call()
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
            self._begun[index] = begun  # first: nobody makes room before the answer has begun
            self._wake()
            self._put(encoder.begin(begun.opened, begun.truncated_tokens))

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
        if threading.get_ident() == self._loop_thread:
            self._changed.set()
            return
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:  # the loop has stopped: the process is ending, and nobody waits
            with self._lock:
                self._cancelled = True


def _arrival(opened: Opened) -> Arrival:
    if opened.arrival is None:
        raise LocumError("core-internal", "this answer is for a thread to wait for")
    return opened.arrival


def _truncated(chunk: Chunk) -> int:
    return chunk.truncated_tokens or (chunk.final.truncated_tokens if chunk.final is not None else 0)
