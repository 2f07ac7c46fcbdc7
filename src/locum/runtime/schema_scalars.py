"""Strings, numbers and fixed values of a JSON schema as GBNF expressions.

Notable: bounds of numbers are enforced digit by digit, for integers and for decimals; fixed values that start alike
share their start, so that a matcher keeps one stack for them and not a thousand. Not here: objects, arrays, unions.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from locum.runtime.schema_pattern import pattern_expression

DIGITS = 15
"""Digits of a whole part, and of a fraction: what a double keeps."""
MAX_LENGTH = 100_000
"""Of a string, in characters."""

_LARGEST = 10**DIGITS - 1
_BLOCK = 100  # llama.cpp repeats fewer than 2,000 times: longer strings are written in blocks
_UNBLOCKED = 1000
_TRIE_DEPTH = 16

FORMATS = {
    "date": r"^[1-9]\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|"
    r"(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))$",
    "time": r"^([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$",
    "uuid": r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    "ipv4": r"^((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)$",
    "email": r"^[a-z0-9]{1,32}([._+-][a-z0-9]{1,32}){0,3}@([a-z0-9]{1,32}(-[a-z0-9]{1,16}){0,2}\.){1,3}[a-z]{2,12}$",
    "uri": r"^https?://([a-z0-9]{1,32}(-[a-z0-9]{1,16}){0,2}\.){1,3}[a-z]{2,12}(/[A-Za-z0-9._~-]{0,64}){0,12}$",
}
"""Formats that are enforced; each language is within the format's, and may be narrower (no leap days, no quoted mail
addresses)."""
FORMATS["date-time"] = f"{FORMATS['date'][:-1]}T{FORMATS['time'][1:]}"


def format_expression(name: str) -> str:
    """The inside of a JSON string of a known format."""
    return pattern_expression(FORMATS[name])


def length_expression(least: int, most: int | None) -> str:
    """``char`` repeated from ``least`` to ``most`` times; refers to the rules ``char`` and ``block``."""
    if most is None:
        head = _exactly(least)
        return f"{head} char*".strip()
    if most <= _UNBLOCKED:
        return f"char{{{least},{most}}}"
    blocks, over = divmod(least, _BLOCK)
    if most - over < _BLOCK:
        raise ValueError("a long string has room for a block")
    more, rest = divmod(most - over - (_BLOCK - 1), _BLOCK)
    if more < blocks:  # a narrow window: whole blocks, then what is left
        return f"{_exactly(least)} char{{0,{most - least}}}".strip()
    return f"block{{{blocks},{more}}} char{{{over},{over + _BLOCK - 1 + rest}}}"


def _exactly(count: int) -> str:
    blocks, over = divmod(count, _BLOCK)
    return " ".join([f"block{{{blocks}}}"] * (blocks > 0) + [f"char{{{over}}}"] * (over > 0))


def values_expression(values: Sequence[Any]) -> str:
    """One of the values, as JSON."""
    return _trie(sorted({json.dumps(value, ensure_ascii=False) for value in values}), 0)


def literal(text: str) -> str:
    """GBNF for exactly this text."""
    return '"' + "".join(_literal_char(char) for char in text) + '"'


def _literal_char(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return f"\\x{ord(char):02X}" if ord(char) < 32 or ord(char) == 127 else char


def _trie(texts: list[str], depth: int) -> str:
    if len(texts) == 1 or depth > _TRIE_DEPTH:
        return " | ".join(literal(text) for text in texts)
    shared = _shared(texts[0], texts[-1])  # sorted: what these two share, all do
    rest = [text[len(shared) :] for text in texts]
    groups: dict[str, list[str]] = {}
    for text in rest:
        groups.setdefault(text[:1], []).append(text)
    branches = " | ".join(_trie(group, depth + 1) for group in groups.values())
    return f"{literal(shared)} ({branches})" if shared else branches


def _shared(one: str, other: str) -> str:
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(first for first, _ in same)


def integer_expression(least: Decimal | None, above: bool, most: Decimal | None, below: bool) -> str | None:
    """Whole numbers within bounds.

    Args:
        least: lower bound; None for none.
        above: it is not included.
        most: upper bound; None for none.
        below: it is not included.

    Returns:
        The expression; None when no number is within.
    """
    low = -_LARGEST if least is None else math.floor(least) + 1 if above else math.ceil(least)
    high = _LARGEST if most is None else math.ceil(most) - 1 if below else math.floor(most)
    choices: list[str] = []
    if low < 0 and low <= high:
        choices.append(f'"-" ({_whole(max(1, -high), -low)})')
    if high >= 0 and low <= high:
        choices.append(_whole(max(0, low), high))
    return " | ".join(choices) or None


def number_expression(least: Decimal | None, above: bool, most: Decimal | None, below: bool) -> str | None:
    """Decimals within bounds; arguments and result as of ``integer_expression``."""
    low, low_open = (Decimal(-_LARGEST - 1), True) if least is None else (least, above)
    high, high_open = (Decimal(_LARGEST + 1), True) if most is None else (most, below)
    if low > high or (low == high and (low_open or high_open)):
        return None
    choices: list[str] = []
    if low < 0:
        inner, inner_open = (-high, high_open) if high < 0 else (Decimal(0), high == 0 and high_open)
        choices.append(f'"-" ({_decimal(inner, inner_open, -low, low_open)})')
    if high >= 0 and not (high == 0 and high_open):
        inner, inner_open = (low, low_open) if low >= 0 else (Decimal(0), False)
        choices.append(_decimal(inner, inner_open, high, high_open))
    return " | ".join(choices)


def _whole(low: int, high: int) -> str:
    """Whole numbers from ``low`` ≥ 0 to ``high``, one alternative for each number of digits."""
    choices: list[str] = []
    while low <= high:
        digits = len(str(low))
        full = len(str(high + 1)) - 1  # all numbers of so many digits are within
        if low == 10 ** (digits - 1) and full >= digits:
            choices.append(f"[1-9] [0-9]{{{digits - 1},{full - 1}}}")
            low = 10**full
            continue
        top = min(high, 10**digits - 1)
        choices.append(_same_length(str(low), str(top)))
        low = top + 1
    return " | ".join(choices)


def _same_length(low: str, high: str) -> str:
    if low == high:
        return f'"{low}"'
    if len(low) == 1:
        return f"[{low}-{high}]"
    if set(low[1:]) == {"0"} and set(high[1:]) == {"9"}:
        return f"{_digit(low[0], high[0])} [0-9]{{{len(low) - 1}}}"
    if low[0] == high[0]:
        return f'"{low[0]}" ({_same_length(low[1:], high[1:])})'
    nines, zeros = "9" * (len(low) - 1), "0" * (len(low) - 1)
    choices = [f'"{low[0]}" ({_same_length(low[1:], nines)})']
    if int(low[0]) + 1 < int(high[0]):
        choices.append(f"{_digit(str(int(low[0]) + 1), str(int(high[0]) - 1))} [0-9]{{{len(low) - 1}}}")
    choices.append(f'"{high[0]}" ({_same_length(zeros, high[1:])})')
    return " | ".join(choices)


def _digit(low: str, high: str) -> str:
    return f"[{low}-{high}]" if low != high else f'"{low}"'


_ANY_DIGITS = f"[0-9]{{0,{DIGITS - 1}}}"
_ANY_FRACTION = f'("." [0-9]{{1,{DIGITS}}})?'
_NOT_ZERO = f'"0"{{0,{DIGITS}}} [1-9] {_ANY_DIGITS}'


def _decimal(low: Decimal, low_open: bool, high: Decimal, high_open: bool) -> str:
    """Decimals from ``low`` ≥ 0 to ``high``."""
    (low_whole, low_part), (high_whole, high_part) = _split(low), _split(high)
    if low_whole == high_whole:
        return f'"{low_whole}" {_between(low_part, low_open, high_part, high_open)}'
    choices: list[str] = []
    if low_part or low_open:
        choices.append(f'"{low_whole}" {_from(low_part, low_open)}')
        low_whole += 1
    if low_whole < high_whole:
        choices.append(f"({_whole(low_whole, high_whole - 1)}) {_ANY_FRACTION}")
    if high_part or not high_open:
        choices.append(f'"{high_whole}" {_up_to(high_part, high_open)}')
    return " | ".join(choices)


def _split(value: Decimal) -> tuple[int, str]:
    whole, _, part = f"{value:f}".partition(".")
    return int(whole), part.rstrip("0")


def _from(part: str, is_open: bool) -> str:
    """A fraction of at least ``0.part``; nothing is 0."""
    if part:
        return f'"." ({_digits_from(part, is_open)})'
    return f'"." {_NOT_ZERO}' if is_open else _ANY_FRACTION


def _up_to(part: str, is_open: bool) -> str:
    """A fraction of at most ``0.part``; nothing is 0."""
    if part:
        return f'("." ({_digits_up_to(part, is_open)}))?'
    return f'("." "0"{{1,{DIGITS}}})?'


def _between(low: str, low_open: bool, high: str, high_open: bool) -> str:
    width = max(len(low), len(high))
    low, high = low.ljust(width, "0"), high.ljust(width, "0")
    if not width:
        return _up_to("", False)
    after = f'"." ({_digits_between(low, low_open, high, high_open)})'
    return f"({after})?" if not low.strip("0") and not low_open else after


def _digits_between(low: str, low_open: bool, high: str, high_open: bool) -> str:
    if not low:
        return f'"0"{{0,{DIGITS}}}'
    if low[0] == high[0]:
        short = "" if low.strip("0") or low_open else "?"  # digits that are left out are zeros
        return f'"{low[0]}" ({_digits_between(low[1:], low_open, high[1:], high_open)}){short}'
    choices = [f'"{low[0]}" ({_digits_from(low[1:].rstrip("0"), low_open)})']
    if int(low[0]) + 1 < int(high[0]):
        choices.append(f"{_digit(str(int(low[0]) + 1), str(int(high[0]) - 1))} {_ANY_DIGITS}")
    rest = high[1:].rstrip("0")
    if rest or not high_open:
        choices.append(f'"{high[0]}" ({_digits_up_to(rest, high_open)})?' if rest else f'"{high[0]}" "0"{{0,{DIGITS}}}')
    return " | ".join(choices)


def _digits_from(part: str, is_open: bool) -> str:
    if not part:
        return _NOT_ZERO if is_open else _ANY_DIGITS
    choices = [f'"{part[0]}" ({_digits_from(part[1:], is_open)})']
    if part[0] < "9":
        choices.append(f"{_digit(str(int(part[0]) + 1), '9')} {_ANY_DIGITS}")
    return " | ".join(choices)


def _digits_up_to(part: str, is_open: bool) -> str:
    """Digits of at most ``part``, which ends in none of 0."""
    choices: list[str] = []
    if part[0] > "0":
        choices.append(f"{_digit('0', str(int(part[0]) - 1))} {_ANY_DIGITS}")
    if len(part) > 1:
        choices.append(f'"{part[0]}" ({_digits_up_to(part[1:], is_open)})?')
    elif not is_open:
        choices.append(f'"{part[0]}" "0"{{0,{DIGITS}}}')
    return " | ".join(choices)
