"""``POST /v1/embeddings``: its document and its body.

Notable: base64 is what OpenAI's clients ask for by default, little-endian 32-bit floats; it is a quarter of the
size of decimal digits and loses nothing. Not here: the model (``targets``).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from locum.gateway.calls import Origin
from locum.gateway.documents import Document, OrTokens, Short, Text, TokenArrays, read_document, refuse
from locum.runtime.protocol import Embedded

MAX_INPUTS = 2048
"""As many texts as OpenAI's API takes; clients send up to so many at once."""
EMBEDDED = Origin("local")
"""Where every vector comes from."""


class EmbeddingRequest(Document):
    """``POST /v1/embeddings``."""

    model: Short
    input: Annotated[Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)], OrTokens]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=65_536, description="Only the model's own number.")] | None = None
    user: Short | None = None
    truncate: Annotated[bool, Field(description="Drop the end of a text that does not fit, and say so.")] | None = None

    @property
    def texts(self) -> list[str]:
        """What to embed, in order."""
        return [self.input] if isinstance(self.input, str) else self.input


def read_embedding_request(body: bytes, check: Callable[[str], None]) -> EmbeddingRequest:
    """From a body.

    Args:
        body: of the request.
        check: refuses a model that does not embed, which comes before what is to be embedded.

    Raises:
        ApiError: 400, naming the field at fault; as ``check``.
    """
    asked = read_document(EmbeddingRequest, body)
    check(asked.model)
    if isinstance(asked.input, TokenArrays):
        why = (
            "token arrays are not taken, because ids of one tokenizer mean something else to another; send text "
            "(LangChain: check_embedding_ctx_length=False)"
        )
        refuse("input", why, "unsupported_value")
    if not all(asked.texts):
        refuse("input", "an empty text has no embedding", "empty_input")
    return asked


def embeddings_body(asked: EmbeddingRequest, made: Embedded) -> dict[str, Any]:
    """The body.

    Args:
        asked: the request.
        made: its vectors.
    """
    rows = np.ascontiguousarray(made.vectors, dtype="<f4")
    tokens = int(made.tokens.sum())
    coded: list[Any] = list(rows)
    if asked.encoding_format == "base64":
        coded = [base64.b64encode(row.tobytes()).decode("ascii") for row in rows]
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(coded)],
        "model": asked.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "locum": {"route": EMBEDDED.route, "truncated_tokens": int(made.dropped.sum())},
    }
