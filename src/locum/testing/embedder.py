"""``FakeEmbedder``: vectors that tell texts apart, without a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from locum.runtime.protocol import Embedded


class FakeEmbedder:
    """Four numbers a text: its length, its first character, one, zero; scaled to length one.

    Args:
        model: its name.
        max_tokens: words over so many are said not to be read.

    Attributes:
        closed: whether ``close`` was called.
    """

    def __init__(self, model: str = "fake-embedder", *, max_tokens: int = 512) -> None:
        self._model = model
        self._max_tokens = max_tokens
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

    def read(self, texts: Sequence[str]) -> Embedded:
        """The vectors, with words for tokens."""
        words = np.array([len(text.split()) for text in texts], dtype=np.int64)
        read = np.minimum(words, self._max_tokens)
        return Embedded(self.embed(texts), read, words - read)

    def close(self) -> None:
        """Remember it."""
        self.closed = True
