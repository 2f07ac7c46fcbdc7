"""Both ends of a child process with a native engine in it: started, told its settings, heard, logged, ended.

Notable: the thread that starts the child also reads what it says until it ends, because Linux kills a child when the
thread that started it ends (``die_with_parent``), and a caller's thread may. The first line that the child reads are
its settings; it ends when its standard input does. What native code prints goes to the log, never between the lines
that parent and child exchange. Not here: what those lines mean (``llama_process``, ``openvino_generator``), and work
that is done once (``core.child``).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from locum.core.environment import without_secrets
from locum.core.errors import DeviceError, LocumError
from locum.core.openmp import waiting
from locum.core.text import one_line

_CLOSE_S = 3.0
_BURY_S = 3.0
_LOG_S = 1.0
_REST_LEAST_S = 0.05
_LOG_LINES = 60
_PR_SET_PDEATHSIG = 1
_SIGILL, _SIGKILL = 4, 9  # by number: Windows has no such names


class EngineChild(ABC):
    """One life of a child process; ``start`` begins it.

    Args:
        engine: its name, for messages.
        model: the file that it opens.
        command: how to start it.
        settings: the first line that it reads.
        memory_fix: what to do when memory ran out.
        instructions_fix: what to do when the processor lacks instructions.
    """

    def __init__(
        self,
        engine: str,
        model: str,
        command: Sequence[str],
        settings: dict[str, Any],
        *,
        memory_fix: str,
        instructions_fix: str,
    ) -> None:
        self.killed = False
        self._engine = engine
        self._model = model
        self._command = list(command)
        self._settings = settings
        self._memory_fix, self._instructions_fix = memory_fix, instructions_fix
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._process: subprocess.Popen[str] | None = None
        self._not_started: OSError | None = None
        self._over = threading.Event()
        self._writing = threading.Lock()
        self._log_reader: threading.Thread | None = None
        self._owner = threading.Thread(target=self._live, name=f"locum-{engine}", daemon=True)

    @abstractmethod
    def hear(self, record: dict[str, Any]) -> None:
        """Take a record from its standard output; called in order, by the thread that owns it."""

    @abstractmethod
    def ended(self) -> None:
        """It has ended, or could not be started; called once, by the thread that owns it."""

    def hear_log(self, line: str) -> None:  # noqa: B027 (to keep it is enough for most)
        """Take a line of its log, which is kept anyway; called by a thread of its own.

        Lines of standard output that are no record are of the log, too.
        """

    @property
    def alive(self) -> bool:
        """Whether it may still answer."""
        return not (self.killed or self._over.is_set()) and self.status is None

    @property
    def buried(self) -> bool:
        """Whether it has ended and is buried: then ``death`` does not wait."""
        return self._over.is_set()

    @property
    def pid(self) -> int | None:
        """Its process id, None before it has one."""
        return self._process.pid if self._process is not None else None

    @property
    def status(self) -> int | None:
        """Its exit status, None while there is none."""
        return self._process.poll() if self._process is not None else None

    def start(self) -> None:
        """Begin; returns before the process is there."""
        self._owner.start()

    def send(self, record: dict[str, Any]) -> None:
        """Write a line to its standard input; lost when it has ended, which ``ended`` tells."""
        with self._writing, contextlib.suppress(OSError, ValueError):
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.write(json.dumps(record) + "\n")
                self._process.stdin.flush()

    def kill(self) -> None:
        """End it at once, whatever it is doing; a second call does nothing."""
        self.killed = True
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def close(self, *, terminate: bool = False) -> None:
        """End it by the end of its input, and kill it when that does not help.

        Args:
            terminate: also ask with a signal, for a program that does not read its input.
        """
        self.killed = True
        process = self._process
        if process is None:
            return
        with contextlib.suppress(OSError, ValueError):
            if process.stdin is not None:
                process.stdin.close()
        if terminate:
            process.terminate()
        try:
            process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._owner.join(_CLOSE_S)

    def said(self, lines: int = 3) -> str:
        """The last lines of its log, as one."""
        return one_line(" ".join(list(self._log)[-lines:]), 300)

    def whole_log(self) -> str:
        """What is kept of its log, waiting a moment for the rest; for a child that is about to end."""
        if self._log_reader is not None:
            self._log_reader.join(_LOG_S)
        return " ".join(self._log)

    def death(self) -> LocumError:
        """Why it is gone, as the error that callers get; waits a moment when it is only about to be."""
        self._over.wait(_BURY_S)  # its connection ends a moment before the process does
        name, where, status = self._engine, self._model, self.status
        if self._not_started is not None:
            return LocumError("runtime-child-start", f"cannot start a process: {self._not_started}", where=where)
        if self.killed:
            return LocumError("runtime-child-died", f"{name} was stopped while it answered", where=where)
        if status == -_SIGKILL:
            why = f"{name} was killed, most likely because memory ran out"
            return LocumError("core-child-killed", why, where=where, fix=self._memory_fix)
        if status == -_SIGILL:
            why = f"this processor lacks instructions that the installed {name} was built for"
            return DeviceError("runtime-instructions", why, where=where, fix=self._instructions_fix)
        if status is None:
            return LocumError("runtime-engine-failed", f"{name} broke the connection off", where=where)
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return LocumError("runtime-child-died", f"{name} ended with {how}: {self.said() or 'no message'}", where=where)

    def _live(self) -> None:
        try:
            self._process = process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env={**without_secrets(os.environ), **waiting(os.environ, _megabytes(self._model))},
                start_new_session=True,  # Ctrl-C is for the parent, which closes the child
            )
        except OSError as error:
            self._not_started = error
            self._over.set()
            self.ended()
            return
        if self.killed:  # meanwhile
            process.kill()
        self._log_reader = threading.Thread(target=self._read_log, args=(process.stderr,), daemon=True)
        self._log_reader.start()
        self.send(self._settings)
        for line in process.stdout or ():
            self._take(line)
        process.wait()
        self._log_reader.join(_LOG_S)
        self._over.set()
        self.ended()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError, ValueError):  # unsent bytes cannot be flushed to a dead process
                if pipe is not None:
                    pipe.close()

    def _take(self, line: str) -> None:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            self.hear(record)
        else:
            self._keep(line)

    def _read_log(self, lines: Any) -> None:
        for line in lines:
            self._keep(line)

    def _keep(self, line: str) -> None:
        if line.strip():
            self._log.append(line.strip())
        self.hear_log(line)


class Reviver:
    """Starts an engine again that is not running, until it runs or never will; in a thread of its own.

    Without it a service that nobody asks, because it says that it is not ready, would never be ready again.

    Args:
        engine: its name, for the thread.
        attempt: tries once; whether there is nothing left to do.
        rest_s: how long to wait before the next attempt.
    """

    def __init__(self, engine: str, attempt: Callable[[], bool], rest_s: Callable[[], float]) -> None:
        self._engine = engine
        self._attempt = attempt
        self._rest_s = rest_s
        self._lock = threading.Lock()
        self._wanted = False
        self._working = False
        self._closed = threading.Event()

    def wake(self) -> None:
        """An engine has ended; returns at once, any thread may call it."""
        with self._lock:
            self._wanted = True
            if self._working or self._closed.is_set():
                return
            self._working = True
        threading.Thread(target=self._work, name=f"locum-{self._engine}-again", daemon=True).start()

    def close(self) -> None:
        """Try no more."""
        self._closed.set()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._wanted or self._closed.is_set():
                    self._working = False
                    return
                self._wanted = False
            while not self._closed.wait(max(_REST_LEAST_S, self._rest_s())):
                if self._attempt():
                    break


def _megabytes(model: str) -> float:
    """Size of the model's file; 0 where there is none."""
    with contextlib.suppress(OSError):
        return Path(model).stat().st_size / 1e6
    return 0.0


def die_with_parent(parent: int) -> None:
    """In the child: ask Linux to kill this process when the thread that started it ends; elsewhere nothing.

    The signal belongs to the parent's thread, so the parent starts the child from a thread that lives as long.
    It outlasts ``exec``.

    Args:
        parent: process id of the parent.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another libc: the end of standard input remains
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the request was in place
            os._exit(1)


class Send(Protocol):
    """Writes records for the parent, those of one call at once: each write wakes it."""

    def __call__(self, *records: dict[str, Any]) -> None:
        """Any thread may."""


def line_to_parent() -> Send:
    """In the child: keep what was standard output for records; from now on whatever is printed goes to the log."""
    wire = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(*records: dict[str, Any]) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        with lock:
            wire.write(lines)
            wire.flush()

    return send
