"""Grammars: sound ones are read as llama.cpp reads them, hostile ones are refused in no time."""

from __future__ import annotations

import time

import pytest

from locum.core.errors import UserError
from locum.runtime.grammar_check import MAX_STACKS, read_grammar
from locum.runtime.grammar_parse import MAX_BYTES
from locum.runtime.grammar_walk import accepts, widest


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ('root ::= "a" | "bc"', ["a", "bc"], ["", "b", "ab", "abc"]),
        ("root ::= [a-c]+", ["a", "cab"], ["", "d", "abd"]),
        ('root ::= [^a-c"]*', ["", "xyz"], ["a", 'x"']),
        ("root ::= . .", ["ab", "é\n"], ["a", "abc"]),
        ('root ::= "x"{2,4}', ["xx", "xxxx"], ["x", "xxxxx"]),
        ('root ::= "x"{2,}', ["xx", "x" * 9], ["x"]),
        ('root ::= "x"{3}', ["xxx"], ["xx", "xxxx"]),
        ('root ::= "x"{0,0} "y"', ["y"], ["xy"]),
        ('root ::= "ab"? [0-9]*', ["", "ab7", "42"], ["a7"]),
        ('root ::= item ("," item)*\nitem ::= "(" root ")" | [a-z]', ["a", "a,(b,c)"], ["a,", "(a"]),
        (r'root ::= "\x41\u00e9\U0001F600\n\t\"\\" [\]\-\[]', ['Aé😀\n\t"\\]', 'Aé😀\n\t"\\-'], ["A"]),
        ('# first\nroot ::= # a comment\n  "a" # more\n\n b ::= "c"\n', ["a"], ["c"]),
        ('root ::= ("a"\n | "b")\n', ["a", "b"], []),
        ("root ::= [a-] [-a]", ["a-", "-a"], ["b-"]),
        ('root ::= "a" root | ', ["", "aaa"], ["b"]),
        ('root ::= "" "x"', ["x"], [""]),
    ],
)
def test_sound_grammars_are_read(text: str, yes: list[str], no: list[str]) -> None:
    grammar = read_grammar(text)
    assert [accepts(grammar, each) for each in yes] == [True] * len(yes)
    assert [accepts(grammar, each) for each in no] == [False] * len(no)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no rule 'root'"),
        ('a ::= "b"', "no rule 'root'"),
        ("root ::= b", "'b' is not defined"),
        ('root = "a"', "expected ::="),
        ('root ::= "a', "not closed"),
        ("root ::= [a", "not closed"),
        ("root ::= []", "holds no character"),
        ("root ::= [z-a]", "backwards"),
        ('root ::= ("a"', r"expected \)"),
        ('root ::= "a")', "expected the end"),
        ("root ::= *", "nothing stands before"),
        ('root ::= ""*', "nothing stands before"),
        ('root ::= "a"{3,1}', "backwards"),
        ('root ::= "a"{,3}', "expected {m}"),
        ('root ::= "a"{2 3}', "expected {m}"),
        (r'root ::= "\q"', "unknown escape"),
        (r'root ::= "\x4"', "hexadecimal"),
        (r'root ::= "\U00110000"', "beyond U"),
        ('root ::= "a"\nroot ::= "b"', "stands twice"),
        ("root ::= <[12]>", "tokens by number"),
        ("root ::= !<[12]>", "tokens by number"),
        ("root ::= _a", "expected a name"),
        ('root ::= "a\0b"', "zero byte"),
        ('root ::= "\ud800"', "surrogate"),
        ("%llguidance {}\nstart: /a/", "expected a name"),
        ("root ::= root", "starts with itself"),
        ('root ::= a\na ::= b "x"\nb ::= a | "y"', "starts with itself"),
        ('root ::= a? root "x" | "y"\na ::= "a"', "starts with itself"),
        ('root ::= ("a"*)*', "repeats what may be empty"),
        ('root ::= ("a"?)+', "repeats what may be empty"),
        ('root ::= "a" root', "no text ever completes"),
        ('root ::= "a" b\nb ::= "b" b', "no text ever completes"),
    ],
)
def test_fault_74_unsound_grammars_are_refused(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        read_grammar(text)
    assert caught.value.code == "runtime-constraint-grammar"


CHAIN = "\n".join(f'r{i} ::= "a" r{i + 1} "x" | "a" r{i + 1} "y"' for i in range(12)) + '\nr12 ::= "a"'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("root ::= " + "(" * 200_000, "bytes are over"),
        ("root ::= " + "(" * 5000, "nest deeper"),
        ('root ::= "a"{2000}', "over 1999"),
        ('root ::= "a"{0,99999999}', "over 1999"),
        ('root ::= "a"{50}{50}', "multiply"),
        ('root ::= (("a"{0,20}){0,20}){0,20}', "ways at once"),
        ("root ::= (a b c d e){400}\n" + "\n".join(f'{x} ::= "{x}"' for x in "abcde"), "multiply"),
        ('root ::= "' + "x" * 100 + '"{1999}', "more than 100,000"),
        ("root ::= " + '("a"{0,900}) ' * 30, "more than 10,000 rules"),
        ('root ::= "a" root "b" | "a" root "c" | "a"', "ways at once"),
        ("root ::= r0\n" + CHAIN, "ways at once"),
    ],
)
def test_fault_74_what_grows_too_large_is_refused_at_once(text: str, why: str) -> None:
    start_s = time.perf_counter()
    with pytest.raises(UserError, match=why) as caught:
        read_grammar(text)
    assert caught.value.code == "runtime-constraint-too-large"
    assert time.perf_counter() - start_s < 3


def test_what_only_looks_ambiguous_is_accepted() -> None:
    text = 'root ::= (("a" | "b"){20} | ("a" | "c"){20}){20}'
    assert widest(read_grammar(text), MAX_STACKS) <= MAX_STACKS


def test_the_largest_grammar_is_read_in_time() -> None:
    rules = "\n".join(f'r{i} ::= "{i:040d}" [a-z]{{1,9}}' for i in range(900))
    text = rules + "\nroot ::= " + " | ".join(f"r{i}" for i in range(900))
    assert len(text) < MAX_BYTES
    start_s = time.process_time()
    assert accepts(read_grammar(text), f"{7:040d}abc")
    assert time.process_time() - start_s < 2
