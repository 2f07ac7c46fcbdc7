"""Random bases of a few kilobytes in the layout of Hugging Face, built in milliseconds, for tests.

Notable: they are real in every respect but their size: transformers classes, safetensors, a working
``tokenizer.json``. Not here: models that know anything.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from locum.core.files import write_json, write_text
from locum.models.body import quiet_transformers

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def pico_base(
    folder: Path,
    words: list[str],
    model_type: str = "bert",
    *,
    width: int = 32,
    layers: int = 2,
    positions: int = 64,
) -> Path:
    """Write a random base.

    Args:
        folder: created when absent.
        words: the tokenizer's vocabulary beside its special tokens.
        model_type: ``bert``, ``modernbert`` or ``llama``.
        width: hidden size.
        layers: transformer layers.
        positions: most tokens of a text.

    Returns:
        The folder.
    """
    from transformers import AutoConfig, AutoModel

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: place for place, token in enumerate([*_SPECIAL, *dict.fromkeys(words)])}
    sizes: dict[str, Any] = {
        "vocab_size": len(vocabulary),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "max_position_embeddings": positions,
        "pad_token_id": 0,
    }
    if model_type == "llama":
        sizes |= {"num_key_value_heads": 1, "bos_token_id": None, "eos_token_id": None}
    if model_type == "modernbert":
        sizes |= {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    generator_state = torch.get_rng_state()
    torch.manual_seed(7)
    with quiet_transformers():
        AutoModel.from_config(AutoConfig.for_model(model_type, **sizes)).save_pretrained(folder)
    torch.set_rng_state(generator_state)
    write_text(folder / "tokenizer.json", json.dumps(_word_level(vocabulary, closed=model_type != "llama")))
    write_json(folder / "tokenizer_config.json", {"model_max_length": positions})
    return folder


def _word_level(vocabulary: dict[str, int], *, closed: bool) -> dict[str, Any]:
    """A word-level tokenizer; ``closed`` puts [CLS] before and [SEP] after a text, as encoders expect."""
    pieces = [{"Sequence": {"id": "A", "type_id": 0}}]
    if closed:
        pieces = [
            {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            *pieces,
            {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
        ]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[token], "content": token, **flags} for token in _SPECIAL],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": pieces,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]} for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
