"""A frozen prefix of a decoder's layers, run once over the data instead of once an epoch.

Notable: the prefix's output is fed to the remaining layers as if it were embeddings, which a Llama-like body
adds nothing to; the result is that of the whole body, to bfloat16's rounding of what is kept. Decoders that
scale their embeddings (Gemma) and encoders are refused. Not here: which layers to freeze (``recipe``).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from locum.core.progress import track
from locum.models.architectures import Architecture, transformer_layers
from locum.train.batches import padded, sorted_batches
from locum.train.forward import MAX_CELLS, Encoded, Machine

_PLAIN_EMBEDDINGS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_BYTES_MAX = 4 << 30


def can_freeze(architecture: Architecture, tokens: int, width: int) -> bool:
    """Whether a prefix can be cached: a Llama-like body, and states that fit in memory (bfloat16)."""
    return architecture.model_type in _PLAIN_EMBEDDINGS and 2 * tokens * width <= _BYTES_MAX


class FrozenPrefix:
    """Freezes the first ``count`` layers and the embedding; ``remove`` takes them out, ``restore`` puts them back.

    Args:
        body: of a type that ``can_freeze``.
        architecture: of it.
        count: layers to take out; at least one must remain.
    """

    def __init__(self, body: Any, architecture: Architecture, count: int) -> None:
        self._body, self._architecture = body, architecture
        self._layers: Any = transformer_layers(body, architecture)
        if not 0 < count < len(self._layers):
            raise ValueError(f"cannot freeze {count} of {len(self._layers)} layers")
        self.count = count
        self._prefix, self._rest = self._layers[:count], self._layers[count:]
        self._norm: nn.Module = self._body.norm
        self._layer_types = getattr(self._body.config, "layer_types", None)
        for weight in [*self._prefix.parameters(), *self._body.get_input_embeddings().parameters()]:
            weight.requires_grad_(False)

    @torch.no_grad()
    def read(self, split: Encoded, pad_id: int, machine: Machine, label: str) -> None:
        """Run the prefix over a split and keep what it makes of each row in ``split.states``."""
        states: list[Tensor] = [torch.empty(0)] * len(split.ids)
        with track(label, len(split.ids), "row") as tracker, self.alone(), machine.autocast():
            for rows in sorted_batches(split.lengths, 64, MAX_CELLS):
                tokens, mask = padded([split.ids[row] for row in rows], pad_id)
                output = self._body(input_ids=tokens.to(machine.device), attention_mask=mask.to(machine.device))
                found = output.last_hidden_state.cpu()
                kept = found.bfloat16() if machine.bfloat16 else found
                for place, row in enumerate(rows):
                    states[row] = kept[place, : len(split.ids[row])].clone()
                tracker.advance(len(rows))
        split.states = states

    @contextmanager
    def alone(self) -> Generator[None, None, None]:
        """Leave only the prefix for the block, without the final normalisation."""
        self._use(self._prefix, 0)
        self._body.norm = nn.Identity()
        self._body.eval()
        try:
            yield
        finally:
            self._body.norm = self._norm
            self.restore()

    def remove(self) -> None:
        """Leave only the layers after the prefix, which read ``split.states``."""
        self._use(self._rest, self.count)

    def restore(self) -> None:
        """Put the prefix back before the tuned layers."""
        self._use(self._layers, 0)

    def _use(self, layers: nn.ModuleList, first: int) -> None:
        setattr(self._body, self._architecture.layers, layers)
        config = self._body.config
        config.num_hidden_layers = len(layers)
        if self._layer_types:
            config.layer_types = list(self._layer_types[first : first + len(layers)])
