"""Matrices in the types of GGUF: which type a matrix gets in each format, and its bytes.

Notable: 4-bit formats keep the output matrix (or the embedding that serves as one) in 8 bits, where llama.cpp takes 6:
its rounding reaches every token's probability at once. A row that does not divide into blocks of 256 gets q5_0 instead
of q4_k, as in llama.cpp, and one that does not divide into blocks of 32 gets f16. q4_k has no implementation in the
gguf package; that of the packaged llama.cpp (``ggml_quantize_chunk``, ggml.h) is called. Not here: names and metadata
(``gguf_export``).
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import LocumError

GgufType = Literal["f16", "q8_0", "q4_0", "q4_1", "q4_k"]

_BLOCK = 32  # values of a row that share a scale
_SUPER_BLOCK = 256  # of the K types
_FILE_TYPES: dict[GgufType, str] = {
    "f16": "MOSTLY_F16",
    "q8_0": "MOSTLY_Q8_0",
    "q4_0": "MOSTLY_Q4_0",
    "q4_1": "MOSTLY_Q4_1",
    "q4_k": "MOSTLY_Q4_K_S",
}


def file_type(kind: GgufType) -> Any:
    """GGUF's number for a file whose matrices are mostly of a kind."""
    from gguf import LlamaFileType

    return LlamaFileType[_FILE_TYPES[kind]]


def quantise(
    name: str, values: NDArray[np.float32], kind: GgufType, *, output: bool = False
) -> tuple[NDArray[Any], Any]:
    """A tensor as it stands in the file.

    Args:
        name: its GGUF name, for messages.
        values: a vector, or a matrix ``[out, in]``.
        kind: of the file.
        output: it is the matrix that the tokens' scores come from.

    Returns:
        Its bytes or numbers, and its ``GGMLQuantizationType``.

    Raises:
        LocumError: a weight is too large for f16, or the packaged llama.cpp shows no quantiser (``compress-export``).
    """
    from gguf import GGMLQuantizationType, quants

    chosen = GGMLQuantizationType[_type_name(values, kind, output)]
    if chosen == GGMLQuantizationType.F32:
        return values, chosen
    if chosen == GGMLQuantizationType.Q4_K:
        return _by_library(values, chosen), chosen
    if chosen != GGMLQuantizationType.F16:
        return quants.quantize(values, chosen), chosen
    limit = float(np.finfo(np.float16).max)
    if float(np.abs(values).max(initial=0.0)) > limit:
        raise LocumError(
            "compress-export",
            f"GGUF has no form here for {name}: a weight over {limit:g}, the largest number of f16",
            fix="train it again with a lower learning rate",
        )
    return values.astype(np.float16), chosen


def _type_name(values: NDArray[np.float32], kind: GgufType, output: bool) -> str:
    width = values.shape[-1]
    if values.ndim == 1:
        return "F32"
    if kind == "f16" or width % _BLOCK:
        return "F16"
    if output:
        return "Q8_0"
    if kind == "q4_k" and width % _SUPER_BLOCK:
        return "Q5_0"
    return kind.upper()


def _by_library(values: NDArray[np.float32], kind: Any) -> NDArray[np.uint8]:
    """Quantise by the packaged llama.cpp, ``[out, bytes of a row]``."""
    library = _library()
    source = np.ascontiguousarray(values)
    rows, width = source.shape
    packed = np.empty((rows, library.ggml_row_size(int(kind), width)), np.uint8)
    library.ggml_quantize_chunk(int(kind), source.ctypes.data, packed.ctypes.data, 0, rows, width, None)
    return packed


@cache
def _library() -> Any:
    spec = util.find_spec("xllamacpp")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for path in sorted(file for folder in folders for file in Path(folder).glob("xllamacpp*.so")):
        try:
            library = ctypes.CDLL(str(path))
            library.ggml_row_size.restype = ctypes.c_size_t
            library.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
            library.ggml_quantize_chunk.restype = ctypes.c_size_t
            pointers = [ctypes.c_void_p, ctypes.c_void_p]
            sizes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]
            library.ggml_quantize_chunk.argtypes = [ctypes.c_int, *pointers, *sizes, ctypes.c_void_p]
        except (OSError, AttributeError):  # built without these symbols, as on Windows
            continue
        return library
    raise LocumError(
        "compress-export", "q4_k: the packaged llama.cpp shows no quantiser on this system", fix="take q4_1 or q4_0"
    )
