"""``FakeEmbedder``: vectors that tell texts apart, without a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class FakeEmbedder:
    """Four numbers a text: its length, its first character, one, zero; scaled to length one.

    Attributes:
        closed: whether ``close`` was called.
    """

    def __init__(self, model: str = "fake-embedder") -> None:
        self._model = model
        self.closed = False

    @property
    def model(self) -> str:
        """The name given."""
        return self._model

    @property
    def dimensions(self) -> int:
        """Four."""
        return 4

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors, ``[len(texts), 4]``."""
        rows = np.array([[len(text), ord(text[0]), 1, 0] for text in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def count_tokens(self, text: str) -> int:
        """Its words."""
        return len(text.split())

    def close(self) -> None:
        """Remember it."""
        self.closed = True
