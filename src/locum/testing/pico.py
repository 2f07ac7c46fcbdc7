"""Model folders of a few kilobytes, real in every respect: engine, tokenizer, hashes.

Notable: the answers follow from the words, so a test can say what must come out: a text is
scored by how many words of ``WORDS[label]`` it holds. Built in milliseconds, without PyTorch. The
ONNX graph needs the ``onnx`` package (the ``train`` extra). Not here: trained models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from locum.core.files import write_bytes, write_json
from locum.runtime.linear import WEIGHTS_NAME, write_linear
from locum.runtime.model_files import seal
from locum.runtime.ngrams import TOKEN_PATTERNS, Ngrams
from locum.schema.model import ModelSpec

WORDS: Mapping[str, tuple[str, ...]] = {
    "card": ("card", "arrive", "delivery", "plastic", "mail"),
    "cash": ("cash", "atm", "withdraw", "money", "note"),
    "pin": ("pin", "code", "forgot", "blocked", "change"),
}
"""Words by label: what the pico models know."""

LABELS: tuple[str, ...] = tuple(WORDS)
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_ONNX_FIELDS: dict[str, Any] = {
    "engine": "onnx",
    "family": "encoder",
    "precision": "fp32",
    "weights": "model.onnx",
    "max_tokens": 16,
}


def pico_onnx(
    folder: Path, words: Mapping[str, Sequence[str]] = WORDS, *, scale: float = 4.0, max_tokens: int = 16, **spec: Any
) -> ModelSpec:
    """Build an ONNX folder: embedding, masked mean over tokens, linear layer.

    Args:
        folder: created when absent.
        words: words by label, in the order of the labels.
        scale: logit of a label when every token of a text is one of its words.
        max_tokens: of the ``model.json``.
        spec: other fields of ``model.json``, for example ``temperature``.

    Returns:
        The ``model.json`` that was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = pico_tokenizer(folder / "tokenizer.json", words)
    table = _embedding(words, vocabulary)
    head = np.eye(len(words), dtype=np.float32) * np.float32(scale)
    write_bytes(folder / "model.onnx", _onnx_bytes(table, head))
    fields: dict[str, Any] = {
        "name": "pico-onnx",
        "labels": tuple(words),
        "max_tokens": max_tokens,
        "parameters": table.size + head.size,
    }
    return seal(folder, **{**_ONNX_FIELDS, **fields, **spec})


def pico_embedder(folder: Path, words: Mapping[str, Sequence[str]] = WORDS, **spec: Any) -> ModelSpec:
    """Build an ONNX folder that embeds: one dimension a label and one for everything else, length one.

    Arguments and result as in ``pico_onnx``; two texts about the same label point the same way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = pico_tokenizer(folder / "tokenizer.json", words)
    table = np.full((len(vocabulary), len(words) + 1), 0.0, dtype=np.float32)
    table[:, :-1] = _embedding(words, vocabulary)
    table[:, -1] = 0.1
    write_bytes(folder / "model.onnx", _onnx_bytes(table, np.eye(len(words) + 1, dtype=np.float32), "vector"))
    fields: dict[str, Any] = {"name": "pico-embedder", "purpose": "embed", "labels": (), "parameters": table.size}
    return seal(folder, **{**_ONNX_FIELDS, **fields, **spec})


def pico_tagger(
    folder: Path, words: Mapping[str, Sequence[str]] = WORDS, *, scale: float = 4.0, **spec: Any
) -> ModelSpec:
    """Build an ONNX folder that tags tokens: ``O``, or the label whose word a token is.

    Arguments and result as in ``pico_onnx``; the score of a token's own tag is ``scale``, the others' are 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = pico_tokenizer(folder / "tokenizer.json", words)
    known = _embedding(words, vocabulary) * np.float32(scale)
    other = np.where(known.any(axis=1, keepdims=True), np.float32(0), np.float32(scale))
    table = np.concatenate([other, known], axis=1).astype(np.float32)  # [vocabulary, 1 + labels]
    write_bytes(folder / "model.onnx", _tagger_bytes(table))
    tags = ("O", *words)
    fields: dict[str, Any] = {"name": "pico-tagger", "purpose": "tag", "labels": tags, "parameters": table.size}
    return seal(folder, **{**_ONNX_FIELDS, **fields, **spec})


def pico_linear(
    folder: Path, words: Mapping[str, Sequence[str]] = WORDS, *, scale: float = 4.0, **spec: Any
) -> ModelSpec:
    """Build a linear folder over single words; arguments and result as in ``pico_onnx``."""
    folder.mkdir(parents=True, exist_ok=True)
    terms = sorted({word for group in words.values() for word in group})
    coef = np.asarray([[scale * (term in group) for term in terms] for group in words.values()], dtype=np.float32)
    block = Ngrams(analyzer="word", ngram_range=(1, 1), token_pattern=TOKEN_PATTERNS[1], vocabulary=tuple(terms))
    write_linear(folder, [block], np.ones(len(terms), np.float32), coef, np.zeros(len(words), np.float32))
    fields: dict[str, Any] = {
        "name": "pico-linear",
        "engine": "linear",
        "family": "linear",
        "precision": "fp32",
        "labels": tuple(words),
        "weights": WEIGHTS_NAME,
        "max_tokens": 512,
        "parameters": coef.size,
    }
    return seal(folder, **{**fields, **spec})


def pico_tokenizer(path: Path, words: Mapping[str, Sequence[str]] = WORDS) -> dict[str, int]:
    """Write a WordLevel ``tokenizer.json`` (lower case, [CLS] … [SEP]) and return its vocabulary."""
    terms = dict.fromkeys(word for group in words.values() for word in group)
    vocabulary = {token: place for place, token in enumerate([*_SPECIAL, *terms])}
    special = [
        {"id": vocabulary[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
        for token in _SPECIAL
    ]

    def piece(token: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": 0}}

    write_json(
        path,
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": special,
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [piece("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, piece("[SEP]")],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {
                    token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]} for token in ("[CLS]", "[SEP]")
                },
            },
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
        },
    )
    return vocabulary


def reseal(folder: Path, **changes: Any) -> ModelSpec:
    """Write ``model.json`` again after a test changed files of the folder, with other fields on demand."""
    old = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    old.pop("files")
    return seal(folder, **{**old, **changes})


def _embedding(words: Mapping[str, Sequence[str]], vocabulary: Mapping[str, int]) -> np.ndarray[Any, Any]:
    """One column per label: 1 where a token is one of its words, ``[tokens, labels]``."""
    table = np.zeros((len(vocabulary), len(words)), dtype=np.float32)
    for column, group in enumerate(words.values()):
        for word in group:
            table[vocabulary[word], column] = 1.0
    return table


def _tagger_bytes(table: np.ndarray[Any, Any]) -> bytes:
    """A row of the table for each token, ``[B, T, tags]``; the mask takes the padding's away."""
    from onnx import TensorProto, helper, numpy_helper

    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", table.shape[1]])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["scores"]),  # [B, T, tags]
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),  # [B, T]
        helper.make_node("Unsqueeze", ["mask", "last_axis"], ["mask3"]),  # [B, T, 1]
        helper.make_node("Mul", ["scores", "mask3"], ["logits"]),
    ]
    weights = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.asarray([2], dtype=np.int64), "last_axis"),
    ]
    return _checked(nodes, output, weights)


def _checked(nodes: list[Any], output: Any, weights: list[Any]) -> bytes:
    from onnx import TensorProto, checker, helper

    names = ["batch", "tokens"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, names) for name in ("input_ids", "attention_mask")]
    graph = helper.make_graph(nodes, "pico", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()


def _onnx_bytes(table: np.ndarray[Any, Any], head: np.ndarray[Any, Any], name: str = "logits") -> bytes:
    """Embedding, masked mean, linear layer; as ``vector`` also divided by its length."""
    from onnx import TensorProto, helper, numpy_helper

    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", head.shape[1]])
    weights = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(head, "head"),
        numpy_helper.from_array(np.asarray([1], dtype=np.int64), "tokens_axis"),
        numpy_helper.from_array(np.asarray([2], dtype=np.int64), "last_axis"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),  # [B, T, L]
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),  # [B, T]
        helper.make_node("Unsqueeze", ["mask", "last_axis"], ["mask3"]),  # [B, T, 1]
        helper.make_node("Mul", ["embedded", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens_axis"], ["sum"], keepdims=0),  # [B, L]
        helper.make_node("ReduceSum", ["mask3", "tokens_axis"], ["count"], keepdims=0),  # [B, 1]
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "head"], ["logits" if name == "logits" else "pooled"]),
    ]
    if name != "logits":
        nodes.append(helper.make_node("LpNormalization", ["pooled"], [name], axis=-1, p=2))
    return _checked(nodes, output, weights)
