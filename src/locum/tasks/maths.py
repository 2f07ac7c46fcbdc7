"""``maths``: a word problem, worked in writing and ended by its number (the form of GSM8K, Cobbe et al. 2021).

Notable: a gold answer is a worked solution that ends in ``#### 72``, or the number alone; an answer is right when the
first number after its last ``####`` has the same value, or, where it has none of these, its last number. The features
look at the working: sums that do not come out are the plainest sign of a wrong answer. Not here: finding and comparing
numbers (``scoring.answers``).
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence

from locum.schema.data import Row
from locum.scoring.answers import extract_number, number_match
from locum.stats.rowwise import Metric
from locum.tasks.written import Written, mean

_SUM = re.compile(r"(?<![\w.])([\d$(][\d$.,()+\-*/×÷x \t]{1,80}?)\s*=\s*(-?\$?\d[\d,]*(?:\.\d+)?)")
_WRITTEN_SIGNS = str.maketrans({"×": "*", "÷": "/", "x": "*", "$": None, ",": None})
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_ROUNDED = 0.011
"""Sums of money are often rounded to cents."""
_MAX_SUMS = 64


class Maths(Written):
    """Worked solutions, right by their last number."""

    name = "maths"
    addition = "Work step by step. End with a line that holds the answer alone, as a number, in this form: #### 72"
    tokens = least = 320
    version = 2

    def fault(self, row: Row) -> str | None:
        """A gold answer is a number, or a worked solution that ends in ``#### 72``."""
        mode = "strict" if "####" in row.output else "value"
        if extract_number(row.output, mode) is None or not number_match(row.output, row.output, "value"):
            return "it is neither a number nor a solution that ends in '#### 72'"
        return None

    def same(self, output: str, other: str | None) -> bool:
        """Whether two solutions arrive at one number."""
        return other is not None and number_match(output, extract_number(other, "value") or "", "value") == 1.0

    def features(self, text: str, output: str) -> dict[str, float]:
        """Steps, whether the ending is in the form asked for, sums, and the share of sums that come out."""
        del text
        checked = [_comes_out(*found.groups()) for found in list(_SUM.finditer(output))[:_MAX_SUMS]]
        sums = [right for right in checked if right is not None]
        return {
            "steps": float(sum(bool(line.strip()) for line in output.splitlines())),
            "ended": float(extract_number(output, "strict") is not None),
            "sums": float(len(sums)),
            "sums_right": sum(sums) / len(sums) if sums else 1.0,
        }

    def score(self, outputs: Sequence[str | None], rows: Sequence[Row]) -> dict[str, Metric]:
        """Accuracy."""
        pairs = zip(outputs, rows, strict=True)
        return {"accuracy": mean([0.0 if o is None else number_match(o, row.output, "value") for o, row in pairs])}


def _comes_out(left: str, right: str) -> bool | None:
    """Whether a sum such as ``48/2 = 24`` is right; None when its left side is no arithmetic."""
    left = left.translate(_WRITTEN_SIGNS).strip()
    if left.count("(") > left.count(")"):  # opened before the sum: "(3 + 4 = 7)"
        left = left.lstrip("( ")
    try:
        tree = ast.parse(left, mode="eval").body
        if not isinstance(tree, ast.BinOp):
            return None
        return abs(_value(tree) - float(right.translate(_WRITTEN_SIGNS))) < _ROUNDED
    except (SyntaxError, ValueError, ArithmeticError):
        return None


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    raise ValueError("no arithmetic")
