"""``Document``: the frozen, versioned value that passes between stages.

Notable: unknown fields are errors, NaN cannot be written, and equal content has an equal hash.
Not here: reading and writing files; a document is a value (``core.files`` writes, ``read_document`` parses).
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from locum.core.errors import LocumError, ModelFileError
from locum.core.files import content_hash


class Document(BaseModel):
    """A frozen pydantic model; subclasses are the contracts between rooms."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null", protected_namespaces=())

    def to_json(self) -> dict[str, Any]:
        """The document as JSON-like Python values (tuples become lists)."""
        return self.model_dump(mode="json")

    def hash(self) -> str:
        """SHA-256 of the document's canonical JSON, hex."""
        return content_hash(self.to_json())

    @classmethod
    def from_json(cls, text: str | bytes, where: str, error: type[LocumError] = ModelFileError) -> Self:
        """Parse a document that Locum wrote.

        Args:
            text: its JSON.
            where: the file it came from, for the message.
            error: the class of error to raise.

        Raises:
            LocumError: (as ``error``) the text is not JSON or does not fit the document.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as problem:
            first = problem.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "document"
            cause = f"not a valid {cls.__name__}: {field}: {first['msg']}"
            raise error("schema-invalid", cause, where=where, fix="rebuild the folder it stands in") from problem
