"""What values a JSON schema is about: their types, its fixed values, and whether two schemas share any.

Notable: equality is that of JSON, where true is not 1. Not here: how values are written (``schema_scalars``).
"""

from __future__ import annotations

from typing import Any

_ALL = frozenset({"object", "array", "string", "number", "boolean", "null"})


class Sign:
    """What tells the values of one schema from those of another: their types, and fixed values."""

    def __init__(self, schema: dict[str, Any], follow: Any) -> None:
        self._values = fixed_values(schema)
        kinds = schema.get("type")
        if self._values is not None:
            self._kinds = {type_of(value) for value in self._values}
        elif isinstance(kinds, (str, list)):
            listed = [kinds] if isinstance(kinds, str) else kinds  # pyright: ignore[reportUnknownVariableType]
            self._kinds = {"number" if kind == "integer" else str(kind) for kind in listed}  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
        else:
            self._kinds = {"object"} if "properties" in schema else set(_ALL)
        properties, required = schema.get("properties"), schema.get("required")
        self._marks: dict[str, list[Any]] = {}
        if isinstance(properties, dict) and isinstance(required, list):
            for name in filter(lambda each: isinstance(each, str), required):  # pyright: ignore
                values = fixed_values(follow(properties.get(name), "#"))  # pyright: ignore[reportUnknownArgumentType]
                if values is not None:
                    self._marks[name] = values

    def apart(self, other: Sign) -> bool:
        """Whether no value fits both."""
        if not self._kinds & other._kinds:
            return True
        if self._values is not None and other._values is not None:
            return not any(same(one, two) for one in self._values for two in other._values)
        shared = self._marks.keys() & other._marks.keys()
        return (self._kinds == other._kinds == {"object"}) and any(
            not any(same(one, two) for one in self._marks[name] for two in other._marks[name]) for name in shared
        )


def fixed_values(schema: dict[str, Any]) -> list[Any] | None:
    """The only values that a schema allows; None where it has no list of them."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None  # pyright: ignore[reportUnknownVariableType]


def type_of(value: Any) -> str:
    """The type of a JSON value; numbers are one."""
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names[type(value)]


def is_type(value: Any, kind: Any) -> bool:
    """Whether a value has a type of JSON Schema."""
    if kind == "integer":
        return type_of(value) == "number" and float(value).is_integer()
    return type_of(value) == kind


def same(one: Any, other: Any) -> bool:
    """Equality of JSON values: true is not 1."""
    return type_of(one) == type_of(other) and one == other
