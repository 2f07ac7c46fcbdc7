"""``code``: a Python function from its head and description; right when its tests pass (HumanEval, Chen et al. 2021).

Notable: an answer is the whole program, the input's head included, whether a model wrote the body alone, the function
once more, or a Markdown block; a body that lost its indentation on the way (chat templates strip it) gets it back.
Tests run in the sandbox, several at once; a verdict is kept by content while the process lives. Only Python is run.

A gold answer is a JSON object: ``test``, code that defines ``check(candidate)`` when there is an ``entry_point``, else
code, or a list of statements, that fails by itself; and ``canonical_solution``, what a student learns to write, where
it is known. Not here: the walls (``core.sandbox``), the program that is run (``scoring.code``).
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import lru_cache
from typing import Any, NamedTuple

from locum.core.cpu import usable_cores
from locum.core.progress import track, warn
from locum.core.sandbox import run_python
from locum.schema.data import Row
from locum.scoring.code import LIMITS, extract_code, pass_at_k, run_tests, truncate
from locum.scoring.spoken import spoken
from locum.stats.rowwise import Metric
from locum.tasks.json_answer import read_json
from locum.tasks.written import GoldFault, Written, mean

_TEST = ("test", "tests", "test_list")
_SOLUTION = ("canonical_solution", "solution", "code")
_FUNCTION = re.compile(r"^(?:async\s+)?def\s+(\w+)", re.MULTILINE)
_INDENT = "    "
_NO_BODY, _GAP = f"\n{_INDENT}pass", "\n\n\n"
_KEPT = 20_000
_KS = (1, 5, 10, 50)
_READ_CHARS = 100_000


class Gold(NamedTuple):
    """What a completion is checked by.

    Attributes:
        test: code.
        entry_point: the function that ``check`` is called with; empty where the tests call it themselves.
        solution: a right one; None where none is known.
    """

    test: str
    entry_point: str
    solution: str | None


class Code(Written):
    """Programs, right when their tests pass; pass@k as well where several were sampled."""

    name = "code"
    addition = "Answer with Python code alone. Use nothing but the standard library."
    tokens = least = 512
    version = 2

    def parse(self, completion: str, text: str) -> str | None:
        """The program: the code that a model wrote, behind the input's head where it goes on from there; None for a
        refusal.
        """
        names, said = _FUNCTION.findall(text), spoken(completion)
        code = extract_code(said, names[-1] if names else "").strip("\n")
        if not code.strip() or self.refused(said, text):
            return None
        return whole_program(text, code) if names else code.rstrip() + "\n"

    def target(self, row: Row) -> str | None:
        """A right solution, where the gold answer has one."""
        solution = read_gold(row.output).solution
        if solution is None:
            return None
        names = _FUNCTION.findall(row.input)
        again = not names or names[-1] in _FUNCTION.findall(solution)
        return solution if again else as_body(solution, _indent_of(row.input))

    def written(self, output: str, text: str) -> str:
        """What stands behind the input's head: the body, or the function once more."""
        head = text.rstrip()
        if not _FUNCTION.search(text) or not output.startswith(head):
            return output
        return output.removeprefix(head).removeprefix(_NO_BODY + _GAP).strip("\n")

    def fault(self, row: Row) -> str | None:
        """A gold answer is an object with tests."""
        try:
            read_gold(row.output)
        except ValueError as problem:
            return str(problem)
        return None

    def features(self, text: str, output: str) -> dict[str, float]:
        """Lines, whether it is Python, and whether the last head of the input is the last function defined."""
        names, defined = _FUNCTION.findall(text), _FUNCTION.findall(output)
        return {
            "lines": float(sum(bool(line.strip()) for line in output.splitlines())),
            "parses": float(_parses(output)),
            "defines": float(not names or names[-1] in defined),
            "repeated": super().features(text, output)["repeated"],
        }

    def score(self, outputs: Sequence[str | None], rows: Sequence[Row]) -> dict[str, Metric]:
        """Accuracy: the share of programs that pass their tests.

        Raises:
            DeviceError: ``core-no-sandbox``.
        """
        return {"accuracy": mean([float(verdict) for verdict in _verdicts(outputs, rows)])}

    def score_samples(self, samples: Sequence[Sequence[str | None]], rows: Sequence[Row]) -> dict[str, Metric]:
        """pass@k for each k that the samples reach: the chance that at least one of k sampled programs passes.

        The greedy program is none of them, since it is not drawn like them. A row with fewer samples than another, or
        with none because its input does not fit the context, fails with those that it lacks.

        Raises:
            DeviceError: ``core-no-sandbox``.
        """
        drawn = max(map(len, samples), default=0)
        flat = [(program, row) for some, row in zip(samples, rows, strict=True) for program in some]
        verdicts = iter(_verdicts([program for program, _ in flat], [row for _, row in flat]))
        passed = [sum(next(verdicts) for _ in some) for some in samples]
        return {f"pass_at_{k}": mean([pass_at_k(drawn, each, k) for each in passed]) for k in _KS if k <= drawn}


def _verdicts(programs: Sequence[str | None], rows: Sequence[Row]) -> list[bool]:
    """Which programs pass the tests of their rows, several run at once."""
    golds = [read_gold(row.output) for row in rows]
    with (
        track("run tests of programs", total=len(rows), unit="program") as tracker,
        ThreadPoolExecutor(usable_cores()) as pool,
    ):
        waiting = [
            None if program is None else pool.submit(copy_context().run, _passes, program, gold.test, gold.entry_point)
            for program, gold in zip(programs, golds, strict=True)
        ]
        passed: list[bool] = []
        for verdict in waiting:
            passed.append(verdict is not None and verdict.result())
            tracker.advance()
    return passed


def read_gold(gold: str) -> Gold:
    """What a gold answer checks by.

    Raises:
        GoldFault: it is of another form; the message says how.
    """
    value = read_json(gold)
    if not isinstance(value, dict):
        raise GoldFault("no JSON object with a test")
    test = next((value[name] for name in _TEST if value.get(name)), None)
    if isinstance(test, list):
        test = "\n".join(map(str, test))
    if not isinstance(test, str):
        raise GoldFault(f"it has no test (none of {', '.join(_TEST)})")
    entry_point: Any = value.get("entry_point") or ""
    if not isinstance(entry_point, str) or (entry_point and not entry_point.isidentifier()):
        raise GoldFault(f"entry_point {str(entry_point)[:40]!r} is no function's name")
    if entry_point and not re.search(r"^def check\(", test, re.MULTILINE):
        raise GoldFault("with an entry_point, the test defines check(candidate)")
    solution = next((value[name] for name in _SOLUTION if value.get(name)), None)
    return Gold(test, entry_point, solution if isinstance(solution, str) else None)


def whole_program(head: str, code: str) -> str:
    """A program from a head (imports, signature, docstring) and what was written after it.

    Args:
        head: ends in a function without its body.
        code: the body, or the function once more; the head's imports and helpers stand before it then too.
    """
    head = head.rstrip()
    if _FUNCTION.findall(head)[-1] not in _FUNCTION.findall(code):
        return f"{head}\n{truncate(as_body(code, _indent_of(head))).rstrip()}\n"
    body = "" if _parses(head) else _NO_BODY  # a docstring is a body
    return f"{head}{body}{_GAP}{code.rstrip()}\n"


def as_body(code: str, indent: str = _INDENT) -> str:
    """A function's body with the indentation of one, which its first line, or all of it, may have lost."""
    lines = code.strip("\n").rstrip().splitlines()
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    if not lines or lines[first].startswith((" ", "\t")):
        return "\n".join(lines)
    after = next((line for line in lines[first + 1 :] if line.strip()), None)
    opens = lines[first].split("#")[0].rstrip().endswith(":")
    reached = 0 if after is None else len(after) - len(after.lstrip())
    if reached > (len(indent) if opens else 0):  # the others kept theirs
        return "\n".join([*lines[:first], indent + lines[first], *lines[first + 1 :]])
    return textwrap.indent("\n".join(lines), indent)


def _indent_of(head: str) -> str:
    """The indentation of what stands in a head's last function, four spaces where nothing does."""
    found = list(_FUNCTION.finditer(head))
    inside = re.search(r"^([ \t]+)\S", head[found[-1].end() :] if found else "", re.MULTILINE)
    return inside[1] if inside else _INDENT


@lru_cache(maxsize=_KEPT)
def _passes(program: str, test: str, entry_point: str) -> bool:
    outcome = (
        run_tests("", program, test, entry_point, limits=LIMITS)
        if entry_point
        else run_python(f"{program}\n{test}\n", limits=LIMITS)
    )
    if not outcome.isolated:
        _warn_of_walls(outcome.layers)
    return outcome.ok


@lru_cache(maxsize=1)
def _warn_of_walls(layers: tuple[str, ...]) -> None:
    warn(f"programs run behind weak walls here ({', '.join(layers) or 'none'}): score code on a machine you can lose")


def _parses(program: str) -> bool:
    """Whether it is Python by its grammar; told without running or compiling it."""
    try:
        ast.parse(program[:_READ_CHARS])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
