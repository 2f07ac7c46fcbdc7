"""The pretrained transformer without its language-model head, loaded from a checked base.

Notable: attention is computed in plain ("eager") form, because on CPUs the backward pass of PyTorch's fused
kernel takes 20 times longer at the lengths of a classification. Weights are float32; GGUF files are
dequantised. Not here: pooling and head (``classifier``).
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from locum.core.errors import ModelFileError
from locum.models.architectures import keep_first_layers
from locum.models.base_files import BaseFiles
from locum.models.gguf_once import gguf_read_once


def load_body(base: BaseFiles, depth: int | None = None) -> nn.Module:
    """Load a base's transformer in float32 and cut it to its first layers.

    Args:
        base: what ``inspect_base`` returned.
        depth: layers to keep; None keeps all.

    Returns:
        A transformers module: ``(input_ids [B, T], attention_mask [B, T]) -> .last_hidden_state [B, T, D]``.

    Raises:
        ModelFileError: a tensor is missing, of a wrong shape, or holds NaN or infinity.
    """
    from transformers import AutoModel

    options: dict[str, Any] = {"add_pooling_layer": False} if base.architecture.has_pooler else {}
    module = load_transformer(AutoModel, base, attn_implementation="eager", **options)
    keep_first_layers(module, base.architecture, depth)
    return module


def load_transformer(auto: Any, base: BaseFiles, **options: Any) -> Any:
    """Load a base's weights in float32 into one of transformers' classes.

    Args:
        auto: ``AutoModel`` or one of its kind.
        base: what ``inspect_base`` returned.
        options: others of its ``from_pretrained``.

    Raises:
        ModelFileError: a tensor is missing, of a wrong shape, or holds NaN or infinity.
    """
    where = str(base.root / base.gguf) if base.gguf else str(base.root)
    options |= {"dtype": torch.float32, "local_files_only": True}
    options |= {"gguf_file": base.gguf} if base.gguf else {"use_safetensors": True}
    with quiet_transformers(), gguf_read_once():
        try:
            module, report = auto.from_pretrained(base.root, output_loading_info=True, **options)
        except Exception as error:  # transformers raises many classes for a damaged base; all mean the same here
            raise ModelFileError("models-damaged", f"it cannot be loaded: {error}", where=where) from error
    missing = sorted(str(name) for name in report["missing_keys"])
    if missing or report["mismatched_keys"]:
        seen = ", ".join((missing or sorted(str(name) for name in report["mismatched_keys"]))[:3])
        raise ModelFileError(
            "models-damaged", f"weights are missing or of another shape: {seen}", where=where, fix="copy it again"
        )
    if base.gguf:
        _refuse_nan(module, where)  # safetensors were read through before they were loaded
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config  # it was dequantised; saved as plain safetensors from here on
        module.hf_quantizer = None
    if hasattr(module.config, "use_cache"):
        module.config.use_cache = False
    return module


def _refuse_nan(module: nn.Module, where: str) -> None:
    """Refuse dequantised weights that hold NaN or infinity, naming the first such tensor."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(
                "models-nan", f"tensor {name} holds NaN or infinity", where=where, fix="copy or download it again"
            )


@contextmanager
def quiet_transformers() -> Generator[None, None, None]:
    """Silence transformers' progress bars and reports for the block: Locum says itself what happens."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
