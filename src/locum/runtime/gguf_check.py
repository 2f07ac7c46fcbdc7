"""Reads the header of a GGUF file with checked arithmetic before llama.cpp sees it.

Notable: every count and length is compared with the bytes that are left before it is believed, and every
tensor must lie inside the file (a tensor larger than its file is CVE-2026-7482). What llama.cpp's own
reader demands (``ggml/src/gguf.cpp``) is demanded here too: magic, version, alignment, unique names, offsets
in order. Not here: the tensors' values, and whether llama.cpp knows the architecture, which it says itself.
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from locum.core.errors import ModelFileError
from locum.runtime.model_files import refuse_unsafe

_DIMS_MAX = 4
_NAME_BYTES_MAX = 63  # GGML_MAX_NAME - 1
_INT64_MAX = 2**63 - 1
_DEFAULT_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

QUANTISATIONS: dict[int, tuple[str, int, int]] = {
    **{0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8)},
    **{24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8)},
    **{2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24)},
    **{8: ("Q8_0", 32, 34), 20: ("IQ4_NL", 32, 18), 39: ("MXFP4", 32, 17)},
    **{10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176)},
    **{14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66)},
    **{16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50)},
    **{21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56)},
}
"""ggml's tensor types: name, values in a block, bytes of a block."""


@dataclass
class GgufHeader:
    """What the header says.

    Attributes:
        metadata: scalar and string values by key; of an array, its length.
        tensors: (name, dimensions, type's name) in the order of the file.
    """

    version: int
    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: list[tuple[str, tuple[int, ...], str]] = field(default_factory=list)

    @property
    def architecture(self) -> str:
        """``general.architecture``."""
        return str(self.metadata["general.architecture"])

    @property
    def embedding_length(self) -> int | None:
        """Width of the token embeddings, when the file says."""
        value = self.metadata.get(f"{self.architecture}.embedding_length")
        return value if isinstance(value, int) else None

    @property
    def context_length(self) -> int | None:
        """Longest context it was trained for, in tokens, when the file says."""
        value = self.metadata.get(f"{self.architecture}.context_length")
        return value if isinstance(value, int) else None

    @property
    def parameters(self) -> int:
        """Number of values in all tensors."""
        return sum(_product(dims) for _, dims, _ in self.tensors)


def check_gguf(path: Path) -> GgufHeader:
    """Check a GGUF file, or all files of a split one.

    Args:
        path: the file; of a split model the first, ``NAME-00001-of-00003.gguf``.

    Returns:
        The header of ``path``.

    Raises:
        ModelFileError: not GGUF, damaged, a tensor beyond the end, an unknown quantisation, a missing shard.
    """
    header = _check_one(path)
    for shard in _other_shards(path, header):
        if not shard.is_file():
            raise ModelFileError(
                "runtime-file-missing",
                f"{shard.name} is missing, one of {header.metadata['split.count']} files of this model",
                where=str(path),
                fix="download every file of the model into one folder",
            )
        _check_one(shard)
    return header


def _check_one(path: Path) -> GgufHeader:
    try:
        refuse_unsafe(path)
        size = path.stat().st_size
        if size < 24:
            raise _Malformed(f"{size} bytes are no model")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data, size).header()
    except _Malformed as problem:
        raise ModelFileError(
            "runtime-damaged", f"not a GGUF model: {problem}", where=str(path), fix="download or export it again"
        ) from None
    except _Unsupported as problem:
        known = ", ".join(sorted(name for name, _, _ in QUANTISATIONS.values()))
        raise ModelFileError("runtime-unsupported", str(problem), where=str(path), fix=f"supported: {known}") from None
    except OSError as error:
        raise ModelFileError("runtime-file-missing", f"cannot read it: {error.strerror}", where=str(path)) from error


def _other_shards(path: Path, header: GgufHeader) -> list[Path]:
    count = header.metadata.get("split.count", 0)
    if not isinstance(count, int) or count <= 1:
        return []
    found = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.gguf", path.name)
    if found is None or int(found[3]) != count or count > 999:
        raise ModelFileError(
            "runtime-mismatch",
            f"it is one of {count} files, but its name is not NAME-00001-of-{count:05d}.gguf",
            where=str(path),
            fix="give the files their original names",
        )
    names = [f"{found[1]}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    return [path.with_name(name) for name in names if name != path.name]


class _Malformed(Exception):
    """The bytes are not the GGUF they should be."""


class _Unsupported(Exception):
    """Well-formed, but of a kind that is not known here."""


class _Reader:
    """Reads forward through a header; nothing is believed that does not fit the rest of the file."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self._data = data
        self._size = size
        self._at = 0

    def header(self) -> GgufHeader:
        if self._take(4) != b"GGUF":
            raise _Malformed("it does not start with GGUF")
        version = self._scalar("I")
        if version & 0xFFFF == 0:
            raise _Unsupported("it is a big-endian GGUF file")
        if version not in (2, 3):
            raise _Unsupported(f"GGUF version {version} is not 2 or 3")
        n_tensors, n_pairs = self._count("tensors", 24), self._count("metadata entries", 13)
        header = GgufHeader(version)
        for _ in range(n_pairs):
            key = self._string("a metadata key")
            if key in header.metadata:
                raise _Malformed(f"metadata key {key!r} stands twice")
            header.metadata[key] = self._value(self._scalar("I"), key)
        if not isinstance(header.metadata.get("general.architecture"), str):
            raise _Malformed("it names no general.architecture")
        alignment = header.metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise _Malformed(f"general.alignment {alignment!r} is not a power of two")
        self._tensors(header, n_tensors, alignment)
        return header

    def _tensors(self, header: GgufHeader, count: int, alignment: int) -> None:
        expected = 0  # llama.cpp wants the tensors one after the other, each padded to the alignment
        seen: set[str] = set()
        for _ in range(count):
            name = self._string("a tensor's name")
            if name in seen or not 0 < len(name.encode()) <= _NAME_BYTES_MAX:
                raise _Malformed(f"tensor name {name[:80]!r} stands twice, is empty or too long")
            seen.add(name)
            n_dims = self._scalar("I")
            if n_dims > _DIMS_MAX:
                raise _Malformed(f"tensor {name!r} has {n_dims} dimensions")
            dims = tuple(self._scalar("Q") for _ in range(n_dims))
            kind, offset = self._scalar("I"), self._scalar("Q")
            n_bytes = _tensor_bytes(name, dims, kind)
            if offset != expected:
                raise _Malformed(f"tensor {name!r} is at offset {offset}, not {expected}")
            expected = _padded(offset + n_bytes, alignment)
            header.tensors.append((name, dims, QUANTISATIONS[kind][0]))
            if n_bytes > self._size:
                raise _Malformed(f"tensor {name!r} claims {n_bytes} bytes, the file has {self._size}")
        start = _padded(self._at, alignment) if count else self._at
        if count and start + offset + n_bytes > self._size:  # pyright: ignore[reportPossiblyUnboundVariable]
            missing = start + offset + n_bytes - self._size  # pyright: ignore[reportPossiblyUnboundVariable]
            raise _Malformed(f"the last tensor ends {missing} bytes after the end of the file")

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string(key)
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind != _ARRAY:
            raise _Malformed(f"{key!r} has unknown type {kind}")
        element = self._scalar("I")
        if element == _STRING:
            count = self._count(key, 8)
            for _ in range(count):
                self._skip(self._scalar("Q"), key)
        elif element in _SCALARS:
            width = struct.calcsize("<" + _SCALARS[element])
            count = self._count(key, width)
            self._skip(count * width, key)
        else:
            raise _Malformed(f"{key!r} is an array of type {element}")
        return count

    def _count(self, what: str, least_bytes: int) -> int:
        count = self._scalar("Q")
        if count * least_bytes > self._size - self._at:
            raise _Malformed(f"{count} {what} do not fit the {self._size - self._at} bytes that are left")
        return count

    def _string(self, what: str) -> str:
        length = self._scalar("Q")
        start = self._at
        self._skip(length, what)
        return self._data[start : self._at].decode("utf-8", "replace")

    def _scalar(self, code: str) -> Any:
        width = struct.calcsize("<" + code)
        start = self._at
        self._skip(width, "a number")
        return struct.unpack_from("<" + code, self._data, start)[0]

    def _take(self, length: int) -> bytes:
        start = self._at
        self._skip(length, "the start")
        return self._data[start : self._at]

    def _skip(self, length: int, what: str) -> None:
        if length > self._size - self._at:
            raise _Malformed(f"{what[:80]} claims {length} bytes, {self._size - self._at} are left")
        self._at += length


def _tensor_bytes(name: str, dims: tuple[int, ...], kind: int) -> int:
    if kind not in QUANTISATIONS:
        raise _Unsupported(f"tensor {name!r} has quantisation {kind}, which is not known")
    _, block, block_bytes = QUANTISATIONS[kind]
    values = _product(dims)
    if any(dim > _INT64_MAX for dim in dims) or values > _INT64_MAX or values // block * block_bytes > _INT64_MAX:
        raise _Malformed(f"tensor {name!r} has dimensions {dims}, which overflow")
    if (dims[0] if dims else 1) % block:
        raise _Malformed(f"tensor {name!r}: rows of {dims[0]} do not divide into blocks of {block}")
    return values // block * block_bytes


def _product(dims: tuple[int, ...]) -> int:
    values = 1
    for dim in dims:
        values *= dim
    return values


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
