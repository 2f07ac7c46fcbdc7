"""Regular expressions of a JSON schema as GBNF, inside a JSON string.

Notable: only what a context-free grammar can say exactly: characters, classes, groups, alternatives, repetitions.
A quote, a backslash or a control character stands escaped in JSON, so ``.`` and inverted classes leave those out
(narrower than the pattern, never wider), and where a pattern names one, its escape is written. Look-around,
back-references and word boundaries are refused by name. Not here: the string's quotes (``schema_scalars``).

Syntax: ECMA-262 as JSON Schema recommends it (2020-12, core, 6.4); a pattern without ``^`` or ``$`` is open there.
"""

from __future__ import annotations

import re
from typing import NoReturn

MAX_PATTERN = 512
MAX_GROUPS_DEEP = 12

Ranges = list[tuple[int, int]]

_LAST = 0x10FFFF
_DIGITS: Ranges = [(48, 57)]
_WORD: Ranges = [(48, 57), (65, 90), (95, 95), (97, 122)]
_SPACE: Ranges = [
    *((9, 13), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F)),
    *((0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
]
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_ESCAPES = {"t": 9, "n": 10, "r": 13, "f": 12, "v": 11}
_JSON_ESCAPES = {8: "b", 9: "t", 10: "n", 12: "f", 13: "r", 34: '"', 92: "\\"}
_UNSAFE: Ranges = [(0, 31), (34, 34), (92, 92), (0xD800, 0xDFFF)]
_PUNCTUATION = set("^$\\.*+?()[]{}|/-~!@#%&=:;,<>'\"`_ ")
_BOUNDS = re.compile(r"\{([0-9]{1,6})(,?)([0-9]{0,6})\}")


class PatternFault(ValueError):
    """The pattern is malformed, or beyond what a grammar can say; says why in a few words."""


def pattern_expression(pattern: str) -> str:
    """A GBNF expression for the inside of a JSON string that matches.

    Raises:
        PatternFault: it cannot be enforced, or is longer or deeper than the limits.
    """
    if len(pattern) > MAX_PATTERN:
        raise PatternFault(f"{len(pattern)} characters are over {MAX_PATTERN}")
    return _Parser(pattern).whole()


def _char(code: int) -> str:
    if chr(code).isascii() and chr(code).isalnum():
        return chr(code)
    return f"\\x{code:02X}" if code < 256 else f"\\u{code:04X}" if code < 65536 else f"\\U{code:08X}"


def class_expression(ranges: Ranges) -> str:
    """GBNF for one character within the ranges."""
    return "[" + "".join(_char(low) + (f"-{_char(high)}" if high > low else "") for low, high in ranges) + "]"


ANY = class_expression([(32, 33), (35, 91), (93, 126), (128, 0x2027), (0x202A, 0xD7FF), (0xE000, _LAST)])
"""A character that stands for itself in a JSON string, and ends no line in ECMA-262 (U+2028, U+2029)."""


class _Parser:
    """A place in the pattern."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0

    def whole(self) -> str:
        opened = self._take("^")
        body, split = self._alternatives()
        closed = self._take("$")
        if self._at < len(self._text):
            self._refuse("brackets that do not match" if self._peek() == ")" else "an anchor inside")
        if split and (opened or closed):
            self._refuse("an anchor beside alternatives: put the alternatives in brackets")
        head, tail = ("" if opened else f"{ANY}* "), ("" if closed else f" {ANY}*")
        return f"{head}({body}){tail}"

    def _alternatives(self) -> tuple[str, bool]:
        found = [self._sequence()]
        while self._take("|"):
            found.append(self._sequence())
        return " | ".join(found), len(found) > 1

    def _sequence(self) -> str:
        items: list[str] = []
        while (start := self._peek()) and start not in "|)$":
            items.append(self._quantified(self._atom(start)))
        return " ".join(items) or '""'

    def _atom(self, start: str) -> str:
        self._at += 1
        if start == "(":
            return self._group()
        if start == "[":
            return self._class()
        if start == ".":
            return ANY
        if start == "\\":
            ranges, inverted = self._escape(inside=False)
            return _set(_inverse(ranges) if inverted else ranges, named=not inverted)
        if start in "*+?{":
            self._refuse("a repetition of nothing")
        if start in "^]}":
            self._refuse(f"{start!r} unescaped")
        return _set([(ord(start), ord(start))], named=True)

    def _group(self) -> str:
        self._depth += 1
        if self._depth > MAX_GROUPS_DEEP:
            self._refuse(f"groups nest deeper than {MAX_GROUPS_DEEP}")
        if self._peek() == "?":
            self._at += 1
            if not self._take(":"):
                self._refuse("look-around or a named group")
        body, _ = self._alternatives()
        if not self._take(")"):
            self._refuse("brackets that do not match, or an anchor inside")
        self._depth -= 1
        return f"({body})"

    def _quantified(self, atom: str) -> str:
        sign = self._peek()
        if not sign or sign not in "*+?{":
            return atom
        if sign == "{":
            found = _BOUNDS.match(self._text, self._at)
            if found is None or (found[3] and not found[2]):
                self._refuse("a repetition that is none of {m}, {m,}, {m,n}")
            self._at = found.end()
            if found[3] and int(found[3]) < int(found[1]):
                self._refuse("a repetition that runs backwards")
            sign = found[0]
        else:
            self._at += 1
        self._take("?")  # lazy or greedy, the language is the same
        if (more := self._peek()) and more in "*+?{":
            self._refuse("a repetition of a repetition without brackets")
        return f"({atom}){sign}"

    def _class(self) -> str:
        inverted = self._take("^")
        ranges: Ranges = []
        while self._peek() != "]":
            low = self._member()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", "") and len(low) == 1:
                self._at += 1
                high = self._member()
                if len(high) != 1 or low[0][0] != low[0][1] or high[0][0] != high[0][1] or high[0][0] < low[0][0]:
                    self._refuse("a range of characters that is none")
                low = [(low[0][0], high[0][1])]
            ranges += low
        self._at += 1
        return _set(_inverse(ranges) if inverted else ranges, named=not inverted)

    def _member(self) -> Ranges:
        start = self._peek()
        if not start:
            self._refuse("a class that is not closed")
        self._at += 1
        if start == "\\":
            ranges, inverted = self._escape(inside=True)
            return _inverse(ranges) if inverted else ranges
        return [(ord(start), ord(start))]

    def _escape(self, *, inside: bool) -> tuple[Ranges, bool]:
        kind = self._peek()
        self._at += 1
        if kind.lower() in _CLASSES and kind:
            return _CLASSES[kind.lower()], kind.isupper()
        if kind in ("x", "u"):
            digits = self._text[self._at : self._at + (2 if kind == "x" else 4)]
            if not re.fullmatch("[0-9a-fA-F]{2}|[0-9a-fA-F]{4}", digits) or (kind == "u" and len(digits) != 4):
                self._refuse(f"\\{kind} without its digits")
            self._at += len(digits)
            return [(int(digits, 16), int(digits, 16))], False
        if kind in _ESCAPES:
            return [(_ESCAPES[kind], _ESCAPES[kind])], False
        if kind not in _PUNCTUATION:
            self._refuse(f"\\{kind}" + ("" if inside else " (a boundary, back-reference or property)"))
        return [(ord(kind), ord(kind))], False

    def _take(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _refuse(self, why: str) -> NoReturn:
        raise PatternFault(f"{why}, at character {self._at}")


def _set(ranges: Ranges, *, named: bool) -> str:
    """One character of the set as JSON writes it; ``named``: those that need an escape are meant, too."""
    choices: list[str] = []
    plain = _without(_merged(ranges), _UNSAFE)
    if plain:
        choices.append(class_expression(plain))
    if named:
        held = [code for code in _JSON_ESCAPES if any(low <= code <= high for low, high in ranges)]
        choices += [f'"\\\\" "{_literal_char(_JSON_ESCAPES[code])}"' for code in held]
    if not choices:
        raise PatternFault("a class that holds no character that can be written")
    return choices[0] if len(choices) == 1 and plain else f"({' | '.join(choices)})"


def _literal_char(char: str) -> str:
    return f"\\{char}" if char in '"\\' else char


def _merged(ranges: Ranges) -> Ranges:
    made: Ranges = []
    for low, high in sorted(ranges):
        if made and low <= made[-1][1] + 1:
            made[-1] = (made[-1][0], max(made[-1][1], high))
        else:
            made.append((low, high))
    return made


def _inverse(ranges: Ranges) -> Ranges:
    return _without([(0, _LAST)], _merged(ranges))


def _without(ranges: Ranges, holes: Ranges) -> Ranges:
    for hole_low, hole_high in holes:
        kept: Ranges = []
        for low, high in ranges:
            if low < hole_low:
                kept.append((low, min(high, hole_low - 1)))
            if high > hole_high:
                kept.append((max(low, hole_high + 1), high))
        ranges = kept
    return ranges
