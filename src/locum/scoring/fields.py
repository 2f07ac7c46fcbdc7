"""Extracted JSON: validity against a schema, exact match, and precision, recall and F1 of fields.

Notable: a value is flattened to its leaves, each with its path; the place in a list is no part of a path, so lists
are multisets. Equality knows types: 1 equals 1.0, ``true`` is not 1, "1" is not 1, and text differs by more than
spaces. Not here: finding the JSON in a completion; constraints while a model writes (``runtime.constraints``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from locum.core.errors import UserError
from locum.core.text import one_line
from locum.scoring.counts import check_rows, f1_of_counts
from locum.scoring.extras import needed
from locum.stats.rowwise import Pooled

Leaf = tuple[tuple[str, ...], tuple[str, Any]]
"""A path of keys (``[]`` for any place in a list) and a typed value."""

_MAX_DEPTH = 64
"""A value nested deeper is compared as text from there on."""


def valid(value: Any, schema: Mapping[str, Any]) -> float:
    """1.0 when a value is what a JSON schema (2020-12) allows.

    Args:
        value: parsed JSON.
        schema: the schema; a ``$ref`` reaches only into it, nothing is fetched.

    Raises:
        UserError: ``scoring-schema`` for a malformed schema or a reference to elsewhere; ``core-missing-extra``.
    """
    return float(why_invalid(value, schema) is None)


def why_invalid(value: Any, schema: Mapping[str, Any]) -> str | None:
    """What a JSON schema (2020-12) does not allow in a value, with the place in it; None when it allows all of it.

    Raises:
        UserError: as ``valid``.
    """
    checker = _checker(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS))
    unresolvable = needed("referencing.exceptions", "checking a schema").Unresolvable
    try:
        problem = next(checker.iter_errors(value), None)
        return None if problem is None else f"{problem.json_path}: {one_line(problem.message, 120)}"
    except RecursionError:  # an answer may nest as deep as it likes
        return "$: nested too deep to be checked"
    except unresolvable as problem:
        raise UserError(
            "scoring-schema", f"the schema refers to {problem.ref!r}, which it does not hold", fix="use $defs within it"
        ) from problem


@lru_cache(maxsize=64)
def _checker(schema: bytes) -> Any:
    jsonschema = needed("jsonschema", "checking a schema")
    registry = needed("referencing", "checking a schema").Registry()
    document = orjson.loads(schema)
    try:
        jsonschema.Draft202012Validator.check_schema(document)
    except jsonschema.SchemaError as problem:
        raise UserError("scoring-schema", f"malformed JSON schema: {problem.message}", fix="mend the schema") from None
    return jsonschema.Draft202012Validator(document, registry=registry)


def exact_match(value: Any, gold: Any) -> float:
    """1.0 when both have the same structure and equal leaves, the order of keys and of lists aside."""
    return float(_canonical(value, 0) == _canonical(gold, 0))


def field_counts(value: Any, gold: Any) -> tuple[int, int, int]:
    """Right, predicted and gold leaves of one row.

    Args:
        value: parsed JSON; None where nothing could be parsed, which has no leaves.
        gold: the gold JSON.
    """
    answered = Counter() if value is None else leaves(value)
    wanted = leaves(gold)
    return (answered & wanted).total(), answered.total(), wanted.total()


def field_f1(value: Any, gold: Any) -> float:
    """F1 of leaves of one row, in [0, 1]."""
    return float(f1_of_counts(np.array(field_counts(value, gold), dtype=np.float64)))


def field_rows(values: Sequence[Any], golds: Sequence[Any]) -> Pooled:
    """What each row adds to micro F1 of leaves: right, predicted and gold, ``[n, 3]``.

    Raises:
        UserError: ``scoring-input`` when there are no rows or the counts differ.
    """
    check_rows(len(values), len(golds))
    counts = [field_counts(value, gold) for value, gold in zip(values, golds, strict=True)]
    return Pooled(np.array(counts, dtype=np.float64), f1_of_counts)


def leaves(value: Any) -> Counter[Leaf]:
    """Every leaf of a JSON value with its path; an empty object or list is a leaf of its own."""
    return Counter(leaf for _, leaf in _leaves(value, (), ""))


def field_name(leaf: Leaf) -> str:
    """The field that a leaf stands in, whatever its place in a list: ``items[].price``."""
    return "".join(leaf[0]).removeprefix(".") or "(the whole)"


def right_fields(value: Any, gold: Any) -> dict[str, bool]:
    """Whether each leaf of a value is one of the gold value's, by its place (``arguments.city``, ``items[2].price``).

    As many are right as ``field_counts`` counts: of equal leaves of one list, the first ones are.
    """
    wanted = leaves(gold)
    found: dict[str, bool] = {}
    for place, leaf in _leaves(value, (), ""):
        found[place] = wanted[leaf] > 0
        wanted[leaf] -= 1
    return found


def _leaves(value: Any, path: tuple[str, ...], place: str) -> Iterator[tuple[str, Leaf]]:
    """Each leaf with its place, which counts the items of lists."""
    if len(path) < _MAX_DEPTH and isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, f".{key}"), f"{place}.{key}" if place else str(key))
    elif len(path) < _MAX_DEPTH and isinstance(value, list) and value:
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*path, "[]"), f"{place}[{number}]")
    else:
        yield place, (path, _typed(value))


def _typed(value: Any) -> tuple[str, Any]:
    """A leaf that equals another exactly when JSON would call them equal, spaces in text aside."""
    if isinstance(value, bool) or value is None:
        return "literal", str(value)
    if isinstance(value, str):
        return "text", " ".join(value.split())
    if isinstance(value, int | float):
        return "number", value if value == value else "nan"  # NaN equals nothing, and an answer may well be NaN
    return "nested", json.dumps(value, sort_keys=True)


def _canonical(value: Any, depth: int) -> Any:
    """A hashable value that is the same for equal values; a list becomes a multiset."""
    if depth < _MAX_DEPTH and isinstance(value, Mapping) and value:
        members = [(str(key), _canonical(inner, depth + 1)) for key, inner in value.items()]
        return "object", tuple(sorted(members, key=lambda member: member[0]))
    if depth < _MAX_DEPTH and isinstance(value, list) and value:
        return "list", _multiset(_canonical(inner, depth + 1) for inner in value)
    return _typed(value)


def _multiset(members: Iterator[Any]) -> frozenset[tuple[Any, int]]:
    return frozenset(Counter(members).items())
