"""Dropout that costs little on CPUs: one mask a row and feature, shared by all tokens.

Notable: drawing a mask for every token and attention weight takes longer than a layer's arithmetic on two
cores. Source: Gal and Ghahramani 2016, "A Theoretically Grounded Application of Dropout in Recurrent Neural
Networks". Not here: how much (``recipe``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SharedDropout(nn.Module):
    """Dropout of hidden states ``[B, T, D]`` with one mask ``[B, 1, D]``; anything else passes unchanged.

    Attributes:
        p: 0: the attention functions of transformers read a dropout module's ``p`` for their own dropout of
            attention weights, which is not done.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.p = 0.0

    def forward(self, states: Tensor) -> Tensor:
        """Mask and rescale while training; the identity otherwise."""
        if not self.training or self.probability == 0 or states.ndim != 3:
            return states
        mask = torch.rand(states.shape[0], 1, states.shape[2], device=states.device) >= self.probability
        return states * (mask.to(states.dtype) / (1 - self.probability))


def set_dropout(body: nn.Module, probability: float) -> None:
    """Replace every dropout of a body by ``SharedDropout``, and switch off dropout of attention weights."""
    for module in list(body.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(module, name, SharedDropout(probability))
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
