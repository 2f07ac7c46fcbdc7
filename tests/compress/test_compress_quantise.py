"""Types of matrices in GGUF: which one a matrix gets, and how far its values move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import dequantize

from locum.compress import gguf_quantise
from locum.compress.gguf_quantise import quantise
from locum.core.errors import LocumError


def matrix(width: int) -> np.ndarray:
    return np.random.default_rng(4).normal(size=(8, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "width", "output", "expected"),
    [
        ("f16", 256, False, "F16"),
        ("q8_0", 256, False, "Q8_0"),
        ("q8_0", 33, False, "F16"),
        ("q4_0", 64, False, "Q4_0"),
        ("q4_1", 64, False, "Q4_1"),
        ("q4_1", 64, True, "Q8_0"),
        ("q4_k", 256, False, "Q4_K"),
        ("q4_k", 64, False, "Q5_0"),
        ("q4_k", 33, False, "F16"),
    ],
)
def test_the_type_follows_from_format_width_and_use(kind: Any, width: int, output: bool, expected: str) -> None:
    assert quantise("m", matrix(width), kind, output=output)[1].name == expected


@pytest.mark.parametrize(
    ("kind", "step"), [("f16", 1e-3), ("q8_0", 1 / 127), ("q4_0", 1 / 8), ("q4_1", 2 / 15), ("q4_k", 0.15)]
)
def test_values_move_by_no_more_than_a_step(kind: Any, step: float) -> None:
    values = matrix(512)
    packed, chosen = quantise("m", values, kind)
    found = dequantize(packed, chosen).reshape(values.shape)
    assert 0 < np.abs(found - values).max() <= step * np.abs(values).max()


def test_vectors_stay_as_they_are() -> None:
    values = matrix(64)[0]
    content, chosen = quantise("v", values, "q4_0")
    assert chosen.name == "F32" and content is values


def test_a_library_without_a_quantiser_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_quantise.util, "find_spec", lambda name: None)
    gguf_quantise._library.cache_clear()
    with pytest.raises(LocumError, match="shows no quantiser") as caught:
        quantise("m", matrix(256), "q4_k")
    assert caught.value.code == "compress-export"
