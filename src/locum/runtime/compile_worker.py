"""The process in which constraints are compiled: it may be killed at any time, and ends when its parent does.

Notable: memory is limited for this process alone, and an alarm ends it even when the parent, which should, is gone.
One JSON object a line each way: ``{"kind": "schema" | "grammar", "text": …}`` in, ``{"text": …}`` or
``{"error": …}`` out. Not here: who starts and kills it (``constraints``).
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
    """Compile one schema (JSON) or check one grammar; the work itself, in whatever process.

    Raises:
        UserError: it is refused; the code says why.
    """
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
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()
        if hasattr(signal, "alarm"):
            signal.alarm(0)
    return 0


def _answer(request: dict[str, str]) -> dict[str, Any]:
    try:
        return {"text": compile_text(request["kind"], request["text"])}
    except UserError as error:
        return {"error": error.to_json()}
    except (MemoryError, RecursionError) as error:
        cause = f"compiling it ran out of {'memory' if isinstance(error, MemoryError) else 'stack'}"
        return {"error": UserError("runtime-constraint-timeout", cause, fix="make it smaller").to_json()}


def _limit_memory() -> None:
    """Linux; elsewhere only the time is limited."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  (pathlib adds nothing here)
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))


if __name__ == "__main__":
    sys.exit(main())
