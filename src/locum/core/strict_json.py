"""JSON as the standard has it and nothing beside: for bytes that come from strangers.

Notable: Python's reader takes NaN, keys that stand twice, integers of any length and nesting as deep as its stack.
Each of these has been an attack, so each is refused here, in time linear in the length. Not here: what the
document must say.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

_MAX_INT_DIGITS = 19
_MAX_FLOAT_DIGITS = 400
# Possessive and with an end for strings that are never closed: one pass, whatever the bytes are.
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKETS = re.compile(rb"[\[{]|[\]}]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class NotStrictJson(ValueError):
    """The bytes are not JSON; the message says why, in a few words and without quoting them."""


def parse_object(body: bytes, *, max_depth: int = 16) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        body: JSON in UTF-8.
        max_depth: how deep arrays and objects may nest.

    Raises:
        NotStrictJson: not JSON in UTF-8, too deep, a key twice in one object, NaN or infinity, an integer of more
            than 19 digits, a number beyond a float, a lone surrogate, or not an object.
    """
    _check_depth(body, max_depth)
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as problem:
        _refuse(f"not JSON in UTF-8, seen at byte {problem.start}")
    except json.JSONDecodeError as problem:
        _refuse(f"not JSON in UTF-8, seen at character {problem.pos}")
    if b"\\u" in body and has_surrogate(value):
        _refuse("a string holds a lone surrogate")
    if not isinstance(value, dict):
        _refuse("it must be a JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]


def has_surrogate(value: Any) -> bool:
    """Whether a string of a JSON-like value holds a lone surrogate, which no UTF-8 can."""
    return _SURROGATE.search(json.dumps(value, ensure_ascii=False)) is not None


def _check_depth(body: bytes, most: int) -> None:
    depth = 0
    for bracket in _BRACKETS.finditer(_STRINGS.sub(b"", body)):
        depth += 1 if bracket[0] in (b"[", b"{") else -1
        if depth > most:
            _refuse(f"nested deeper than {most}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        _refuse("a key stands twice in one object")
    return made


def _bounded_int(digits: str) -> int:
    if len(digits.lstrip("-")) > _MAX_INT_DIGITS:
        _refuse(f"a number of more than {_MAX_INT_DIGITS} digits")
    return int(digits)


def _finite_float(digits: str) -> float:
    if len(digits) > _MAX_FLOAT_DIGITS:
        _refuse(f"a number of more than {_MAX_FLOAT_DIGITS} characters")
    value = float(digits)
    if not math.isfinite(value):
        _refuse("a number beyond what a float holds")
    return value


def _no_constant(name: str) -> NoReturn:
    _refuse(f"{name} is not JSON")


def _refuse(why: str) -> NoReturn:
    raise NotStrictJson(why)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_bounded_int, parse_float=_finite_float
)
