"""``DaemonPool``: a bounded number of threads that a stopping process need not wait for.

Notable: the standard library's executor joins its threads when Python exits, so one request stuck with a silent
LLM would hold up a stop beyond any deadline. These threads are daemons: after the deadline they are left behind.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonPool:
    """Runs functions in at most ``threads`` daemon threads, started as they are needed."""

    def __init__(self, threads: int, name: str) -> None:
        self._limit = threads
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._closed = False

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run ``work`` as soon as a thread is free.

        Raises:
            RuntimeError: the pool is closed.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._busy += 1
            if self._busy > len(self._threads) < self._limit:
                thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._jobs.put((future, work))
        return future

    def close(self, wait_s: float) -> bool:
        """Take nothing more and wait a while for what runs; whether all of it ended."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            thread.join(wait_s / max(1, len(threads)))
        return not any(thread.is_alive() for thread in threads)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - carried to whoever waits
                    future.set_exception(error)
            with self._lock:
                self._busy -= 1
