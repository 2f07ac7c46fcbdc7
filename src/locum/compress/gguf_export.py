"""PyTorch to GGUF for decoders of the Llama and Qwen2 families, as f16 or q8_0.

Notable: the layout is llama.cpp's (``convert_hf_to_gguf.py``): Llama's query and key rows are reordered, because
ggml turns neighbouring values where transformers turns the two halves of a head. A student cut in depth is written
with the layers it has. Tied embeddings need no output matrix. Not here: the tokenizer's vocabulary
(``gguf_tokenizer``), other quantisations, ONNX.

Shapes: D width, H heads, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from locum.compress.gguf_tokenizer import write_vocabulary
from locum.core.errors import LocumError
from locum.core.files import atomic_file
from locum.models.classifier import SequenceClassifier

GgufType = Literal["f16", "q8_0"]
FAMILIES = ("llama", "qwen2")
HEAD_NAME = "head.npz"
_BLOCK = 32  # values of a row that share a scale in q8_0

_TENSORS = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
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
    """Write a decoder student as a GGUF file and its head as ``head.npz`` beside it.

    Args:
        student: the trained model.
        tokenizer: its ``tokenizer.json`` (byte-level BPE).
        path: file to write, ``NAME.gguf``.
        kind: type of the matrices; vectors stay float32, and rows that do not divide into blocks f16.
        name: ``general.name``.

    Raises:
        LocumError: the architecture, its positions or its tokenizer have no form in GGUF (``compress-export``).
    """
    from gguf import GGUFWriter

    config: Any = student.body.config
    if config.model_type not in FAMILIES:
        raise _refused(f"architecture {config.model_type!r}; written are: {', '.join(FAMILIES)}")
    with atomic_file(path) as partial:  # the writer opens the file by its name
        writer = GGUFWriter(partial.name, config.model_type)
        _write_metadata(writer, config, kind, name)
        write_vocabulary(writer, tokenizer, config.vocab_size)
        for tensor_name, values in gguf_tensors(student):
            _add(writer, tensor_name, values, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    write_head(student, path.with_name(HEAD_NAME))


def write_head(student: SequenceClassifier, path: Path) -> None:
    """Write the head as ``head.npz``: ``weight`` [C, D] and ``bias`` [C], float32."""
    arrays = {name: tensor.detach().float().numpy() for name, tensor in student.head.state_dict().items()}
    with atomic_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def gguf_tensors(student: SequenceClassifier) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The body's weights under their GGUF names, query and key rows in ggml's order.

    Raises:
        LocumError: a weight has no GGUF name.
    """
    config: Any = student.body.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in student.body.state_dict().items():
        target = _gguf_name(name)
        values = tensor.detach().float().numpy()
        parts = target.split(".")
        if config.model_type == "llama" and parts[0] == "blk" and parts[2] in heads:
            values = interleave(values, heads[parts[2]])
        yield target, np.ascontiguousarray(values)


def interleave(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder a head's rows from halves (x1 x2 … y1 y2 …) to pairs (x1 y1 x2 y2 …).

    Args:
        rows: a query or key projection, ``[H * d, D]``, or its bias, ``[H * d]``.
        heads: H.
    """
    half = rows.shape[0] // heads // 2
    split = rows.reshape(heads, 2, half, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def _gguf_name(name: str) -> str:
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


def _add(writer: Any, name: str, values: NDArray[np.float32], kind: GgufType) -> None:
    from gguf import GGMLQuantizationType, quants

    if values.ndim == 1:
        writer.add_tensor(name, values)
    elif kind == "q8_0" and values.shape[-1] % _BLOCK == 0:
        packed = quants.quantize(values, GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
    else:
        limit = float(np.finfo(np.float16).max)
        if float(np.abs(values).max(initial=0.0)) > limit:
            raise _refused(f"{name}: a weight over {limit:g}, the largest number of f16")
        writer.add_tensor(name, values.astype(np.float16))


def _write_metadata(writer: Any, config: Any, kind: GgufType, name: str) -> None:
    from gguf import LlamaFileType

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
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0 if kind == "q8_0" else LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(2)


def _refused(what: str) -> LocumError:
    return LocumError("compress-export", f"GGUF has no form here for {what}", fix="export it to ONNX instead")
