"""JSON in what a model wrote: found in prose or a Markdown block, read strictly, and written in one form.

Notable: what is taken for JSON has no NaN, no key twice and bounded depth (``core.strict_json``), because an answer may
repeat what a stranger put into the input. The one form has its keys in the schema's order, which is the order in which
constrained decoding writes them. Not here: whether a schema allows it (``scoring.fields``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from locum.core.strict_json import NotStrictJson, parse_object

_TRIES = 20
_READ_CHARS = 200_000
_MAX_DEPTH = 32
_REFS_DEEP = 8
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Found:
    """A JSON value and where it stands in the text: ``text[start:end]``."""

    value: Any
    start: int
    end: int


def found_json(text: str, opening: Literal["{", "["] = "{") -> Iterator[Found]:
    """The JSON objects, or lists, of a text, from the first; what stands inside one is not told again.

    Args:
        text: what a model wrote; at most its first 200,000 characters and its first 20 opening brackets are looked at.
        opening: ``{`` for objects, ``[`` for lists.
    """
    text = text[:_READ_CHARS]
    at = text.find(opening)
    for _ in range(_TRIES):
        if at < 0:
            return
        end = at + 1
        try:
            _, end = _DECODER.raw_decode(text, at)
            value = parse_object(f'{{"answer":{text[at:end]}}}'.encode(), max_depth=_MAX_DEPTH)["answer"]
        except (ValueError, RecursionError):  # NotStrictJson and lone surrogates are ValueErrors
            pass
        else:
            yield Found(value, at, end)
        at = text.find(opening, end)


def read_json(text: str) -> Any:
    """A whole text as strict JSON.

    Raises:
        ValueError: it is none.
    """
    try:
        return parse_object(f'{{"answer":{text}}}'.encode(), max_depth=_MAX_DEPTH)["answer"]
    except (NotStrictJson, UnicodeEncodeError) as problem:
        raise ValueError(f"no JSON: {problem}") from None


def one_form(value: Any, schema: Mapping[str, Any] | None = None) -> str:
    """A JSON value on one line without spaces, keys in the schema's order and others after them by name."""
    return json.dumps(_ordered(value, schema or {}, schema or {}), ensure_ascii=False, separators=(",", ":"))


def _ordered(value: Any, schema: Any, root: Mapping[str, Any]) -> Any:
    branches = list(_branches(schema, root, 0))
    if isinstance(value, dict):
        properties: dict[str, Any] = {}
        for branch in branches:
            properties = {**branch.get("properties", {}), **properties}
        known = [key for branch in branches for key in branch.get("properties", {}) if key in value]
        keys = dict.fromkeys([*known, *sorted(value)])
        return {key: _ordered(value[key], properties.get(key), root) for key in keys}
    if isinstance(value, list):
        items = next((branch["items"] for branch in branches if "items" in branch), None)
        return [_ordered(each, items, root) for each in value]
    return value


def _branches(schema: Any, root: Mapping[str, Any], deep: int) -> Iterator[Mapping[str, Any]]:
    """The schema and every schema that it refers to or is put together from, without going into properties."""
    if not isinstance(schema, Mapping) or deep > _REFS_DEEP:
        return
    yield schema
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        target: Any = root
        for part in reference.split("/")[1:]:
            target = target.get(part) if isinstance(target, Mapping) else None
        yield from _branches(target, root, deep + 1)
    for key in ("allOf", "anyOf", "oneOf"):
        for branch in schema.get(key, ()):
            yield from _branches(branch, root, deep + 1)
