"""Checks a GGUF file before llama.cpp sees it: its header, its shards, and what its metadata say of each other.

Notable: llama.cpp reads the score and the type of every token without asking how many the file holds, and
divides by counts that it takes from the file; so those are compared here. A tensor larger than its file
(CVE-2026-7482) and sizes that overflow (CVE-2025-53630, CVE-2026-27940) are refused by the reader. Not here: how
the bytes are read (``gguf_read``), the tensors' values, and whether llama.cpp knows the architecture, which it
says itself.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from locum.core.errors import ModelFileError
from locum.runtime.gguf_read import QUANTISATIONS as QUANTISATIONS
from locum.runtime.gguf_read import GgufHeader as GgufHeader
from locum.runtime.gguf_read import Malformed, Unsupported, read_header
from locum.runtime.model_files import mapped, refuse_unsafe

_INT32, _FLOAT32, _STRING = 5, 6, 8
_TOKENS = "tokenizer.ggml.tokens"
_BESIDE_TOKENS = {"tokenizer.ggml.scores": _FLOAT32, "tokenizer.ggml.token_type": _INT32}
_COUNTS = ("block_count", "embedding_length", "context_length", "vocab_size")
_COUNT_MAX = 2**31 - 1
_SHARDS_MAX = 999


def check_gguf(path: Path) -> GgufHeader:
    """Check a GGUF file, or all files of a split one.

    Only headers are read, in bounded memory; 50 ms are enough for a vocabulary of 150,000 tokens.

    Args:
        path: the file; of a split model the first, ``NAME-00001-of-00003.gguf``.

    Returns:
        The header of ``path``; of a split model with the tensors of all files.

    Raises:
        ModelFileError: not GGUF, damaged, a tensor beyond the end, an unknown quantisation, a missing shard, a later
            file of a split model instead of its first.
    """
    header = _check_one(path)
    shards = files_of(path, header)
    if path.name != shards[0].name:
        raise ModelFileError(
            "runtime-mismatch",
            f"it is file {shards.index(path) + 1} of {len(shards)} of a split model, and the first says what it is",
            where=str(path),
            fix=f"give the first file: {shards[0].name}",
        )
    for place, shard in enumerate(shards):
        if not shard.is_file():
            raise ModelFileError(
                "runtime-file-missing",
                f"{shard.name} is missing, one of {len(shards)} files of this model",
                where=str(path),
                fix="download every file of the model into one folder",
            )
        part = _check_one(shard) if place else header
        if part.part != place:
            raise _not_one_model(f"its name says that it is file {place + 1}, its header file {part.part + 1}", shard)
        header.tensors.extend(part.tensors if place else ())
    names = {name for name, _, _ in header.tensors}
    told = header.metadata.get("split.tensors.count", len(names))
    if len(shards) > 1 and (len(names) != len(header.tensors) or told != len(names)):
        said = f"its files hold {len(header.tensors)} tensors, {len(names)} of them different, and it has {told}"
        raise _not_one_model(said, path)
    return header


def require_one_file(path: Path, what: str) -> None:
    """Refuse a split model where only one file can be taken.

    Args:
        path: the file.
        what: what takes one file only, for the message.

    Raises:
        ModelFileError: as ``check_gguf``; ``runtime-unsupported`` for a split model.
    """
    count = len(files_of(path, check_gguf(path)))
    if count > 1:
        raise ModelFileError(
            "runtime-unsupported",
            f"{what} takes a model in one file, and this one is in {count}",
            where=str(path),
            fix=f"join them with llama.cpp's tool: llama-gguf-split --merge {path.name} whole.gguf",
        )


def _not_one_model(cause: str, where: Path) -> ModelFileError:
    fix = "download every file of the model again into one folder"
    return ModelFileError("runtime-mismatch", cause, where=str(where), fix=fix)


def parse_gguf(data: bytes | mmap.mmap, where: str) -> GgufHeader:
    """Check the bytes of one whole GGUF file.

    Args:
        data: the file.
        where: its name, for messages.

    Raises:
        ModelFileError: ``runtime-damaged`` or ``runtime-unsupported``.
    """
    try:
        header = read_header(data)
        _check_counts(header)
        _check_vocabulary(header)
    except Malformed as problem:
        raise ModelFileError(
            "runtime-damaged", f"not a GGUF model: {problem}", where=where, fix="download or export it again"
        ) from None
    except Unsupported as problem:
        known = ", ".join(sorted(name for name, _, _ in QUANTISATIONS.values()))
        raise ModelFileError("runtime-unsupported", str(problem), where=where, fix=f"supported: {known}") from None
    return header


def files_of(path: Path, header: GgufHeader) -> list[Path]:
    """The files of a model: of a split one all of them, whether they are there or not.

    Args:
        path: the file; of a split model the first.
        header: of that file.

    Raises:
        ModelFileError: ``runtime-mismatch``: it is one of several, and its name does not say which.
    """
    count = header.metadata.get("split.count", 0)
    if not isinstance(count, int) or count <= 1:
        return [path]
    found = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.gguf", path.name)
    if found is None or int(found[3]) != count or count > _SHARDS_MAX:
        raise ModelFileError(
            "runtime-mismatch",
            f"it is one of {count} files, but its name is not NAME-00001-of-{count:05d}.gguf",
            where=str(path),
            fix="give the files their original names",
        )
    names = [f"{found[1]}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    return [path.with_name(name) for name in names]


def _check_one(path: Path) -> GgufHeader:
    try:
        refuse_unsafe(path)
        if path.stat().st_size == 0:  # cannot be mapped
            return parse_gguf(b"", str(path))
        with mapped(path) as data:
            return parse_gguf(data, str(path))
    except OSError as error:
        raise ModelFileError("runtime-file-missing", f"cannot read it: {error.strerror}", where=str(path)) from error


def _check_counts(header: GgufHeader) -> None:
    for name in _COUNTS:
        key = f"{header.architecture}.{name}"
        value = header.metadata.get(key, 1)
        whole = isinstance(value, int) and not isinstance(value, bool) and key not in header.array_types
        if not whole or not 1 <= value <= _COUNT_MAX:
            raise Malformed(f"{key[:80]} is {value!r:.80}, which no model has")


def _check_vocabulary(header: GgufHeader) -> None:
    if header.array_types.get(_TOKENS, _STRING) != _STRING:
        raise Malformed(f"{_TOKENS} holds no strings")
    for key, kind in _BESIDE_TOKENS.items():
        if key not in header.metadata:
            continue
        if header.array_types.get(key) != kind or header.metadata[key] != header.metadata.get(_TOKENS):
            raise Malformed(f"{key} does not fit the {header.metadata.get(_TOKENS)} tokens")
