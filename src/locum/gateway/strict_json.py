"""``parse_json``: a request body as a JSON object; what ``core.strict_json`` refuses is a 400.

Not here: which fields there are (``documents``).
"""

from __future__ import annotations

from typing import Any

from locum.core import strict_json
from locum.gateway.errors import ApiError

MAX_DEPTH = 48
"""Deep enough for a JSON Schema inside a request, far below the interpreter's recursion limit."""


def parse_json(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        ApiError: 400 ``invalid_json``: not JSON in UTF-8, nested deeper than ``MAX_DEPTH``, a key twice, NaN or
            infinity, a number of more than 19 digits, a lone surrogate, or not an object.
    """
    try:
        return strict_json.parse_object(body, max_depth=MAX_DEPTH)
    except strict_json.NotStrictJson as problem:
        raise ApiError(400, "invalid_json", f"the body cannot be read: {problem}") from None
