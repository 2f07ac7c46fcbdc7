"""A byte-level BPE ``tokenizer.json`` as GGUF metadata: tokens, their types, merges, how text is split first.

Notable: llama.cpp splits text with regular expressions of its own that a name selects (``tokenizer.ggml.pre``). The
name is derived from the ``pre_tokenizer`` section, and a section that is not known is refused: a near miss would give
other tokens than the student was trained on. Text is never normalised by llama.cpp, so of the normalisers only NFC is
let through, which changes nothing in text as it is commonly written. Not here: SentencePiece and WordPiece
vocabularies.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.core.errors import LocumError
from locum.models.base_files import read_json
from locum.models.gguf_split import PATTERNS, WHOLE_TOKENS

NO_FORM_FIX = "export a classifier to ONNX instead; for text, start from SmolLM2 or another base of Llama or Qwen2"

_BY_PATTERN = {pattern: name for name, pattern in PATTERNS.items()}
_ROLES = {
    "bos": ("<|im_start|>", "<s>", "<|begin_of_text|>"),
    "eos": ("<|im_end|>", "<|endoftext|>", "</s>", "<|end_of_text|>"),
    "pad": ("<|endoftext|>", "<pad>", "[PAD]"),
}
"""Special tokens by role, in order of preference."""


@dataclass(frozen=True)
class Chat:
    """How a conversation is written down, and where an answer ends.

    Attributes:
        template: Jinja.
        stop: ids after which nothing is written, the usual one first; GGUF has room for three.
        pad: fills batches; None for none.
    """

    template: str
    stop: tuple[int, ...]
    pad: int | None = None


def write_vocabulary(writer: Any, path: Path, size: int, chat: Chat | None = None) -> None:
    """Add a tokenizer's metadata to a GGUF file.

    Args:
        writer: a ``gguf.GGUFWriter``.
        path: ``tokenizer.json``.
        size: rows of the token embedding; ids without a token become unused ones.
        chat: as written down; None takes the template beside the file and guesses the tokens by their names.

    Raises:
        LocumError: it is not byte-level BPE of a known kind (``compress-export``).
    """
    from gguf import TokenType

    content = read_json(path)
    model = content.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise _refused(path, f"a tokenizer of type {model.get('type')!r}; byte-level BPE is needed")
    if not _harmless(content.get("normalizer")):
        raise _refused(path, f"this normalizer: {json.dumps(content['normalizer'])[:200]}")
    split = pre_tokenizer_name(content.get("pre_tokenizer"), path)
    if bool(model.get("ignore_merges")) != (split in WHOLE_TOKENS):  # llama.cpp goes by the name in this, too
        raise _refused(path, f"ignore_merges {model.get('ignore_merges')} with a split of {split!r}")
    tokens = [f"[UNUSED{place}]" for place in range(size)]
    types = [TokenType.UNUSED] * size
    for token, place in model.get("vocab", {}).items():
        tokens[_inside(place, size, path)], types[place] = token, TokenType.NORMAL
    special: dict[str, int] = {}
    for added in content.get("added_tokens") or []:
        place = _inside(added["id"], size, path)
        tokens[place] = added["content"]
        types[place] = TokenType.CONTROL if added.get("special") else TokenType.USER_DEFINED
        special[added["content"]] = place
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    _write_roles(writer, special, chat)
    _write_additions(writer, content.get("post_processor"), special, path)
    if chat is None:
        _write_chat_template(writer, path.parent)
    else:
        writer.add_chat_template(chat.template)


def pre_tokenizer_name(section: Any, path: Path) -> str:
    """llama.cpp's name of a ``pre_tokenizer`` section.

    Raises:
        LocumError: it is none of those that are known to split alike.
    """
    kind = section.get("type") if isinstance(section, dict) else None
    steps: list[Any] = [section] if kind == "ByteLevel" else section["pretokenizers"] if kind == "Sequence" else []
    kinds = [step.get("type") for step in steps]
    plain = bool(steps) and not steps[-1].get("add_prefix_space", False)
    if kinds == ["ByteLevel"] and plain and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and plain and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and plain:
        pattern = (steps[0].get("pattern") or {}).get("Regex")
        if pattern in _BY_PATTERN:
            return _BY_PATTERN[pattern]
    raise _refused(path, f"this pre_tokenizer: {json.dumps(section)[:200]}")


def _harmless(normalizer: Any) -> bool:
    if normalizer is None or normalizer.get("type") == "NFC":
        return True
    return normalizer.get("type") == "Sequence" and all(map(_harmless, normalizer.get("normalizers", [])))


def _write_roles(writer: Any, special: dict[str, int], chat: Chat | None) -> None:
    found = {role: next((special[name] for name in names if name in special), None) for role, names in _ROLES.items()}
    if chat is not None:
        found |= {"pad": chat.pad, **dict(zip(("eos", "eot", "eom"), chat.stop, strict=False))}
    for role, token in found.items():
        if token is not None:
            getattr(writer, f"add_{role}_token_id")(token)


def _write_additions(writer: Any, section: Any, special: dict[str, int], path: Path) -> None:
    """Say whether a text gets a first or last token; llama.cpp can add one token at each end."""
    before, after = _additions(section)
    for tokens, role in ((before, "bos"), (after, "eos")):
        if len(tokens) > 1 or any(token not in special for token in tokens):
            raise _refused(path, f"a tokenizer that adds {tokens} to each text")
        if tokens:
            {"bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id}[role](special[tokens[0]])
    writer.add_add_bos_token(bool(before))
    writer.add_add_eos_token(bool(after))
    writer.add_add_space_prefix(False)


def _additions(section: Any) -> tuple[list[str], list[str]]:
    """Special tokens that the post-processor puts before and after a text."""
    if not isinstance(section, dict):
        return [], []
    if section.get("type") == "Sequence":
        parts = [_additions(part) for part in section.get("processors", [])]
        return [token for part in parts for token in part[0]], [token for part in parts for token in part[1]]
    before: list[str] = []
    after: list[str] = []
    seen = False
    for piece in section.get("single", []) if section.get("type") == "TemplateProcessing" else []:
        if "Sequence" in piece:
            seen = True
        elif "SpecialToken" in piece:
            (after if seen else before).append(piece["SpecialToken"]["id"])
    return before, after


def _write_chat_template(writer: Any, folder: Path) -> None:
    file = folder / "chat_template.jinja"
    config = folder / "tokenizer_config.json"
    if file.is_file():
        writer.add_chat_template(file.read_text(encoding="utf-8"))
    elif config.is_file() and (template := read_json(config).get("chat_template")):
        writer.add_chat_template(template)  # one, or a list of named ones


def _inside(place: int, size: int, path: Path) -> int:
    if not 0 <= place < size:
        raise _refused(path, f"token id {place}, the model has {size} embeddings")
    return place


def _refused(path: Path, what: str) -> LocumError:
    return LocumError("compress-export", f"GGUF has no form here for {what}", where=str(path), fix=NO_FORM_FIX)
