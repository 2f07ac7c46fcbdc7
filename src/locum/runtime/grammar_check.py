"""Checks a grammar before llama.cpp runs it: every rule defined, none left-recursive, an end that can be reached.

Notable: a matcher keeps one stack for every way in which the text so far can be read, so a small ambiguous grammar
(``root ::= "a" root "b" | "a" root "c" | "a"``) doubles its memory with each character. Whether a grammar does so
cannot be decided in general; here it is walked along its widest paths for some steps, and refused when the stacks
grow beyond a limit. Not here: syntax (``grammar_parse``), the walk (``grammar_walk``).
"""

from __future__ import annotations

from collections.abc import Callable

from locum.core.errors import UserError
from locum.runtime.grammar_parse import Grammar, GrammarFault, Sequence, parse_grammar
from locum.runtime.grammar_walk import widest

MAX_STACKS = 1024
"""Ways to read a text that may be open at once."""

_FIX = "see the limits of grammars in the documentation; a JSON schema is often the simpler way"


def read_grammar(text: str) -> Grammar:
    """The rules of a GBNF grammar whose start is ``root``.

    Raises:
        UserError: ``runtime-constraint-grammar`` (syntax, undefined rule, left recursion, no end) or
            ``runtime-constraint-too-large`` (a limit is passed).
    """
    try:
        grammar = parse_grammar(text)
    except GrammarFault as fault:
        code = "runtime-constraint-too-large" if fault.too_large else "runtime-constraint-grammar"
        raise UserError(code, f"grammar: {fault}", fix=_FIX) from None
    _check_recursion(grammar)
    _check_end(grammar)
    found = widest(grammar, MAX_STACKS)
    if found > MAX_STACKS:
        cause = f"grammar: a text can be read in more than {MAX_STACKS} ways at once; its alternatives start alike"
        raise UserError("runtime-constraint-too-large", cause, fix="let alternatives differ in their first character")
    return grammar


def _check_end(grammar: Grammar) -> None:
    """Some text must be complete: a rule that only ever calls itself would write for ever."""
    ends = _fixpoint(
        grammar, lambda symbols, known: all(not isinstance(each, int) or each in known for each in symbols)
    )
    if grammar.names["root"] not in ends:
        raise UserError("runtime-constraint-grammar", "grammar: no text ever completes 'root'", fix=_FIX)


def _check_recursion(grammar: Grammar) -> None:
    """Left recursion never consumes a character, so a matcher would never return; ``x*`` of an empty x is one."""
    empty = _fixpoint(grammar, lambda symbols, known: all(isinstance(each, int) and each in known for each in symbols))
    first = {number: _leftmost(alternatives, empty) for number, alternatives in grammar.rules.items()}
    names = {number: name for name, number in grammar.names.items()}
    done: set[int] = set()
    for start in grammar.rules:
        open_rules: set[int] = set()
        todo = [(start, False)]
        while todo:
            number, leaving = todo.pop()
            if leaving:
                open_rules.discard(number)
                done.add(number)
            elif number in open_rules:
                name = names.get(number) or next((names[each] for each in open_rules if each in names), "a repetition")
                cause = f"grammar: {name[:80]!r} starts with itself, or repeats what may be empty"
                raise UserError(
                    "runtime-constraint-grammar", cause, fix="put something that is not empty before the recursion"
                )
            elif number not in done:
                open_rules.add(number)
                todo.append((number, True))
                todo.extend((each, False) for each in first[number])


def _leftmost(alternatives: list[Sequence], empty: set[int]) -> set[int]:
    found: set[int] = set()
    for symbols in alternatives:
        for symbol in symbols:
            if not isinstance(symbol, int):
                break
            found.add(symbol)
            if symbol not in empty:
                break
    return found


def _fixpoint(grammar: Grammar, holds: Callable[[Sequence, set[int]], bool]) -> set[int]:
    """Rules of which an alternative holds, given the rules that hold."""
    users: dict[int, set[int]] = {number: set() for number in grammar.rules}
    for number, alternatives in grammar.rules.items():
        for symbols in alternatives:
            for symbol in symbols:
                if isinstance(symbol, int):
                    users[symbol].add(number)
    known: set[int] = set()
    todo = list(grammar.rules)
    while todo:
        number = todo.pop()
        if number not in known and any(holds(symbols, known) for symbols in grammar.rules[number]):
            known.add(number)
            todo.extend(users[number])
    return known
