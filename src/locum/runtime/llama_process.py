"""The life of the engine's process: started when first asked, watched, killed, and started again with patience.

Notable: whoever waits when it dies gets an error that says how it died; nothing is asked a second time, because the
request may be what killed it. It is started again whether somebody asks or not. After each crash the next start waits
longer (0.5 s, 1 s, 2 s … 30 s) and requests are refused at once meanwhile; that is so, too, when there was no memory to
load the model, but a file that cannot be loaded is not tried again. A child hangs when it tells nobody anything for
``idle_s``: while it reads a long prompt it is asked to tell how far it is.
Not here: how a child process is held (``engine_child``), what runs in it (``llamacpp_child``), what is asked of it
(``llamacpp``).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from typing import Any

from locum.core.errors import DeviceError, LocumError, ModelFileError
from locum.core.text import one_line
from locum.runtime.engine_child import EngineChild, Reviver
from locum.runtime.llama_client import (
    EngineGoneError,
    EngineRefusedError,
    EngineSilentError,
    Exchange,
    LlamaClient,
)
from locum.runtime.llama_settings import ChildSettings
from locum.runtime.llama_slots import Slots
from locum.runtime.protocol import Stop

_READY_S = 120.0
_IDLE_S = 30.0
_BACK_OFF_S = (0.5, 30.0)
_WAIT_FOR_START_S = 1.0
_LATE_FIX = "ask for fewer tokens, or allow more time (llm.timeout_s)"
_MEMORY_FIX = "close other programs, take a smaller model or quantisation, a smaller context, or fewer slots"
_NO_MEMORY = "runtime-memory"
_CHILD_MODULE = "locum.runtime.llamacpp_child"
_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
_TEMPLATE = re.compile(r"common_chat_templates_init: error: (.+?)(?: [0-9.]+ [EWI] |$)", re.MULTILINE)
_ADAPTER = re.compile(r"failed to (?:apply|load) lora adapter.*")
_MEMORY = re.compile(
    r"(?:std::bad_alloc|insufficient memory|failed to allocate|cannot allocate|out of memory|OverflowError"
    r"|MemoryError|failed to create context).*",
    re.IGNORECASE,
)
"""What llama.cpp says when memory runs out; a context is not created for want of an adapter, too, which comes first."""

Probe = Callable[["LlamaProcess", LlamaClient, int], None]


class LlamaProcess:
    """A child process with one model; started on demand, safe to use from several threads.

    Args:
        settings: what the child opens; ``parent`` and ``key`` are filled in.
        ready_s: how long it may take to load.
        idle_s: for how long it may tell nobody anything while it is asked something; then it is killed.
        check: called once before the first start; what it raises refuses the model, and what it says is added to
            the reason where the engine cannot read the chat template.
        probe: asked with the process, its client and process id after loading; what it raises refuses the model.
        command: how to start the child (tests pass their own).
    """

    def __init__(
        self,
        settings: ChildSettings,
        *,
        ready_s: float = _READY_S,
        idle_s: float = _IDLE_S,
        check: Callable[[], str | None] | None = None,
        probe: Probe | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self.settings = replace(settings, parent=os.getpid(), key=secrets.token_hex(32))
        self.idle_s = idle_s
        self._ready_s = ready_s
        self._check = check
        self._template_fault: str | None = None
        self._probe = probe
        self._command = list(command or (sys.executable, "-m", _CHILD_MODULE))
        self._lock = threading.Lock()
        self._slots = Slots(settings.slots)
        self._child: _Child | None = None
        self._serving: _Child | None = None  # the latest one that was loaded
        self._reviver = Reviver("llama.cpp", self._revive, self._rest_s)
        self._crashes = 0
        self._crashed_s = 0.0
        self._refused: LocumError | None = None
        self._not_loaded: LocumError | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id of the running child, None when there is none."""
        child = self._child
        return child.pid if child is not None and child.alive else None

    @property
    def where(self) -> str:
        """The model's file, for messages."""
        return self.settings.model

    @property
    def problem(self) -> LocumError | None:
        """Why a request would not be answered now: the model cannot be loaded, or its process is started again."""
        child, loaded = self._child, self._serving
        if self._refused is not None:
            return self._refused
        if child is None or self._closed or (child is loaded and child.alive):
            return None
        if self._not_loaded is not None or loaded is None:  # or it is being loaded for the first time
            return self._not_loaded
        if child is loaded and child.buried:
            return child.death()
        return LocumError("runtime-child-died", "llama.cpp is being started again", where=self.where)

    def post(self, path: str, body: dict[str, Any], timeout_s: float, *, slot: bool = False) -> dict[str, Any]:
        """Send one request and wait for its whole answer.

        Args:
            path: of the child's HTTP server.
            body: sent as JSON.
            timeout_s: for the answer, once the model is loaded.
            slot: whether the request needs one of the slots; then waiting for it counts.

        Raises:
            LocumError: ``runtime-timeout`` (the child was killed when it told nobody anything for ``idle_s``),
                ``runtime-child-died`` or ``core-child-killed``, ``runtime-child-start``, ``runtime-closed``.
            DeviceError: the processor lacks instructions that the engine's build needs.
            EngineRefusedError: the child answers with an error.
        """
        child = self._running()
        deadline_s = time.monotonic() + timeout_s
        place = self._enter(body, deadline_s, timeout_s, Stop()) if slot else None
        try:
            answer = child.client.post(path, self._placed(body, place), deadline_s=deadline_s, idle_s=self.idle_s)
        except (TimeoutError, EngineGoneError) as error:
            raise self.failure(child, error, timeout_s) from None
        finally:
            if place is not None:
                self._slots.give_back(place)
        self._crashes = 0
        return answer

    def stream(self, path: str, body: dict[str, Any], timeout_s: float, stop: Stop | None = None) -> Turn:
        """Send a request that needs a slot and whose answer comes as events; ``post`` has arguments and errors.

        Among the events is the progress of reading the prompt (``prompt_progress``, without text). ``stop`` ends the
        wait for a slot and for the first event, with ``runtime-closed``.
        """
        body = {**body, "stream": True, "return_progress": True}
        stop = stop or Stop()
        child = self._running()
        deadline_s = time.monotonic() + timeout_s
        place = self._enter(body, deadline_s, timeout_s, stop)
        try:
            exchange = child.client.stream(
                path, self._placed(body, place), deadline_s=deadline_s, idle_s=self.idle_s, stop=stop
            )
        except (TimeoutError, EngineGoneError) as error:
            self._slots.give_back(place)
            raise self._stopped() if stop.is_set else self.failure(child, error, timeout_s) from None
        except BaseException:
            self._slots.give_back(place)
            raise
        return Turn(
            exchange,
            lambda finished: self._leave(place, finished),
            lambda error: self.failure(child, error, timeout_s),
        )

    def start(self) -> None:
        """Load the model, when it is not loaded; errors as ``post``."""
        self._running()

    def close(self) -> None:
        """End the child; a second call does nothing."""
        self._reviver.close()
        with self._lock:
            self._closed = True
            child, self._child = self._child, None
        if child is not None:
            child.leave()

    def failure(self, child: _Child, error: Exception, timeout_s: float) -> LocumError:
        """What a caller gets for a time-out or a lost connection; a child that hangs is killed."""
        if self._closed:
            return LocumError("runtime-closed", "the model was closed while it answered", where=self.where)
        if isinstance(error, EngineGoneError):
            return child.death()
        if isinstance(error, EngineSilentError):
            child.kill()
            fix = "ask again: it is started anew; where a step takes longer, make batch_tokens smaller"
            return self._late("was stopped because it did nothing for", error.seconds, fix)
        return self._late("did not finish within", timeout_s)

    def _enter(self, body: dict[str, Any], deadline_s: float, timeout_s: float, stop: Stop) -> int:
        text = json.dumps(body.get("messages") or body.get("prompt"))
        place = self._slots.take(text, max(0.0, deadline_s - time.monotonic()), stop)
        if place is None:
            raise self._stopped() if stop.is_set else self._late("was busy with earlier requests for", timeout_s)
        return place

    def _placed(self, body: dict[str, Any], place: int | None) -> dict[str, Any]:
        """The request with its slot.

        In a shared cache any slot will do, and llama.cpp knows which has read the same tokens. Embeddings have no
        messages or prompt, and take any, too.
        """
        free = place is None or "input" in body or self.settings.shared_cache
        return body if free else {**body, "id_slot": place}

    def _stopped(self) -> LocumError:
        return LocumError("runtime-closed", "the answer was stopped before it began", where=self.where)

    def _leave(self, place: int, finished: bool) -> None:
        self._slots.give_back(place)
        if finished:
            self._crashes = 0

    def _late(self, what: str, seconds: float, fix: str = _LATE_FIX) -> LocumError:
        return LocumError("runtime-timeout", f"llama.cpp {what} {seconds:.3g} s", where=self.where, fix=fix)

    def _running(self) -> _Child:
        with self._lock:
            if self._closed:
                raise LocumError("runtime-closed", "the model was asked after it was closed")
            if self._refused is not None:
                raise self._refused
            self._check_once()
            if self._child is not None:
                if self._child.alive:
                    return self._child
                self._be_patient(self._child)
            self._child = child = _Child(self._command, self.settings, self._reviver.wake)
            try:
                child.wait_ready(self._ready_s)
                if self._probe is not None:
                    self._probe(self, child.client, child.pid or 0)
            except (EngineGoneError, EngineRefusedError, TimeoutError) as error:
                child.kill()
                why = f"llama.cpp does not answer: {error}"
                self._not_loaded = LocumError("runtime-child-start", why, where=self.where)
                self._count(child)
                raise self._not_loaded from error
            except LocumError as error:
                if error.code == "runtime-chat-template" and self._template_fault is not None:
                    cause = f"{error.cause} ({self._template_fault})"
                    error = ModelFileError(error.code, cause, where=error.where, fix=error.fix)
                if isinstance(error, (ModelFileError, DeviceError)) and error.code != _NO_MEMORY:
                    self._refused = error  # the next time would be no different
                child.kill()
                self._not_loaded = error
                self._count(child)
                raise error from None
            self._not_loaded = None
            self._serving = child
            return child

    def _revive(self) -> bool:
        """Start the child again, when its pause is over; whether there is nothing to do any more."""
        with self._lock:
            child = self._child
            if child is None or self._closed or self._refused is not None or (child is self._serving and child.alive):
                return True
            self._count(child)
            if self._rest_s() > 0:
                return False
        try:
            self._running()
        except LocumError:
            return self._closed or self._refused is not None
        return True

    def _check_once(self) -> None:
        check, self._check = self._check, None
        if check is not None:
            try:
                self._template_fault = check()
            except ModelFileError as error:
                self._refused = error
                raise

    def _be_patient(self, dead: _Child) -> None:
        """Wait a short pause out; refuse during a long one."""
        self._count(dead)
        left_s = self._rest_s()
        if left_s > _WAIT_FOR_START_S:
            death = self._not_loaded or dead.death()
            raise LocumError(
                death.code,
                f"{death.cause}; {self._crashes} times in a row, the next start is in {left_s:.0f} s",
                where=self.where,
                fix=death.fix,
            )
        time.sleep(left_s)

    def _count(self, dead: _Child) -> None:
        if not dead.counted:
            dead.counted = True
            self._crashes += 1
            self._crashed_s = time.monotonic()

    def _rest_s(self) -> float:
        """What is left of the pause after the latest crash."""
        first_s, longest_s = _BACK_OFF_S
        pause_s = min(longest_s, first_s * 2.0 ** (self._crashes - 1))
        return max(0.0, self._crashed_s + pause_s - time.monotonic()) if self._crashes else 0.0


class Turn:
    """A request at work in a slot: its events, with failures as the errors that callers get."""

    def __init__(
        self, exchange: Exchange, leave: Callable[[bool], None], failure: Callable[[Exception], LocumError]
    ) -> None:
        self._exchange = exchange
        self._events = exchange.events()
        self._leave = leave
        self._failure = failure
        self._lock = threading.Lock()
        self._over = False

    def __next__(self) -> dict[str, Any]:
        """The next event.

        Raises:
            StopIteration: there is no more, or it was closed.
            LocumError: the child died or hangs.
            EngineRefusedError: an event tells of an error.
        """
        try:
            return next(self._events)
        except (TimeoutError, EngineGoneError) as error:
            if self._over:
                raise StopIteration from None
            failure = self._failure(error)
            self.close()
            raise failure from None
        except StopIteration:
            self._end(finished=True)
            raise
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Turn:
        """Itself."""
        return self

    def close(self) -> None:
        """End it and free the slot; any thread may, and a second call does nothing."""
        self._end(finished=False)

    def _end(self, *, finished: bool) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        self._exchange.close()
        self._leave(finished)


class _Child(EngineChild):
    """One life of the child process, and the connections to it."""

    def __init__(self, command: list[str], settings: ChildSettings, on_end: Callable[[], None]) -> None:
        super().__init__(
            "llama.cpp",
            settings.model,
            command,
            settings.to_json(),
            memory_fix=_MEMORY_FIX,
            instructions_fix="use an ONNX student, or name a llama-server built for this processor in "
            "LOCUM_LLAMA_SERVER",
        )
        self._of_binary = settings.binary is not None
        self._key = settings.key
        self._opened = settings
        self._port: Future[int] = Future()
        self._client: LlamaClient | None = None
        self.counted = False
        self._on_end = on_end
        self.start()

    @property
    def client(self) -> LlamaClient:
        if self._client is None:
            raise RuntimeError("the child is not ready")
        return self._client

    def wait_ready(self, timeout_s: float) -> None:
        try:
            self._client = LlamaClient(self._port.result(timeout_s), self._key)
        except FutureTimeoutError:
            raise LocumError(
                "runtime-child-start", f"llama.cpp did not load the model within {timeout_s:g} s", where=self._model
            ) from None

    def leave(self) -> None:
        """End it because it is no longer needed."""
        self.counted = True
        if self._client is not None:
            self._client.close()
        self.close(terminate=self._of_binary)

    def hear(self, record: dict[str, Any]) -> None:
        if "ready" in record:
            self._port.set_result(int(record["ready"]["port"]))
        elif not self._port.done():
            self._port.set_exception(_load_error(self._opened, record["fatal"], self.whole_log()))

    def hear_log(self, line: str) -> None:
        if not self._port.done() and self._of_binary:
            found = _LISTENING.search(line)
            if found is not None:
                self._port.set_result(int(found[1]))

    def ended(self) -> None:
        if not self._port.done():
            refused = self._of_binary and (self.status or 0) > 0
            self._port.set_exception(_load_error(self._opened, "", self.whole_log()) if refused else self.death())
        self._on_end()


def _load_error(opened: ChildSettings, fatal: str, log: str) -> LocumError:
    where = opened.model
    if "unknown model architecture" in log or "unknown pre-tokenizer" in log:
        why = one_line(log[log.find("unknown ") :], 160)
        return ModelFileError(
            "runtime-unsupported",
            f"llama.cpp does not know this model: {why}",
            where=where,
            fix="known families: llama (SmolLM2, Mistral), qwen2, qwen3, gemma3, phi3, granite, olmo2, gpt2 and more",
        )
    if (found := _TEMPLATE.search(log)) is not None:
        return ModelFileError(
            "runtime-chat-template",
            f"its chat template cannot be read: {one_line(found[1], 160)}",
            where=where,
            fix="take the model from its publisher, or a version with another template",
        )
    if "invalid argument" in log:
        why = one_line(log[log.find("invalid argument") :], 120)
        return DeviceError("runtime-child-start", f"this llama-server is too old: {why}", fix="build a newer one")
    if opened.adapters and (found := _ADAPTER.search(log)) is not None:
        why = f"an adapter does not fit the model: {one_line(found[0], 160)}"
        return ModelFileError(
            "runtime-mismatch", why, where=where, fix="take an adapter that was trained for this model"
        )
    if (found := _MEMORY.search(f"{log} {fatal}")) is not None:
        why = f"llama.cpp cannot get memory for {opened.slots} slots of {opened.n_ctx:,} tokens beside the model"
        return DeviceError(_NO_MEMORY, f"{why}: {one_line(found[0], 160)}", where=where, fix=_MEMORY_FIX)
    return ModelFileError("runtime-damaged", f"llama.cpp cannot load it: {fatal} {one_line(log[-300:])}", where=where)
