"""Norms and gated layers of Llama-like decoders that keep less for the backward pass, with the same results.

Notable: under autocast, a plain norm keeps its normalised states in float32 and every linear layer behind it keeps a
bfloat16 copy of its own; here one bfloat16 result serves them all. A gated layer keeps its two inputs and computes the
gate again. A third less memory for activations, and fewer passes over it. Other architectures stay as they are.

T tokens, D width, I inner width. Not here: attention (``attention``), the loss (``answer_loss``).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from locum.models.architectures import Architecture, transformer_layers

_LLAMA_LIKE = frozenset({"llama", "mistral", "qwen2", "qwen3"})


def make_lean(body: Any, architecture: Architecture) -> None:
    """Replace the arithmetic of a body's norms and gated layers, in place; weights and their names stay."""
    if architecture.model_type not in _LLAMA_LIKE:
        return
    for part in body.modules():
        if type(part).__name__.endswith("RMSNorm"):
            part.forward = partial(rms_norm, weight=part.weight, eps=part.variance_epsilon)
    if body.config.hidden_act == "silu":
        for layer in transformer_layers(body, architecture):
            layer.mlp.forward = partial(_gated, layer.mlp)


def rms_norm(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``weight * x / sqrt(mean(x²) + eps)`` over the last dimension, computed in float32 (Zhang and Sennrich 2019).

    Args:
        states: ``[…, D]``.
        weight: ``[D]``.
        eps: added to the mean of squares.

    Returns:
        ``[…, D]`` in the autocast type where autocast is on, else in that of ``states``.
    """
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    return _RmsNorm.apply(states, weight, eps, dtype)


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` (Shazeer 2020), all ``[…, I]``."""
    return _GatedSilu.apply(gate, up)


def _gated(mlp: Any, states: Tensor) -> Tensor:
    return mlp.down_proj(gated_silu(mlp.gate_proj(states), mlp.up_proj(states)))


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        exact = states.float()
        scale = torch.rsqrt(exact.square().mean(dim=-1, keepdim=True) + eps)
        ctx.save_for_backward(states, weight, scale)
        return ((exact * scale).to(states.dtype) * weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, scale = ctx.saved_tensors
        flowing = gradients[0].float()
        normal = states.float() * scale
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = (flowing * normal).flatten(0, -2).sum(dim=0)
        flowing = flowing * weight
        d_states = flowing.sub_(normal.mul_((flowing * normal).mean(dim=-1, keepdim=True))).mul_(scale)
        return d_states.to(states.dtype), d_weight, None, None


class _GatedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        flowing = gradients[0]
        chance = torch.sigmoid(gate)
        opened = gate * chance
        d_up = opened * flowing
        slope = chance.add_(opened.mul_(1 - chance))  # d silu / d gate
        return slope.mul_(flowing).mul_(up), d_up
