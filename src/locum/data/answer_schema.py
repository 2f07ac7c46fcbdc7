"""``schema_of``: the JSON schema that a sample of objects has, as a first draft for ``answer_schema``.

Notable: a field that some rows lack is not required; fields that differ from row to row (arguments of a call) become
``{"type": "object"}`` without properties, because no list of them would be whole. Not here: what schemas may say
(``scoring.fields``, ``runtime.schema_grammar``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MOST_DEEP = 4
_MOST_FIELDS = 40
_STABLE = 2.0
"""Most different fields for each field of a middling row."""


def schema_of(values: Sequence[Any], *, deep: int = 0) -> dict[str, Any]:
    """A schema that allows every one of some JSON values.

    Args:
        values: at least one.
        deep: how many objects these stand in.
    """
    types = sorted({_type(value) for value in values})
    if types == ["integer", "number"]:
        types = ["number"]
    if types == ["object"]:
        return _object(values, deep)
    if types == ["array"]:
        items = [item for value in values for item in value]
        return (
            {"type": "array", "items": schema_of(items, deep=deep + 1)}
            if items and deep < _MOST_DEEP
            else {"type": "array"}
        )
    return {"type": types[0] if len(types) == 1 else types}


def _object(values: Sequence[dict[str, Any]], deep: int) -> dict[str, Any]:
    fields = list(dict.fromkeys(name for value in values for name in value))
    usual = sum(len(value) for value in values) / len(values)
    if not fields or deep >= _MOST_DEEP or len(fields) > min(_MOST_FIELDS, max(1.0, _STABLE * usual)):
        return {"type": "object"}
    return {
        "type": "object",
        "properties": {
            name: schema_of([value[name] for value in values if name in value], deep=deep + 1) for name in fields
        },
        "required": [name for name in fields if all(name in value for value in values)],
        "additionalProperties": False,
    }


def _type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object"}
    return names.get(type(value), "array")
