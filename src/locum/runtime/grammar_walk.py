"""Follows a grammar character by character, as llama.cpp's matcher does: one stack for each way to read the text.

Notable: stacks are numbered, (what comes next, the number of the stack below), so equal ones are one, and a set of
numbers is the whole state. Not here: tokens; a vocabulary is only a way to step by several characters at once.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from locum.runtime.grammar_parse import Chars, Grammar

_EMPTY = 0  # the number of the stack on which nothing is left: the text is complete
_WALKS = 6
_STEPS = 48
_CANDIDATES = 12
_WORK_MAX = 60_000
_RANGES_A_STEP = 16


class Matcher:
    """A grammar with the numbers of its stacks.

    Args:
        grammar: without left recursion.
        most: states with more stacks than this are not completed.
    """

    def __init__(self, grammar: Grammar, most: int = 1 << 20) -> None:
        self._rules = grammar.rules
        self._most = most
        self._cells: list[tuple[tuple[int, int, int], int]] = [((-1, 0, 0), -1)]
        self._numbers: dict[tuple[tuple[int, int, int], int], int] = {}
        self.work = 0
        self.start = self._expanded([self._pushed((number, each, 0), _EMPTY) for number, each in self._heads(grammar)])

    def _heads(self, grammar: Grammar) -> list[tuple[int, int]]:
        root = grammar.names["root"]
        return [(root, each) for each in range(len(grammar.rules[root]))]

    def step(self, state: frozenset[int], code_point: int) -> frozenset[int]:
        """The state after one more character; empty when the grammar does not allow it."""
        tops = {stack: self._top(stack) for stack in state if stack}
        self._count_ranges(tops.values())
        return self._expanded([self._after(stack) for stack, chars in tops.items() if chars.holds(code_point)])

    def complete(self, state: frozenset[int]) -> bool:
        """Whether the text may end here."""
        return _EMPTY in state

    def candidates(self, state: frozenset[int]) -> list[int]:
        """Code points at the edges of what may come next: any other behaves as one of them."""
        edges: set[int] = set()
        for stack in state:
            if stack:
                chars = self._top(stack)
                self._count_ranges([chars])
                for low, high in chars.ranges or ((97, 97),):
                    edges.update((low, high) if not chars.inverted else (max(32, high + 1),))
        return sorted(edges)

    def _count_ranges(self, classes: Iterable[Chars]) -> None:
        """To look through a large class is work, too."""
        self.work += sum(len(each.ranges) for each in classes) // _RANGES_A_STEP

    def _top(self, stack: int) -> Chars:
        rule, alternative, index = self._cells[stack][0]
        symbol = self._rules[rule][alternative][index]
        if isinstance(symbol, int):
            raise TypeError("a stack was left that starts with a rule")
        return symbol

    def _after(self, stack: int) -> int:
        (rule, alternative, index), below = self._cells[stack]
        return self._pushed((rule, alternative, index + 1), below)

    def _pushed(self, place: tuple[int, int, int], below: int) -> int:
        """The stack with ``place`` on top, unless nothing is left there: a tail call leaves no trace."""
        if place[2] >= len(self._rules[place[0]][place[1]]):
            return below
        cell = (place, below)
        number = self._numbers.get(cell)
        if number is None:
            number = self._numbers[cell] = len(self._cells)
            self._cells.append(cell)
        return number

    def _expanded(self, stacks: list[int]) -> frozenset[int]:
        """Replace rules on top by their alternatives until characters are on top of every stack."""
        done: set[int] = set()
        seen: set[int] = set()
        todo = stacks
        while todo and len(done) <= self._most:
            stack = todo.pop()
            if stack in seen:
                continue
            seen.add(stack)
            self.work += 1
            (rule, alternative, index), below = self._cells[stack]
            symbol = self._rules[rule][alternative][index] if stack else None
            if isinstance(symbol, int):
                rest = self._pushed((rule, alternative, index + 1), below)
                todo.extend(self._pushed((symbol, each, 0), rest) for each in range(len(self._rules[symbol])))
            else:
                done.add(stack)
        return frozenset(done)


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether the whole text is in the grammar's language."""
    matcher = Matcher(grammar)
    state = matcher.start
    for character in text:
        state = matcher.step(state, ord(character))
    return matcher.complete(state)


def widest(grammar: Grammar, most: int, *, seed: int = 0) -> int:
    """The most stacks seen on a few walks that take the widest of several next characters at each step.

    Args:
        grammar: without left recursion.
        most: the walk ends when a state has more.
        seed: of the choice among equals.

    Returns:
        The count; above ``most`` it is only known to be more.
    """
    rng = random.Random(seed)
    matcher = Matcher(grammar, most)
    found = len(matcher.start)
    for _ in range(_WALKS):
        state = matcher.start
        for _ in range(_STEPS):
            if found > most or matcher.work > _WORK_MAX:
                return found
            points = matcher.candidates(state)
            if not points:
                break
            tried = [matcher.step(state, point) for point in rng.sample(points, min(_CANDIDATES, len(points)))]
            width = max(len(each) for each in tried)
            state = rng.choice([each for each in tried if len(each) == width])
            found = max(found, width)
    return found
