"""Causal attention over rows laid end to end, each seeing itself and what its group shares: no padding, no leak.

Notable: one autograd node a layer keeps only queries, keys, values and the result; probabilities are computed again for
the backward pass, as FlashAttention does (Dao et al. 2022), in blocks of queries that skip the keys after them. On
processors this beats both PyTorch's fused kernel, whose backward pass is slow at these lengths, and plain attention,
which keeps every probability. Known to transformers by ``NAME``; the model passes ``spans`` on to it.

H heads, K key-value heads, N tokens of all rows, d width of a head. Not here: laying rows out (``packing``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NAME = "locum_packed"
_BLOCK = 256


@dataclass(frozen=True)
class Span:
    """Tokens that attend to themselves, causally, and to all of a shared beginning.

    Attributes:
        start, length: of the tokens.
        shared_start, shared: of the beginning that stands before them; ``shared`` is 0 where there is none.
    """

    start: int
    length: int
    shared_start: int = 0
    shared: int = 0

    @property
    def stop(self) -> int:
        """The place after the last token."""
        return self.start + self.length


def register() -> None:
    """Make the attention known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _for_transformers)


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: Sequence[Span],
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention of every span.

    Args:
        query: ``[H, N, d]``.
        key: ``[K, N, d]``; head h of the queries reads head ``h // (H / K)``.
        value: as ``key``.
        spans: which together hold every token once.
        scale: of the scores.
        window: how many tokens back a token sees, itself included; None for all.
        softcap: scores become ``softcap * tanh(score / softcap)`` (Gemma 2); None leaves them.

    Returns:
        ``[N, H, d]``.
    """
    return _PackedAttention.apply(query * scale, key, value, tuple(spans), window, softcap)


def _for_transformers(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """The form that transformers calls: ``[1, H, N, d]`` in, ``[1, N, H, d]`` out."""
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    found = packed_attention(
        *(states[0].to(dtype) for states in (query, key, value)),
        options["spans"],
        scale=options["scaling"],
        window=options.get("sliding_window"),
        softcap=options.get("softcap"),
    )
    return found.unsqueeze(0), None


class _PackedAttention(torch.autograd.Function):
    """Forward and backward of ``packed_attention``, on scaled queries."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        spans: tuple[Span, ...],
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        heads, tokens, width = query.shape
        result = query.new_empty(tokens, heads, width)
        for span in spans:
            keys, values = _seen(key, span), _seen(value, span)
            for first in range(0, span.length, _BLOCK):
                last = min(first + _BLOCK, span.length)
                rows = slice(span.start + first, span.start + last)
                seen = span.shared + last
                scores = _scores(_grouped(query[:, rows], len(keys)), keys[:, :seen], last - first, window, softcap)
                found = torch.bmm(torch.softmax(scores, dim=-1), values[:, :seen])  # [K, H/K*m, d]
                result[rows] = found.view(heads, last - first, width).transpose(0, 1)
        ctx.save_for_backward(query, key, value, result)
        ctx.spans, ctx.window, ctx.softcap = spans, window, softcap
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, result = ctx.saved_tensors
        flowing = gradients[0]
        heads, _, width = query.shape
        kv_heads = len(key)
        delta = (flowing.float() * result.float()).sum(dim=-1).T  # [H, N]
        d_query = torch.empty_like(query)
        d_key, d_value = torch.zeros_like(key, dtype=torch.float32), torch.zeros_like(value, dtype=torch.float32)
        for span in ctx.spans:
            keys, values = _seen(key, span), _seen(value, span)
            for first in range(0, span.length, _BLOCK):
                last = min(first + _BLOCK, span.length)
                rows = slice(span.start + first, span.start + last)
                seen = span.shared + last
                block = _grouped(query[:, rows], kv_heads)
                scores = _scores(block, keys[:, :seen], last - first, ctx.window, ctx.softcap)
                chances = torch.softmax(scores, dim=-1)  # [K, H/K*m, n]
                arriving = _grouped(flowing[rows].transpose(0, 1), kv_heads)  # [K, H/K*m, d]
                _add_seen(d_value, span, last, torch.bmm(chances.transpose(1, 2), arriving))
                slope = torch.bmm(arriving, values[:, :seen].transpose(1, 2))
                slope -= _grouped(delta[:, rows].unsqueeze(-1), kv_heads).to(slope.dtype)
                slope *= chances
                if ctx.softcap is not None:
                    slope *= 1 - (scores.masked_fill(scores.isinf(), 0) / ctx.softcap).square()
                d_query[:, rows] = torch.bmm(slope, keys[:, :seen]).view(heads, last - first, width)
                _add_seen(d_key, span, last, torch.bmm(slope.transpose(1, 2), block))
        return d_query, d_key.to(key.dtype), d_value.to(value.dtype), None, None, None


def _grouped(states: Tensor, kv_heads: int) -> Tensor:
    """``[H, m, d]`` with the heads that read the same keys one after the other, ``[K, H/K*m, d]``."""
    return states.reshape(kv_heads, -1, states.shape[-1])


def _seen(states: Tensor, span: Span) -> Tensor:
    """Keys or values that a span's last token sees, in order of position, ``[K, shared + length, d]``."""
    own = states[:, span.start : span.stop]
    if not span.shared:
        return own
    return torch.cat([states[:, span.shared_start : span.shared_start + span.shared], own], dim=1)


def _add_seen(total: Tensor, span: Span, last: int, part: Tensor) -> None:
    """Add what flows back into what a block saw to where it came from."""
    if span.shared:
        total[:, span.shared_start : span.shared_start + span.shared] += part[:, : span.shared]
    total[:, span.start : span.start + last] += part[:, span.shared :]


def _scores(block: Tensor, keys: Tensor, queries: int, window: int | None, softcap: float | None) -> Tensor:
    """Masked scores ``[K, H/K*m, n]`` of the last ``m`` of ``n`` positions."""
    scores = torch.bmm(block, keys.transpose(1, 2))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    by_query = scores.view(len(keys), -1, queries, keys.shape[1])
    n = keys.shape[1]
    if window is not None and n > window:
        places = torch.arange(n, device=keys.device)
        back = places[n - queries :, None] - places[None, :]  # [m, n]: how far back a key lies
        by_query.masked_fill_((back < 0) | (back >= window), float("-inf"))
    else:
        after = torch.ones(queries, queries, dtype=torch.bool, device=keys.device).triu(1)
        by_query[..., n - queries :].masked_fill_(after, float("-inf"))
    return scores
