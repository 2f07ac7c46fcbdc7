"""GGUF models through llama.cpp in a child process: text, and classification over embeddings.

Notable: the child starts when it is first asked, is killed when it does not answer in time, is
started once again (after a pause) when it crashed, and never outlives its parent. Whoever waits when it dies
gets an error that says how it died; nothing is asked a second time, because the request may be what killed it.
A chat template runs inside llama.cpp's own interpreter, which has no Python to reach; its time is bounded by
the answer's. Not here: what runs in the child (``llamacpp_child``), checks of the file (``gguf_check``).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.core.cpu import usable_cores
from locum.core.errors import DeviceError, LocumError, ModelFileError
from locum.core.text import one_line
from locum.runtime.completion import Completion, CompletionRequest, FinishedStream
from locum.runtime.gguf_check import check_gguf
from locum.runtime.linear import read_arrays
from locum.runtime.llamacpp_child import ChildSettings
from locum.runtime.model_files import resolve_inside
from locum.schema.model import ModelSpec

HEAD_NAME = "head.npz"
_READY_S = 120.0
_BACK_OFF_S = 0.5
_CLOSE_S = 3.0
_EMBED_TIMEOUT_S = 120.0
_CHILD_MODULE = "locum.runtime.llamacpp_child"


class LlamaProcess:
    """A child process with one model; started on demand, safe to use from several threads.

    Args:
        settings: what the child opens; ``parent`` is filled in.
        ready_s: how long it may take to load.
        command: how to start the child (tests pass their own).
    """

    def __init__(
        self, settings: ChildSettings, *, ready_s: float = _READY_S, command: Sequence[str] | None = None
    ) -> None:
        self._settings = replace(settings, parent=os.getpid())
        self._ready_s = ready_s
        self._command = list(command or (sys.executable, "-m", _CHILD_MODULE))
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # one request at a time: waiting in line must not count as hanging
        self._child: _Child | None = None
        self._crashes = 0
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id of the running child, None when there is none."""
        child = self._child
        return child.pid if child is not None and child.alive else None

    def ask(self, operation: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            LocumError: ``runtime-timeout`` (the child is killed), ``runtime-child-died`` or ``core-child-killed``,
                ``runtime-child-start``, ``runtime-too-long``, ``runtime-engine-failed``, ``runtime-closed``.
            DeviceError: the processor lacks instructions that the engine's build needs.
        """
        if not self._turn.acquire(timeout=timeout_s):
            raise self._late("was busy with earlier requests for", timeout_s)
        try:
            child = self._running()
            result = child.send(operation, body).result(timeout_s)
        except TimeoutError:
            self._kill()
            raise self._late("was stopped because it did not answer within", timeout_s) from None
        finally:
            self._turn.release()
        self._crashes = 0
        return result

    def close(self) -> None:
        """End the child; a second call does nothing."""
        with self._lock:
            self._closed = True
            child, self._child = self._child, None
        if child is not None:
            child.close()

    def _late(self, what: str, timeout_s: float) -> LocumError:
        return LocumError(
            "runtime-timeout",
            f"llama.cpp {what} {timeout_s:g} s",
            where=self._settings.model,
            fix="ask for fewer tokens, or allow more time (llm.timeout_s)",
        )

    def _kill(self) -> None:
        child = self._child
        if child is not None:
            child.kill()

    def _running(self) -> _Child:
        with self._lock:
            if self._closed:
                raise LocumError("runtime-closed", "the model was asked after it was closed")
            if self._child is not None and self._child.alive:
                return self._child
            if self._child is not None and not self._child.killed_by_us:
                self._crashes += 1
                if self._crashes > 1:
                    raise self._child.death()
                time.sleep(_BACK_OFF_S)
            self._child = _Child(self._command, self._settings)
            try:
                self._child.wait_ready(self._ready_s)
            except LocumError:
                self._child.kill()
                raise
            return self._child


class _Child:
    """One life of the child process, owned by a thread that starts it and reads what it says."""

    def __init__(self, command: list[str], settings: ChildSettings) -> None:
        self._settings = settings
        self._ids = itertools.count()
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()  # guards _waiting and writes to standard input
        self._ready: Future[dict[str, Any]] = Future()
        self._log: deque[str] = deque(maxlen=40)
        self._process: subprocess.Popen[str] | None = None
        self.killed_by_us = False
        # Linux kills the child when the thread that started it ends: it must be this one, not a caller's.
        threading.Thread(target=self._live, args=(command,), name="locum-llamacpp", daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def wait_ready(self, timeout_s: float) -> None:
        try:
            self._ready.result(timeout_s)
        except TimeoutError:
            raise LocumError(
                "runtime-child-start",
                f"llama.cpp did not load the model within {timeout_s:g} s",
                where=self._settings.model,
            ) from None

    def send(self, operation: str, body: dict[str, Any]) -> Future[dict[str, Any]]:
        answer: Future[dict[str, Any]] = Future()
        number = next(self._ids)
        line = json.dumps({"id": number, "op": operation, "body": body}) + "\n"
        with self._lock:
            process = self._process
            if process is None or process.stdin is None or process.poll() is not None:
                answer.set_exception(self.death())
                return answer
            self._waiting[number] = answer
            # A broken pipe: the reading thread sees the end as well, and fails every answer.
            with contextlib.suppress(OSError, ValueError):
                process.stdin.write(line)
                process.stdin.flush()
        return answer

    def kill(self) -> None:
        self.killed_by_us = True
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self.killed_by_us = True
        process = self._process
        if process is None:
            return
        with contextlib.suppress(OSError, ValueError):
            if process.stdin is not None:
                process.stdin.close()  # the child ends when its input does
        try:
            process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def death(self) -> LocumError:
        """Why the child is gone, as the error that callers get."""
        status = self._process.poll() if self._process is not None else None
        said = one_line(" ".join(list(self._log)[-3:]), 300)
        where = self._settings.model
        if self.killed_by_us:
            return LocumError("runtime-child-died", "llama.cpp was stopped while it answered", where=where)
        if status == -signal.SIGKILL:
            return LocumError(
                "core-child-killed",
                "llama.cpp was killed, most likely because memory ran out",
                where=where,
                fix="close other programs, take a smaller model or quantisation, or a smaller context",
            )
        if status == -signal.SIGILL:
            return DeviceError(
                "runtime-instructions",
                "this processor lacks instructions that the installed llama.cpp was built for",
                where=where,
                fix="use an ONNX student, or install a build of xllamacpp for this processor",
            )
        how = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
        return LocumError("runtime-child-died", f"llama.cpp ended with {how}: {said or 'no message'}", where=where)

    def _live(self, command: list[str]) -> None:
        try:
            self._process = process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C is for the parent, which closes the child
            )
        except OSError as error:
            self._ready.set_exception(LocumError("runtime-child-start", f"cannot start a process: {error}"))
            return
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise RuntimeError("the child process lacks its pipes")
        log = threading.Thread(target=self._log.extend, args=(process.stderr,), daemon=True)
        log.start()
        with contextlib.suppress(OSError):
            process.stdin.write(json.dumps(self._settings.to_json()) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            self._hear(json.loads(line))
        process.wait()
        log.join(timeout=1.0)
        self._bury(process)

    def _hear(self, record: dict[str, Any]) -> None:
        if "ready" in record:
            self._ready.set_result(record["ready"])
        elif "fatal" in record:
            self._ready.set_exception(_load_error(self._settings.model, record["fatal"], " ".join(self._log)))
        else:
            with self._lock:
                answer = self._waiting.pop(record["id"])
            if "error" in record:
                answer.set_exception(_request_error(self._settings, record["error"]))
            else:
                answer.set_result(record["result"])

    def _bury(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer.set_exception(self.death())
        if not self._ready.done():
            self._ready.set_exception(self.death())
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):  # unsent bytes cannot be flushed to a dead process
                if pipe is not None:
                    pipe.close()


def _load_error(model: str, fatal: str, log: str) -> LocumError:
    if "unknown model architecture" in log or "unknown pre-tokenizer" in log:
        why = one_line(log[log.find("unknown ") :], 160)
        return ModelFileError(
            "runtime-unsupported",
            f"llama.cpp does not know this model: {why}",
            where=model,
            fix="known families: llama (SmolLM2, Mistral), qwen2, qwen3, gemma3, phi3, granite, olmo2, gpt2 and more",
        )
    return ModelFileError("runtime-damaged", f"llama.cpp cannot load it: {fatal} {one_line(log[-300:])}", where=model)


def _request_error(settings: ChildSettings, message: str) -> LocumError:
    if "context" in message and ("exceed" in message or "larger" in message or "too large" in message):
        return LocumError(
            "runtime-too-long", f"{one_line(message)} (context {settings.n_ctx} tokens)", fix="shorten the request"
        )
    return LocumError("runtime-engine-failed", f"llama.cpp: {one_line(message)}", where=settings.model)


class LlamaGenerator:
    """Text from a GGUF file, with the chat template that stands in it.

    Args:
        path: the file.
        threads: CPU threads; None takes the usable cores.
        n_ctx: context in tokens.
        timeout_s: how long one answer may take, once the model is loaded.

    Raises:
        ModelFileError: the file is damaged, hostile or unsupported.
    """

    def __init__(self, path: Path, *, threads: int | None = None, n_ctx: int = 4096, timeout_s: float = 60.0) -> None:
        header = check_gguf(path)
        context = min(n_ctx, header.context_length or n_ctx)
        self._model = path.stem
        self._timeout_s = timeout_s
        self.process = LlamaProcess(ChildSettings(str(path.resolve()), context, None, threads or usable_cores(), 0))

    @property
    def model(self) -> str:
        """The file's name without its ending."""
        return self._model

    def complete(self, request: CompletionRequest) -> Completion:
        """Write an answer; requests wait for one another.

        Raises:
            LocumError: as ``LlamaProcess.ask``.
        """
        body: dict[str, Any] = {
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "stop": list(request.stop),
        }
        if request.seed is not None:
            body["seed"] = request.seed
        answer = self.process.ask("chat", body, self._timeout_s)
        choice, usage = answer["choices"][0], answer["usage"]
        return Completion(
            text=choice["message"].get("content") or "",
            finish_reason=str(choice["finish_reason"]),
            input_tokens=int(usage["prompt_tokens"]),
            output_tokens=int(usage["completion_tokens"]),
            model=self._model,
        )

    def stream(self, request: CompletionRequest) -> FinishedStream:
        """The answer as a stream, in one piece.

        Raises:
            LocumError: as ``complete``.
        """
        return FinishedStream(self.complete(request))

    def close(self) -> None:
        """End the child process; a second call does nothing."""
        self.process.close()


class LlamaClassifier:
    """A decoder in GGUF that classifies: pooled embeddings, then the linear head of ``head.npz``.

    ``head.npz`` holds ``weight`` [C, D] and ``bias`` [C] (C labels, D the model's width).

    Args:
        folder: with the GGUF file and ``head.npz``; it must have passed ``verify_folder``.
        spec: its ``model.json``; ``pooling`` must be given.
        threads: CPU threads; None takes the usable cores.

    Attributes:
        truncated: how many inputs were cut at ``max_tokens`` so far.

    Raises:
        ModelFileError: a file is damaged or unsupported, or the parts do not fit together.
    """

    def __init__(self, folder: Path, spec: ModelSpec, *, threads: int | None = None) -> None:
        path = resolve_inside(folder, spec.weights)
        header = check_gguf(path)
        if HEAD_NAME not in spec.files or spec.pooling is None:
            raise ModelFileError("runtime-mismatch", f"model.json needs {HEAD_NAME} and pooling", where=str(folder))
        arrays = read_arrays(folder / HEAD_NAME)
        width = header.embedding_length
        expected = {"weight": (len(spec.labels), width), "bias": (len(spec.labels),)}
        if {name: array.shape for name, array in arrays.items()} != expected:
            shapes = {name: array.shape for name, array in arrays.items()}
            raise ModelFileError("runtime-mismatch", f"{shapes}, needed {expected}", where=str(folder / HEAD_NAME))
        self._weight = arrays["weight"].astype(np.float32)
        self._bias = arrays["bias"].astype(np.float32)
        self._spec = spec
        self.truncated = 0
        n_ctx = max(64, spec.max_tokens + 8)
        self.process = LlamaProcess(
            ChildSettings(str(path.resolve()), n_ctx, spec.pooling, threads or usable_cores(), 0)
        )

    @property
    def spec(self) -> ModelSpec:
        """The folder's ``model.json``."""
        return self._spec

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores before softmax and temperature, ``[len(texts), n_labels]``: ``pooled @ weight.T + bias``.

        Raises:
            LocumError: as ``LlamaProcess.ask``.
        """
        result = np.empty((len(texts), len(self._spec.labels)), dtype=np.float32)
        for row, text in enumerate(texts):  # one request each, so that a long list does not run into the time-out
            clean = text[: self._spec.max_tokens * 100].encode("utf-8", "replace").decode()
            body = {"texts": [clean], "max_tokens": self._spec.max_tokens}
            answer = self.process.ask("embed", body, _EMBED_TIMEOUT_S)
            self.truncated += answer["cut"]
            result[row] = np.asarray(answer["embeddings"][0], dtype=np.float32) @ self._weight.T + self._bias
        return result

    def close(self) -> None:
        """End the child process; a second call does nothing."""
        self.process.close()
