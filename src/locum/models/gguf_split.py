"""How a GGUF file says that text is split before BPE (``tokenizer.ggml.pre``), as a ``tokenizers`` pre-tokenizer.

Notable: the name stands for regular expressions that are written in llama.cpp and nowhere in the file. transformers
knows some of the names and reads the others as GPT-2's without a word, so that a base that was pre-trained on single
digits is tuned on whole numbers. Here a name either splits as llama.cpp does, which tests compare token by token, or is
refused. Not here: the way back, from a ``tokenizer.json`` to the name (``compress.gguf_tokenizer``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from locum.core.errors import ModelFileError
from locum.core.registry import nearest
from locum.runtime.gguf_check import check_gguf

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"qwen2": _QWEN2, "llama-bpe": _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")}
"""The names that stand for one regular expression each."""

NAMES = ("gpt-2", "smollm", *PATTERNS)
"""The names that are known here."""

WHOLE_TOKENS = ("llama-bpe",)
"""With these a piece that is a token is taken whole, whether merges lead to it or not."""
_BYTE_LEVEL = "gpt2"


def split_as_gguf(tokenizer: Any, path: Path) -> None:
    """Make a converted tokenizer split text as the GGUF file says, in place; one that is not byte-level BPE stays.

    Args:
        tokenizer: ``tokenizers.Tokenizer``, converted from the file.
        path: the GGUF file.

    Raises:
        ModelFileError: the file names no split, or one that is not known here (``models-tokenizer-split``).
    """
    metadata = check_gguf(path).metadata
    if metadata.get("tokenizer.ggml.model") != _BYTE_LEVEL:
        return  # SentencePiece does not split by a name
    name = metadata.get("tokenizer.ggml.pre")
    if name not in NAMES:
        raise _refused(name, path)
    tokenizer.pre_tokenizer = pre_tokenizer(name)
    tokenizer.model.ignore_merges = name in WHOLE_TOKENS


def pre_tokenizer(name: str) -> Any:
    """The ``tokenizers`` pre-tokenizer of one of ``NAMES``."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    if name == "gpt-2":
        return ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "smollm":
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])
    pieces = Split(Regex(PATTERNS[name]), behavior="isolated")
    return Sequence([pieces, ByteLevel(add_prefix_space=False, use_regex=False)])


def _refused(name: object, path: Path) -> ModelFileError:
    close = nearest(name, NAMES) if isinstance(name, str) else None
    return ModelFileError(
        "models-tokenizer-split",
        f"it splits text as {name!r}, which is not known here{f' (nearest: {close})' if close else ''}"
        if name is not None
        else "it does not say how text is split (tokenizer.ggml.pre)",
        where=str(path),
        fix=f"use the base's safetensors, or a GGUF file that splits as one of: {', '.join(NAMES)}",
    )
