"""Text from a GGUF file through OpenVINO GenAI, in a child process that can be killed.

Notable: it reads only some GGUF files (Q4_0, Q4_1, Q8_0, F16 and most of Q4_K, of the llama and qwen families), writes
one answer at a time, and has no log-probabilities, grammars, tools or adapters in this form: what it cannot do is
refused, never ignored. llama.cpp stays the default; this engine is used where ``--engine openvino`` asks for it.
Not here: what runs in the child (``openvino_child``).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from locum.core.cpu import usable_cores
from locum.core.errors import LocumError, ModelFileError
from locum.core.text import one_line
from locum.runtime.completion import Chunk, Completion, CompletionRequest
from locum.runtime.gguf_check import check_gguf
from locum.runtime.openvino import import_openvino
from locum.runtime.openvino_child import OpenVinoSettings

_READY_S = 180.0
_STOP_S = 1.0
_CLOSE_S = 3.0
_CHILD_MODULE = "locum.runtime.openvino_child"


class OpenVinoGenerator:
    """A ``Generator`` over a GGUF file; its process starts with the first request.

    Args:
        path: the file.
        threads: CPU threads; None takes the usable cores.
        n_ctx: context in tokens, prompt and answer together.
        timeout_s: how long one answer may take, waiting in line included.
        command: how to start the child (tests pass their own).

    Raises:
        UserError: OpenVINO GenAI is not installed.
        ModelFileError: the file is damaged or hostile.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        n_ctx: int = 4096,
        timeout_s: float = 60.0,
        command: Sequence[str] | None = None,
    ) -> None:
        if command is None:
            import_openvino("openvino_genai")
        header = check_gguf(path)
        context = min(n_ctx, header.context_length or n_ctx)
        self._settings = OpenVinoSettings(str(path.resolve()), context, threads or usable_cores(), os.getpid())
        self._command = list(command or (sys.executable, "-m", _CHILD_MODULE))
        self._model = path.stem
        self._timeout_s = timeout_s
        self._turn = threading.Lock()  # the engine writes one answer at a time
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._closed = False

    @property
    def model(self) -> str:
        """The file's name without its ending."""
        return self._model

    @property
    def pid(self) -> int | None:
        """Process id of the running child, None when there is none."""
        child = self._child
        return child.pid if child is not None and child.alive else None

    def complete(self, request: CompletionRequest) -> Completion:
        """Answer one request.

        Raises:
            LocumError: as ``stream``.
        """
        with self.stream(request) as stream:
            for chunk in stream:
                if chunk.final is not None:
                    return chunk.final
        raise LocumError("runtime-closed", f"{self._model} was closed while it answered")

    def stream(self, request: CompletionRequest) -> OpenVinoStream:
        """The answer in pieces; requests wait for one another.

        Raises:
            LocumError: ``runtime-unsupported-option``, ``runtime-timeout``, ``runtime-child-start``,
                ``runtime-child-died``, ``runtime-too-long``, ``runtime-engine-failed`` or ``runtime-closed``.
            ModelFileError: OpenVINO cannot read the file.
        """
        body = request_body(request)
        end_s = time.monotonic() + self._timeout_s
        if not self._turn.acquire(timeout=self._timeout_s):
            raise self._late("was busy with earlier requests")
        try:
            child = self._running()
            turn = child.ask(body)
        except BaseException:
            self._turn.release()
            raise
        return OpenVinoStream(self, child, turn, end_s + child.load_s)

    def close(self) -> None:
        """End the child; a second call does nothing."""
        with self._lock:
            self._closed = True
            child, self._child = self._child, None
        if child is not None:
            child.close()

    def finished(self) -> None:
        """The answer under way is over: the next in line may begin."""
        self._turn.release()

    def _late(self, what: str) -> LocumError:
        return LocumError(
            "runtime-timeout",
            f"OpenVINO {what} for {self._timeout_s:g} s",
            where=self._settings.model,
            fix="ask for fewer tokens, or allow more time",
        )

    def late(self) -> LocumError:
        """The error of an answer that took too long."""
        return self._late("did not finish an answer")

    def _running(self) -> _Child:
        with self._lock:
            if self._closed:
                raise LocumError("runtime-closed", "the model was asked after it was closed")
            if self._child is None or not self._child.alive:
                self._child = _Child(self._command, self._settings)
            child = self._child
        try:
            child.wait_ready(_READY_S)
        except LocumError:
            child.kill()
            raise
        return child


class OpenVinoStream:
    """The pieces of one answer."""

    def __init__(
        self, owner: OpenVinoGenerator, child: _Child, turn: tuple[int, queue.SimpleQueue[dict[str, Any]]], end_s: float
    ) -> None:
        self._owner, self._child, self._end_s = owner, child, end_s
        self._id, self._inbox = turn
        self._text: list[str] = []
        self._over = False
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Chunk]:
        """Itself."""
        return self

    def __next__(self) -> Chunk:
        """The next piece, and at the end the whole answer.

        Raises:
            LocumError: the engine failed, or took too long and was killed.
        """
        if self._over:
            raise StopIteration
        try:
            record = self._inbox.get(timeout=max(0.0, self._end_s - time.monotonic()))
        except queue.Empty:
            self._child.kill()
            self._finish()
            raise self._owner.late() from None
        if self._over or "closed" in record:
            raise StopIteration
        if "piece" in record:
            self._text.append(record["piece"])
            return Chunk(record["piece"])
        self._finish()
        if "error" in record:
            raise self._error(record["error"])
        if "died" in record:
            raise record["died"]
        done = record["done"]
        return Chunk(final=Completion(text="".join(self._text), model=self._owner.model, **done))

    def close(self) -> None:
        """Stop the engine's work on it within a second: asked first, killed then; a second call does nothing."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self._inbox.put({"closed": True})
        if not self._child.stop(self._id, _STOP_S):
            self._child.kill()
        self._owner.finished()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _finish(self) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        self._owner.finished()

    def _error(self, message: str) -> LocumError:
        code = "runtime-too-long" if message.startswith("too long") else "runtime-engine-failed"
        return LocumError(code, f"OpenVINO: {one_line(message, 300)}", where=self._owner.model)


def request_body(request: CompletionRequest) -> dict[str, Any]:
    """What the child is asked, or why it cannot be.

    Raises:
        LocumError: ``runtime-unsupported-option``, naming every option that this engine lacks.
    """
    lacking = {
        "logprobs": request.logprobs is not None,
        "json_schema": request.json_schema is not None,
        "grammar": request.grammar is not None,
        "tools": bool(request.tools),
        "adapter": request.adapter is not None,
        "truncate": request.truncate,
    }
    asked = [name for name, wanted in lacking.items() if wanted]
    if asked:
        raise LocumError(
            "runtime-unsupported-option",
            f"the openvino engine has no {', '.join(asked)}",
            fix="leave it out, or use the llamacpp engine",
        )
    sampled = request.temperature > 0
    config: dict[str, Any] = {
        "max_new_tokens": request.max_tokens,
        "do_sample": sampled,
        "stop_strings": list(request.stop),
        "repetition_penalty": request.repeat_penalty,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
    }
    if sampled:
        config |= {"temperature": request.temperature, "top_p": request.top_p, "min_p": request.min_p}
        config |= {"top_k": request.top_k} if request.top_k else {}
        config |= {"rng_seed": request.seed} if request.seed is not None else {}
    if request.prompt is not None:
        return {"prompt": request.prompt, "config": config}
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    return {"messages": messages, "config": config}


class _Child:
    """One life of the child process, owned by a thread that starts it and reads what it says."""

    def __init__(self, command: list[str], settings: OpenVinoSettings) -> None:
        self._settings = settings
        self._ids = itertools.count()
        self._inboxes: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._lock = threading.Lock()  # guards _inboxes and writes to standard input
        self._ready = threading.Event()
        self._idle = threading.Event()
        self._fatal: str | None = None
        self._log: deque[str] = deque(maxlen=40)
        self._process: subprocess.Popen[str] | None = None
        self._ended = self._killed = False
        self._start_s = time.monotonic()
        self.load_s = 0.0
        # Linux kills the child when the thread that started it ends: it must be this one, not a caller's.
        self._thread = threading.Thread(target=self._live, args=(command,), name="locum-openvino", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return not self._ended and not self._killed

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def wait_ready(self, timeout_s: float) -> None:
        if not self._ready.wait(timeout_s):
            raise LocumError(
                "runtime-child-start",
                f"OpenVINO did not load the model within {timeout_s:g} s",
                where=self._settings.model,
            )
        if self._fatal is not None:
            raise ModelFileError(
                "runtime-unsupported",
                f"OpenVINO cannot load it: {one_line(self._fatal, 300)}",
                where=self._settings.model,
                fix="use the llamacpp engine",
            )
        if self._ended:
            raise self._death()

    def ask(self, body: dict[str, Any]) -> tuple[int, queue.SimpleQueue[dict[str, Any]]]:
        number = next(self._ids)
        inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        with self._lock:
            if self._ended:
                raise self._death()
            self._inboxes = {number: inbox}
            self._idle.clear()
            self._write({"id": number, **body})
        return number, inbox

    def stop(self, number: int, timeout_s: float) -> bool:
        """Ask it to end an answer; whether it did in time."""
        with self._lock:
            self._write({"stop": number})
        return self._idle.wait(timeout_s)

    def kill(self) -> None:
        self._killed = True
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def close(self) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(OSError, ValueError):
            if process.stdin is not None:
                process.stdin.close()  # the child ends when its input does
        try:
            process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._thread.join(_CLOSE_S)

    def _write(self, record: dict[str, Any]) -> None:
        process = self._process
        # A broken pipe: the reading thread sees the end as well, and tells every answer.
        with contextlib.suppress(OSError, ValueError):
            if process is not None and process.stdin is not None:
                process.stdin.write(json.dumps(record) + "\n")
                process.stdin.flush()

    def _live(self, command: list[str]) -> None:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches the parent alone
            )
        except OSError as error:
            self._end(f"it cannot be started: {error}")
            return
        self._process = process
        log = threading.Thread(target=_drain, args=(process.stderr, self._log.append), daemon=True)
        log.start()
        with self._lock:
            self._write(asdict(self._settings))
        for line in process.stdout or ():
            self._hear(json.loads(line))
        process.wait()
        log.join(_STOP_S)
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError, ValueError):  # what it did not read any more is lost
                if pipe is not None:
                    pipe.close()
        self._end(None)

    def _hear(self, record: dict[str, Any]) -> None:
        if "id" in record:
            if "piece" not in record:
                self._idle.set()
            inbox = self._inboxes.get(record["id"])
            if inbox is not None:
                inbox.put(record)
        else:
            self._fatal = record.get("fatal")
            self.load_s = time.monotonic() - self._start_s
            self._ready.set()

    def _end(self, problem: str | None) -> None:
        if problem is not None:
            self._log.append(problem)
        with self._lock:
            self._ended = True
            waiting, self._inboxes = self._inboxes, {}
        for inbox in waiting.values():
            inbox.put({"died": self._death()})
        self._idle.set()
        self._ready.set()

    def _death(self) -> LocumError:
        status = self._process.returncode if self._process is not None else None
        if status == -9:
            return LocumError(
                "core-child-killed", "OpenVINO's process was killed, most likely because memory ran out",
                where=self._settings.model, fix="close other programs, or use a smaller model",
            )  # fmt: skip
        last = one_line(self._log[-1], 200) if self._log else "no message"
        return LocumError(
            "runtime-child-died", f"OpenVINO's process ended with {status}: {last}", where=self._settings.model
        )


def _drain(lines: Any, keep: Callable[[str], None]) -> None:
    for line in lines or ():
        if line.strip():
            keep(line.strip())
