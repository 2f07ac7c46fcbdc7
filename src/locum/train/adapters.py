"""Low-rank adapters on a transformer's linear layers, by PEFT: put on, saved, merged.

Notable: a decoder that writes keeps its adapter as a file, a classifier or tagger only what it was merged into. The
frozen matrices of the former are kept in bfloat16 where autocast would round them to it in every pass anyway,
which changes nothing and saves half their memory; every merge is computed in float32.
Source: LoRA, Hu et al. 2021; DoRA, Liu et al. 2024. Not here: training (``generating``, ``full``, ``tagging``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from locum.core.errors import UserError
from locum.core.files import disk_errors
from locum.core.registry import nearest
from locum.models.architectures import transformer_layers
from locum.models.base_files import BaseFiles
from locum.models.body import quiet_transformers
from locum.models.causal import load_causal
from locum.models.classifier import SequenceClassifier
from locum.schema.candidate import Method
from locum.schema.training import ADAPTER_ALPHA, ADAPTER_RANK, TuneRequest

FOLDER = "adapter"
ADAPTED: tuple[Method, ...] = ("lora", "dora")
"""Methods that tune adapters."""


def add_adapters(model: Any, base: BaseFiles, request: TuneRequest, first_layer: int) -> Any:
    """Put adapters on the linear layers from ``first_layer`` on; everything else is frozen.

    Returns:
        PEFT's model around it.

    Raises:
        UserError: a target is not a linear layer of the model.
    """
    from peft import LoraConfig, get_peft_model

    layers = transformer_layers(model.base_model, base.architecture)
    known = _linear_names(layers)
    targets = request.targets or tuple(known)
    for target in targets:
        if target not in known:
            close = nearest(target, known)
            raise UserError(
                "train-request",
                f"{target!r} is not a linear layer of {base.architecture.model_type}"
                + (f" (nearest: {close})" if close else ""),
                fix=f"choose of: {', '.join(known)}",
            )
    config = LoraConfig(
        r=request.rank,
        lora_alpha=cast("Any", request.alpha),
        target_modules=list(targets),
        layers_to_transform=list(range(first_layer, len(layers))) if first_layer else None,
        layers_pattern="layers" if first_layer else None,
        use_dora=request.method == "dora",
        task_type="CAUSAL_LM",
    )
    with quiet_transformers():
        return get_peft_model(model, config)


def adapt(model: SequenceClassifier, method: Method) -> Any:
    """Freeze a classifier's body and put adapters on every linear layer of its blocks.

    What the base has not (head, table of surface forms) is still trained. The student answers as before until its
    first step.

    Args:
        model: changed in place; of a body without its first layers, those that are there get adapters.
        method: lora or dora.

    Returns:
        PEFT's tuner around the blocks, whose ``merge_and_unload`` puts plain layers back.
    """
    from peft import LoraConfig, LoraModel

    model.body.requires_grad_(False)
    for weight in model.fresh_weights():
        weight.requires_grad_(True)
    blocks = transformer_layers(model.body, model.architecture)[:]  # PEFT marks the list it is given: not the body's
    config = LoraConfig(
        r=ADAPTER_RANK,
        lora_alpha=cast("Any", ADAPTER_ALPHA),
        target_modules=_linear_names(blocks),
        use_dora=method == "dora",
    )
    return LoraModel(blocks, config, "default")


def _linear_names(layers: nn.Module) -> list[str]:
    """The last parts of the names of all linear layers, each once."""
    return sorted({name.rpartition(".")[2] for name, part in layers.named_modules() if isinstance(part, nn.Linear)})


def round_frozen(model: nn.Module) -> None:
    """Keep frozen matrices of linear layers in bfloat16; biases, norms and embeddings stay as they are."""
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    for part in model.modules():
        if isinstance(part, nn.Linear) and not part.weight.requires_grad and id(part.weight) not in embeddings:
            part.weight.data = part.weight.data.to(torch.bfloat16)


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter in PEFT's layout to ``folder/adapter``."""
    with quiet_transformers(), disk_errors(folder):
        model.save_pretrained(folder / FOLDER)
    (folder / FOLDER / "README.md").unlink(missing_ok=True)  # PEFT's form for a card, with nothing filled in


def merge_adapter(base: BaseFiles, folder: Path) -> Any:
    """The base, read again, with the adapter of ``folder/adapter`` merged into its float32 weights."""
    from peft import PeftModel

    with quiet_transformers():
        return PeftModel.from_pretrained(load_causal(base), str(folder / FOLDER)).merge_and_unload()
