"""What a model's answer must be: a JSON schema or a grammar in, a checked GBNF grammar out.

Notable: a hostile schema is an error and never a hang: its size is checked here, and the rest is done in a worker
process with limited memory that is killed when it takes too long, and started again on demand. Outcomes, refusals
too, are kept by hash. Not here: what is enforced (``schema_grammar``, ``grammar_check``), the worker's side
(``compile_worker``), running a grammar (the engines).
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from typing import Any

from locum.core.errors import LocumError, UserError
from locum.core.files import sha256_bytes
from locum.runtime.grammar_parse import MAX_BYTES as MAX_GRAMMAR_BYTES
from locum.runtime.schema_limits import check_limits

COMPILE_S = 2.0
"""The longest that compiling may take."""
KEPT = 128
"""Outcomes kept, the least recently used goes first."""

_START_S = 30.0
_WAIT_S = 10.0
_Outcome = str | UserError


def compile_schema(schema: dict[str, Any], *, timeout_s: float = COMPILE_S) -> str:
    """A GBNF grammar (start ``root``) that writes only JSON which the schema allows.

    The limits are the constants of ``schema_limits``, ``grammar_parse``, ``grammar_check`` and ``schema_pattern``.

    Args:
        schema: JSON Schema 2020-12, within limits; ``$ref`` only within it.
        timeout_s: the worker is killed after so long.

    Returns:
        The grammar; the order of properties is that of the schema.

    Raises:
        UserError: ``runtime-constraint-schema`` (malformed, or allows nothing), ``runtime-constraint-unsupported`` (a
            keyword that cannot be enforced), ``runtime-constraint-too-large``, ``runtime-constraint-timeout``.
    """
    return _COMPILER.compile("schema", check_limits(schema), timeout_s)


def check_grammar(text: str, *, timeout_s: float = COMPILE_S) -> str:
    """The grammar itself, once it is known to be sound and within limits.

    Raises:
        UserError: ``runtime-constraint-grammar``, ``runtime-constraint-too-large`` or ``runtime-constraint-timeout``.
    """
    if len(text) > MAX_GRAMMAR_BYTES:
        cause = f"grammar: {len(text):,} characters are over {MAX_GRAMMAR_BYTES:,}"
        raise UserError("runtime-constraint-too-large", cause, fix="make it smaller")
    return _COMPILER.compile("grammar", text, timeout_s)


class _Compiler:
    """The worker, when there is one, and the outcomes so far; one request at a time."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._keeping = threading.Lock()
        self._outcomes: OrderedDict[str, _Outcome] = OrderedDict()
        self._child: subprocess.Popen[str] | None = None

    def compile(self, kind: str, text: str, timeout_s: float) -> str:
        key = sha256_bytes(f"{kind}\0{text}".encode("utf-8", "surrogatepass"))
        outcome = self._kept(key)
        if outcome is None:
            if not self._turn.acquire(timeout=_WAIT_S):
                raise UserError("runtime-constraint-timeout", "other constraints are being compiled", fix="try again")
            try:
                outcome = self._ask(json.dumps({"kind": kind, "text": text}), timeout_s)
            finally:
                self._turn.release()
            self._keep(key, outcome)
        if isinstance(outcome, UserError):
            raise UserError(outcome.code, outcome.cause, fix=outcome.fix)
        return outcome

    def close(self) -> None:
        """End the worker; the next request starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()

    def _ask(self, request: str, timeout_s: float) -> _Outcome:
        for attempt in range(2):
            child = self._running()
            start_s = time.monotonic()
            line = _exchange(child, request, timeout_s)
            if line:
                answer = json.loads(line)
                error = answer.get("error")
                return answer["text"] if error is None else UserError(error["code"], error["cause"], fix=error["fix"])
            taken_s = time.monotonic() - start_s
            self.close()
            if attempt == 1 or taken_s >= timeout_s:  # a worker that ended at once may have been ended by others
                break
        cause = f"it could not be compiled within {timeout_s:g} s and {_memory_mb()} MB"
        return UserError("runtime-constraint-timeout", cause, fix="make the schema or grammar simpler")

    def _running(self) -> subprocess.Popen[str]:
        if self._child is not None and self._child.poll() is not None:
            self.close()
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "locum.runtime.compile_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for the parent, whose end closes the pipe
            )
            if not _exchange(self._child, None, _START_S):
                self.close()
                raise LocumError("core-child-failed", "the process that compiles constraints did not start")
        return self._child

    def _kept(self, key: str) -> _Outcome | None:
        with self._keeping:
            if key in self._outcomes:
                self._outcomes.move_to_end(key)
            return self._outcomes.get(key)

    def _keep(self, key: str, outcome: _Outcome) -> None:
        if isinstance(outcome, UserError) and outcome.code == "runtime-constraint-timeout":
            return  # the machine may only have been busy
        with self._keeping:
            self._outcomes[key] = outcome
            while len(self._outcomes) > KEPT:
                self._outcomes.popitem(last=False)


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
