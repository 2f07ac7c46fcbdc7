"""PyTorch to GGUF for decoders of the Llama and Qwen2 families: names, order of rows, metadata.

Notable: the layout is llama.cpp's (``convert_hf_to_gguf.py``): Llama's query and key rows are reordered, because
ggml turns neighbouring values where transformers turns the two halves of a head. A student cut in depth is written
with the layers it has. Tied embeddings need no output matrix. Not here: the tokenizer's vocabulary
(``gguf_tokenizer``), the types of matrices (``gguf_quantise``), ONNX.

Shapes: D width, H heads, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from locum.compress.gguf_quantise import GgufType, file_type, quantise
from locum.compress.gguf_tokenizer import NO_FORM_FIX, Chat, write_vocabulary
from locum.core.errors import LocumError
from locum.core.files import atomic_file
from locum.models.classifier import SequenceClassifier

FAMILIES = ("llama", "qwen2")
HEAD_NAME = "head.npz"

_TENSORS = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_TENSORS = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def export_gguf(student: SequenceClassifier, tokenizer: Path, path: Path, *, kind: GgufType, name: str) -> None:
    """Write a decoder that classifies as a GGUF file and its head as ``head.npz`` beside it.

    Args:
        student: the trained model.
        tokenizer: its ``tokenizer.json`` (byte-level BPE).
        path: file to write, ``NAME.gguf``.
        kind: type of the matrices; vectors stay float32.
        name: ``general.name``.

    Raises:
        LocumError: as ``write_gguf``.
    """
    write_gguf(path, student.body.config, student.body.state_dict(), tokenizer, kind=kind, name=name)
    write_head(student, path.with_name(HEAD_NAME))


def write_gguf(
    path: Path,
    config: Any,
    weights: Mapping[str, Tensor],
    tokenizer: Path,
    *,
    kind: GgufType,
    name: str,
    chat: Chat | None = None,
) -> None:
    """Write a decoder as a GGUF file, with its tokenizer and its chat template.

    Args:
        path: file to write, ``NAME.gguf``.
        config: transformers' configuration.
        weights: of the body, and ``lm_head.weight`` when it writes text.
        tokenizer: its ``tokenizer.json`` (byte-level BPE).
        kind: type of the matrices; vectors stay float32.
        name: ``general.name``.
        chat: how conversations are written down; None takes the template beside the tokenizer and guesses the rest.

    Raises:
        LocumError: the architecture, its positions or its tokenizer have no form in GGUF (``compress-export``).
    """
    from gguf import GGUFWriter

    refuse_family(config.model_type)
    output = "output.weight" if _has_output(config, weights) else "token_embd.weight"
    with atomic_file(path) as partial:  # the writer opens the file by its name
        writer = GGUFWriter(partial.name, config.model_type)
        _write_metadata(writer, config, kind, name)
        write_vocabulary(writer, tokenizer, config.vocab_size, chat)
        for tensor_name, values in gguf_tensors(config, weights):
            content, raw = quantise(tensor_name, values, kind, output=tensor_name == output)
            writer.add_tensor(tensor_name, content, raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def refuse_family(model_type: str) -> None:
    """Refuse an architecture that is not written here.

    Raises:
        LocumError: ``compress-export``.
    """
    if model_type not in FAMILIES:
        raise _refused(f"architecture {model_type!r}; written are: {', '.join(FAMILIES)}")


def write_head(student: SequenceClassifier, path: Path) -> None:
    """Write the head as ``head.npz``: ``weight`` [C, D] and ``bias`` [C], float32."""
    arrays = {name: tensor.detach().float().numpy() for name, tensor in student.head.state_dict().items()}
    with atomic_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def gguf_tensors(config: Any, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Weights under their GGUF names, query and key rows in ggml's order.

    Args:
        config: transformers' configuration.
        weights: as in ``write_gguf``.

    Raises:
        LocumError: a weight has no GGUF name.
    """
    for name, tensor in weights.items():
        if name == "lm_head.weight" and not _has_output(config, weights):
            continue
        target = gguf_name(name.removeprefix("model."))
        values = tensor.detach().float().numpy()
        heads = interleaved_heads(target, config.model_type, config.num_attention_heads, config.num_key_value_heads)
        yield target, np.ascontiguousarray(interleave(values, heads) if heads else values)


def interleaved_heads(target: str, architecture: str, heads: int, key_heads: int) -> int:
    """How many heads a tensor's rows are interleaved by; 0 when they stay as they are.

    Args:
        target: its GGUF name.
        architecture: only Llama's rows are.
        heads: H of the queries.
        key_heads: H of the keys.
    """
    parts = target.split(".")
    if architecture != "llama" or parts[0] != "blk":
        return 0
    return {"attn_q": heads, "attn_k": key_heads}.get(parts[2], 0)


def interleave(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder a head's rows from halves (x1 x2 … y1 y2 …) to pairs (x1 y1 x2 y2 …).

    Args:
        rows: a query or key projection, ``[H * d, D]``, or its bias, ``[H * d]``.
        heads: H.
    """
    half = rows.shape[0] // heads // 2
    split = rows.reshape(heads, 2, half, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def gguf_name(name: str) -> str:
    """The GGUF name of a weight that transformers calls ``name``, without its ``model.``.

    Raises:
        LocumError: it has none.
    """
    if name in _TENSORS:
        return _TENSORS[name]
    layers, _, rest = name.partition(".")
    number, _, inner = rest.partition(".")
    if layers == "layers" and number.isdigit():
        if inner in _LAYER_TENSORS:
            return f"blk.{number}.{_LAYER_TENSORS[inner]}"
        stem, _, kind = inner.rpartition(".")
        if stem in _LAYER_TENSORS and kind in ("weight", "bias"):
            return f"blk.{number}.{_LAYER_TENSORS[stem]}.{kind}"
    raise _refused(f"weight {name!r}")


def _has_output(config: Any, weights: Mapping[str, Tensor]) -> bool:
    return "lm_head.weight" in weights and not config.tie_word_embeddings


def _write_metadata(writer: Any, config: Any, kind: GgufType, name: str) -> None:
    rope = dict(getattr(config, "rope_parameters", None) or {})
    if rope.get("rope_type", "default") != "default":
        raise _refused(f"positions of type {rope['rope_type']!r}")
    if getattr(config, "use_sliding_window", False):
        raise _refused("a sliding window of attention")
    theta = float(rope.get("rope_theta") or getattr(config, "rope_theta", 10000.0))
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_width)
    writer.add_value_length(head_width)
    writer.add_rope_dimension_count(head_width)
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(file_type(kind))
    writer.add_quantization_version(2)


def _refused(what: str) -> LocumError:
    return LocumError("compress-export", f"GGUF has no form here for {what}", fix=NO_FORM_FIX)
