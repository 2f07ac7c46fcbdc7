"""The control tokens of a GGUF file: what a template writes between turns, and what nobody else should.

Notable: beside the tokens that the file itself marks, those whose name looks like a mark (``<|…|>``) count, because
llama.cpp takes some of them for control tokens whatever the file says. Not here: what a prompt does with them
(``llama_prompt``), and the checks that make the header's counts safe to follow (``gguf_check``).
"""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path
from typing import Any

from locum.runtime.gguf_read import GgufHeader

_TOKENS, _TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_UNKNOWN, _CONTROL = 2, 3
_MARK = re.compile(r"<[|｜].+[|｜]>|</?s>|<(?:start|end)_of_turn>|<EOT>")
_LENGTH = struct.Struct("<Q")


def control_tokens(path: Path, header: GgufHeader) -> tuple[str, ...]:
    """The names of a file's control tokens, in the order of the vocabulary; none without a vocabulary.

    Args:
        path: the file.
        header: of it, checked.
    """
    if _TOKENS not in header.array_starts:
        return ()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        count = int(header.metadata[_TOKENS])
        types = [0] * count
        if _TYPES in header.array_starts:
            types = struct.unpack_from(f"<{count}i", data, header.array_starts[_TYPES])
        at, found = header.array_starts[_TOKENS], list[str]()
        for kind in types:
            start = at + 8
            at = start + _LENGTH.unpack_from(data, at)[0]
            if kind in (_UNKNOWN, _CONTROL) or data[start : start + 1] == b"<":
                name = data[start:at].decode("utf-8", "replace")
                if name and (kind in (_UNKNOWN, _CONTROL) or _MARK.fullmatch(name)):
                    found.append(name)
    return tuple(found)


def wordpiece(path: Path, header: GgufHeader) -> Any:
    """The file's WordPiece as ``tokenizers`` reads it, which keeps vowels of Korean and Hindi.

    Args:
        path: the file.
        header: of it, checked.

    Returns:
        A ``tokenizers.Tokenizer`` that frames each text; None where the file has another tokenizer, or no usual frame.
    """
    if header.metadata.get("tokenizer.ggml.model") != "bert" or _TOKENS not in header.array_starts:
        return None
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary: dict[str, int] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = header.array_starts[_TOKENS]
        for place in range(int(header.metadata[_TOKENS])):
            start = at + 8
            at = start + _LENGTH.unpack_from(data, at)[0]
            name = data[start:at].decode("utf-8", "replace")
            special = name.startswith("[") and name.endswith("]") and len(name) > 2
            word = name if special else name[1:] if name.startswith("\u2581") else f"##{name}"
            vocabulary.setdefault(word, place)
    if not {"[CLS]", "[SEP]", "[UNK]"} <= set(vocabulary):
        return None
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))  # noqa: S106 - a name, no password
    cased = any(word.isalpha() and word != word.lower() for word in vocabulary)
    made.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    frame = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    return made
