"""A decoder of a few kilobytes in GGUF that llama.cpp serves, written without PyTorch or the gguf package.

Notable: weights are random but seeded, so its answers are nonsense that never changes; every byte is a token and most
of what it writes is ASCII, which a constant first dimension of its states brings about. ``PicoDecoder.logits``
computes in NumPy what llama.cpp computes, as an independent reference. Not here: models that know anything.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.core.files import write_bytes

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_WIDTH, _HEADS, _INNER, _LAYERS = 64, 2, 128, 2
_EPSILON, _ROPE_BASE = 1e-5, 10000.0
_ALIGNMENT = 32
_U32, _F32, _BOOL, _STRING, _ARRAY, _I32 = 4, 6, 7, 8, 9, 5

Weights = dict[str, NDArray[np.float32]]
_Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class PicoDecoder:
    """A llama of two layers.

    Attributes:
        path: the GGUF file.
        tokens: its vocabulary, in order.
        weights: by GGUF name; a matrix is ``[out, in]``.
    """

    path: Path
    tokens: tuple[str, ...]
    weights: Weights

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without special tokens: its bytes."""
        return list(text.encode())

    def logits(self, ids: Sequence[int], lora: Weights | None = None) -> _Floats:
        """Scores of the next token after each place, ``[len(ids), vocabulary]``.

        Args:
            ids: the tokens read.
            lora: ``NAME.lora_a`` ``[rank, in]`` and ``NAME.lora_b`` ``[out, rank]``, at scale 1.
        """

        def weight(name: str) -> _Floats:
            plain: _Floats = self.weights[name]
            if lora and f"{name}.lora_a" in lora:
                plain = plain + lora[f"{name}.lora_b"] @ lora[f"{name}.lora_a"]
            return plain

        x: _Floats = self.weights["token_embd.weight"][list(ids)]  # [n, D]
        hidden = np.triu(np.full((len(ids), len(ids)), -np.inf, np.float32), 1)
        for layer in range(_LAYERS):
            block = f"blk.{layer}."
            h = _norm(x, self.weights[block + "attn_norm.weight"])
            q, k, v = (_heads(h @ weight(f"{block}attn_{part}.weight").T) for part in "qkv")  # [H, n, d]
            scores = _rope(q) @ _rope(k).transpose(0, 2, 1) / np.sqrt(_WIDTH / _HEADS) + hidden  # [H, n, n]
            mixed = (_softmax(scores) @ v).transpose(1, 0, 2).reshape(len(ids), _WIDTH)
            x = x + mixed @ weight(block + "attn_output.weight").T
            h = _norm(x, self.weights[block + "ffn_norm.weight"])
            gate, up = h @ weight(block + "ffn_gate.weight").T, h @ weight(block + "ffn_up.weight").T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ weight(block + "ffn_down.weight").T
        return _norm(x, self.weights["output_norm.weight"]) @ weight("output.weight").T

    def log_probability(self, prompt: Sequence[int], continuation: Sequence[int], lora: Weights | None = None) -> float:
        """Sum of the log-probabilities of tokens after a prompt."""
        ids = [*prompt, *continuation]
        rows = self.logits(ids, lora)[len(prompt) - 1 : -1].astype(np.float64)
        chosen = rows[np.arange(len(continuation)), list(continuation)]
        peak = rows.max(axis=1)
        return float((chosen - peak - np.log(np.exp(rows - peak[:, None]).sum(axis=1))).sum())


def pico_gguf(
    path: Path,
    *,
    seed: int = 0,
    template: str | None = CHATML,
    n_ctx: int = 512,
    pooling: int | None = None,
    split: str | None = "gpt-2",
    merges: Sequence[tuple[str, str]] = (),
) -> PicoDecoder:
    """Write a random decoder.

    Args:
        path: file to write, ``NAME.gguf``.
        seed: of the weights; the same one gives the same file.
        template: its chat template, None for none.
        n_ctx: context that it says it was trained for.
        pooling: llama.cpp's number of how its embeddings are pooled; None says nothing.
        split: name of how text is split before BPE; None says nothing.
        merges: pairs of texts that are joined, the most urgent first; each makes a token, beside those of single bytes.
    """
    joined = [("".join(map(_spelled, a.encode())), "".join(map(_spelled, b.encode()))) for a, b in merges]
    tokens = (*(_spelled(byte) for byte in range(256)), *dict.fromkeys(a + b for a, b in joined), *_SPECIAL)
    weights = _random_weights(np.random.default_rng(seed), len(tokens))
    end = len(tokens) - 1
    metadata: dict[str, tuple[int, Any]] = {
        "general.architecture": (_STRING, "llama"),
        "general.name": (_STRING, "pico"),
        "llama.block_count": (_U32, _LAYERS),
        "llama.context_length": (_U32, n_ctx),
        "llama.embedding_length": (_U32, _WIDTH),
        "llama.feed_forward_length": (_U32, _INNER),
        "llama.attention.head_count": (_U32, _HEADS),
        "llama.attention.head_count_kv": (_U32, _HEADS),
        "llama.attention.layer_norm_rms_epsilon": (_F32, _EPSILON),
        "llama.rope.freq_base": (_F32, _ROPE_BASE),
        "llama.rope.dimension_count": (_U32, _WIDTH // _HEADS),
        "llama.vocab_size": (_U32, len(tokens)),
        "tokenizer.ggml.model": (_STRING, "gpt2"),
        "tokenizer.ggml.tokens": (_ARRAY, (_STRING, tokens)),
        "tokenizer.ggml.token_type": (_ARRAY, (_I32, [1] * (len(tokens) - len(_SPECIAL)) + [3] * len(_SPECIAL))),
        "tokenizer.ggml.merges": (_ARRAY, (_STRING, [f"{a} {b}" for a, b in joined])),
        "tokenizer.ggml.bos_token_id": (_U32, end - 1),
        "tokenizer.ggml.eos_token_id": (_U32, end),
        "tokenizer.ggml.add_bos_token": (_BOOL, False),
    }
    if split is not None:
        metadata["tokenizer.ggml.pre"] = (_STRING, split)
    if template is not None:
        metadata["tokenizer.chat_template"] = (_STRING, template)
    if pooling is not None:
        metadata["llama.pooling_type"] = (_U32, pooling)
    _write(path, metadata, weights)
    return PicoDecoder(path, tokens, weights)


def pico_lora(path: Path, *, seed: int = 1, rank: int = 2, strength: float = 1.0) -> Weights:
    """Write a random LoRA adapter for ``pico_gguf``, with alpha equal to its rank, and return its matrices."""
    draw = np.random.default_rng(seed)
    weights: Weights = {}
    for layer in range(_LAYERS):
        for part in ("attn_q", "attn_v"):
            name = f"blk.{layer}.{part}.weight"
            weights[f"{name}.lora_a"] = _normal(draw, rank, _WIDTH, strength)
            weights[f"{name}.lora_b"] = _normal(draw, _WIDTH, rank, strength)
    metadata: dict[str, tuple[int, Any]] = {
        "general.architecture": (_STRING, "llama"),
        "general.type": (_STRING, "adapter"),
        "adapter.type": (_STRING, "lora"),
        "adapter.lora.alpha": (_F32, float(rank)),
    }
    _write(path, metadata, weights)
    return weights


def _random_weights(draw: np.random.Generator, vocabulary: int) -> Weights:
    embedding = _normal(draw, vocabulary, _WIDTH, 1.0)
    embedding[:, 0] = 4.0  # stays so through all layers: a bias for the output
    output = _normal(draw, vocabulary, _WIDTH, 0.8)
    output[:, 0] = -8.0
    output[32:127, 0] = 4.0
    weights: Weights = {
        "token_embd.weight": embedding,
        "output_norm.weight": np.ones(_WIDTH, np.float32),
        "output.weight": output,
    }
    shapes = {f"attn_{part}": (_WIDTH, _WIDTH) for part in ("q", "k", "v", "output")}
    shapes |= {"ffn_gate": (_INNER, _WIDTH), "ffn_up": (_INNER, _WIDTH), "ffn_down": (_WIDTH, _INNER)}
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        weights[block + "attn_norm.weight"] = weights[block + "ffn_norm.weight"] = np.ones(_WIDTH, np.float32)
        for name, (rows, columns) in shapes.items():
            matrix = _normal(draw, rows, columns, 1.5 / np.sqrt(columns))
            if name in ("attn_output", "ffn_down"):
                matrix[0] = 0.0
            weights[f"{block}{name}.weight"] = matrix
    return weights


def _normal(draw: np.random.Generator, rows: int, columns: int, scale: float) -> NDArray[np.float32]:
    return (draw.normal(size=(rows, columns)) * scale).astype(np.float32)


def _spelled(byte: int) -> str:
    """A byte as GPT-2's vocabulary spells it (Radford et al. 2019, ``bytes_to_unicode``)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + [other for other in range(256) if other not in printable].index(byte))


def _norm(x: _Floats, weight: _Floats) -> _Floats:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + _EPSILON) * weight


def _heads(x: _Floats) -> _Floats:
    """``[n, D]`` to ``[H, n, d]``."""
    return x.reshape(len(x), _HEADS, -1).transpose(1, 0, 2)


def _rope(x: _Floats) -> _Floats:
    """Rotate neighbouring pairs by place (Su et al. 2021), ``[H, n, d]``."""
    width = x.shape[-1]
    angles = np.arange(x.shape[1])[:, None] * _ROPE_BASE ** (-np.arange(0, width, 2) / width)  # [n, d/2]
    turned = np.empty_like(x)
    turned[..., 0::2] = x[..., 0::2] * np.cos(angles) - x[..., 1::2] * np.sin(angles)
    turned[..., 1::2] = x[..., 0::2] * np.sin(angles) + x[..., 1::2] * np.cos(angles)
    return turned


def _softmax(x: _Floats) -> _Floats:
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _write(path: Path, metadata: Mapping[str, tuple[int, Any]], weights: Weights) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(weights), len(metadata))
    for key, (kind, value) in metadata.items():
        head += _text(key) + struct.pack("<I", kind) + _value(kind, value)
    body = b""
    for name, matrix in weights.items():
        dims = matrix.shape[::-1]
        head += _text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        head += struct.pack("<IQ", 0, len(body))  # float32
        body += _padded(matrix.astype("<f4").tobytes())
    write_bytes(path, _padded(head) + body)


def _value(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _text(value)
    if kind == _ARRAY:
        element, items = value
        return struct.pack("<IQ", element, len(items)) + b"".join(_value(element, item) for item in items)
    return struct.pack({_U32: "<I", _F32: "<f", _BOOL: "<?", _I32: "<i"}[kind], value)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % _ALIGNMENT)
