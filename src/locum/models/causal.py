"""A decoder with its language-model head: loaded from a checked base, saved in the layout of Hugging Face.

The folder: ``config.json``, ``generation_config.json``, ``model.safetensors``, the tokenizer's files and the chat
template.

Notable: weights are float32; the tokenizer is the base's own file, byte for byte, where it has one. A base without a
chat template gets ``PLAIN_TEMPLATE``. Not here: classifiers (``classifier``), training (``train``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from locum.core.errors import ModelFileError
from locum.core.files import disk_errors
from locum.models.base_files import BaseFiles
from locum.models.body import load_transformer, quiet_transformers
from locum.models.tokenizer import TOKENIZER_NAME, convert_gguf_tokenizer, write_tokenizer

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '### ' + message['role'] | capitalize + ':\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)
"""Turns under ``### User:`` and ``### Assistant:``; an answer ends with the base's end-of-text token."""


def load_causal(base: BaseFiles, attention: str = "eager") -> Any:
    """Load a decoder with its head in float32.

    Args:
        base: what ``inspect_base`` returned.
        attention: name of an attention function known to transformers.

    Returns:
        One of transformers' ``…ForCausalLM``.

    Raises:
        ModelFileError: it is an encoder, or as ``load_transformer``.
    """
    from transformers import AutoModelForCausalLM

    if base.architecture.family != "decoder":
        raise ModelFileError(
            "models-unsupported",
            f"{base.architecture.model_type} is an encoder, which writes no text",
            where=str(base.root),
            fix="choose a decoder",
        )
    return load_transformer(AutoModelForCausalLM, base, attn_implementation=attention)


def load_chat_tokenizer(base: BaseFiles) -> Any:
    """The tokenizer of a base, with its chat template or the plain one.

    Raises:
        ModelFileError: it has no fast tokenizer, or no token that ends a text; or as ``convert_gguf_tokenizer``.
    """
    where = str(base.root / (base.gguf or TOKENIZER_NAME))
    with quiet_transformers():
        tokenizer = convert_gguf_tokenizer(base.root / base.gguf) if base.gguf else _own_tokenizer(base, where)
    if not tokenizer.eos_token:
        raise ModelFileError(
            "models-tokenizer-mismatch",
            "the tokenizer names no eos_token, so that an answer could not end",
            where=where,
            fix="set eos_token in tokenizer_config.json",
        )
    if not isinstance(tokenizer.chat_template, str):
        named = tokenizer.chat_template or {}
        tokenizer.chat_template = named.get("default", PLAIN_TEMPLATE)
    return tokenizer


def _own_tokenizer(base: BaseFiles, where: str) -> Any:
    """The very file, never rebuilt by a class of the architecture."""
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(base.root, local_files_only=True)
    except Exception as error:  # it fails with many classes of error; all mean the same to the user
        raise ModelFileError("models-damaged", f"its tokenizer cannot be read: {error}", where=where) from error


def save_causal(model: Any, tokenizer: Any, base: BaseFiles, folder: Path, stop_ids: list[int]) -> None:
    """Write a tuned decoder.

    Args:
        model: adapters merged.
        tokenizer: what ``load_chat_tokenizer`` returned.
        base: where both came from.
        folder: created when absent.
        stop_ids: tokens that end an answer; written to ``generation_config.json``.

    Raises:
        DeviceError: the disk is full or not writable.
    """
    model.config.use_cache = True
    model.generation_config.eos_token_id = stop_ids if len(stop_ids) > 1 else stop_ids[0]
    with quiet_transformers(), disk_errors(folder):
        model.save_pretrained(folder, max_shard_size="1TB")
        tokenizer.save_pretrained(folder)
    if base.gguf is None:
        write_tokenizer(base, folder)
