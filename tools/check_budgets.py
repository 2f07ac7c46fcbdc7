"""Checks the project's budgets: sizes of files and functions, depth of packages, docstrings, what tests assert.

    python tools/check_budgets.py        prints every violation; exit 1 when there is one

Notable: budgets keep the code readable for a newcomer; when one is hit, the shape is wrong, not the budget.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES = 500
FILE_LINES_MEDIAN = 200
FUNCTION_LINES = 80
FUNCTION_LINES_MOST = 40
MOST = 0.9
DEPTH = 2


def main() -> int:
    """Print every violation and return the exit status."""
    violations = list(check())
    for violation in violations:
        print(violation)
    print(f"budgets: {len(violations)} violations" if violations else "budgets: all kept")
    return bool(violations)


def check() -> Iterator[str]:
    """Yield one line per violation."""
    sizes: list[int] = []
    functions: list[int] = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        lines = text.count("\n")
        sizes.append(lines)
        if lines > FILE_LINES:
            yield f"{name}: {lines} lines (at most {FILE_LINES})"
        if len(path.relative_to(ROOT / "src" / "locum").parts) > DEPTH:
            yield f"{name}: packages are at most {DEPTH} deep"
        if ast.get_docstring(tree) is None:
            yield f"{name}: the module has no docstring"
        for function in functions_of(tree):
            size = length(function)
            functions.append(size)
            if size > FUNCTION_LINES:
                yield f"{name}:{function.lineno} {function.name}: {size} lines (at most {FUNCTION_LINES})"
    yield from _whole(sizes, functions)
    yield from _tests()


def _whole(sizes: list[int], functions: list[int]) -> Iterator[str]:
    if statistics.median(sizes) > FILE_LINES_MEDIAN:
        yield f"the median file has {statistics.median(sizes):.0f} lines (at most {FILE_LINES_MEDIAN})"
    short = sum(size <= FUNCTION_LINES_MOST for size in functions) / len(functions)
    if short < MOST:
        yield f"{short:.1%} of functions have at most {FUNCTION_LINES_MOST} lines (at least {MOST:.0%})"


def _tests() -> Iterator[str]:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = path.relative_to(ROOT).as_posix()
        functions = list(functions_of(ast.parse(path.read_text(encoding="utf-8"))))
        asserting = {function.name for function in functions if _asserts(function, set())}
        for function in functions:
            if function.name.startswith("test") and not _asserts(function, asserting):
                yield f"{name}:{function.lineno} {function.name}: asserts nothing"


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, its docstring included."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _asserts(function: ast.AST, helpers: set[str]) -> bool:
    """Whether a function asserts, itself or through one of the file's own functions that does."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in helpers or any(word in called for word in ("raises", "warns", "assert", "expect")):
                return True
    return False


if __name__ == "__main__":
    sys.exit(main())
