"""Memory that a GGUF file needs while it writes text, worked out from its header before anything is loaded.

Notable: llama.cpp sets keys and values of the whole context aside for every slot when it loads, so a large context is
refused here with its figures instead of after a minute of paging. Where an architecture keeps less than a key and a
value for every token in every layer (sliding windows, latent or recurrent states), the header does not say how much,
and the estimate has no cache: too low rather than a refusal of what fits. Not here: students that are still to be built
(``memory``).
"""

from __future__ import annotations

from pathlib import Path

from locum.fit.memory import SERVING_LIBRARIES_MB, MemoryEstimate
from locum.runtime.gguf_check import GgufHeader, check_gguf, files_of
from locum.runtime.llama_settings import EngineSettings, KvType

_VALUE_BYTES: dict[KvType, float] = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
_KEEPS_LESS = (
    "attention.sliding_window",
    "attention.kv_lora_rank",
    "attention.shared_kv_layers",
    "ssm.state_size",
    "wkv.head_size",
)


def text_memory(path: Path, header: GgufHeader, settings: EngineSettings) -> MemoryEstimate:
    """Memory to write text with a GGUF file.

    files + slots · context · values a token · bytes a value, for the model and again for a draft, + adapters + what is
    kept of earlier prompts (``prompt_cache_mb``), which the first hours of a service fill

    Args:
        path: the file, or the first of a split model.
        header: of that file.
        settings: how it will be served.

    Returns:
        The estimate, by part.

    Raises:
        ModelFileError: the draft is damaged, hostile or unsupported.
    """
    context = min(settings.n_ctx, header.context_length or settings.n_ctx)
    inputs: dict[str, str | float] = {
        "context": context,
        "slots": settings.slots,
        "keys and values in": settings.kv_type,
    }
    parts = {"libraries": SERVING_LIBRARIES_MB, "weights": _size_mb(path, header)}
    cache_bytes = settings.slots * context * _VALUE_BYTES[settings.kv_type]
    values = cache_values(header)
    if values is not None:
        inputs["values a token"] = values
        parts["key-value cache"] = values * cache_bytes / 1e6
    if settings.draft is not None:
        draft = check_gguf(settings.draft)
        parts["draft"] = _size_mb(settings.draft, draft) + (cache_values(draft) or 0) * cache_bytes / 1e6
    if settings.adapters:
        parts["adapters"] = sum(file.stat().st_size for file in settings.adapters.values()) / 1e6
    if settings.kept_prompts_mb:
        parts["prompt cache"] = float(settings.kept_prompts_mb)
    return MemoryEstimate("serving", parts, inputs)


def cache_values(header: GgufHeader) -> int | None:
    """Numbers that are kept for each token: layers · heads of keys and values · (width of a key + width of a value).

    Args:
        header: of the file.

    Returns:
        None where the header does not tell, or the architecture keeps less than this.
    """
    if any(f"{header.architecture}.{name}" in header.metadata for name in _KEEPS_LESS):
        return None
    layers, heads = _count(header, "block_count"), _count(header, "attention.head_count")
    width = header.embedding_length
    if layers is None or heads is None or width is None:
        return None
    pairs = _count(header, "attention.head_count_kv", heads)  # a list where layers differ
    key, value = (_count(header, f"attention.{name}_length", width // heads) for name in ("key", "value"))
    return None if pairs is None or key is None or value is None else layers * pairs * (key + value)


def _count(header: GgufHeader, name: str, default: int | None = None) -> int | None:
    """A positive whole number of the metadata; ``default`` where it is not there, None where it is something else."""
    key = f"{header.architecture}.{name}"
    value = header.metadata.get(key, default)
    whole = isinstance(value, int) and not isinstance(value, bool) and key not in header.array_types
    return value if whole and value > 0 else None


def _size_mb(path: Path, header: GgufHeader) -> float:
    return sum(file.stat().st_size for file in files_of(path, header)) / 1e6
