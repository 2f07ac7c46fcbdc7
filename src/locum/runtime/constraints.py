"""What a model's answer must be: a JSON schema or a grammar in, a checked GBNF grammar out.

Notable: a hostile schema is an error and never a hang: its size is checked here, and the rest is done in worker
processes with limited time and memory that are killed when they take too long, and started again on demand. A slow
text waits behind slow ones alone. Outcomes, refusals too, are kept by hash. Not here: what is enforced
(``schema_grammar``, ``grammar_check``), the worker's side (``compile_worker``), running a grammar (the engines).
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

from locum.core.environment import without_secrets
from locum.core.errors import LocumError, UserError
from locum.core.files import sha256_bytes
from locum.runtime.grammar_parse import MAX_BYTES as MAX_GRAMMAR_BYTES
from locum.runtime.schema_limits import check_limits

COMPILE_S = 2.0
"""The longest that compiling may take, in processor time."""
QUICK_S = 0.1
"""What takes longer waits for its turn among others that do."""
KEPT = 128
"""Outcomes kept, the least recently used goes first."""
WAIT_S = 10.0
"""How long one may wait for a turn."""
QUICK_WAITING, SLOW_WAITING = 64, 4
"""How many may wait for a turn, the one whose turn it is included."""

_START_S = 30.0
_SPARE_S = 1.0
_Outcome = str | UserError


def compile_schema(schema: dict[str, Any], *, timeout_s: float = COMPILE_S) -> str:
    """A GBNF grammar (start ``root``) that writes only JSON which the schema allows.

    The limits are the constants of ``schema_limits``, ``grammar_parse``, ``grammar_check`` and ``schema_pattern``.

    Args:
        schema: JSON Schema 2020-12, within limits; ``$ref`` only within it.
        timeout_s: processor time that it may take; the worker is killed when it does not answer either.

    Returns:
        The grammar; the order of properties is that of the schema.

    Raises:
        UserError: ``runtime-constraint-schema`` (malformed, or allows nothing), ``runtime-constraint-unsupported`` (a
            keyword that cannot be enforced), ``runtime-constraint-too-large``, ``runtime-constraint-timeout``.
        LocumError: ``runtime-busy``: others are being compiled.
    """
    return _COMPILER.compile("schema", check_limits(schema), timeout_s)


def check_grammar(text: str, *, timeout_s: float = COMPILE_S) -> str:
    """The grammar itself, once it is known to be sound and within limits.

    Raises:
        UserError: ``runtime-constraint-grammar``, ``runtime-constraint-too-large`` or ``runtime-constraint-timeout``.
        LocumError: ``runtime-busy``: others are being compiled.
    """
    if len(text) > MAX_GRAMMAR_BYTES:
        cause = f"grammar: {len(text):,} characters are over {MAX_GRAMMAR_BYTES:,}"
        raise UserError("runtime-constraint-too-large", cause, fix="make it smaller")
    return _COMPILER.compile("grammar", text, timeout_s)


@dataclass(frozen=True)
class ToolRules:
    """What binds the arguments of a tool's call.

    Attributes:
        rules: GBNF, with a start of the name that was asked for.
        faults: what the rules do not enforce: the place in the schema, the keyword (empty for all of it), and why.
    """

    rules: str
    faults: tuple[tuple[str, str, str], ...]


def compile_tool(parameters: dict[str, Any], root: str, *, is_object: bool = True) -> ToolRules:
    """The rules of a tool's arguments, as far as they can be enforced; the rest is told, all of it.

    Args:
        parameters: JSON Schema 2020-12, within the limits of ``compile_schema``.
        root: name of the start; rules with different ones can stand in one grammar.
        is_object: whether an object is meant, whatever the schema says.

    Raises:
        UserError: ``runtime-constraint-too-large``, ``runtime-constraint-timeout``, or ``runtime-constraint-schema``
            for what is no JSON.
        LocumError: ``runtime-busy``: others are being compiled.
    """
    check_limits(parameters)
    text = json.dumps({"parameters": parameters, "root": root, "is_object": is_object}, ensure_ascii=False)
    made = json.loads(_COMPILER.compile("tool", text, COMPILE_S))
    return ToolRules(made["rules"], tuple((where, key, why) for where, key, why in made["faults"]))


def check_arguments(schema: dict[str, Any], arguments: Any) -> bool:
    """Whether a call's arguments fit the schema of their tool, as far as it can be understood and there is time.

    Raises:
        LocumError: ``runtime-busy``: others are being compiled.
    """
    return _COMPILER.shown("arguments", json.dumps({"schema": schema, "arguments": arguments}))


class Worker:
    """One process that compiles, when there is one; those who wait for it come in the order in which they asked.

    Args:
        most: how many may be there, the one whose turn it is included.
    """

    def __init__(self, most: int) -> None:
        self.child: subprocess.Popen[str] | None = None
        self._most = most
        self._lock = threading.Lock()
        self._turns: deque[threading.Event] = deque()  # the first is at work

    def ask(self, request: dict[str, Any], wall_s: float) -> dict[str, Any]:
        """Its answer; empty when it was killed, because it took longer than ``wall_s`` or too much memory.

        Args:
            request: as ``compile_worker`` describes it.
            wall_s: by the clock; processor time is limited by the request.

        Raises:
            LocumError: ``runtime-busy``: too many are there, or their turns took too long.
        """
        self._enter()
        try:
            line = json.dumps(request)
            for attempt in range(2):
                start_s = time.monotonic()
                answer = _exchange(self._running(), line, wall_s)
                if answer:
                    return json.loads(answer)
                taken_s = time.monotonic() - start_s
                self.close()
                if attempt == 1 or taken_s >= wall_s:  # a worker that ended at once may have been ended by others
                    break
            return {}
        finally:
            with self._lock:
                self._turns.popleft()
                if self._turns:
                    self._turns[0].set()

    def close(self) -> None:
        """End the process; the next request starts another."""
        child, self.child = self.child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):  # unsent bytes cannot be flushed to a dead process
                    if pipe is not None:
                        pipe.close()

    def _enter(self) -> None:
        mine = threading.Event()
        with self._lock:
            if len(self._turns) >= self._most:
                raise _busy()
            self._turns.append(mine)
            self._turns[0].set()
        if mine.wait(WAIT_S):
            return
        with self._lock:
            if mine.is_set():  # in the moment between
                return
            self._turns.remove(mine)
        raise _busy()

    def _running(self) -> subprocess.Popen[str]:
        if self.child is not None and self.child.poll() is not None:
            self.close()
        if self.child is None:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "locum.runtime.compile_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**without_secrets(os.environ), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for the parent, whose end closes the pipe
            )
            if not _exchange(self.child, None, _START_S):
                self.close()
                raise LocumError("core-child-failed", "the process that compiles constraints did not start")
        return self.child


class _Compiler:
    """Two workers and the outcomes so far.

    Every text goes to the quick worker, for a moment; what needs longer goes to the slow one, and is known as slow from
    then on. So a text that takes long holds up others that do, and nobody else for longer than that moment. Several who
    ask for one text wait for one outcome.
    """

    def __init__(self) -> None:
        self._keeping = threading.Lock()
        self._outcomes: OrderedDict[str, _Outcome] = OrderedDict()
        self._slow: OrderedDict[str, None] = OrderedDict()
        self._under_way: dict[str, threading.Event] = {}
        self._quick_worker, self._slow_worker = Worker(QUICK_WAITING), Worker(SLOW_WAITING)

    @property
    def _child(self) -> subprocess.Popen[str] | None:
        """The quick worker's process."""
        return self._quick_worker.child

    @_child.setter
    def _child(self, child: subprocess.Popen[str] | None) -> None:
        self._quick_worker.child = child

    def compile(self, kind: str, text: str, timeout_s: float) -> str:
        key = sha256_bytes(f"{kind}\0{text}".encode("utf-8", "surrogatepass"))
        while (outcome := self._kept(key)) is None:
            with self._keeping:
                other = self._under_way.setdefault(key, mine := threading.Event())
            if other is not mine:
                if not other.wait(WAIT_S):
                    raise _busy()
                continue
            try:
                outcome = self._made(key, {"kind": kind, "text": text}, timeout_s)
                break
            finally:
                with self._keeping:
                    del self._under_way[key]
                mine.set()
        if isinstance(outcome, UserError):
            raise UserError(outcome.code, outcome.cause, fix=outcome.fix)
        return outcome

    def shown(self, kind: str, text: str) -> bool:
        """Whether the quick worker says ``true``, in its time; not kept."""
        request = {"kind": kind, "text": text, "processor_s": QUICK_S}
        return self._quick_worker.ask(request, COMPILE_S + _SPARE_S).get("text") == "true"

    def close(self) -> None:
        """End the workers; the next request starts others."""
        self._quick_worker.close()
        self._slow_worker.close()

    def _made(self, key: str, request: dict[str, str], timeout_s: float) -> _Outcome:
        answer: dict[str, Any] = {"late": True}
        if key not in self._slow:
            quick_s = min(QUICK_S, timeout_s)
            answer = self._quick_worker.ask({**request, "processor_s": quick_s}, timeout_s + _SPARE_S)
            if "late" in answer:
                self._keep(self._slow, key, None)
        if "late" in answer:
            answer = self._slow_worker.ask({**request, "processor_s": timeout_s}, 2 * timeout_s + _SPARE_S)
        if "text" in answer:
            outcome: _Outcome = answer["text"]
        elif "error" in answer:
            error = answer["error"]
            outcome = UserError(error["code"], error["cause"], fix=error["fix"])
        else:
            cause = f"it could not be compiled within {timeout_s:g} s and {_memory_mb()} MB"
            outcome = UserError("runtime-constraint-timeout", cause, fix="make the schema or grammar simpler")
        if answer:  # else it was killed by the clock: the machine may only have been busy
            self._keep(self._outcomes, key, outcome)
        return outcome

    def _kept(self, key: str) -> _Outcome | None:
        with self._keeping:
            if key in self._outcomes:
                self._outcomes.move_to_end(key)
            return self._outcomes.get(key)

    def _keep(self, store: OrderedDict[str, Any], key: str, value: Any) -> None:
        with self._keeping:
            store[key] = value
            while len(store) > KEPT:
                store.popitem(last=False)


def _busy() -> LocumError:
    return LocumError("runtime-busy", "other constraints are being compiled", fix="ask again in a moment")


def _exchange(child: subprocess.Popen[str], request: str | None, timeout_s: float) -> str:
    """Send a line and wait for one; empty when the child ended, or was killed because the time was up, before the end
    of its line.
    """
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("the worker has no pipes")
    timer = threading.Timer(timeout_s, child.kill)
    timer.daemon = True
    timer.start()
    try:
        if request is not None:
            child.stdin.write(request + "\n")
            child.stdin.flush()
        line = child.stdout.readline()
        return line if line.endswith("\n") else ""
    except OSError:  # it is gone
        return ""
    finally:
        timer.cancel()


def _memory_mb() -> int:
    from locum.runtime.compile_worker import MEMORY_BYTES

    return MEMORY_BYTES >> 20


_COMPILER = _Compiler()
atexit.register(_COMPILER.close)
