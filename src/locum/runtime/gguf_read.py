"""Reads the header of a GGUF file forward, in checked arithmetic; nothing is believed that does not fit the file.

Notable: what llama.cpp's own reader demands (``ggml/src/gguf.cpp``) is demanded here too: magic, version, byte
order, counts, unique and non-empty keys, the type of the alignment, unique tensor names that fit its buffer,
offsets one after the other. Beyond it, memory and time stay bounded whatever a count claims: entries, tensors,
array elements and the length of a kept string have caps. Not here: the path, shards, and what the values must
say about each other (``gguf_check``).
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, get_args

from locum.schema.model import Precision

QUANTISATIONS: dict[int, tuple[str, int, int]] = {
    **{0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8)},
    **{24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8)},
    **{2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24)},
    **{8: ("Q8_0", 32, 34), 20: ("IQ4_NL", 32, 18), 39: ("MXFP4", 32, 17)},
    **{40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18)},
    **{10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176)},
    **{14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66)},
    **{16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50)},
    **{21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56)},
}
"""ggml's tensor types: name, values in a block, bytes of a block."""

MAX_ENTRIES = 1 << 14
"""Metadata entries; real files have fewer than a hundred."""
MAX_TENSORS = 1 << 16
"""Tensors of one file; the largest mixtures of experts have some ten thousand."""
MAX_ARRAY_STRINGS = 1 << 22
"""Strings in all arrays together; the largest vocabularies with their merges have under a million."""
MAX_STRING_BYTES = 1 << 24
"""A metadata string that is kept; chat templates have some ten thousand."""
MAX_KEY_BYTES = (1 << 16) - 1
"""The longest key of the GGUF specification."""

_DIMS_MAX = 4
_NAME_BYTES_MAX = 63  # GGML_MAX_NAME - 1
_INT64_MAX = 2**63 - 1
_ARRAY_ELEMENTS_MAX = 1 << 30  # GGUF_MAX_ARRAY_ELEMENTS
_DEFAULT_ALIGNMENT = 32
_UINT32, _STRING, _ARRAY = 4, 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_FORMATS = {kind: struct.Struct(code) for kind, code in _SCALARS.items()}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class Malformed(Exception):
    """The bytes are not the GGUF they should be."""


class Unsupported(Exception):
    """Well-formed, but of a kind that is not known here."""


@dataclass
class GgufHeader:
    """What the header says.

    Attributes:
        metadata: scalar and string values by key; of an array, its length.
        array_types: GGUF's number of the element type of each array, by key.
        array_starts: where in the file the elements of each array begin, by key.
        tensors: (name, dimensions, type's name) in the order of the file; of a split model, of all files.
    """

    version: int
    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: list[tuple[str, tuple[int, ...], str]] = field(default_factory=list)
    array_types: dict[str, int] = field(default_factory=dict)
    array_starts: dict[str, int] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """``general.architecture``."""
        return str(self.metadata.get("general.architecture"))

    @property
    def part(self) -> int:
        """Its place among the files of a split model, from 0; only the first of them says what the model is."""
        value = self.metadata.get("split.no", 0)
        return value if type(value) is int else 0

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

    @property
    def precision(self) -> Precision:
        """The type that most of its values have, as a model folder names it."""
        sizes: Counter[str] = Counter()
        for _, dims, kind in self.tensors:
            sizes[kind.lower()] += _product(dims)
        most = sizes.most_common(1)[0][0] if sizes else "other"
        return next((name for name in get_args(Precision) if name == most), "other")


def read_header(data: bytes | mmap.mmap) -> GgufHeader:
    """Read the header at the start of ``data``, which is the whole file.

    Raises:
        Malformed: damaged or hostile.
        Unsupported: a version, byte order or tensor type that is not known.
    """
    return _Reader(data).header()


class _Reader:
    """A place in the file; every step forward is checked against its end."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = data
        self._size = len(data)
        self._at = 0
        self._strings_left = MAX_ARRAY_STRINGS

    def header(self) -> GgufHeader:
        if self._size < 24:
            raise Malformed(f"{self._size} bytes are no model")
        if self._data[:4] != b"GGUF":
            raise Malformed("it does not start with GGUF")
        self._at = 4
        version = self._uint32()
        if version & 0xFFFF == 0:
            raise Unsupported("it is a big-endian GGUF file")
        if version not in (2, 3):
            raise Unsupported(f"GGUF version {version} is not 2 or 3")
        n_tensors = self._count("tensors", 24, MAX_TENSORS)
        n_entries = self._count("metadata entries", 13, MAX_ENTRIES)
        header = GgufHeader(version)
        for _ in range(n_entries):
            key = self._string("a metadata key", MAX_KEY_BYTES)
            if not key or key in header.metadata:
                raise Malformed(f"metadata key {key[:80]!r} stands twice or is empty")
            self._entry(header, key)
        if not isinstance(header.metadata.get("general.architecture"), str) and header.part == 0:
            raise Malformed("it names no general.architecture")
        self._tensors(header, n_tensors, header.metadata.get("general.alignment", _DEFAULT_ALIGNMENT))
        return header

    def _entry(self, header: GgufHeader, key: str) -> None:
        kind = self._uint32()
        if key == "general.alignment":
            alignment = self._uint32() if kind == _UINT32 else None
            if alignment is None or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
                raise Malformed(f"general.alignment {alignment} is not a power of two in 32 bits")
            header.metadata[key] = alignment
        elif kind == _STRING:
            header.metadata[key] = self._string(key, MAX_STRING_BYTES)
        elif kind == _ARRAY:
            header.array_starts[key] = self._at + 12  # after the elements' type and their count
            header.array_types[key], header.metadata[key] = self._array(key)
        elif kind in _FORMATS:
            layout = _FORMATS[kind]
            start = self._skip(layout.size, key)
            header.metadata[key] = layout.unpack_from(self._data, start)[0]
        else:
            raise Malformed(f"{key[:80]!r} has unknown type {kind}")

    def _array(self, key: str) -> tuple[int, int]:
        element = self._uint32()
        if element == _STRING:
            count = self._count(f"strings of {key[:80]!r}", 8, self._strings_left)
            self._strings_left -= count
            self._skip_strings(count, key)
        elif element in _FORMATS:
            width = _FORMATS[element].size
            count = self._count(f"values of {key[:80]!r}", width, _ARRAY_ELEMENTS_MAX)
            self._skip(count * width, key)
        else:
            raise Malformed(f"{key[:80]!r} is an array of type {element}")
        return element, count

    def _skip_strings(self, count: int, key: str) -> None:
        """Step over strings; a vocabulary has a hundred thousand of them, so nothing is called in the loop."""
        data, at, end = self._data, self._at, self._size
        length_at = _U64.unpack_from
        for _ in range(count):
            if end - at < 8:
                raise Malformed(f"an array ends after the file: {key[:80]!r}")
            at += 8 + length_at(data, at)[0]
        if at > end:
            raise Malformed(f"a string of {key[:80]!r} claims more bytes than are left")
        self._at = at

    def _tensors(self, header: GgufHeader, count: int, alignment: int) -> None:
        expected = end = 0  # llama.cpp wants the tensors one after the other, each padded to the alignment
        seen: set[str] = set()
        for _ in range(count):
            name = self._string("a tensor's name", _NAME_BYTES_MAX)
            if name in seen or not name or "\0" in name:
                raise Malformed(f"tensor name {name!r} stands twice, is empty or holds a zero byte")
            seen.add(name)
            n_dims = self._uint32()
            if n_dims > _DIMS_MAX:
                raise Malformed(f"tensor {name!r} has {n_dims} dimensions")
            dims = tuple(self._uint64() for _ in range(n_dims))
            kind, offset = self._uint32(), self._uint64()
            n_bytes = _tensor_bytes(name, dims, kind)
            if n_bytes > self._size:
                raise Malformed(f"tensor {name!r} claims {n_bytes} bytes, the file has {self._size}")
            if offset != expected:
                raise Malformed(f"tensor {name!r} is at offset {offset}, not {expected}")
            end = offset + n_bytes
            expected = _padded(end, alignment)
            header.tensors.append((name, dims, QUANTISATIONS[kind][0]))
        past = _padded(self._at, alignment) + end - self._size
        if count and past > 0:
            raise Malformed(f"the last tensor ends {past} bytes after the end of the file")

    def _count(self, what: str, least_bytes: int, most: int) -> int:
        count = self._uint64()
        if count * least_bytes > self._size - self._at:
            raise Malformed(f"{count} {what} do not fit the {self._size - self._at} bytes that are left")
        if count > most:
            raise Malformed(f"{count} {what} are more than {most}, which no model has")
        return count

    def _string(self, what: str, most: int) -> str:
        length = self._uint64()
        if length > most:
            raise Malformed(f"{what[:80]} claims {length} bytes, too long: at most {most}")
        start = self._skip(length, what)
        return self._data[start : self._at].decode("utf-8", "replace")

    def _uint32(self) -> int:
        return _U32.unpack_from(self._data, self._skip(4, "a number"))[0]

    def _uint64(self) -> int:
        return _U64.unpack_from(self._data, self._skip(8, "a number"))[0]

    def _skip(self, length: int, what: str) -> int:
        """Step forward; returns where it stood."""
        start = self._at
        if length > self._size - start:
            raise Malformed(f"{what[:80]} claims {length} bytes, {self._size - start} are left")
        self._at = start + length
        return start


def _tensor_bytes(name: str, dims: tuple[int, ...], kind: int) -> int:
    if kind not in QUANTISATIONS:
        raise Unsupported(f"tensor {name!r} has quantisation {kind}, which is not known")
    _, block, block_bytes = QUANTISATIONS[kind]
    values = _product(dims)
    if any(dim > _INT64_MAX for dim in dims) or values >= _INT64_MAX or values // block * block_bytes > _INT64_MAX:
        raise Malformed(f"tensor {name!r} has dimensions {dims}, which overflow")
    if values == 0:
        raise Malformed(f"tensor {name!r} has dimensions {dims}: it holds nothing")
    if (dims[0] if dims else 1) % block:
        raise Malformed(f"tensor {name!r}: rows of {dims[0] if dims else 1} do not divide into blocks of {block}")
    return values // block * block_bytes


def _product(dims: tuple[int, ...]) -> int:
    values = 1
    for dim in dims:
        values *= dim
    return values


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
