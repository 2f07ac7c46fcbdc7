"""A JSON schema as a GBNF grammar that writes only what the schema allows.

Notable: every keyword is enforced or refused by name; none is passed over. Where a schema allows more than is useful
to write, the grammar is narrower and never wider: properties come in the order of the schema, an object with
``properties`` gets no others, a tuple has its full length. ``$ref`` is local and may be recursive. Written here and
not with llama.cpp's converter, which drops what it does not know, and is not in every build of it. Not here: the
limits on the document itself (``schema_limits``), time and memory (``constraints``).

Keywords: JSON Schema 2020-12, core and validation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NoReturn
from urllib.parse import unquote

from locum.runtime import schema_scalars as scalars
from locum.runtime.schema_limits import MAX_ALTERNATIVES, MAX_ITEMS, MAX_PROPERTIES, MAX_VALUES, SchemaFault
from locum.runtime.schema_pattern import PatternFault, pattern_expression
from locum.runtime.schema_values import Sign, is_type, same

_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly"}
    | {"$comment", "$schema", "$defs", "definitions", "discriminator", "contentMediaType", "contentEncoding"}
)
_NUMBER = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_BY_TYPE: dict[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": _NUMBER,
    "number": _NUMBER,
    "boolean": frozenset(),
    "null": frozenset(),
}
_HARMLESS: dict[str, Any] = {
    "uniqueItems": False,
    "minProperties": 0,
    "unevaluatedProperties": False,
    "nullable": False,
}
_REFS_DEEP = 64
_WITH_FIXED = frozenset({"enum", "const", "type"})

_BUILT_IN = {
    "ws": '( " " | "\\n" [ \\t]{0,20} )?',
    "char": r'[^"\\\x00-\x1F\x7F] | "\\" ( ["\\/bfnrt] | "u" escape )',
    "escape": "[0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}",  # no half of a surrogate pair
    "block": "char{100}",
    "string": r'"\"" char* "\""',
    "whole": '"0" | [1-9] [0-9]{0,14}',
    "integer": '"-"? whole',
    "number": '"-"? whole ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "member": 'string ws ":" ws value',
    "object": '"{" ws ( member ( "," ws member )* ws )? "}"',
    "array": '"[" ws ( value ( "," ws value )* ws )? "]"',
}
_NEEDS = {
    "char": ("escape",),
    "block": ("char",),
    "string": ("char",),
    "integer": ("whole",),
    "number": ("whole",),
    "value": ("object", "array", "string", "number", "boolean", "null"),
    "member": ("string", "ws", "value"),
    "object": ("member", "ws"),
    "array": ("value", "ws"),
}


def schema_grammar(schema: dict[str, Any] | bool) -> str:
    """Write the grammar.

    Args:
        schema: within the limits of ``schema_limits.check_limits``.

    Returns:
        GBNF with the start ``root``.

    Raises:
        SchemaFault: malformed, not enforceable, or it allows no value.
    """
    return SchemaWriter(schema).grammar()


class SchemaWriter:
    """The rules of one schema.

    Args:
        schema: within the limits of ``schema_limits.check_limits``.
        root: the name of its start.
        patient: leave out what cannot be enforced and go on, so that all of it is known.

    Attributes:
        faults: what was left out: the place and the keyword (empty for a whole schema), and why.
    """

    def __init__(self, schema: dict[str, Any] | bool, root: str = "root", *, patient: bool = False) -> None:
        self._schema = schema
        self._root = root
        self._patient = patient
        self._rules: dict[str, str] = {}
        self._refs = {"#": root}
        self._refs_deep = 0
        self.faults: dict[tuple[str, str], str] = {}

    def grammar(self) -> str:
        """The rules, the start first; rules of two writers whose starts differ can stand in one grammar.

        Raises:
            SchemaFault: as ``schema_grammar``; of a patient one, what is over the limits.
        """
        start = self._rule_of(self._schema, "#")
        rules = [f"{name} ::= {body}" for name, body in self._rules.items()]
        return "\n".join([f"{self._root} ::= {start}", *rules]) + "\n"

    def _rule_of(self, schema: Any, where: str) -> str:
        """The name of a rule for a schema; a patient writer leaves out of it what it has to."""
        while True:
            try:
                return self._strict_rule_of(schema, where)
            except SchemaFault as fault:
                if not self._patient:
                    raise
                left = {key for key in fault.keywords if isinstance(schema, dict) and key in schema}
                for key in sorted(left) or [""]:
                    each = f"{where[:120]}: cannot enforce the keyword {key[:80]!r}"
                    self.faults.setdefault((where, key), fault.cause if len(left) < 2 else each)
                if not left:
                    return self._built_in("object" if where == "#" else "value")
                schema = {key: value for key, value in schema.items() if key not in left}

    def _cannot(self, where: str, what: str, *keywords: str) -> None:
        """Refuse keywords; a patient writer notes them, and its caller goes on without them."""
        if not self._patient:
            _unsupported(where, what, *keywords)
        for key in keywords:
            self.faults.setdefault((where, key), f"{where[:120]}: cannot enforce {what}")

    def _strict_rule_of(self, schema: Any, where: str) -> str:
        """The name of a rule for a schema."""
        if schema is True or (isinstance(schema, dict) and not set(schema) - _ANNOTATIONS):  # pyright: ignore[reportUnknownArgumentType]
            return self._built_in("value")
        if schema is False:
            _empty(where)
        if not isinstance(schema, dict):
            _malformed(where, "is no schema")
        fields: dict[str, Any] = {
            key: value
            for key, value in schema.items()  # pyright: ignore[reportUnknownVariableType]
            if key not in _ANNOTATIONS and not key.startswith("x-") and not (key == "$id" and where == "#")
        }
        for key, harmless in _HARMLESS.items():
            if key in fields and fields[key] == harmless:
                del fields[key]
        if "$ref" in fields:
            return self._reference(fields, where)
        return self._expression(fields, where)

    def _expression(self, fields: dict[str, Any], where: str) -> str:
        for key in ("allOf", "anyOf", "oneOf"):
            if key in fields:
                return self._combined(key, fields, where)
        if "enum" in fields or "const" in fields:
            return self._fixed(fields, where)
        kind = fields["type"] if "type" in fields else _only_type(fields, where)
        if isinstance(kind, list):
            return self._any_type(kind, fields, where)  # pyright: ignore[reportUnknownArgumentType]
        if not isinstance(kind, str) or kind not in _BY_TYPE:
            _malformed(where, f"has type {str(kind)[:40]!r}", "type")
        _only(fields, _BY_TYPE[kind] | {"type"}, where)
        plain = len(fields) <= ("type" in fields)
        if plain:
            return self._built_in(kind)
        writers = {"object": self._object, "array": self._array, "string": self._string}
        return writers.get(kind, self._number)(fields, where)

    def _reference(self, fields: dict[str, Any], where: str) -> str:
        _only(fields, {"$ref"}, where)
        ref = fields["$ref"]
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            _unsupported(where, f"$ref {str(ref)[:80]!r}: only references within the schema are followed", "$ref")
        if ref not in self._refs:
            target = _target(self._schema, ref, where)
            if self._refs_deep == _REFS_DEEP:
                raise SchemaFault(
                    "runtime-constraint-too-large", f"{where[:120]}: over {_REFS_DEEP} references inside each other"
                )
            self._refs_deep += 1
            name = self._refs[ref] = self._new_name()
            self._rules[name] = ""  # its place, so that a schema that refers to itself finds its name
            self._rules[name] = self._rule_of(target, ref)
            self._refs_deep -= 1
        return self._refs[ref]

    def _combined(self, key: str, fields: dict[str, Any], where: str) -> str:
        if {"properties", "items", "type"} & set(fields):  # the rest says more than the alternatives
            self._cannot(where, f"the keyword {min(set(fields) - {key})[:80]!r} beside {key}", key)
            return self._expression({name: fields[name] for name in fields if name != key}, where)
        _only(fields, {key}, where)
        parts = fields[key]
        if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_ALTERNATIVES:  # pyright: ignore[reportUnknownArgumentType]
            _malformed(where, f"{key} is no list of 1 to {MAX_ALTERNATIVES} schemas", key)
        if key == "allOf" and len(parts) > 1:  # pyright: ignore[reportUnknownArgumentType]
            _unsupported(where, "allOf of several schemas: write their properties into one", key)
        if key == "oneOf":
            self._check_apart(parts, where)  # pyright: ignore[reportUnknownArgumentType]
        names = [self._rule_of(part, f"{where}/{key}/{index}") for index, part in enumerate(parts)]  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
        return names[0] if len(names) == 1 else self._rule(" | ".join(dict.fromkeys(names)))

    def _check_apart(self, parts: list[Any], where: str) -> None:
        """``oneOf`` holds when exactly one part does: no value may fit two of them."""
        signs = [Sign(self._followed(part, f"{where}/oneOf"), self._followed) for part in parts]
        for (left, one), (right, other) in itertools.combinations(enumerate(signs), 2):
            if not one.apart(other):
                what = f"oneOf: a value may fit its parts {left} and {right}; use anyOf, or tell them apart by a const"
                self._cannot(where, what, "oneOf")

    def _followed(self, schema: Any, where: str) -> dict[str, Any]:
        for _ in range(16):
            if not isinstance(schema, dict) or "$ref" not in schema:
                break
            schema = _target(self._schema, str(schema["$ref"]), where)  # pyright: ignore[reportUnknownArgumentType]
        return schema if isinstance(schema, dict) else {}  # pyright: ignore[reportUnknownVariableType]

    def _fixed(self, fields: dict[str, Any], where: str) -> str:
        _only(fields, _WITH_FIXED, where)
        values = fields.get("enum", [fields.get("const")])
        if not isinstance(values, list) or not 1 <= len(values) <= MAX_VALUES:  # pyright: ignore[reportUnknownArgumentType]
            _malformed(where, f"enum is no list of 1 to {MAX_VALUES} values", "enum")
        kinds = fields.get("type")
        allowed = [kinds] if isinstance(kinds, str) else kinds
        kept = [
            value
            for value in values  # pyright: ignore[reportUnknownVariableType]
            if (not isinstance(allowed, list) or any(is_type(value, kind) for kind in allowed))  # pyright: ignore[reportUnknownVariableType]
            and ("const" not in fields or same(value, fields["const"]))
        ]
        if not kept:
            _empty(where)
        return self._rule(scalars.values_expression(kept))  # pyright: ignore[reportUnknownArgumentType]

    def _any_type(self, kinds: list[Any], fields: dict[str, Any], where: str) -> str:
        if not kinds or not all(isinstance(kind, str) and kind in _BY_TYPE for kind in kinds):
            _malformed(where, "has a list of types that are none", "type")
        if "number" in kinds:
            kinds = [kind for kind in kinds if kind != "integer"]
        known = frozenset[str]().union(*(_BY_TYPE[kind] for kind in kinds))
        _only(fields, known | {"type"}, where)
        names = [
            self._expression({"type": kind, **{key: fields[key] for key in fields if key in _BY_TYPE[kind]}}, where)
            for kind in dict.fromkeys(kinds)
        ]
        return names[0] if len(names) == 1 else self._rule(" | ".join(names))

    def _object(self, fields: dict[str, Any], where: str) -> str:
        properties, required = fields.get("properties", {}), fields.get("required", [])
        if not isinstance(properties, dict) or len(properties) > MAX_PROPERTIES:  # pyright: ignore[reportUnknownArgumentType]
            _malformed(where, f"properties are no table of at most {MAX_PROPERTIES}", "properties")
        if not isinstance(required, list) or not all(isinstance(each, str) for each in required):  # pyright: ignore[reportUnknownVariableType]
            _malformed(where, "required is no list of names", "required")
        missing = sorted(set(required) - set(properties))  # pyright: ignore[reportUnknownArgumentType]
        if missing:
            self._cannot(where, f"required names {missing[0][:80]!r}, which properties lacks", "required")
        more = fields.get("additionalProperties", True)
        if not properties:
            return self._map(more, where)
        if not isinstance(more, bool):
            self._cannot(where, "additionalProperties with a schema beside properties", "additionalProperties")
        ws = self._built_in("ws")
        pairs = [
            (
                self._rule(
                    f'{scalars.values_expression([name])} {ws} ":" {ws} '
                    + self._rule_of(inner, f"{where}/properties/{name[:40]}")
                ),
                name in required,
            )
            for name, inner in properties.items()  # pyright: ignore[reportUnknownVariableType]
        ]
        return self._rule(self._members(pairs, ws))

    def _members(self, pairs: Sequence[tuple[str, bool]], ws: str) -> str:
        """Properties in their order, those that are not required left out at will."""
        first: list[str] = []
        after = ""  # what may follow once a property is written
        for index in range(len(pairs) - 1, -1, -1):
            name, is_required = pairs[index]
            if is_required:
                first = []
            first.insert(0, f"{name} {after}".rstrip())
            step = f'"," {ws} {name}' if is_required else f'("," {ws} {name})?'
            after = self._rule(f"{step} {after}".rstrip()) if index else ""
        body = f"({' | '.join(first)}) {ws}"
        if not any(is_required for _, is_required in pairs):
            body = f"({body})?"
        return f'"{{" {ws} {body} "}}"'

    def _map(self, more: Any, where: str) -> str:
        ws = self._built_in("ws")
        if more is True:
            return self._built_in("object")
        if more is False:
            return self._rule(f'"{{" {ws} "}}"')
        value = self._rule_of(more, f"{where}/additionalProperties")
        member = self._rule(f'{self._built_in("string")} {ws} ":" {ws} {value}')
        return self._rule(f'"{{" {ws} ( {member} ( "," {ws} {member} )* {ws} )? "}}"')

    def _array(self, fields: dict[str, Any], where: str) -> str:
        least, most = _count(fields, "minItems", MAX_ITEMS, where) or 0, _count(fields, "maxItems", MAX_ITEMS, where)
        items, prefix = fields.get("items", True), fields.get("prefixItems")
        if isinstance(items, list) and prefix is None:
            items, prefix = False, items  # pyright: ignore[reportUnknownVariableType]
        if prefix is not None:
            return self._tuple(prefix, items, least, most, where)
        if most is not None and most < least:
            _empty(where)
        ws = self._built_in("ws")
        if most == 0 or (items is False and least == 0):
            return self._rule(f'"[" {ws} "]"')
        item = self._rule_of(items, f"{where}/items")
        another = self._rule(f'"," {ws} {item}')
        times = "*" if most is None and least < 2 else f"{{{max(0, least - 1)},{'' if most is None else most - 1}}}"
        body = f"{item} {another}{times} {ws}"
        return self._rule(f'"[" {ws} {body} "]"' if least else f'"[" {ws} ({body})? "]"')

    def _tuple(self, prefix: Any, items: Any, least: int, most: int | None, where: str) -> str:
        if not isinstance(prefix, list) or not 1 <= len(prefix) <= MAX_PROPERTIES:  # pyright: ignore[reportUnknownArgumentType]
            _malformed(where, f"prefixItems is no list of 1 to {MAX_PROPERTIES} schemas", "prefixItems")
        length = len(prefix)  # pyright: ignore[reportUnknownArgumentType]
        if (not isinstance(items, bool)) or least > length or (most is not None and most < length):
            what = "prefixItems beside items, minItems or maxItems that ask for another length"
            _unsupported(where, what, "items", "minItems", "maxItems")
        ws = self._built_in("ws")
        names = [self._rule_of(part, f"{where}/prefixItems/{index}") for index, part in enumerate(prefix)]  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
        return self._rule(f'"[" {ws} ' + f' "," {ws} '.join(names) + f' {ws} "]"')

    def _string(self, fields: dict[str, Any], where: str) -> str:
        if len(fields) - ("type" in fields) > 1 and not set(fields) <= {"type", "minLength", "maxLength"}:
            kept = "pattern" if "pattern" in fields else "format"
            more = set(fields) - {"type", kept}
            self._cannot(where, f"{' with '.join(sorted({kept, *more}))}: one of them at a time", *sorted(more))
        if "pattern" in fields or "format" in fields:
            key = "pattern" if "pattern" in fields else "format"
            value = fields[key]
            if not isinstance(value, str):
                _malformed(where, f"{key} is no text", key)
            if key == "format" and value not in scalars.FORMATS:
                _unsupported(where, f"format {value[:40]!r}; known: {', '.join(sorted(scalars.FORMATS))}", key)
            try:
                inner = scalars.format_expression(value) if key == "format" else pattern_expression(value)
            except PatternFault as fault:
                _unsupported(where, f"pattern: {fault}", key)
            return self._rule(f'"\\"" {inner} "\\""')
        least = _count(fields, "minLength", scalars.MAX_LENGTH, where) or 0
        most = _count(fields, "maxLength", scalars.MAX_LENGTH, where)
        if most is not None and most < least:
            _empty(where)
        inner = scalars.length_expression(least, most)
        self._built_in("block" if "block" in inner else "char")
        return self._rule(f'"\\"" {inner} "\\""')

    def _number(self, fields: dict[str, Any], where: str) -> str:
        least, above = _bound(fields, "minimum", "exclusiveMinimum", where)
        most, below = _bound(fields, "maximum", "exclusiveMaximum", where)
        write = scalars.integer_expression if fields.get("type") == "integer" else scalars.number_expression
        expression = write(least, above, most, below)
        if expression is None:
            _empty(where)
        return self._rule(expression)

    def _rule(self, body: str) -> str:
        name = self._new_name()
        self._rules[name] = body
        return name

    def _new_name(self) -> str:
        return f"{'' if self._root == 'root' else self._root}r{len(self._rules)}"

    def _built_in(self, name: str) -> str:
        if name not in self._rules:
            self._rules[name] = _BUILT_IN[name]
            for needed in _NEEDS.get(name, ()):
                self._built_in(needed)
        return name


def _target(schema: Any, ref: str, where: str) -> Any:
    """What a JSON pointer (RFC 6901) within the schema names."""
    for step in ref.split("/")[1:]:
        key = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(schema, dict) and key in schema:
            schema = schema[key]  # pyright: ignore[reportUnknownVariableType]
        elif isinstance(schema, list) and key.isdecimal() and len(key) < 6 and int(key) < len(schema):  # pyright: ignore[reportUnknownArgumentType]
            schema = schema[int(key)]  # pyright: ignore[reportUnknownVariableType]
        else:
            _malformed(where, f"$ref {ref[:80]!r} names nothing", "$ref")
    return schema  # pyright: ignore[reportUnknownVariableType]


def _only_type(fields: dict[str, Any], where: str) -> str:
    """The type that keywords without one are about; narrower than the standard, which then allows others, too."""
    unknown = sorted(set(fields) - frozenset[str]().union(*_BY_TYPE.values()))
    if unknown:
        _unsupported(where, f"the keyword {unknown[0][:80]!r}", *unknown)
    kinds = [kind for kind in ("object", "array", "string", "number") if set(fields) <= _BY_TYPE[kind]]
    if len(kinds) != 1:
        _unsupported(where, "keywords of several types without a type", *fields)
    return kinds[0]


def _only(fields: dict[str, Any], known: frozenset[str] | set[str], where: str) -> None:
    unknown = sorted(set(fields) - known)
    if unknown:
        beside = f" beside {', '.join(sorted(known & set(fields)))}" if known & set(fields) else ""
        _unsupported(where, f"the keyword {unknown[0][:80]!r}{beside}", *unknown)


def _count(fields: dict[str, Any], key: str, most: int, where: str) -> int | None:
    value = fields.get(key)
    if value is None and key not in fields:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        _malformed(where, f"{key} is {str(value)[:40]}, not a count", key)
    if value > most:
        cause = f"{where[:120]}: {key} {value} is over {most}"
        raise SchemaFault("runtime-constraint-too-large", cause).about(key)
    return value


def _bound(fields: dict[str, Any], closed: str, opened: str, where: str) -> tuple[Decimal | None, bool]:
    if closed in fields and opened in fields:
        _unsupported(where, f"{closed} with {opened}: one of them at a time", closed)
    key = opened if opened in fields else closed
    if key not in fields:
        return None, False
    value = fields[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _malformed(where, f"{key} is no number", key)
    exact = Decimal(str(value))
    exponent = exact.normalize().as_tuple().exponent
    if isinstance(exponent, int) and exponent < -scalars.DIGITS:
        _unsupported(where, f"{key} with more than {scalars.DIGITS} decimals", key)
    if abs(exact) >= 10**scalars.DIGITS:
        if (exact > 0) == (closed == "minimum"):
            _empty(where)
        return None, False  # numbers of so many digits are not written anyway
    return exact, key == opened


def _empty(where: str) -> NoReturn:
    raise SchemaFault("runtime-constraint-schema", f"{where[:120]}: it allows no value")


def _malformed(where: str, why: str, *keywords: str) -> NoReturn:
    raise SchemaFault("runtime-constraint-schema", f"{where[:120]}: {why}").about(*keywords)


def _unsupported(where: str, what: str, *keywords: str) -> NoReturn:
    raise SchemaFault("runtime-constraint-unsupported", f"{where[:120]}: cannot enforce {what}").about(*keywords)
