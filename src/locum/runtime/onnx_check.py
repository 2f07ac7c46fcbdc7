"""Looks into an ONNX file before ONNX Runtime does: well-formed, closed in itself, and known operators only.

Notable: a small protobuf walker with checked bounds; weights are skipped, not read, so a file of hundreds
of MB takes milliseconds. Serving therefore needs no ``onnx`` package. Field numbers: ``onnx/onnx.proto``
(ONNX IR). Not here: type and shape checks, which ONNX Runtime makes when it builds the session.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from locum.core.errors import ModelFileError
from locum.runtime.model_files import mapped, resolve_inside

OPERATOR_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Operator sets that the plain build of ONNX Runtime has; "" is ONNX's own."""

_DEPTH_MAX = 32  # graphs within graphs (If, Loop) and functions
_NODES_MAX = 1_000_000
_STRING_MAX = 4096  # bytes; longer ones hold values
_ROUNDING_OPERATORS = frozenset(
    {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger"}
)
_BLOCK_MAX = 64  # above it, MatMulNBits sums in an order that depends on the number of rows

# Message types by name; each maps a field number to the message type found there.
_NESTED: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 8: "OperatorSet", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 9: "OperatorSet", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "OperatorSet": {},
    "Entry": {},
}


@dataclass
class OnnxFacts:
    """What the walk found.

    Attributes:
        operators: (domain, operator) of every node.
        functions: domains of functions that the file brings itself.
        external: names of files with weights outside the file.
        block_size: the largest ``block_size`` of any node; 0 when none has one.
    """

    ir_version: int = 0
    nodes: int = 0
    graphs: int = 0
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    external: set[str] = field(default_factory=set)
    block_size: int = 0

    @property
    def batch_dependent(self) -> bool:
        """Whether a row's scores change with the rows beside it.

        True where activations are rounded at run time with scales taken over the whole batch, and for
        ``MatMulNBits`` in blocks of more than 64, whose kernel is chosen by the batch's size (on MiniLM logits
        moved by up to 10 %). In blocks of 64 or less its scales are a row's own, and so is its order of summation.
        """
        names = {operator for _, operator in self.operators}
        wide_blocks = "MatMulNBits" in names and not 0 < self.block_size <= _BLOCK_MAX
        return wide_blocks or bool(names & _ROUNDING_OPERATORS)


def check_onnx(path: Path, named: frozenset[str] | set[str]) -> OnnxFacts:
    """Check an ONNX file.

    Args:
        path: the file.
        named: names of the files of its folder that ``model.json`` vouches for.

    Returns:
        What is in it.

    Raises:
        ModelFileError: it is not ONNX or damaged; it needs an operator set that is not supported; it points to
            weights outside its folder, or to a file that nothing vouches for.
    """
    facts = OnnxFacts()
    size = path.stat().st_size
    if size < 2:
        raise _damaged(path, f"{size} bytes are no model")
    with mapped(path) as data:
        try:
            _walk(data, 0, size, "Model", facts, 0)
        except _Malformed as problem:
            raise _damaged(path, str(problem)) from None
    if not facts.graphs or not facts.nodes or not 1 <= facts.ir_version <= 100:
        raise _damaged(path, "it holds no graph")
    _check_operators(path, facts)
    for name in facts.external:
        resolve_inside(path.parent, name)
        if name not in named:
            raise ModelFileError(
                "runtime-unsafe-path", f"the weights are in {name!r}, which model.json does not name", where=str(path)
            )
    return facts


def _check_operators(path: Path, facts: OnnxFacts) -> None:
    known = {*OPERATOR_DOMAINS, *facts.functions}
    foreign = sorted(f"{domain}::{operator}" for domain, operator in facts.operators if domain not in known)
    if foreign:
        supported = ", ".join(domain or "ai.onnx (unnamed)" for domain in OPERATOR_DOMAINS)
        raise ModelFileError(
            "runtime-unsupported",
            f"it needs operators that need a plug-in: {', '.join(foreign[:5])}",
            where=str(path),
            fix=f"export it with operators of these sets only: {supported}",
        )


class _Malformed(Exception):
    """The bytes are not the protobuf they should be."""


def _varint(view: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end or shift > 63:
            raise _Malformed(f"a number at byte {at} does not end")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(view: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, start or value, end) of each field of a message."""
    while at < end:
        tag, at = _varint(view, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise _Malformed(f"field number 0 at byte {at}")
        if wire == 0:
            value, at = _varint(view, at, end)
            yield number, wire, value, at
            continue
        if wire == 2:
            length, at = _varint(view, at, end)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise _Malformed(f"wire type {wire} at byte {at}")
        if length > end - at:
            raise _Malformed(f"a field at byte {at} claims {length} bytes, {end - at} are left")
        yield number, wire, at, at + length
        at += length


def _walk(view: mmap.mmap, start: int, end: int, kind: str, facts: OnnxFacts, depth: int) -> dict[int, bytes]:
    """Visit a message; returns its short string fields by number (names, domains, keys)."""
    if depth > _DEPTH_MAX:
        raise _Malformed(f"graphs nested deeper than {_DEPTH_MAX}")
    strings: dict[int, bytes] = {}
    integer = 0
    nested = _NESTED[kind]
    for number, wire, at, stop in _fields(view, start, end):
        if kind == "Model" and number == 1 and wire == 0:
            facts.ir_version = at
        if kind == "Attribute" and number == 3 and wire == 0:
            integer = at
        if wire != 2:
            continue
        if number in nested:
            found = _walk(view, at, stop, nested[number], facts, depth + 1)
            _note(nested[number], found, facts)
        elif stop - at <= _STRING_MAX:
            strings[number] = view[at:stop]
        elif kind == "Entry":  # where weights are: none may be passed over
            raise _Malformed(f"a place of weights has {stop - at} bytes")
    if kind == "Attribute" and strings.get(1) == b"block_size":
        facts.block_size = max(facts.block_size, integer)
    return strings


def _note(kind: str, strings: dict[int, bytes], facts: OnnxFacts) -> None:
    def text(number: int) -> str:
        return strings.get(number, b"").decode("utf-8", "replace")

    if kind == "Node":
        facts.nodes += 1
        facts.operators.add((text(7), text(4)))
        if facts.nodes > _NODES_MAX:
            raise _Malformed(f"more than {_NODES_MAX} nodes")
    elif kind == "Graph":
        facts.graphs += 1
    elif kind == "Function":
        facts.functions.add(text(10))
    elif kind == "Entry" and text(1) == "location":
        facts.external.add(text(2))


def _damaged(path: Path, why: str) -> ModelFileError:
    return ModelFileError(
        "runtime-damaged", f"not an ONNX model: {why}", where=str(path), fix="copy it again, or export it again"
    )
