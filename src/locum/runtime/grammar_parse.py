"""Reads a GBNF grammar into plain rules, as llama.cpp does and with limits where it has none.

Notable: llama.cpp's reader recurses on every bracket, loops for ever on ``x{3,1}``, and takes a rule that stands
twice or a bound above 2,000 without a word; its memory grows with what repetitions expand to. So the expansion is
counted here as it does it (``src/llama-grammar.cpp``: ``parse_sequence``), and refused before it is too much.
Not here: what the rules mean together (``grammar_check``).

Grammar: ``NAME ::= alternatives``, one rule a line; literals, ``[classes]``, ``.``, groups, ``* + ? {m,n}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NoReturn

MAX_BYTES = 1 << 17
MAX_RULES = 10_000
"""Rules after groups and repetitions are written out."""
MAX_ELEMENTS = 100_000
"""Characters, ranges of classes and references after repetitions are written out."""
MAX_DEPTH = 32
"""Brackets inside brackets."""
MAX_REPETITIONS = 1999
"""llama.cpp refuses 2,000 and drops an upper bound beyond."""

_LAST_CODE_POINT = 0x10FFFF
_NAME = re.compile(r"[A-Za-z0-9-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_BOUNDS = re.compile(r"\{\s*([0-9]{1,9})\s*(,?)\s*([0-9]{0,9})\s*\}")
_ESCAPES = {"t": 9, "r": 13, "n": 10, "\\": 92, '"': 34, "[": 91, "]": 93, "-": 45}
_HEX = {"x": 2, "u": 4, "U": 8}
_HEX_DIGITS = re.compile(r"[0-9a-fA-F]*")


@dataclass(frozen=True)
class Chars:
    """A set of characters: code points within the ranges, or outside all of them."""

    ranges: tuple[tuple[int, int], ...]
    inverted: bool = False

    def holds(self, code_point: int) -> bool:
        """Whether the character is in the set."""
        return any(low <= code_point <= high for low, high in self.ranges) != self.inverted


Symbol = int | Chars
"""A reference to a rule by its number, or characters."""
Sequence = tuple[Symbol, ...]


def _size(symbols: Iterable[Symbol]) -> int:
    """Elements as llama.cpp keeps them: each range of a class is one."""
    return sum(1 if isinstance(each, int) else max(1, len(each.ranges)) for each in symbols)


@dataclass
class Grammar:
    """Rules by number, each a list of alternatives; ``names`` gives the number of a name."""

    names: dict[str, int] = field(default_factory=dict)
    rules: dict[int, list[Sequence]] = field(default_factory=dict)


class GrammarFault(ValueError):
    """The text is no grammar, or one beyond the limits; says where and why.

    Args:
        why: in a few words.
        too_large: a limit is passed.
    """

    def __init__(self, why: str, *, too_large: bool = False) -> None:
        super().__init__(why)
        self.too_large = too_large


def parse_grammar(text: str) -> Grammar:
    """Read a grammar.

    Raises:
        GrammarFault: the syntax is wrong, or a limit is passed.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise GrammarFault(f"{size:,} bytes are over {MAX_BYTES:,}", too_large=True)
    if re.search("[\0\ud800-\udfff]", text):
        raise GrammarFault("it holds a zero byte or a lone surrogate")
    return _Parser(text).grammar()


class _Parser:
    """A place in the text, and the rules so far."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._made = Grammar()
        self._n_symbols = 0
        self._n_elements = 0

    def grammar(self) -> Grammar:
        self._space(lines=True)
        while self._at < len(self._text):
            self._rule()
        for name, number in self._made.names.items():
            if number not in self._made.rules:
                raise GrammarFault(f"the rule {name[:80]!r} is not defined")
        if "root" not in self._made.names:
            raise GrammarFault("there is no rule 'root'")
        return self._made

    def _rule(self) -> None:
        name = self._name()
        number = self._number_of(name)
        self._space(lines=False)
        if not self._text.startswith("::=", self._at):
            self._refuse("expected ::=")
        self._at += 3
        self._space(lines=True)
        if number in self._made.rules:
            self._refuse(f"the rule {name[:80]!r} stands twice")
        self._made.rules[number] = self._alternatives(nested=False)
        if self._at < len(self._text) and self._text[self._at] not in "\r\n":
            self._refuse("expected the end of the rule")
        self._space(lines=True)

    def _alternatives(self, *, nested: bool) -> list[Sequence]:
        found = [self._sequence(nested=nested)]
        while self._peek() == "|":
            self._at += 1
            self._space(lines=True)
            found.append(self._sequence(nested=nested))
        return found

    def _sequence(self, *, nested: bool) -> Sequence:
        made: list[Symbol] = []
        last_start = 0
        n_rules = 1  # how many rules what may be repeated has made, as llama.cpp counts them
        while (start := self._peek()) and start not in "|)\r\n":
            if start in "*+?{":
                n_rules = self._repeat(made, last_start, n_rules)
            else:
                last_start, before = len(made), self._n_symbols
                made.extend(self._item(start))
                n_rules = max(1, self._n_symbols - before) if start == "(" else 1
                self._count(_size(made[last_start:]))
            self._space(lines=nested)
        return tuple(made)

    def _item(self, start: str) -> list[Symbol]:
        if start == '"':
            return self._literal()
        if start == "[":
            return [self._class()]
        if start == "(":
            return [self._group()]
        if start == ".":
            self._at += 1
            return [Chars((), inverted=True)]
        if start in "<!":
            self._refuse("tokens by number belong to one model")
        return [self._number_of(self._name())]

    def _group(self) -> int:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse(f"brackets nest deeper than {MAX_DEPTH}", too_large=True)
        self._at += 1
        self._space(lines=True)
        number = self._new_symbol()
        self._made.rules[number] = self._alternatives(nested=True)
        if self._peek() != ")":
            self._refuse("expected )")
        self._at += 1
        self._depth -= 1
        return number

    def _literal(self) -> list[Symbol]:
        self._at += 1
        made: list[Symbol] = []
        while self._peek() != '"':
            code_point = self._char()
            made.append(Chars(((code_point, code_point),)))
        self._at += 1
        return made

    def _class(self) -> Chars:
        self._at += 1
        inverted = self._peek() == "^"
        self._at += inverted
        ranges: list[tuple[int, int]] = []
        while self._peek() != "]":
            low = high = self._char()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = self._char()
            if high < low:
                self._refuse("a range of characters runs backwards")
            ranges.append((low, high))
        if not ranges:
            self._refuse("a class holds no character")
        self._at += 1
        return Chars(tuple(ranges), inverted)

    def _char(self) -> int:
        start = self._peek()
        if not start:
            self._refuse("a literal or class is not closed")
        self._at += 1
        if start != "\\":
            return ord(start)
        kind = self._peek()
        self._at += 1
        if kind in _HEX and kind:
            digits = self._text[self._at : self._at + _HEX[kind]]
            if len(digits) != _HEX[kind] or not _HEX_DIGITS.fullmatch(digits):
                self._refuse(f"expected {_HEX[kind]} hexadecimal digits")
            self._at += _HEX[kind]
            code_point = int(digits, 16)
            if code_point > _LAST_CODE_POINT:
                self._refuse("a character beyond U+10FFFF")
            return code_point
        if kind not in _ESCAPES or not kind:
            self._refuse(f"unknown escape \\{kind}")
        return _ESCAPES[kind]

    def _repeat(self, made: list[Symbol], last_start: int, n_rules: int) -> int:
        """Write out a repetition of the last item; returns how many rules it stands for."""
        if len(made) == last_start:
            self._refuse("nothing stands before a repetition")
        least, most = self._bounds()
        total = most if most is not None and most > 0 else max(1, least)
        if n_rules * total > MAX_REPETITIONS:
            self._refuse(f"repetitions multiply to {n_rules * total}, over {MAX_REPETITIONS}", too_large=True)
        item = tuple(made[last_start:])
        del made[last_start:]
        self._count(_size(item) * (total + 1) + 2)
        made.extend(item * least)
        if most is None:
            number = self._new_symbol()
            self._made.rules[number] = [(*item, number), ()]
            made.append(number)
        elif most > least:
            tail: Sequence = ()
            for _ in range(most - least):
                number = self._new_symbol()
                self._made.rules[number] = [(*item, *tail), ()]
                tail = (number,)
            made.extend(tail)
        return n_rules * total

    def _bounds(self) -> tuple[int, int | None]:
        sign = self._peek()
        if sign != "{":
            self._at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        found = _BOUNDS.match(self._text, self._at)
        if found is None or (found[3] and not found[2]):
            self._refuse("expected {m}, {m,} or {m,n}")
        self._at = found.end()
        least = int(found[1])
        most = int(found[3]) if found[3] else None if found[2] else least
        if max(least, most or 0) > MAX_REPETITIONS:
            self._refuse(f"a repetition of {max(least, most or 0)} is over {MAX_REPETITIONS}", too_large=True)
        if most is not None and most < least:
            self._refuse(f"a repetition from {least} to {most} runs backwards")
        return least, most

    def _name(self) -> str:
        found = _NAME.match(self._text, self._at)
        if found is None:
            self._refuse("expected a name, literal, class or group")
        self._at = found.end()
        return found[0]

    def _number_of(self, name: str) -> int:
        number = self._made.names.get(name)
        if number is None:
            number = self._made.names[name] = self._new_symbol()
        return number

    def _new_symbol(self) -> int:
        if self._n_symbols >= MAX_RULES:
            self._refuse(f"it comes to more than {MAX_RULES:,} rules", too_large=True)
        self._n_symbols += 1
        return self._n_symbols - 1

    def _count(self, elements: int) -> None:
        self._n_elements += elements
        if self._n_elements > MAX_ELEMENTS:
            self._refuse(f"it comes to more than {MAX_ELEMENTS:,} characters and references", too_large=True)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _space(self, *, lines: bool) -> None:
        found = (_SPACE_LINES if lines else _SPACE).match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _refuse(self, why: str, *, too_large: bool = False) -> NoReturn:
        line = self._text.count("\n", 0, self._at) + 1
        raise GrammarFault(f"line {line}: {why}", too_large=too_large)
