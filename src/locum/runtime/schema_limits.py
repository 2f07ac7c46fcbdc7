"""How large a JSON schema may be; checked without recursion before anything walks through it.

Notable: these limits are on the document; what it expands to is counted again as a grammar (``grammar_parse``).
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Self

from locum.core.errors import UserError

MAX_BYTES = 1 << 16
"""As JSON in UTF-8."""
MAX_DEPTH = 40
"""Objects and arrays inside each other; a schema takes two for each level of what it describes."""
MAX_NODES = 10_000
"""Values of the document, scalars included."""
MAX_PROPERTIES = 256
"""Of one object, and items of one tuple."""
MAX_VALUES = 1000
"""Of one enum."""
MAX_ALTERNATIVES = 64
"""Of one anyOf or oneOf."""
MAX_ITEMS = 1000
"""For minItems and maxItems."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_FIX = "make the schema smaller, or ask in several requests"


class SchemaFault(UserError):
    """A schema that cannot be a constraint; ``cause`` begins with the place in it.

    Attributes:
        keywords: those at fault in the schema at that place, without which it may be one.
    """

    keywords: tuple[str, ...] = ()

    def about(self, *keywords: str) -> Self:
        """The same fault, of these keywords."""
        self.keywords = keywords
        return self


def check_limits(schema: Any) -> str:
    """Check a schema's size and that it is JSON.

    Returns:
        The schema as JSON, keys in their order.

    Raises:
        SchemaFault: ``runtime-constraint-too-large``, or ``runtime-constraint-schema`` when it is no JSON object.
    """
    if not isinstance(schema, dict):
        raise SchemaFault("runtime-constraint-schema", "the schema is no JSON object")
    nodes = 0
    todo: list[tuple[Any, int]] = [(schema, 1)]
    while todo:
        value, depth = todo.pop()
        nodes += 1
        if nodes > MAX_NODES:
            raise SchemaFault(
                "runtime-constraint-too-large", f"the schema has more than {MAX_NODES:,} values", fix=_FIX
            )
        if isinstance(value, (dict, list)):
            if depth > MAX_DEPTH:
                raise SchemaFault("runtime-constraint-too-large", f"the schema nests deeper than {MAX_DEPTH}", fix=_FIX)
            children = [*value, *value.values()] if isinstance(value, dict) else value  # pyright: ignore[reportUnknownVariableType]
            if isinstance(value, dict) and not all(isinstance(key, str) for key in value):  # pyright: ignore[reportUnknownVariableType]
                raise SchemaFault("runtime-constraint-schema", "the schema has a key that is no text")
            todo.extend((child, depth + 1) for child in children)  # pyright: ignore[reportUnknownVariableType]
        else:
            _check_scalar(value)
    text = json.dumps(schema, ensure_ascii=False)
    size = len(text.encode())
    if size > MAX_BYTES:
        raise SchemaFault(
            "runtime-constraint-too-large", f"the schema has {size:,} bytes, over {MAX_BYTES:,}", fix=_FIX
        )
    return text


def _check_scalar(value: Any) -> None:
    if isinstance(value, str):
        if len(value) > MAX_BYTES:
            raise SchemaFault(
                "runtime-constraint-too-large", f"the schema has a text of over {MAX_BYTES:,} characters", fix=_FIX
            )
        if _SURROGATE.search(value):
            raise SchemaFault("runtime-constraint-schema", "the schema holds a lone surrogate")
    elif isinstance(value, float) and not math.isfinite(value):
        raise SchemaFault("runtime-constraint-schema", "the schema holds NaN or infinity")
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise SchemaFault("runtime-constraint-schema", "the schema holds a number of more than 64 bits")
    elif value is not None and not isinstance(value, (str, int, float)):
        raise SchemaFault("runtime-constraint-schema", f"the schema holds a {type(value).__name__}, which is no JSON")
