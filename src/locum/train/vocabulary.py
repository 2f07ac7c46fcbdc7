"""Training with only the embedding rows that the data uses, exactly as if all were there.

Notable: a vocabulary of 30,000 to 260,000 rows gets a dense gradient, a dense optimiser step and a dense
checkpoint for rows that never occur. Rows without a gradient do not move (no weight decay on embeddings), so
leaving them out changes nothing but the time. Not here: pruning a student's vocabulary for good (``compress``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import nn

_FIXED_MAX = 1024


class CompactVocabulary:
    """Swap a body's token embedding for the rows in use; ``restore`` puts the tuned rows back.

    Args:
        body: a transformers module.
        texts: token ids of every text that training or evaluation will see.
        pad_id: the padding id; RoBERTa counts positions by it, so small ones keep their place.
    """

    def __init__(self, body: nn.Module, texts: Iterable[Sequence[int]], pad_id: int) -> None:
        self._embedding: Any = cast("Any", body).get_input_embeddings()
        self._whole: nn.Parameter = self._embedding.weight
        self._padding_idx = getattr(self._embedding, "padding_idx", None)
        used = {token for text in texts for token in text} | {pad_id}
        if pad_id < _FIXED_MAX:
            used |= set(range(pad_id))
        self._rows = torch.tensor(sorted(used), dtype=torch.long)
        self._new = {old: place for place, old in enumerate(self._rows.tolist())}
        self.pad_id = self._new[pad_id]
        self._embedding.weight = nn.Parameter(self._whole.detach()[self._rows].clone())
        self._embedding.num_embeddings = len(self._rows)
        if self._padding_idx is not None:
            self._embedding.padding_idx = self.pad_id

    def translate(self, ids: Sequence[int]) -> list[int]:
        """Token ids in the compact numbering."""
        return [self._new[token] for token in ids]

    def original(self, ids: Sequence[int]) -> list[int]:
        """Token ids in the whole vocabulary, from the compact numbering."""
        return self._rows[list(ids)].tolist()

    def restore(self) -> None:
        """Put the whole embedding back, with the tuned rows in place."""
        with torch.no_grad():
            self._whole[self._rows] = self._embedding.weight.detach().to(self._whole.device)
        self._embedding.weight = self._whole
        self._embedding.num_embeddings = self._whole.shape[0]
        self._embedding.padding_idx = self._padding_idx
