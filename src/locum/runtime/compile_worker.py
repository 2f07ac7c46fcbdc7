"""The process in which constraints are compiled: it may be killed at any time, and ends when its parent does.

Notable: memory is limited for this process alone, and an alarm ends it even when the parent, which should, is gone. A
text gets so much processor time and no more, and the process lives on. One JSON object a line each way: in ``{"kind",
"text", "processor_s"}``, the kind a key of ``_WORK``; out ``{"text"}``, ``{"error"}`` or ``{"late"}``.
Not here: who starts and kills it (``constraints``), what a conversation is (``llama_template``).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import sys
from datetime import datetime
from typing import Any

from locum.core.errors import UserError
from locum.runtime.grammar_check import read_grammar
from locum.runtime.schema_grammar import SchemaWriter, schema_grammar

MEMORY_BYTES = 256 << 20
"""What compiling may take beyond the process as it starts."""

_ALARM_S = 30


def compile_text(kind: str, text: str) -> str:
    """Compile one schema (JSON) or tool, check one grammar or a call's arguments, or render one conversation; the work
    itself, in whatever process.

    Raises:
        UserError: it is refused; the code says why.
    """
    return _WORK[kind](text)


def _conversation(text: str) -> str:
    from locum.runtime.llama_template import render_all

    render_all(text)
    return ""


def _grammar(text: str) -> str:
    read_grammar(text)
    return text


def _schema(text: str) -> str:
    made = schema_grammar(json.loads(text))
    try:
        read_grammar(made)
    except UserError as error:
        if error.code == "runtime-constraint-grammar":  # only references and patterns can bring this about
            cause = f"the schema refers only to itself, or a pattern repeats what may be empty ({error.cause})"
            raise UserError("runtime-constraint-schema", cause, fix=error.fix) from None
        raise UserError(error.code, f"the schema is too large as a {error.cause}", fix="make it smaller") from None
    return made


def _tool(text: str) -> str:
    """The rules of a tool's arguments, and what was left out of them; arguments are an object, whatever is said."""
    asked = json.loads(text)
    parameters = asked["parameters"]
    faults: dict[tuple[str, str], str] = {}
    if asked["is_object"] and not _UNTYPED & parameters.keys() and parameters.get("type") != "object":
        if "type" in parameters:
            faults[("#", "type")] = "#: arguments are an object"
        parameters = {**parameters, "type": "object"}
    writer = SchemaWriter(parameters, asked["root"], patient=True)
    rules = writer.grammar()
    faults |= writer.faults
    try:
        read_grammar(f"root ::= {asked['root']}\n{rules}")
    except UserError as error:
        rules = SchemaWriter({"type": "object"}, asked["root"]).grammar()
        faults[("#", "")] = f"#: the schema cannot be enforced as a {error.cause}"
    return json.dumps({"rules": rules, "faults": [[*at, why] for at, why in faults.items()]})


_UNTYPED = frozenset({"$ref", "anyOf", "oneOf", "allOf", "enum", "const"})
"""What may stand in a type's place."""


def _arguments(text: str) -> str:
    """``false`` where a call's arguments break the schema of their tool, with every keyword and format that is checked.

    What a malformed or foreign part of a schema means nobody can say, and it breaks nothing.
    """
    import jsonschema
    import referencing

    asked = json.loads(text)
    kind = jsonschema.Draft202012Validator
    checker = jsonschema.FormatChecker(())
    checker.checkers = {**kind.FORMAT_CHECKER.checkers, **_MORE_FORMATS}
    nothing_fetched = referencing.Registry[Any]()
    try:
        fits = kind(asked["schema"], registry=nothing_fetched, format_checker=checker).is_valid(asked["arguments"])
    except Exception:  # noqa: BLE001 - a stranger's schema: anything may be wrong with it
        fits = True
    return json.dumps(fits)


def _is_moment(value: Any) -> bool:
    return not isinstance(value, str) or ("T" in value.upper() and bool(datetime.fromisoformat(value)))


def _is_time(value: Any) -> bool:
    return not isinstance(value, str) or bool(datetime.fromisoformat(f"2000-01-01T{value}"))


def _is_address(value: Any) -> bool:
    return not isinstance(value, str) or re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]*", value) is not None


_MORE_FORMATS: dict[str, Any] = {
    "date-time": (_is_moment, ValueError),
    "time": (_is_time, ValueError),
    "uri": (_is_address, ()),
}
"""Formats that jsonschema checks only with further packages."""


_WORK = {
    "schema": _schema,
    "grammar": _grammar,
    "tool": _tool,
    "arguments": _arguments,
    "conversation": _conversation,
}


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
            if request["kind"] == "arguments":  # its import takes longer than most checks, and is nobody's fault
                importlib.import_module("jsonschema")
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
