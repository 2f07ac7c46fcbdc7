"""AdamW with the groups of a recipe, and the learning rate by step.

Source: Loshchilov and Hutter 2019; linear probing before tuning (LP-FT): Kumar et al. 2022.
Not here: the loop.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from locum.models.classifier import SequenceClassifier
from locum.train.recipe import Pace, Recipe, TuneRecipe


def classifier_optimiser(model: SequenceClassifier, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over the trainable weights, one group for the decayed, the undecayed and those that the base has not.

    Each group remembers its peak rate as ``peak``.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    embedding = model.body.get_input_embeddings().weight  # type: ignore[operator]
    fresh = model.fresh_weights()
    ours = {id(weight) for weight in fresh}
    for weight in model.body.parameters():
        if weight.requires_grad and id(weight) not in ours:
            (plain if weight.ndim < 2 or weight is embedding else decayed).append(weight)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "peak": recipe.body_rate, "weight_decay": recipe.weight_decay},
        {"params": plain, "peak": recipe.body_rate, "weight_decay": 0.0},
        {"params": fresh, "peak": recipe.head_rate, "weight_decay": 0.0},
    ]
    return _adamw(groups, recipe)


def generator_optimiser(model: nn.Module, recipe: TuneRecipe) -> torch.optim.AdamW:
    """AdamW over the trainable weights of a decoder, one group for the decayed and one for the undecayed."""
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    embeddings = {
        id(weight) for module in model.modules() if isinstance(module, nn.Embedding) for weight in [module.weight]
    }
    decayed = [weight for weight in trainable if weight.ndim >= 2 and id(weight) not in embeddings]
    plain = [weight for weight in trainable if weight.ndim < 2 or id(weight) in embeddings]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "peak": recipe.rate, "weight_decay": recipe.weight_decay},
        {"params": plain, "peak": recipe.rate, "weight_decay": 0.0},
    ]
    return _adamw(groups, recipe)


def _adamw(groups: list[dict[str, Any]], recipe: Pace) -> torch.optim.AdamW:
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, recipe.beta2), fused=True)


def rate_factor(step: int, total_steps: int, warmup: float) -> float:
    """What the peak rate is multiplied by at ``step`` (from 0): rises linearly, then falls linearly to 0."""
    share = (step + 1) / (total_steps + 1)
    return share / warmup if share < warmup else (1 - share) / (1 - warmup)


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to its peak times ``factor``."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor
