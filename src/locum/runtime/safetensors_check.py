"""Checks a safetensors file before its weights are read: the header in checked arithmetic, the values on request.

Notable: the header is strict JSON (a name that stands twice would be read as one tensor here and another there),
and the tensors must fill the file from its first data byte to its last: no overlap, no hole, nothing after them.
The format allows headers of 100 MB; a quarter of that holds 200,000 tensors, and more is refused. Not here: reading
the weights.

Format: https://github.com/huggingface/safetensors#format (u64 header length, header, data).
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import ModelFileError
from locum.core.strict_json import NotStrictJson, parse_object
from locum.runtime.model_files import mapped

MAX_HEADER_BYTES = 25_000_000
MAX_TENSORS = 1 << 18
MAX_DIMENSIONS = 16

BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits of one value, by type."""

_INT64_MAX = 2**63 - 1
_METADATA = "__metadata__"
_SCAN_VALUES = 1 << 20
_SCANNED = {"F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
_BF16_EXPONENT = 0x7F80  # all ones: infinity or NaN


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: its type, its shape, and where its bytes begin and end in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """What the header says: tensors by name, and the metadata."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]


def check_safetensors(path: Path, *, code: str = "runtime-damaged") -> SafetensorsHeader:
    """Check the header of a safetensors file against the file; no weight is read.

    Args:
        path: the file.
        code: the code of the error that it raises.

    Raises:
        ModelFileError: the header is not what the format says, or does not fit the file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return parse_safetensors(file.read(8), file, size, where=str(path), code=code)
    except OSError as error:
        raise ModelFileError(code, f"cannot read it: {error.strerror}", where=str(path)) from error


def parse_safetensors(
    length: bytes, rest: Any, size: int, *, where: str, code: str = "runtime-damaged"
) -> SafetensorsHeader:
    """Check a header that is read from ``rest``.

    Args:
        length: the first eight bytes of the file.
        rest: has ``read(n)``, and stands after them.
        size: bytes of the whole file.
        where: its name, for messages.
        code: the code of the error that it raises.

    Raises:
        ModelFileError: as ``check_safetensors``.
    """
    try:
        if len(length) != 8 or size < 10:
            _refuse(f"{size} bytes are no model")
        n_header = int.from_bytes(length, "little")
        if n_header > size - 8:
            _refuse(f"its header claims {n_header:,} bytes, {size - 8:,} are left")
        if n_header > MAX_HEADER_BYTES:
            _refuse(f"its header has {n_header:,} bytes, over {MAX_HEADER_BYTES:,}")
        text: bytes = rest.read(n_header)
        if text[:1] != b"{":
            _refuse("its header does not start with {")
        return _Header(parse_object(text, max_depth=3), 8 + n_header, size).checked()
    except (_Malformed, NotStrictJson) as problem:
        fix = "copy or download the file again, or save it again with the safetensors library"
        raise ModelFileError(code, f"not safetensors: {problem}", where=where, fix=fix) from None


def nonfinite_tensors(path: Path, header: SafetensorsHeader) -> list[str]:
    """Names of the tensors that hold NaN or infinity (types F16, BF16, F32, F64), in order of the file.

    The file is read once, a mebivalue at a time.
    """
    if not any(entry.end > entry.begin for entry in header.tensors.values()):
        return []
    with mapped(path) as data:
        return [name for name, entry in header.tensors.items() if _holds_nonfinite(data, entry)]


def refuse_nonfinite(path: Path, *, code: str = "runtime-damaged") -> None:
    """Check header and values.

    Args:
        path: the file.
        code: of the error when the header is at fault.

    Raises:
        ModelFileError: ``models-nan`` with the tensors' names, or as ``check_safetensors``.
    """
    names = nonfinite_tensors(path, check_safetensors(path, code=code))
    if names:
        shown = ", ".join(repr(name[:80]) for name in names[:3]) + (f" and {len(names) - 3} more" * (len(names) > 3))
        fix = "the training that wrote it diverged, or it is damaged: take another checkpoint"
        raise ModelFileError("models-nan", f"NaN or infinity in {shown}", where=str(path), fix=fix)


def _holds_nonfinite(data: mmap.mmap, entry: TensorEntry) -> bool:
    kind = _SCANNED.get(entry.dtype)
    if kind is None:
        return False
    step = _SCAN_VALUES * kind.itemsize
    for begin in range(entry.begin, entry.end, step):
        values: NDArray[Any] = np.frombuffer(data[begin : min(begin + step, entry.end)], kind)
        if entry.dtype == "BF16":
            values = (values & _BF16_EXPONENT) == _BF16_EXPONENT
            if values.any():
                return True
        elif not np.isfinite(values).all():
            return True
    return False


class _Malformed(Exception):
    """The header is not what it should be."""


def _refuse(why: str) -> NoReturn:
    raise _Malformed(why)


class _Header:
    """The JSON of a header, and the place of the data in the file."""

    def __init__(self, value: dict[str, Any], start: int, size: int) -> None:
        self._metadata = value.pop(_METADATA, {})
        self._value = value
        self._start = start
        self._size = size

    def checked(self) -> SafetensorsHeader:
        metadata = self._metadata
        if not isinstance(metadata, dict) or not all(isinstance(each, str) for each in metadata.values()):  # pyright: ignore[reportUnknownVariableType]
            _refuse(f"{_METADATA} is no table of strings")
        if len(self._value) > MAX_TENSORS:
            _refuse(f"{len(self._value)} tensors are more than {MAX_TENSORS}")
        tensors = {name: self._entry(name[:80], fields) for name, fields in self._value.items()}
        ordered = sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end))
        at = self._start
        for name, entry in ordered:
            if entry.begin != at:
                what = "overlaps the one before" if entry.begin < at else "leaves a hole before it"
                _refuse(f"tensor {name[:80]!r} begins at byte {entry.begin}, not {at}: it {what}")
            at = entry.end
        if at != self._size:
            _refuse(f"its tensors end at byte {at}, the file at {self._size}")
        return SafetensorsHeader(dict(ordered), dict(metadata))  # pyright: ignore[reportUnknownArgumentType]

    def _entry(self, name: str, fields: Any) -> TensorEntry:
        if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:  # pyright: ignore[reportUnknownArgumentType]
            _refuse(f"tensor {name!r} has other fields than dtype, shape and data_offsets")
        dtype: Any = fields["dtype"]
        if not isinstance(dtype, str) or dtype not in BITS:
            _refuse(f"tensor {name!r} has type {str(dtype)[:40]!r}; known: {', '.join(sorted(BITS))}")
        shape, offsets = _integers(name, fields["shape"], MAX_DIMENSIONS), _integers(name, fields["data_offsets"], 2)
        if len(offsets) != 2 or not offsets[0] <= offsets[1] <= self._size - self._start:
            _refuse(f"tensor {name!r} has data_offsets {offsets}, the data {self._size - self._start} bytes")
        bits = BITS[dtype]
        for dim in shape:
            bits *= dim
        if bits > 8 * _INT64_MAX or bits % 8:
            _refuse(f"tensor {name!r} of shape {shape} overflows, or does not fill whole bytes")
        if bits // 8 != offsets[1] - offsets[0]:
            _refuse(f"tensor {name!r} needs {bits // 8} bytes by its shape, and has {offsets[1] - offsets[0]}")
        return TensorEntry(dtype, shape, self._start + offsets[0], self._start + offsets[1])


def _integers(name: str, value: Any, most: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > most:  # pyright: ignore[reportUnknownArgumentType]
        _refuse(f"tensor {name!r} has a shape or offsets that are no list of at most {most}")
    if not all(type(each) is int and 0 <= each <= _INT64_MAX for each in value):  # pyright: ignore[reportUnknownVariableType]
        _refuse(f"tensor {name!r} has a shape or offsets that are not whole numbers of 63 bits")
    return tuple(value)  # pyright: ignore[reportUnknownArgumentType]
