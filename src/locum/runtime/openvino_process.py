"""The life of OpenVINO's process: started when first asked, watched, killed, and started again.

Notable: many requests are at work at once, each with an inbox of its own that the reading thread fills. The child tells
something several times a second as long as it gets on, so silence is a hang: when it lasts as long as ``idle_s``, or as
a whole request may take, the process is killed. One that ended is started again, whether somebody asks or not, after a
pause that grows with each end. A file that OpenVINO cannot read is not tried again.
Not here: how a child process is held (``engine_child``), what runs in it (``openvino_child``).
"""

from __future__ import annotations

import itertools
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from typing import Any

from locum.core.errors import DeviceError, LocumError, ModelFileError, UserError
from locum.core.text import one_line
from locum.runtime.engine_child import EngineChild, Reviver
from locum.runtime.openvino_child import OpenVinoSettings

_CHILD_MODULE = "locum.runtime.openvino_child"
_BACK_OFF_S = (0.5, 30.0)
_CLOSED: dict[str, Any] = {"closed": True}
_DIED: dict[str, Any] = {"died": True}
_LAST = frozenset({"done", "refused", "answer"})
_USER_CODES = frozenset({"runtime-too-long", "runtime-unsupported-option", "runtime-chat-template"})
_Inbox = queue.SimpleQueue[dict[str, Any]]


class OpenVinoProcess:
    """A child process with one model; started on demand, safe to use from several threads.

    Args:
        settings: what the child opens; ``parent`` is filled in.
        ready_s: how long it may take to load.
        idle_s: for how long it may tell nobody anything while it is asked something; then it is killed.
        check: called once before the first start; what it raises refuses the model.
        command: how to start the child (tests pass their own).
    """

    def __init__(
        self,
        settings: OpenVinoSettings,
        *,
        ready_s: float,
        idle_s: float,
        check: Callable[[], object] | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self.settings = replace(settings, parent=os.getpid())
        self._ready_s, self._idle_s = ready_s, idle_s
        self._check = check
        self._command = list(command or (sys.executable, "-m", _CHILD_MODULE))
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._serving: _Child | None = None  # the latest one that was loaded
        self._ends = 0
        self._reviver = Reviver("OpenVINO", self._revive, self._rest_s)
        self._refused: LocumError | None = None
        self._closed = False

    @property
    def where(self) -> str:
        """The model's file, for messages."""
        return self.settings.model

    @property
    def pid(self) -> int | None:
        """Process id of the running child, None when there is none."""
        child = self._child
        return child.pid if child is not None and child.alive else None

    @property
    def problem(self) -> LocumError | None:
        """Why a request would not be answered now: the model cannot be loaded, or its process is started again."""
        child, loaded = self._child, self._serving
        if self._refused is not None or self._closed or child is None or loaded is None:
            return self._refused
        if child is loaded and child.alive:
            return None
        return LocumError("runtime-child-died", "OpenVINO is being started again", where=self.where)

    def start(self) -> None:
        """Load the model, when it is not loaded.

        Raises:
            ModelFileError: OpenVINO cannot read the file.
            LocumError: ``runtime-child-start``, ``runtime-child-died``, ``core-child-killed`` or ``runtime-closed``.
        """
        self._running()

    def post(self, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Ask the tokenizer: ``/apply-template``, ``/tokenize`` or ``/detokenize``, as llama.cpp's server has them.

        Raises:
            LocumError: as ``stream``.
        """
        (record,) = self.stream({"path": path, "body": body}, timeout_s)
        return record["answer"]

    def stream(self, body: dict[str, Any], timeout_s: float) -> Turn:
        """Send a request; its records come as the child writes them.

        Args:
            body: as ``openvino_child`` describes it, without ``id``.
            timeout_s: for the whole answer, once the model is loaded.

        Raises:
            LocumError: as ``start``; and later ``runtime-timeout``, or what the child refuses with.
        """
        child = self._running()
        return Turn(self, child, *child.ask(body), timeout_s, min(self._idle_s, timeout_s))

    def close(self) -> None:
        """End the child; a second call does nothing."""
        self._reviver.close()
        with self._lock:
            self._closed = True
            child, self._child = self._child, None
        if child is not None:
            child.close()

    def death(self, child: EngineChild) -> LocumError:
        """What a caller gets whose child is gone."""
        if self._closed:
            return LocumError("runtime-closed", "the model was closed while it answered", where=self.where)
        return child.death()

    def late(self, what: str, seconds: float, fix: str) -> LocumError:
        """What a caller gets who waited too long."""
        return LocumError("runtime-timeout", f"OpenVINO {what} {seconds:.3g} s", where=self.where, fix=fix)

    def _running(self) -> _Child:
        with self._lock:
            if self._closed:
                raise LocumError("runtime-closed", "the model was asked after it was closed")
            if self._refused is not None:
                raise self._refused
            if self._child is not None and self._child.alive:
                return self._child
            try:
                check, self._check = self._check, None
                if check is not None:
                    check()
                self._child = child = _Child(self._command, self.settings, self._ended)
                child.wait_ready(self._ready_s)
                self._serving = child
            except (ModelFileError, DeviceError) as error:
                self._refused = error  # the next time would be no different
                raise
            return child

    def answered(self) -> None:
        """An answer has come: the next end is the first in a row."""
        self._ends = 0

    def _ended(self) -> None:
        self._ends += 1
        self._reviver.wake()

    def _rest_s(self) -> float:
        first_s, longest_s = _BACK_OFF_S
        return min(longest_s, first_s * 2.0 ** max(0, self._ends - 1))

    def _revive(self) -> bool:
        """Start the child again; whether there is nothing to do any more."""
        if self._child is None or self._closed or self._refused is not None:
            return True
        try:
            self._running()
        except LocumError:
            return self._closed or self._refused is not None
        return True


class Turn:
    """A request at work: its records, until the last one.

    Args:
        process: whose request it is.
        child: that works on it.
        number: the child's name for it.
        inbox: where its records arrive.
        timeout_s: for all of it.
        idle_s: the longest silence of the child.
    """

    def __init__(
        self, process: OpenVinoProcess, child: _Child, number: int, inbox: _Inbox, timeout_s: float, idle_s: float
    ) -> None:
        self._process, self._child, self._number, self._inbox = process, child, number, inbox
        self._timeout_s, self._idle_s = timeout_s, idle_s
        self._begun_s = time.monotonic()
        self._over = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Itself."""
        return self

    def __next__(self) -> dict[str, Any]:
        """The next record, waiting for it.

        Raises:
            StopIteration: there is no more, or it was closed.
            LocumError: it is refused, takes too long, or the child died or hangs.
        """
        if self._over:
            raise StopIteration
        record = self._wait()
        if self._over or record is _CLOSED:
            raise StopIteration
        if record is _DIED:
            self._over = True
            raise self._process.death(self._child)
        if not _LAST.isdisjoint(record):
            self._over = True
            self._child.forget(self._number)
            self._process.answered()
        if "refused" in record:
            raise self._refusal(record)
        return record

    def close(self) -> None:
        """Let the child drop it before its next token; any thread may, and a second call does nothing."""
        if not self._over:
            self._over = True
            self._child.forget(self._number)
            self._child.send({"stop": self._number})
            self._inbox.put(_CLOSED)

    def _wait(self) -> dict[str, Any]:
        while True:
            now_s = time.monotonic()
            left_s = self._begun_s + self._timeout_s - now_s
            silent_s = now_s - max(self._begun_s, self._child.heard_s)
            if silent_s >= self._idle_s:
                self._over = True
                self._child.kill()
                raise self._process.late(
                    "was stopped because it did nothing for", silent_s, "ask again: it is started anew"
                )
            if left_s <= 0:
                self.close()
                raise self._process.late(
                    "did not finish within", self._timeout_s, "ask for fewer tokens, or allow more time"
                )
            try:
                return self._inbox.get(timeout=min(left_s, self._idle_s - silent_s))
            except queue.Empty:
                continue

    def _refusal(self, record: dict[str, Any]) -> LocumError:
        code, why = record["code"], one_line(record["refused"], 300)
        if code == "runtime-too-long":
            return UserError(code, why, fix="shorten the prompt, or set truncate")
        if code in _USER_CODES:
            return UserError(code, f"OpenVINO refuses the request: {why}")
        return LocumError(code, f"OpenVINO: {why}", where=self._process.where)


class _Child(EngineChild):
    """One life of the child process, and the inboxes of those who wait for it."""

    def __init__(self, command: Sequence[str], settings: OpenVinoSettings, on_end: Callable[[], None]) -> None:
        super().__init__(
            "OpenVINO",
            settings.model,
            command,
            settings.to_json(),
            memory_fix="close other programs, take a smaller model or context, or fewer slots",
            instructions_fix="use the llamacpp engine",
        )
        self.heard_s = time.monotonic()
        self._ids = itertools.count()
        self._inboxes: dict[int, _Inbox] = {}
        self._guard = threading.Lock()
        self._gone = False
        self._ready: Future[None] = Future()
        self._on_end = on_end
        self.start()

    def wait_ready(self, timeout_s: float) -> None:
        try:
            self._ready.result(timeout_s)
        except FutureTimeoutError:
            self.kill()
            why = f"OpenVINO did not load the model within {timeout_s:g} s"
            raise LocumError("runtime-child-start", why, where=self._model) from None

    def ask(self, body: dict[str, Any]) -> tuple[int, _Inbox]:
        number, inbox = next(self._ids), _Inbox()
        with self._guard:
            if self._gone:
                inbox.put(_DIED)
            self._inboxes[number] = inbox
        self.send({"id": number, **body})
        return number, inbox

    def forget(self, number: int) -> None:
        with self._guard:
            self._inboxes.pop(number, None)

    def hear(self, record: dict[str, Any]) -> None:
        self.heard_s = time.monotonic()
        if "id" in record:
            with self._guard:
                inbox = self._inboxes.get(record["id"])
            if inbox is not None:
                inbox.put(record)
        elif "ready" in record:
            self._ready.set_result(None)
        elif "fatal" in record:
            why = f"OpenVINO cannot read this file: {one_line(record['fatal'], 300)}"
            fix = "use the llamacpp engine, or a file of another quantisation (Q4_0, Q4_1, Q8_0 or F16)"
            self._ready.set_exception(ModelFileError("runtime-unsupported", why, where=self._model, fix=fix))

    def ended(self) -> None:
        with self._guard:
            self._gone = True
            waiting, self._inboxes = self._inboxes, {}
        for inbox in waiting.values():
            inbox.put(_DIED)
        if not self._ready.done():
            self._ready.set_exception(self.death())
        self._on_end()
