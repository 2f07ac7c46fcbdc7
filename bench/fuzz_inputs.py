"""Malformed inputs for ``fuzz.py``: bytes, trees and texts that are nearly right.

Notable: everything is drawn from the ``random.Random`` that is passed in, so an input is known by its target, seed and
number. Numbers that have broken parsers before (powers of two and their neighbours, lengths off by one) come often.
"""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Sequence
from typing import Any

BOUNDS = [
    *(0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 257, 4095, 4096, 65535, 65536),
    *(2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**60, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
]
Field = tuple[int, int]
"""Where a number stands in a file, and its width in bytes."""


def mutated_bytes(rng: random.Random, content: bytes, fields: Sequence[Field] = (), other: bytes = b"") -> bytes:
    """One to four changes: flipped bits, other numbers, cut, repeated, moved or foreign pieces."""
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        if not made:
            break
        _change(rng, made, fields, other)
    return bytes(made)


def _change(rng: random.Random, made: bytearray, fields: Sequence[Field], other: bytes) -> None:
    kind = rng.random()
    at = rng.randrange(len(made))
    if fields and kind < 0.45:
        place, width = rng.choice(fields)
        if place + width <= len(made):
            old = int.from_bytes(made[place : place + width], "little")
            value = rng.choice((*BOUNDS, old + 1, old - 1, old * 2, len(made), len(made) - place)) % 2 ** (8 * width)
            made[place : place + width] = value.to_bytes(width, "little")
    elif kind < 0.6:
        made[at] ^= 1 << rng.randrange(8)
    elif kind < 0.7:
        made[at] = rng.randrange(256)
    elif kind < 0.76:
        width = rng.choice((1, 2, 4, 8))
        made[at : at + width] = (rng.choice(BOUNDS) % 2 ** (8 * width)).to_bytes(width, "little")
    elif kind < 0.82:
        del made[at:]
    elif kind < 0.88:
        del made[at : at + rng.randrange(1, 64)]
    elif kind < 0.94:
        made[at:at] = made[at : at + rng.randrange(1, 64)]
    else:
        source = other or bytes(made)
        begin = rng.randrange(len(source)) if source else 0
        made[at : at + rng.randrange(64)] = source[begin : begin + rng.randrange(64)]


class Gguf:
    """A small GGUF file and the places of its numbers."""

    def __init__(self, rng: random.Random) -> None:
        self.made = bytearray(b"GGUF")
        self.fields: list[Field] = []
        pairs = rng.sample(range(8), rng.randrange(9))
        dims = [self._dims(rng) for _ in range(rng.randrange(4))]
        self._number("<I", rng.choice((2, 3, 3, 3)))
        self._number("<Q", len(dims))
        self._number("<Q", len(pairs) + 1)
        self._text("general.architecture")
        self._number("<I", 8)
        self._text("llama")
        for pair in pairs:
            self._pair(rng, pair)
        alignment, offset = (64 if 0 in pairs else 32), 0
        for index, (shape, kind, size) in enumerate(dims):
            self._text(f"blk.{index}.weight")
            self._number("<I", len(shape))
            for dim in shape:
                self._number("<Q", dim)
            self._number("<I", kind)
            self._number("<Q", offset)
            offset += -(-size // alignment) * alignment
        if dims:
            self.made += b"\0" * (-len(self.made) % alignment + offset)

    @staticmethod
    def _dims(rng: random.Random) -> tuple[list[int], int, int]:
        kind, block, size = rng.choice(((0, 1, 4), (1, 1, 2), (2, 32, 18), (8, 32, 34), (12, 256, 144)))
        shape = [block * rng.randrange(1, 4), *(rng.randrange(1, 4) for _ in range(rng.randrange(3)))]
        values = 1
        for dim in shape:
            values *= dim
        return shape, kind, values // block * size

    def _pair(self, rng: random.Random, pair: int) -> None:
        n_tokens = 5
        if pair == 0:
            self._text("general.alignment")
            self._number("<I", 4)
            self._number("<I", 64)
        elif pair == 1:
            self._text("llama.embedding_length")
            self._number("<I", 4)
            self._number("<I", rng.randrange(1, 99))
        elif pair == 2:
            self._text("tokenizer.ggml.tokens")
            for number, code in ((9, "<I"), (8, "<I"), (n_tokens, "<Q")):
                self._number(code, number)
            for index in range(n_tokens):
                self._text(f"t{index}")
        elif pair in (3, 4):
            self._text(("tokenizer.ggml.scores", "tokenizer.ggml.token_type")[pair - 3])
            for number, code in ((9, "<I"), (6 if pair == 3 else 5, "<I"), (n_tokens, "<Q")):
                self._number(code, number)
            self.made += b"\0\0\0\0" * n_tokens
        elif pair == 5:
            self._text("split.count")
            self._number("<I", 2)
            self._number("<H", 1)
        else:
            self._text(f"x.{pair}")
            kind, code = rng.choice(((0, "<B"), (3, "<h"), (6, "<f"), (7, "<?"), (10, "<Q"), (12, "<d")))
            self._number("<I", kind)
            self._number(code, 1)

    def _number(self, code: str, value: int) -> None:
        self.fields.append((len(self.made), struct.calcsize(code)))
        self.made += struct.pack(code, value)

    def _text(self, value: str) -> None:
        self._number("<Q", len(value))
        self.made += value.encode()


NASTY: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64, 10**18, 0.5, -0.0, 1e308, 1e-308),
    *("", " ", "a", "\0", "\x7f", "\u202e", "\ud800", "\U0001f600", "#", "#/", "#/$defs/a", "null", "NaN", "a" * 300),
    *([], {}, [[]], [{}], {"": {}}, {"a": []}, [None], ["a", "a"], [0, 0]),
]
_RAW = [
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 40, "0" * 9, "01", "1.", ".5", "+1", "0x1", "1e", "--1"),
    *(
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\x"',
        '"\\u12"',
        '"\n"',
        '"\0"',
        "'a'",
        "tru",
        "nul",
        "undefined",
        "//",
        "/**/",
    ),
    *("[" * 60, "]" * 60, '{"a":' * 60, "[[[[]]]]", '{"a":1,"a":2}', "[1,]", '{"a":1,}', "\ufeff", ",,", "{}{}"),
]


def mutated_tree(rng: random.Random, tree: Any, words: Sequence[str], nasty: Sequence[Any] = NASTY) -> Any:
    """A copy of a JSON-like value with one to four changes; ``words`` are keys that mean something."""
    made = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        places = list(_places(made))
        if not places:
            return copy.deepcopy(rng.choice(nasty))
        holder, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.5:
            holder[key] = copy.deepcopy(rng.choice(nasty))
        elif kind < 0.6:
            del holder[key]
        elif kind < 0.75 and isinstance(holder, dict):
            holder[rng.choice(words)] = copy.deepcopy(rng.choice((*nasty, holder[key])))
        elif kind < 0.85:
            other, name = rng.choice(places)
            holder[key] = copy.deepcopy(other[name]) if _held(other, name) else None
        elif kind < 0.93:
            deep: Any = holder[key]
            for _ in range(rng.choice((1, 2, 8, 30))):
                deep = {rng.choice(words): deep} if rng.random() < 0.5 else [deep]
            holder[key] = deep
        elif isinstance(holder, list):
            holder.extend(copy.deepcopy(holder[: rng.choice((1, 16, 300))]))
    return made


def _held(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    todo = [tree]
    while todo and len(found) < 400:
        node = todo.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            todo.append(node[key])
    return found


def written(rng: random.Random, tree: Any) -> bytes:
    """JSON of a tree, at times with a piece that no JSON has."""
    text = json.dumps(tree, ensure_ascii=rng.random() < 0.7)
    if rng.random() < 0.25:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(_RAW) + text[at + rng.randrange(8) :]
    elif rng.random() < 0.1:
        text = text.replace(rng.choice(("0", "1", "true", "null", '"a"', "{}", "[]")), rng.choice(_RAW), 1)
    return text.encode("utf-8", "surrogatepass")


def mutated_text(rng: random.Random, text: str, words: Sequence[str]) -> str:
    """A text with one to five pieces put in, taken out, repeated or exchanged."""
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        at = rng.randrange(len(text) + 1)
        kind = rng.random()
        if kind < 0.45:
            text = text[:at] + rng.choice(words) + text[at:]
        elif kind < 0.65:
            text = text[:at] + text[at + rng.randrange(1, 9) :]
        elif kind < 0.8:
            text = text[:at] + rng.choice(words) + text[at + rng.randrange(1, 6) :]
        elif kind < 0.9:
            text = text[:at] + text[at : at + rng.randrange(1, 30)] * rng.choice((2, 3, 40)) + text[at:]
        else:
            text = (
                text[:at]
                + chr(rng.choice((0, 9, 10, 13, 34, 92, 0x7F, 0xA0, 0x2028, 0xD800, 0xFFFF, 0x1F600)))
                + text[at:]
            )
    return text
