"""Cross-entropy of answers, a few tokens at a time: the whole ``[tokens, vocabulary]`` never exists.

Notable: gradients are computed in the forward pass, chunk by chunk, so that nothing is computed twice. The same idea
as in Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models", without a kernel of its own.

A answer tokens, D width, V vocabulary. Not here: which tokens (``packing``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_TOKENS = 256


def answer_loss(
    states: Tensor, weight: Tensor, targets: Tensor, *, softcap: float | None = None, chunk: int = CHUNK_TOKENS
) -> Tensor:
    """Summed cross-entropy of ``softmax(states @ weight.T)``.

    Args:
        states: last hidden states that predict the targets, ``[A, D]``.
        weight: of the language-model head, ``[V, D]``.
        targets: ``[A]``.
        softcap: logits become ``softcap * tanh(logit / softcap)`` (Gemma 2); None leaves them.
        chunk: tokens whose logits exist at the same time.

    Returns:
        A float32 scalar, computed in the autocast type where autocast is on.
    """
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    with torch.autocast(kind, enabled=False):
        return _AnswerLoss.apply(states, weight, targets, dtype, softcap, chunk)


class _AnswerLoss(torch.autograd.Function):
    """Forward computes loss and gradients; backward scales them."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, softcap: float | None, chunk: int
    ) -> Tensor:
        wants_states, wants_weight = ctx.needs_input_grad[:2]
        rows, table = states.to(dtype), weight.to(dtype)
        d_states = torch.empty_like(states) if wants_states else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = (rows[part] @ table.T).float()  # [c, V]
            slope = None
            if softcap is not None:
                bent = torch.tanh(logits / softcap)
                logits, slope = softcap * bent, 1 - bent.square()
            wanted = targets[part].unsqueeze(1)
            norm = torch.logsumexp(logits, dim=1, keepdim=True)
            total += (norm - logits.gather(1, wanted)).sum()
            if d_states is None and d_weight is None:
                continue
            chances = logits.sub_(norm).exp_()
            chances.scatter_add_(1, wanted, torch.full_like(norm, -1.0))
            error = (chances if slope is None else chances.mul_(slope)).to(dtype)
            if d_states is not None:
                d_states[part] = error @ table
            if d_weight is not None:
                d_weight += error.T @ rows[part]
        ctx.d_states, ctx.d_weight = d_states, d_weight
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found = [None if part is None else part.mul_(gradients[0]) for part in (ctx.d_states, ctx.d_weight)]
        ctx.d_states = ctx.d_weight = None
        return found[0], found[1], None, None, None, None
