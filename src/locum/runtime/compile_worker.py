"""The process in which constraints are compiled: it may be killed at any time, and ends when its parent does.

Notable: memory is limited for this process alone, and an alarm ends it even when the parent, which should, is gone. A
text gets so much processor time and no more, and the process lives on. One JSON object a line each way: in ``{"kind",
"text", "processor_s"}``, the kind ``schema``, ``grammar`` or ``conversation``; out ``{"text"}``, ``{"error"}`` or
``{"late"}``. Not here: who starts and kills it (``constraints``), what a conversation is (``llama_template``).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import Any

from locum.core.errors import UserError
from locum.runtime.grammar_check import read_grammar
from locum.runtime.schema_grammar import schema_grammar

MEMORY_BYTES = 256 << 20
"""What compiling may take beyond the process as it starts."""

_ALARM_S = 30


def compile_text(kind: str, text: str) -> str:
    """Compile one schema (JSON), check one grammar or render one conversation; the work itself, in whatever process.

    Raises:
        UserError: it is refused; the code says why.
    """
    if kind == "conversation":
        from locum.runtime.llama_template import render_all

        render_all(text)
        return ""
    if kind == "grammar":
        read_grammar(text)
        return text
    made = schema_grammar(json.loads(text))
    try:
        read_grammar(made)
    except UserError as error:
        if error.code == "runtime-constraint-grammar":  # only references and patterns can bring this about
            cause = f"the schema refers only to itself, or a pattern repeats what may be empty ({error.cause})"
            raise UserError("runtime-constraint-schema", cause, fix=error.fix) from None
        raise UserError(error.code, f"the schema is too large as a {error.cause}", fix="make it smaller") from None
    return made


def main() -> int:
    """Answer requests until the input ends."""
    _limit_memory()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answers.write("{}\n")
    answers.flush()
    for line in sys.stdin:
        if hasattr(signal, "alarm"):
            signal.alarm(_ALARM_S)
        answer, sound = _answer(json.loads(line))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if not sound:
            return 1
        if hasattr(signal, "alarm"):
            signal.alarm(0)
    return 0


class _OutOfTimeError(BaseException):
    """Raised wherever the work is; no handler of the work's own catches it."""


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The answer, and whether this process may go on: one that ran out of memory is not what it was."""
    try:
        try:
            _limit_processor(request["processor_s"])
            return {"text": compile_text(request["kind"], request["text"])}, True
        finally:
            _limit_processor(0)
    except _OutOfTimeError:
        return {"late": True}, True
    except UserError as error:
        return {"error": error.to_json()}, True
    except (MemoryError, RecursionError) as error:
        memory = isinstance(error, MemoryError)
        cause = f"compiling it ran out of {'memory' if memory else 'stack'}"
        return {"error": UserError("runtime-constraint-timeout", cause, fix="make it smaller").to_json()}, not memory


def _limit_processor(seconds: float) -> None:
    """Raise ``_OutOfTimeError`` after so much processor time from now on, 0: never; Windows has only the clock of the
    parent.
    """
    if sys.platform != "win32":
        signal.signal(signal.SIGPROF, _too_late)
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _too_late(*_: object) -> None:
    raise _OutOfTimeError


def _limit_memory() -> None:
    """Linux; elsewhere only the time is limited."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  (pathlib adds nothing here)
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))


if __name__ == "__main__":
    sys.exit(main())
