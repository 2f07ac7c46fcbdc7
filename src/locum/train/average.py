"""The exponential moving average of the weights: what is evaluated on dev and kept.

Notable: it gains what several more epochs would, and makes the choice of the best epoch less of a lottery.
Source: Polyak and Juditsky 1992; the early correction ``1 / (step + 1)`` as in TensorFlow's. Not here: saving.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Running average of some weights.

    Args:
        weights: the weights to follow.
        decay: what remains of the old average at each step.
    """

    def __init__(self, weights: Sequence[nn.Parameter], decay: float) -> None:
        self._weights = list(weights)
        self._decay = decay
        self.values: list[Tensor] = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the present weights, after optimiser step ``step`` (from 0)."""
        share = max(1 - self._decay, 1 / (step + 2))
        for value, weight in zip(self.values, self._weights, strict=True):
            value.lerp_(weight.detach(), share)

    @contextmanager
    def in_place(self) -> Generator[None, None, None]:
        """Put the average in the weights' place for the block."""
        kept = [weight.detach().clone() for weight in self._weights]
        load(self._weights, self.values)
        try:
            yield
        finally:
            load(self._weights, kept)


@torch.no_grad()
def load(weights: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    """Copy values into weights."""
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
