"""safetensors headers: what the library writes is read, every way of lying is refused before a weight is."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locum.core.errors import ModelFileError
from locum.runtime.safetensors_check import (
    MAX_HEADER_BYTES,
    check_safetensors,
    nonfinite_tensors,
    refuse_nonfinite,
)

A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}
GOOD: dict[str, Any] = {"__metadata__": {"format": "pt"}, "a": A, "b": B}


def build(header: dict[str, Any] | bytes, n_data: int = 32, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"\0" * n_data


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return path


def test_a_good_header_is_read(tmp_path: Path) -> None:
    content = build(GOOD)
    header = check_safetensors(write(tmp_path, content))
    start = len(content) - 32
    assert header.metadata == {"format": "pt"}
    assert [(n, e.dtype, e.shape, e.begin - start, e.end - start) for n, e in header.tensors.items()] == [
        ("a", "F32", (2, 3), 0, 24),
        ("b", "BF16", (4,), 24, 32),
    ]


def test_the_library_agrees(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    arrays = {"x": np.ones((3, 5), np.float32), "y": np.zeros((0, 4), np.int8), "z": np.asarray(2.0, np.float16)}
    library.save_file(arrays, tmp_path / "model.safetensors", metadata={"k": "v"})
    header = check_safetensors(tmp_path / "model.safetensors")
    assert {name: entry.shape for name, entry in header.tensors.items()} == {"x": (3, 5), "y": (0, 4), "z": ()}
    assert header.metadata == {"k": "v"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes are no model"),
        (build(GOOD)[:9], "9 bytes"),
        (build(GOOD, length=2**63), "claims"),
        (build(GOOD, length=2**64 - 1), "claims"),
        (build(b" " + json.dumps(GOOD).encode()), "does not start"),
        (build(b"{" * 200), "nested deeper"),
        (build(b'{"a": NaN}'), "NaN"),
        (build(b'{"a": ' + json.dumps(A).encode() + b', "a": ' + json.dumps(A).encode() + b"}"), "stands twice"),
        (build({**GOOD, "__metadata__": {"a": 1}}), "no table of strings"),
        (build({**GOOD, "__metadata__": ["a"]}), "no table of strings"),
        (build({"a": {**A, "more": 1}}), "other fields"),
        (build({"a": [1]}), "other fields"),
        (build({"a": {**A, "dtype": "F31"}}), "known: BF16"),
        (build({"a": {**A, "dtype": ["F32"]}}), "known: BF16"),
        (build({"a": {**A, "shape": [2, -3]}}), "whole numbers"),
        (build({"a": {**A, "shape": [2, 3.0]}}), "whole numbers"),
        (build({"a": {**A, "shape": [2, True]}}), "whole numbers"),
        (build({"a": {**A, "shape": 6}}), "no list"),
        (build({"a": {**A, "shape": [1] * 17}}), "no list"),
        (build({"a": {**A, "shape": [2**32, 2**32]}}), "overflows"),
        (build({"a": {**A, "shape": [2**62, 4]}}), "overflows"),
        (build({"a": {**A, "shape": [2, 4]}}), "needs 32 bytes"),
        (build({"a": {**A, "data_offsets": [24, 0]}}), "data_offsets"),
        (build({"a": {**A, "data_offsets": [0, 24, 24]}}), "no list"),
        (build({"a": {**A, "data_offsets": [0]}}), "data_offsets"),
        (build({"a": {**A, "data_offsets": [0, 48], "shape": [12]}}), "data_offsets"),
        (build({"a": A, "b": {**B, "data_offsets": [16, 24]}}), "overlaps"),
        (build({"a": A, "b": {**B, "data_offsets": [0, 8]}}), "overlaps"),
        (build({"b": B}), "leaves a hole"),
        (build({"a": A}), "the file at"),
        (build(GOOD, 33), "the file at"),
        (build({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}, 2), "whole bytes"),
        (build(GOOD, 31), "data_offsets"),
    ],
)
def test_fault_27_lies_in_the_header_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ModelFileError, match=words) as caught:
        check_safetensors(write(tmp_path, content))
    assert caught.value.code == "runtime-damaged"


def test_fault_27_a_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, struct.pack("<Q", 10 * MAX_HEADER_BYTES) + b"{")
    with path.open("r+b") as file:
        file.truncate(20 * MAX_HEADER_BYTES)  # sparse
    with pytest.raises(ModelFileError, match="its header has 250,000,000 bytes"):
        check_safetensors(path)


def test_a_missing_file_and_another_code(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        check_safetensors(tmp_path / "none.safetensors", code="models-damaged")
    assert caught.value.code == "models-damaged"


@pytest.mark.parametrize("dtype", ["F16", "F32", "F64", "BF16"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), None])
def test_fault_27_nan_weights_are_flagged(tmp_path: Path, dtype: str, bad: float | None) -> None:
    values = np.linspace(-3, 3, 40).astype(np.float32)
    if bad is not None:
        values[37] = bad
    if dtype == "BF16":
        data = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    else:
        data = values.astype({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).tobytes()
    header = {
        "n": {"dtype": "I32", "shape": [1], "data_offsets": [0, 4]},  # -1 as bits is a NaN, and is none here
        "w": {"dtype": dtype, "shape": [5, 8], "data_offsets": [4, 4 + len(data)]},
    }
    path = write(tmp_path, build(header, 0) + struct.pack("<i", -1) + data)
    expected = [] if bad is None else ["w"]
    assert nonfinite_tensors(path, check_safetensors(path)) == expected
    if expected:
        with pytest.raises(ModelFileError, match="NaN or infinity in 'w'") as caught:
            refuse_nonfinite(path)
        assert caught.value.code == "models-nan"
    else:
        refuse_nonfinite(path)


def test_a_file_without_values_holds_no_nan(tmp_path: Path) -> None:
    path = write(tmp_path, build({}, 0))
    assert nonfinite_tensors(path, check_safetensors(path)) == []


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_fault_27_no_bytes_make_the_reader_fail_otherwise(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(build(GOOD))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_safetensors(write(tmp_path, bytes(content)))
    except ModelFileError as error:
        assert error.code == "runtime-damaged"
