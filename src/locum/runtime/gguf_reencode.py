"""A GGUF file for an engine that reads only some quantisations exactly: the others are encoded anew, in 8 bits.

Notable: a block of q8_0 has 255 levels from -max to max, so what 4 to 6 bits said comes out within half of one level,
4 thousandths of the block's largest weight; an engine that rounds a 4-bit block's offset to a whole step is off by up
to half of one of its 15. The copy is made once, beside the downloads, under the hash of the file it comes from, and is
complete or absent; it takes 34 bytes for 32 weights. Vectors keep full precision, and matrices whose rows do not divide
into blocks 16 bits. Not here: which quantisations an engine reads (its own module says).

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the package ``gguf`` decodes and encodes.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from locum.core.errors import ModelFileError, UserError
from locum.core.extras import install_command
from locum.core.files import atomic_folder, sha256_file
from locum.core.progress import note, track
from locum.core.text import one_line
from locum.runtime.gguf_check import require_one_file
from locum.runtime.gguf_read import GgufHeader
from locum.sources.cache import cache_folder, require_free

_BLOCK, _BLOCK_BYTES = 32, 34  # of q8_0
_FORMAT = 1
_SPARE_BYTES = 16 << 20  # vocabulary and other metadata


def reencoded(path: Path, header: GgufHeader, exact: Collection[str], *, cache: Path | None = None) -> Path:
    """The file itself when all its tensors are of exact types; else a copy in which the others are q8_0.

    Args:
        path: a GGUF file that ``check_gguf`` took.
        header: what it says.
        exact: names of the types that may stay.
        cache: where copies are kept; None is beside the downloads.

    Returns:
        A file that holds ``exact`` types, q8_0, f16 and f32 only.

    Raises:
        UserError: the package ``gguf`` is not installed.
        ModelFileError: a tensor is of a type that cannot be decoded.
        DeviceError: the disk is full or read-only.
    """
    require_one_file(path, "this engine")
    if all(kind in exact for _, _, kind in header.tensors):
        return path
    folder = (cache or cache_folder()) / "reencoded" / f"{sha256_file(path)[:40]}-{_FORMAT}"
    copy = folder / path.name
    if copy.is_file():
        return copy
    folder.parent.mkdir(parents=True, exist_ok=True)
    require_free(folder.parent, header.parameters // _BLOCK * _BLOCK_BYTES + _SPARE_BYTES)
    with atomic_folder(folder) as partial:
        _write(path, partial / path.name, exact)
    note(f"{path.name}: a copy in q8_0 was made for this engine", copy=str(copy))
    return copy


def _write(path: Path, copy: Path, exact: Collection[str]) -> None:
    gguf = _package()
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(copy, str(reader.get_field("general.architecture").contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":  # the writer's own
            continue
        kind = field.types[0]
        value = gguf.LlamaFileType.MOSTLY_Q8_0 if name == "general.file_type" else field.contents()
        item = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, kind, sub_type=item)
    tensors = list(reader.tensors)
    with track(f"encode {path.name} in q8_0", len(tensors), "tensor") as tracker:
        for tensor in tensors:
            values, kind = _tensor(gguf, tensor, exact, path)
            writer.add_tensor(tensor.name, values, raw_dtype=kind)
            tracker.advance(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensor(gguf: Any, tensor: Any, exact: Collection[str], path: Path) -> tuple[Any, Any]:
    """A tensor's numbers or blocks as they stand in the copy, and their type."""
    types, kind = gguf.GGMLQuantizationType, tensor.tensor_type
    if kind.name in exact:
        return tensor.data, kind
    try:
        values = gguf.quants.dequantize(tensor.data, kind)
    except NotImplementedError as problem:
        raise ModelFileError(
            "runtime-unsupported",
            f"{tensor.name} is in {kind.name}, which cannot be decoded here: {one_line(str(problem))}",
            where=str(path),
            fix="use the llamacpp engine, or a file in Q8_0 or Q4_0",
        ) from problem
    chosen = types.F32 if values.ndim == 1 else types.F16 if values.shape[-1] % _BLOCK else types.Q8_0
    return gguf.quants.quantize(values, chosen), chosen


def _package() -> Any:
    try:
        import gguf
    except ImportError as problem:
        raise UserError(
            "core-missing-extra",
            "this file must be encoded anew for the engine, and the package gguf is not installed",
            fix=install_command("openvino"),
        ) from problem
    return gguf
